// GPT-2 in the layout that Hugging Face has it in: the model of examples/gpt goes there and comes back.
#include <doctest/doctest.h>

#if defined(ZEROSPAN_HAS_SAFETENSORS)

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/engine/zero_engine.hpp>
#include <zerospan/interchange/safetensors_model.hpp>
#include <zerospan/interchange/safetensors_writer.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>
#include <zerospan/tier/host_tier.hpp>

#include "gpt/activations.hpp"
#include "gpt/cpu_math.hpp"
#include "gpt/dimensions.hpp"
#include "gpt/hugging_face.hpp"
#include "gpt/model.hpp"
#include "gpt/tensor.hpp"
#include "gpt/zerospan_adapter.hpp"
#include "support/engines.hpp"
#include "support/scratch.hpp"

namespace {

using gpt::Dimensions;
using zerospan::Bytes;
using zerospan::ConfigurationError;
using zerospan::InterchangeError;
using zerospan::SafetensorsModel;
using zerospan_test::ScratchDirectory;

constexpr Dimensions dimensions{.layers = 2, .heads = 3, .width = 24, .context = 12};

Dimensions in_tiles(std::size_t tiles) {
  Dimensions d = dimensions;
  d.tiles = tiles;
  return d;
}

/// A model in an engine of stage 3.
class Rank {
 public:
  using Engine =
      zerospan::ZeroEngine<zerospan::Stage3, zerospan::ThreadCommunicator, zerospan::HostDevice, zerospan::AdamW>;

  Rank(zerospan::ThreadCommunicator& communicator, const Dimensions& d)
      : host_{device_},
        engine_{{}, communicator, device_, zerospan::Placement{host_, host_, host_}, zerospan::AdamW{},
                zerospan::EngineOptions{.persistence_threshold = Bytes{0}}},
        math_{d},
        model_{engine_, math_, d},
        activations_{math_, d, 1, 1} {}

  Engine& engine() { return engine_; }

  /// Moves all parameters, so that no bias is zero and no weight one.
  void move() {
    engine_.edit_states([](const zerospan::StatesEdit& edit) {
      for (std::size_t i = 0; i < edit.master.size(); ++i) {
        edit.master[i] += 0.01F * static_cast<float>((edit.first + i) * 7919 % 31) - 0.15F;
      }
      return zerospan::EditOutcome::changed;
    });
  }

  /// All master weights, one after the other: the tiles of a layer are its rows.
  std::vector<float> masters() {
    std::vector<float> all;
    engine_.for_each_master([&](std::string_view, std::uint64_t, std::span<const float> values) {
      all.insert(all.end(), values.begin(), values.end());
    });
    return all;
  }

  /// Those of the last of the tokens.
  std::vector<float> logits(std::span<const std::uint8_t> tokens) {
    const auto last = model_.predict(tokens, activations_);
    return {last.begin(), last.end()};
  }

 private:
  using Math = gpt::CpuMath<float>;

  zerospan::HostDevice device_{{.device_budget = Bytes{8 << 20}, .host_budget = Bytes{8 << 20}}};
  zerospan::HostTier host_;
  Engine engine_;
  Math math_;
  gpt::Model<zerospan::PartitionedParameter<gpt::Tensor<float>>, Math> model_;
  gpt::Activations<Math> activations_;
};

template <class F>
auto on_ranks(int ranks, const Dimensions& d, F f) {
  return zerospan::run_ranks(ranks, [&](zerospan::ThreadCommunicator communicator) {
    Rank rank{communicator, d};
    return f(rank, communicator.rank().value);
  });
}

/// Exports a model whose parameters are all others than those that models begin with. @return Its master weights.
std::vector<float> export_from(int ranks, const Dimensions& d, const std::string& path) {
  return on_ranks(ranks, d, [&](Rank& rank, int number) {
    rank.move();
    gpt::export_gpt2(rank.engine().store(), path, d);
    if (number == 0) gpt::describe_gpt2(path, d);
    return rank.masters();
  })[0];
}

TEST_CASE("a model that is exported and imported is the same, in whatever tiles its layers are") {
  for (const std::size_t tiles : {1U, 5U}) {
    const ScratchDirectory scratch;
    const std::string path = scratch.path() + "/exported";
    const std::vector<float> exported = export_from(2, in_tiles(tiles), path);
    for (const std::size_t others : {1U, 3U}) {
      const auto imported = on_ranks(3, in_tiles(others), [&](Rank& rank, int) {
        gpt::check_gpt2(path, in_tiles(others));
        gpt::import_gpt2(rank.engine().store(), path, in_tiles(others));
        return rank.masters();
      });
      for (const std::vector<float>& masters : imported) CHECK((masters == exported));
    }
  }
}

TEST_CASE("tensors have the names and the shapes that GPT2LMHeadModel gives them") {
  const ScratchDirectory scratch;
  export_from(2, in_tiles(2), scratch.path());
  const SafetensorsModel model{scratch.path()};
  std::set<std::string> names;
  for (const auto& [name, file] : model.tensors()) names.insert(name);
  std::set<std::string> expected{"transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight",
                                 "transformer.ln_f.bias"};
  for (const char* layer : {"h.0.", "h.1."}) {
    for (const char* part : {"ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"}) {
      for (const char* kind : {".weight", ".bias"}) {
        expected.insert(std::string{"transformer."}.append(layer).append(part).append(kind));
      }
    }
  }
  CHECK(names == expected);
  using Extents = std::vector<std::uint64_t>;
  CHECK(model.tensor("transformer.wte.weight").shape == Extents{256, 24});
  CHECK(model.tensor("transformer.wpe.weight").shape == Extents{12, 24});
  CHECK(model.tensor("transformer.h.1.attn.c_attn.weight").shape == Extents{24, 72});
  CHECK(model.tensor("transformer.h.1.attn.c_attn.bias").shape == Extents{72});
  CHECK(model.tensor("transformer.h.0.mlp.c_proj.weight").shape == Extents{96, 24});
}

TEST_CASE("a model that this one cannot be is refused by what it says of itself") {
  const ScratchDirectory scratch;
  export_from(1, dimensions, scratch.path());
  std::ifstream file{scratch.path() + "/config.json"};
  const nlohmann::json exported = nlohmann::json::parse(file);
  const auto write = [&](const std::string& text) { std::ofstream{scratch.path() + "/config.json"} << text; };
  for (const auto& [key, value] : {std::pair<const char*, nlohmann::json>{"n_head", 4},
                                   {"vocab_size", 50257},
                                   {"activation_function", "relu"},
                                   {"layer_norm_epsilon", 1e-6},
                                   {"scale_attn_by_inverse_layer_idx", true},
                                   {"tie_word_embeddings", false},
                                   {"model_type", "llama"}}) {
    nlohmann::json config = exported;
    config[key] = value;
    write(config.dump());
    CHECK_THROWS_WITH_AS(gpt::check_gpt2(scratch.path(), dimensions),
                         doctest::Contains((std::string{key} + " " + value.dump()).c_str()), ConfigurationError);
  }
  for (const auto& [key, value] : {std::pair<const char*, nlohmann::json>{"n_inner", 96},
                                   {"activation_function", "gelu_pytorch_tanh"},
                                   {"resid_pdrop", 0.5}}) {
    nlohmann::json config = exported;
    config[key] = value;
    write(config.dump());
    CHECK_NOTHROW(gpt::check_gpt2(scratch.path(), dimensions));
  }
  write("no JSON");
  CHECK_THROWS_AS(gpt::check_gpt2(scratch.path(), dimensions), ConfigurationError);
}

TEST_CASE("a head apart is taken where it is the token embedding, and refused elsewhere") {
  for (const bool is_tied : {true, false}) {
    const ScratchDirectory scratch;
    const std::string path = scratch.path() + "/model.safetensors";
    const std::vector<zerospan::SafetensorsTensor> tensors{
        {"wte.weight", zerospan::SafetensorsType::float32, {256, 24}},
        {"lm_head.weight", zerospan::SafetensorsType::float32, {256, 24}}};
    zerospan::SafetensorsWriter writer{path, tensors};
    std::vector<float> values(256 * 24, 1.0F);
    writer.write("wte.weight", 0, values);
    if (!is_tied) values.back() = 2.0F;
    writer.write("lm_head.weight", 0, values);
    writer.finish();
    if (is_tied) CHECK_NOTHROW(gpt::check_gpt2(path, dimensions));
    if (!is_tied) CHECK_THROWS_AS(gpt::check_gpt2(path, dimensions), ConfigurationError);
  }
}

TEST_CASE("another size is refused by the tensor's name") {
  const ScratchDirectory scratch;
  export_from(1, dimensions, scratch.path() + "/a.safetensors");
  CHECK(!std::filesystem::exists(scratch.path() + "/config.json"));
  Dimensions longer = dimensions;
  longer.context = 13;
  on_ranks(2, longer, [&](Rank& rank, int) {
    CHECK_THROWS_WITH_AS(gpt::import_gpt2(rank.engine().store(), scratch.path() + "/a.safetensors", longer),
                         doctest::Contains("transformer.wpe.weight"), InterchangeError);
    return 0;
  });
}

/// Writes the model's logits of some tokens into a directory that has the model.
void write_logits(Rank& rank, const std::string& directory) {
  const std::vector<std::uint8_t> tokens{72, 0, 255, 72, 101, 10, 1, 2, 3, 200, 201, 72};
  nlohmann::json logits = nlohmann::json::array();
  for (std::size_t n = 1; n <= tokens.size(); ++n) logits.push_back(rank.logits(std::span{tokens}.first(n)));
  std::ofstream{directory + "/logits.json"} << nlohmann::json{{"tokens", tokens}, {"logits", logits}};
}

TEST_CASE("Python has the same logits of what is exported, and of what it wrote itself") {
  const char* const python = std::getenv("ZEROSPAN_PYTHON");
  if (python == nullptr) {
    MESSAGE("skipped: the test gpt2_python runs this");
    return;
  }
  const ScratchDirectory scratch;
  const std::string theirs = scratch.path() + "/theirs";
  const std::string ours = scratch.path() + "/ours";
  std::filesystem::create_directory(theirs);
  const auto call = [&](const std::string& what, const std::string& directory) {
    const std::string script = std::string{python} + " " ZEROSPAN_FIXTURES "/gpt2/gpt2.py ";
    REQUIRE(std::system((script + what + " " + directory).c_str()) == 0);
  };
  call("make", theirs);
  gpt::check_gpt2(theirs, dimensions);
  on_ranks(1, dimensions, [&](Rank& rank, int) {
    gpt::import_gpt2(rank.engine().store(), theirs, dimensions);
    write_logits(rank, theirs);
    rank.move();
    gpt::export_gpt2(rank.engine().store(), ours, dimensions);
    gpt::describe_gpt2(ours, dimensions);
    write_logits(rank, ours);
    return 0;
  });
  call("compare", theirs);
  call("compare", ours);
}

}  // namespace

#endif
