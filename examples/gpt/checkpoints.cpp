/// @file
/// The checkpoints of train_gpt, where it was built with what they need; `validate` refuses --checkpoint elsewhere.
/// Likewise the models of others.
#include "checkpoints.hpp"

#include <csignal>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <zerospan/core/error.hpp>

#include "engine_of_store.hpp"
#include "hugging_face.hpp"

#if defined(ZEROSPAN_HAS_CHECKPOINT)
#include <zerospan/checkpoint/checkpoint.hpp>
#endif

namespace gpt {

namespace {

volatile std::sig_atomic_t asked_to_end = 0;

extern "C" void ask_to_end(int) {
  asked_to_end = 1;
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

}  // namespace

Checkpoints::Checkpoints(const Options& options) : options_{options} {
  if (!is_on()) return;
  asked_to_end = 0;
  std::signal(SIGINT, ask_to_end);
  std::signal(SIGTERM, ask_to_end);
}

Checkpoints::~Checkpoints() {
  if (!is_on()) return;
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

bool Checkpoints::import_model(std::shared_ptr<zerospan::ParameterStore> store) {
  if (options_.init.empty()) return false;
  import_gpt2(std::move(store), options_.init, options_.model);
  return true;
}

bool Checkpoints::export_model(std::shared_ptr<zerospan::ParameterStore> store, bool is_first) {
  if (options_.export_to.empty()) return false;
  export_gpt2(std::move(store), options_.export_to, options_.model);
  if (is_first) describe_gpt2(options_.export_to, options_.model);
  return true;
}

bool Checkpoints::is_interrupted() const { return asked_to_end != 0; }

#if defined(ZEROSPAN_HAS_CHECKPOINT)

namespace {

class SaverOfOptions final : public Saver {
 public:
  SaverOfOptions(const EngineOfStore& engine, const Options& options)
      : saver_{engine, options.checkpoint.string()}, keep_{options.keep} {}

  std::vector<Saved> start(const Position& position) override {
    return named(saver_.start({.keep = keep_, .host_bytes = std::as_bytes(std::span{&position, 1})}));
  }
  std::vector<Saved> poll() override { return named(saver_.poll()); }
  std::vector<Saved> wait() override { return named(saver_.wait()); }

 private:
  static std::vector<Saved> named(const std::vector<zerospan::SavedCheckpoint>& all) {
    std::vector<Saved> names;
    for (const zerospan::SavedCheckpoint& saved : all) names.push_back({saved.step, saved.path});
    return names;
  }

  zerospan::CheckpointSaver saver_;
  std::size_t keep_;
};

}  // namespace

std::unique_ptr<Saver> Checkpoints::saver(std::shared_ptr<zerospan::ParameterStore> store) {
  if (!is_on()) return nullptr;
  return std::make_unique<SaverOfOptions>(EngineOfStore{std::move(store)}, options_);
}

std::optional<Position> Checkpoints::resume(std::shared_ptr<zerospan::ParameterStore> store) {
  EngineOfStore engine{std::move(store)};
  const std::string directory = options_.checkpoint.string();
  const std::optional<std::int64_t> found = zerospan::find_checkpoint(engine, directory);
  if (!found) return std::nullopt;
  if (!options_.resume) {
    zerospan::throw_configuration_error(
        fmt::format("{} has a checkpoint of step {} already: --resume goes on from it; for a new training, choose an "
                    "empty directory",
                    directory, *found));
  }
  // The model is as it was made: there is nothing to lose if a file is damaged.
  const zerospan::LoadedCheckpoint loaded =
      zerospan::load_checkpoint(engine, directory, {.check = zerospan::CheckpointCheck::while_loading});
  if (loaded.seed != options_.seed) {
    zerospan::throw_configuration_error(
        fmt::format("--seed is {}, and {} in {}: it draws the batches", options_.seed, loaded.seed, loaded.path));
  }
  Position position;
  if (loaded.host_bytes.front().size() != sizeof position) {
    zerospan::throw_configuration_error(loaded.path + " was not saved by train_gpt");
  }
  std::memcpy(&position, loaded.host_bytes.front().data(), sizeof position);
  return position;
}

#else

std::unique_ptr<Saver> Checkpoints::saver(std::shared_ptr<zerospan::ParameterStore>) { return nullptr; }
std::optional<Position> Checkpoints::resume(std::shared_ptr<zerospan::ParameterStore>) { return std::nullopt; }

#endif

}  // namespace gpt
