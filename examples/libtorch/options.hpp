/// @file
/// What train_torch is told, and its command line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "gpt.hpp"

enum class TierKind { device, host, nvme };

/// Who computes the update of a plain run: torch::optim::AdamW, or zerospan's fused update, by hand.
enum class Update { torch, zerospan };

struct Options {
  std::vector<std::filesystem::path> text;
  std::size_t steps = 20;
  std::int64_t batch = 4;
  gpt::Dimensions model{.layers = 4, .heads = 4, .width = 128, .context = 64};
  float learning_rate = 1e-3F;
  std::uint64_t seed = 1337;
  int threads = 1;

  bool plain = false;
  Update update = Update::torch;

  int ranks = 1;
  TierKind parameters = TierKind::nvme;
  TierKind gradients = TierKind::nvme;
  TierKind optimizer = TierKind::nvme;
  std::filesystem::path nvme_path = std::filesystem::temp_directory_path();
  std::uint64_t device_budget = std::uint64_t{32} << 20;
  std::uint64_t host_budget = std::uint64_t{32} << 20;
  std::uint64_t prefetch_bytes = std::uint64_t{8} << 20;

  std::uint64_t memory_cap = 0;
};

/// Parses the command line. The CLI::App throws CLI::ParseError, for --help as well.
inline Options parse(CLI::App& app, int argc, const char* const* argv) {
  Options o;
  const std::map<std::string, TierKind> tiers{
      {"device", TierKind::device}, {"host", TierKind::host}, {"nvme", TierKind::nvme}};
  const auto add_tier = [&](const std::string& name, TierKind& target, const std::string& what) {
    app.add_option(name, target, what)->transform(CLI::CheckedTransformer(tiers));
  };
  const auto add_bytes = [&](const std::string& name, std::uint64_t& target, const std::string& what) {
    app.add_option(name, target, what)->transform(CLI::AsSizeValue(false));
  };
  const auto add_number = [&](const std::string& name, auto& target, const std::string& what) {
    return app.add_option(name, target, what)->check(CLI::PositiveNumber)->capture_default_str();
  };
  const CLI::Range counts{1, 1 << 20};
  auto* const plain = app.add_flag("--plain", o.plain, "Train without zerospan: ordinary modules, ordinary optimizer");
  app.add_flag("--wrapped")
      ->description("Train with every layer's parameters in a zerospan engine (the default)")
      ->excludes(plain);
  app.add_option("--update", o.update, "Who updates the parameters of a plain run")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, Update>{{"torch", Update::torch}, {"zerospan", Update::zerospan}}))
      ->needs(plain);

  app.add_option("--text", o.text, "Files to learn, joined; the project's own sources where none is given")
      ->check(CLI::ExistingFile);
  add_number("--steps", o.steps, "Steps to train");
  add_number("--batch", o.batch, "Sequences of a rank in a step")->check(counts);
  add_number("--layers", o.model.layers, "Blocks of the model")->check(counts);
  add_number("--heads", o.model.heads, "Attention heads of a block")->check(counts);
  add_number("--width", o.model.width, "Width of the model, a multiple of the heads")->check(counts);
  add_number("--context", o.model.context, "Length of a sequence in bytes")->check(counts);
  add_number("--learning-rate", o.learning_rate, "Learning rate of AdamW");
  app.add_option("--seed", o.seed, "Seed of initialization and batches")->capture_default_str();
  add_number("--threads", o.threads, "Threads of one of torch's operations")->check(CLI::Range(1, 1024));

  add_number("--ranks", o.ranks, "Ranks of a wrapped run, each a thread")->check(CLI::Range(1, 1024))->excludes(plain);
  add_tier("--parameters", o.parameters, "Where the shards of parameters rest: device, host or nvme");
  add_tier("--gradients", o.gradients, "Where gradients rest");
  add_tier("--optimizer", o.optimizer, "Where master weights and moments rest");
  app.add_option("--nvme-path", o.nvme_path, "Directory of the nvme tier")->check(CLI::ExistingDirectory);
  add_bytes("--device-budget", o.device_budget, "Device memory of a rank: what is gathered at a time");
  add_bytes("--host-budget", o.host_budget, "Host memory of a rank, staging included");
  add_bytes("--prefetch-bytes", o.prefetch_bytes, "Device memory that prefetched parameters may take; 0: none");
  add_bytes("--memory-cap", o.memory_cap, "Bytes that may be mapped beside what libtorch takes for itself; 0: no cap");
  app.parse(argc, argv);
  return o;
}
