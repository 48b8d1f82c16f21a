/// @file
/// GPT-2 as Hugging Face has it, where this was built with what safetensors need; `validate` refuses --init and
/// --export elsewhere.
#include "hugging_face.hpp"

#if defined(ZEROSPAN_HAS_SAFETENSORS)

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>
#include <zerospan/interchange/safetensors_export.hpp>
#include <zerospan/interchange/safetensors_import.hpp>
#include <zerospan/interchange/safetensors_model.hpp>
#include <zerospan/tiling/tile_grid.hpp>

#include "engine_of_store.hpp"
#include "row_statistics.hpp"

namespace gpt {

namespace {

using zerospan::SafetensorsModel;
using zerospan::SafetensorsPlace;
using zerospan::StoredOrder;

constexpr std::string_view saved_prefix = "transformer.";  // of a model with its head; without one, there is none
constexpr std::string_view token_embedding = "wte.weight";

std::string prefix_of(const SafetensorsModel& model) {
  const std::string prefix{saved_prefix};
  return model.find(prefix + std::string{token_embedding}) ? prefix : "";
}

/// A part of a block, or of the model.
struct Names {
  std::string_view ours;
  std::string_view theirs;
  std::size_t outputs = 0;  ///< Of a linear layer, in widths; 0 for others.
};

constexpr std::array block_names{Names{"norm1", "ln_1"},
                                 Names{"attention.qkv", "attn.c_attn", 3},
                                 Names{"attention.projection", "attn.c_proj", 1},
                                 Names{"norm2", "ln_2"},
                                 Names{"mlp.up", "mlp.c_fc", 4},
                                 Names{"mlp.down", "mlp.c_proj", 1}};

/// What follows a prefix, if that is there.
std::optional<std::string_view> after(std::string_view text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return std::nullopt;
  return text.substr(prefix.size());
}

/// The weight of a linear layer, or a tile of it. @param tile "", or "[row,0]".
SafetensorsPlace weight_place(std::string tensor, std::string_view tile, std::size_t outputs, const Dimensions& d) {
  SafetensorsPlace place{std::move(tensor), StoredOrder::transposed};
  if (tile.empty()) return place;
  std::size_t row = 0;
  std::from_chars(tile.data() + 1, tile.data() + tile.size(), row);
  const zerospan::TileGrid grid{place.tensor, {outputs, 1}, {d.tiles, 1}};
  place.first_row = grid.tile(row, 0).outputs.first;
  place.rows = outputs;
  return place;
}

std::optional<SafetensorsPlace> place_of(std::string_view parameter, const std::string& prefix, const Dimensions& d) {
  if (parameter == "token_embedding") return SafetensorsPlace{prefix + std::string{token_embedding}};
  if (parameter == "position_embedding") return SafetensorsPlace{prefix + "wpe.weight"};
  if (const auto rest = after(parameter, "norm.")) return SafetensorsPlace{prefix + "ln_f." + std::string{*rest}};
  const std::string_view in_blocks = after(parameter, "blocks.").value_or("");
  const std::size_t point = in_blocks.find('.');
  for (const Names& names : block_names) {
    if (point == std::string_view::npos) break;
    const auto member = after(in_blocks.substr(point + 1), names.ours);
    if (!member || !member->starts_with('.')) continue;
    const std::string layer = fmt::format("{}h.{}.{}", prefix, in_blocks.substr(0, point), names.theirs);
    const auto tile = after(*member, ".weight");
    if (names.outputs == 0 || !tile) return SafetensorsPlace{layer + std::string{*member}};
    return weight_place(layer + ".weight", *tile, names.outputs * d.width, d);
  }
  return std::nullopt;
}

/// Causal masks, which some files have beside the parameters; and the head, which `check_gpt2` has compared.
bool is_no_parameter(std::string_view tensor) {
  return tensor == "lm_head.weight" || tensor.ends_with(".attn.bias") || tensor.ends_with(".attn.masked_bias");
}

bool is_file(const std::filesystem::path& path) { return path.extension() == ".safetensors"; }

std::filesystem::path config_of(const std::filesystem::path& path) {
  return (std::filesystem::is_directory(path) ? path : path.parent_path()) / "config.json";
}

/// What a config.json is to say of the model, where it says it.
nlohmann::json config_of(const Dimensions& d) {
  return {{"model_type", "gpt2"},
          {"vocab_size", Dimensions::vocabulary},
          {"n_positions", d.context},
          {"n_embd", d.width},
          {"n_layer", d.layers},
          {"n_head", d.heads},
          {"n_inner", nullptr},
          {"activation_function", "gelu_new"},
          {"layer_norm_epsilon", layer_norm_epsilon},
          {"scale_attn_weights", true},
          {"scale_attn_by_inverse_layer_idx", false},
          {"add_cross_attention", false},
          {"tie_word_embeddings", true}};
}

/// Whether another value means the same.
bool is_same(const std::string& key, const nlohmann::json& theirs, const nlohmann::json& ours, const Dimensions& d) {
  if (key == "n_inner" && theirs == 4 * d.width) return true;
  if (key == "activation_function" && theirs == "gelu_pytorch_tanh") return true;
  return theirs == ours;
}

void check_config(const std::filesystem::path& path, const Dimensions& dimensions) {
  if (!std::filesystem::exists(path)) return;
  std::ifstream file{path};
  const nlohmann::json theirs = nlohmann::json::parse(file, nullptr, false);
  if (!theirs.is_object()) zerospan::throw_configuration_error(path.string() + " is no JSON object, or cannot be read");
  const nlohmann::json expected = config_of(dimensions);
  for (const auto& [key, ours] : expected.items()) {
    if (!theirs.contains(key) || is_same(key, theirs[key], ours, dimensions)) continue;
    zerospan::throw_configuration_error(fmt::format("{} has {} {}, and this model's is {}", path.string(), key,
                                                    theirs[key].dump(), ours.dump()));
  }
}

/// A head that is there apart has to be the token embedding, as the model's is.
void check_head(const SafetensorsModel& model) {
  const std::string head = "lm_head.weight";
  const std::string token = prefix_of(model) + std::string{token_embedding};
  if (!model.find(head) || !model.find(token)) return;
  bool is_tied = model.tensor(head).shape == model.tensor(token).shape;
  const std::uint64_t elements = model.tensor(head).elements;
  constexpr std::uint64_t most = std::uint64_t{1} << 16;
  std::vector<float> ours(std::min(elements, most));
  std::vector<float> theirs(ours.size());
  for (std::uint64_t first = 0; is_tied && first < elements; first += ours.size()) {
    ours.resize(std::min(elements - first, most));
    theirs.resize(ours.size());
    model.read(head, first, ours);
    model.read(token, first, theirs);
    is_tied = ours == theirs;
  }
  if (is_tied) return;
  zerospan::throw_configuration_error(
      fmt::format("{} in {} is not {}: this model's head is its token embedding", head, model.path(), token));
}

}  // namespace

void check_gpt2(const std::filesystem::path& path, const Dimensions& dimensions) {
  check_config(config_of(path), dimensions);
  check_head(SafetensorsModel{path.string()});
}

void import_gpt2(std::shared_ptr<zerospan::ParameterStore> store, const std::filesystem::path& path,
                 const Dimensions& dimensions) {
  EngineOfStore engine{std::move(store)};
  zerospan::import_safetensors(engine, path.string(),
                               {.place =
                                    [&](std::string_view parameter, const SafetensorsModel& model) {
                                      return place_of(parameter, prefix_of(model), dimensions);
                                    },
                                .ignores = is_no_parameter});
}

void export_gpt2(std::shared_ptr<zerospan::ParameterStore> store, const std::filesystem::path& path,
                 const Dimensions& dimensions) {
  if (!is_file(path)) {
    std::error_code error;
    std::filesystem::create_directories(path, error);  // where it cannot be, the export says so
  }
  EngineOfStore engine{std::move(store)};
  const std::filesystem::path file = is_file(path) ? path : path / "model.safetensors";
  zerospan::export_safetensors(engine, file.string(), {.place = [&](std::string_view parameter) {
                                 return place_of(parameter, std::string{saved_prefix}, dimensions);
                               }});
}

void describe_gpt2(const std::filesystem::path& path, const Dimensions& dimensions) {
  if (is_file(path)) return;
  nlohmann::json config = config_of(dimensions);
  config["architectures"] = {"GPT2LMHeadModel"};
  config["bos_token_id"] = nullptr;
  config["eos_token_id"] = nullptr;
  const std::string target = config_of(path).string();
  std::ofstream written{target};
  written << config.dump(2) << '\n' << std::flush;
  if (!written) zerospan::throw_io_error(EIO, "writing the configuration", target, 0, 0);
}

}  // namespace gpt

#else

void gpt::check_gpt2(const std::filesystem::path&, const Dimensions&) {}
void gpt::import_gpt2(std::shared_ptr<zerospan::ParameterStore>, const std::filesystem::path&, const Dimensions&) {}
void gpt::export_gpt2(std::shared_ptr<zerospan::ParameterStore>, const std::filesystem::path&, const Dimensions&) {}
void gpt::describe_gpt2(const std::filesystem::path&, const Dimensions&) {}

#endif
