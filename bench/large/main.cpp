/// @file
/// Trains billions of parameters in two gigabytes of memory, and says beforehand how long a step will take.
///
/// Disk and processor are measured first, by themselves: a tier on disk is read and written, what a training
/// computes is computed for a moment each. The prediction is made of these rates before train_gpt is
/// started: see prediction.hpp. The last line is a JSON object.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>

#include "compute_rates.hpp"
#include "gpt/announcement.hpp"
#include "gpt/openblas.hpp"
#include "machine/disk_rates.hpp"
#include "prediction.hpp"
#include "showcase.hpp"
#include "trained.hpp"

namespace {

constexpr int scaled_exit_code = 3;

struct Wishes {
  double parameters = 4e9;
  std::size_t steps = 3;
  std::size_t tokens = 64;
  int threads = static_cast<int>(std::max(std::thread::hardware_concurrency(), 1U));
  std::filesystem::path directory = ".";
  std::filesystem::path results = ".";
  std::optional<double> disk;
  double leave = 4e9;
  bool without_prefetch = false;
};

Wishes parse(CLI::App& app, int argc, char** argv) {
  Wishes w;
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.add_option("--parameters", w.parameters, "Parameters, at the least")->check(CLI::Range(1.0, 1e12));
  app.add_option("--steps", w.steps, "Steps")->check(CLI::Range(1, 1000));
  app.add_option("--tokens", w.tokens, "Tokens of a step")->check(CLI::Range(8, 4096));
  app.add_option("--threads", w.threads, "Threads of the matrix products; all cores where none are given")
      ->check(CLI::Range(1, 1024));
  app.add_option("--directory", w.directory, "Where the states rest; nothing is left there")
      ->check(CLI::ExistingDirectory);
  app.add_option("--results", w.results, "Where metrics and timeline are kept")->check(CLI::ExistingDirectory);
  app.add_option("--disk", w.disk, "Bytes that the states may take, of those that are free")
      ->check(CLI::Range(0.0, 1e18));
  app.add_option("--leave", w.leave, "Bytes that stay free on the disk")->check(CLI::Range(0.0, 1e18));
  app.add_flag("--without-prefetch", w.without_prefetch, "Parameters are fetched when they are used");
  app.parse(argc, argv);
  return w;
}

std::uint64_t disk_of(const Wishes& w) {
  const double free = static_cast<double>(std::filesystem::space(w.directory).available) - w.leave;
  return static_cast<std::uint64_t>(std::max(0.0, std::min(free, w.disk.value_or(free))));
}

/// Bytes a second each way, while as much is read as is written.
double mixed_rate(machine::DiskTrial& disk) {
  const machine::DiskTrial::Mixed mixed = disk.read_and_write_halves();
  return (mixed.read + mixed.written) / 2;
}

large::Rates measure(const gpt::Options& o) {
  machine::DiskTrial disk{o.nvme_path.front().string(), large::disk_bytes(o) / 4, false};
  const double read = disk.read_all();
  const double mixed = mixed_rate(disk);
  large::TileProducts products{o};
  const large::MemoryRates memory = large::measure_memory();
  return {.read_bytes = read,
          .mixed_bytes = mixed,
          .forward_flops = products.forward_flops(),
          .backward_flops = products.backward_flops(),
          .copied_bytes = memory.copied_bytes,
          .sums = memory.sums,
          .updates = memory.updates,
          .instructions = products.instructions()};
}

void say(const large::Rates& r, const large::Prediction& p) {
  const gpt::openblas::Kernels kernels = gpt::openblas::kernels();
  fmt::print(
      "measured  disk: {:.2f} GB/s read, {:.2f} GB/s each way while both; products by {}: {:.1f} GFLOP/s forward, "
      "{:.1f} backward; copies: {:.1f} GB/s, sums: {:.2f} G gradients/s, AdamW: {:.2f} G "
      "parameters/s\n",
      r.read_bytes / 1e9, r.mixed_bytes / 1e9,
      r.instructions.empty() ? "OpenBLAS's kernels for " + kernels.core : "oneDNN with " + r.instructions,
      r.forward_flops / 1e9, r.backward_flops / 1e9, r.copied_bytes / 1e9, r.sums / 1e9, r.updates / 1e9);
  if (!kernels.remark.empty()) fmt::print("          {}\n", kernels.remark);
  fmt::print("predicted {:.2f} s a step: forward, and the optimizer behind it {:.2f}, backward {:.2f}\n", p.seconds(),
             p.forward, p.backward);
}

int run(const Wishes& wishes) {
  const gpt::Dimensions wanted = large::model_of(wishes.parameters, wishes.tokens);
  const gpt::Dimensions model = large::scaled_to(wanted, disk_of(wishes));
  const bool is_scaled = model.layers < wanted.layers;
  gpt::Options o = large::options_of(model, wishes.steps, wishes.threads, !wishes.without_prefetch);
  o.nvme_path = {wishes.directory};
  o.trace = wishes.results / "large.trace.json";
  o.metrics = wishes.results / "large.jsonl";
  if (is_scaled) {
    fmt::print("SCALED: {} of {} layers have room on the disk\n", model.layers, wanted.layers);
  }
  fmt::print("model     {} parameters, {} layers of width {}: {} on disk, at most {} of memory\n", model.parameters(),
             model.layers, model.width, gpt::describe_bytes(large::disk_bytes(o)),
             gpt::describe_bytes(large::memory_bound(o)));
  std::fflush(stdout);

  const large::Rates rates = measure(o);
  const large::Prediction prediction = large::predict(o, rates);
  say(rates, prediction);
  const large::Trained trained = large::train(TRAIN_GPT, o);
  fmt::print("measured  {:.2f} s a step, {:.3f} of the prediction\n", trained.seconds_per_step,
             trained.seconds_per_step / prediction.seconds());
  // A disk that is quick for a while alone, as those of clouds are, makes the prediction wrong, and is told by this.
  machine::DiskTrial disk{o.nvme_path.front().string(), large::disk_bytes(o) / 8, false};
  const double mixed_after = mixed_rate(disk);
  fmt::print("the disk moved {:.2f} GB/s each way before the training, and moves {:.2f} after it\n",
             rates.mixed_bytes / 1e9, mixed_after / 1e9);

  const large::StepTraffic traffic = large::traffic_of(o);
  const nlohmann::ordered_json line{{"parameters", model.parameters()},
                                    {"steps", trained.steps},
                                    {"tokens_per_step", o.tokens_a_step()},
                                    {"scaled", is_scaled},
                                    {"peak_rss_bytes", trained.peak_rss_bytes},
                                    {"rss_bound_bytes", large::memory_bound(o)},
                                    {"seconds_per_step", trained.seconds_per_step},
                                    {"predicted_seconds_per_step", prediction.seconds()},
                                    {"bytes_read", trained.bytes_read},
                                    {"bytes_written", trained.bytes_written},
                                    {"predicted_bytes_read", trained.steps * traffic.read()},
                                    {"predicted_bytes_written", trained.steps * traffic.written()},
                                    {"budget_bytes", gpt::budget_bytes(o)},
                                    {"disk_bytes", large::disk_bytes(o)},
                                    {"read_bytes_per_second", rates.read_bytes},
                                    {"mixed_bytes_per_second", rates.mixed_bytes},
                                    {"mixed_bytes_per_second_after", mixed_after},
                                    {"forward_flops_per_second", rates.forward_flops},
                                    {"backward_flops_per_second", rates.backward_flops},
                                    {"matrix_kernels", gpt::openblas::kernels().core},
                                    {"bf16_products", rates.instructions}};
  fmt::print("{}\n", line.dump());
  return is_scaled ? scaled_exit_code : 0;
}

}  // namespace

int main(int argc, char** argv) {
  gpt::openblas::choose_kernels(argv);
  CLI::App app{"Trains billions of parameters in two gigabytes of memory."};
  try {
    return run(parse(app, argc, argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::string message = error.what();
    std::ranges::replace(message, '\n', ' ');
    fmt::print(stderr, "large: {}\n", message);
    return 1;
  }
}
