/// @file
/// Foretells what ZeRO-Infinity (arXiv 2104.07857) has measured on up to 512 GPUs, by the library's engine in virtual
/// time, and prints both.
///
/// Speeds of links and sizes of memories are those that the paper names. Compute has one curve (paper_v100.hpp), which
/// is the same in all rows. Nothing is fitted to what is foretold. Beside it stand two null models with the same curve:
/// the time that computing takes by itself, and the sum of everything, one after the other. The last line is a JSON
/// object.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>

#include "paper_cluster.hpp"
#include "paper_errors.hpp"
#include "paper_foretold.hpp"
#include "paper_memory.hpp"
#include "paper_model.hpp"
#include "paper_report.hpp"
#include "paper_rows.hpp"
#include "paper_step.hpp"
#include "paper_v100.hpp"

namespace {

using nlohmann::ordered_json;
using paper::error_of;
using paper::Report;
using paper::Timed;

/// Why the states of a trillion are not on 512 GPUs, and what the engine says to it.
ordered_json look_at_trillion(Report& report) {
  const paper::Training training = paper::trillion_on_gpus();
  const paper::Model& model = training.model;
  const int gpus = training.nodes * paper::gpus_of_node;
  const double activations = paper::bytes_of_activations(model, model.batch);
  const double matrix = paper::bytes_of_largest_layer(model) / model.model_parallel;
  const double room = paper::device_bytes - paper::framework_bytes - activations;
  std::string refusal = "it fits";
  try {
    paper::step_time(training);
  } catch (const zerospan::BudgetError& error) {
    refusal = error.what();
  }
  report.title("A trillion parameters with all states on 512 GPUs, as the paper's table has it");
  report.print(
      fmt::format("A GPU has {:.2f} GB; a framework takes {:.2f}, activations of one layer {:.2f} (5 sequences): "
                  "{:.2f} are left.\n",
                  paper::device_bytes / 1e9, paper::framework_bytes / 1e9, activations / 1e9, room / 1e9));
  struct Kept {
    double bytes;  ///< A parameter.
    std::string_view what;
  };
  for (const Kept& kept : {Kept{20, "and fp32 gradients"}, Kept{16, "parameters, gradients, optimizer"},
                           Kept{14, "no gradients at rest"}, Kept{4, "optimizer on the hosts"}}) {
    const double with = kept.bytes * model.parameters() / gpus + matrix;
    report.print(
        fmt::format("  {:>2.0f} bytes a parameter ({:<32}): {:>5.2f} GB with the largest matrix and its gradient, "
                    "{} by {:.2f}; {:.2f} are left to all else\n",
                    kept.bytes, kept.what, with / 1e9, with > room ? "too much" : "fits", std::abs(room - with) / 1e9,
                    (paper::device_bytes - with) / 1e9));
  }
  report.print(fmt::format("The engine: {}\n", refusal));
  report.print(
      "The paper's figure by nodes has the same training on 512 GPUs: 25.0 PFLOP/s are 48.8 TFLOP/s a GPU. Its 64 GPUs "
      "have 2 TB in all, so that its states were off the GPUs there, and likely in both. The row below has the "
      "optimizer's 12 bytes on the hosts.\n");
  return {{"room", room}, {"states", 16 * model.parameters() / gpus}, {"largest_matrix", matrix}, {"engine", refusal}};
}

/// How much of the errors is the curve: other published speeds of full waves, and a fit.
ordered_json look_at_curve(Report& report, const std::vector<Timed>& timed) {
  std::vector<double> implied;
  for (const Timed& each : timed) implied.push_back(paper::implied_waves(each.row));
  report.title("Median and worst error of the timed rows, by the speed of full waves");
  report.print(fmt::format("{:<58}{:>17}{:>17}{:>17}\n", "", "ours", "compute alone", "all in turn"));
  ordered_json all = ordered_json::array();
  const auto at = [&](std::string_view whose, double waves) {
    ordered_json json = report.add(fmt::format("{:.1f} TFLOP/s, {}", waves / 1e12, whose), errors_at(timed, waves));
    json["full_waves"] = waves;
    all.push_back(json);
  };
  at("cuBLAS' squares", paper::waves_of_cublas);
  at("the paper's layers: the curve", paper::waves_of_paper);
  at("Megatron-LM's baseline, attention not counted", paper::waves_of_megatron_without_attention);
  at("Megatron-LM's baseline: the floor", paper::waves_of_megatron);
  ordered_json fit =
      report.add(fmt::format("{:.1f} TFLOP/s: fitted, each row by the others", paper::median(implied) / 1e12),
                 errors_at_what_others_imply(timed, implied));
  fit["full_waves"] = paper::median(implied);
  all.push_back(fit);
  report.print(fmt::format("Rows imply from {:.1f} to {:.1f} TFLOP/s.\n", std::ranges::min(implied) / 1e12,
                           std::ranges::max(implied) / 1e12));
  return all;
}

ordered_json sensitivity(Report& report) {
  const paper::Training base{paper::trillion(), 4, paper::Place::nvme, paper::Place::nvme};
  const double before = paper::flops_per_second(base, paper::step_time(base).step);
  report.title(fmt::format("Sensitivity: 1T on 64 GPUs, {:.1f} TFLOP/s a GPU", before / 1e12));
  ordered_json all = ordered_json::array();
  const auto with = [&](std::string_view what, const std::function<void(paper::Training&)>& change) {
    paper::Training training = base;
    change(training);
    const double after = paper::flops_per_second(training, paper::step_time(training).step);
    report.print(fmt::format("{:<42}{:>8.1f}{:>+8.1f}%\n", what, after / 1e12, 100 * error_of(after, before)));
    all.push_back({{"what", what}, {"flops_per_second", after}, {"change", error_of(after, before)}});
  };
  const auto both = [&](std::string_view what, double paper::Hardware::*of, double share) {
    for (const double factor : {1 - share, 1 + share}) {
      with(fmt::format("{} {:+.0f}%", what, 100 * (factor - 1)),
           [&](paper::Training& training) { training.hardware.*of *= factor; });
    }
  };
  both("between GPUs", &paper::Hardware::between_gpus, 0.2);
  both("between nodes", &paper::Hardware::between_nodes, 0.2);
  both("to and from the host", &paper::Hardware::to_host, 0.2);
  both("NVMe", &paper::Hardware::disk, 0.2);
  both("host memory", &paper::Hardware::host_memory, 0.2);
  for (const double factor : {0.8, 1.2}) {
    with(fmt::format("GPU memory {:+.0f}%", 100 * (factor - 1)), [&](paper::Training& training) {
      training.hardware.device_memory *= factor;
      training.gpu.memory *= factor;
    });
  }
  for (const double factor : {0.9, 1.1}) {
    with(fmt::format("full waves {:+.0f}%", 100 * (factor - 1)),
         [&](paper::Training& training) { training.gpu.full_waves *= factor; });
  }
  with("latencies x 10", [](paper::Training& training) {
    training.hardware.latency_within *= 10;
    training.hardware.latency_between *= 10;
    training.hardware.latency_disk *= 10;
  });
  for (const double more : {-1.0, 1.0}) {
    with(fmt::format("batch {:+.0f}", more), [&](paper::Training& training) { training.model.batch += more; });
  }
  for (const int gpus : {1, 8, 16}) {
    with(fmt::format("matrices on {} GPU{}, not 4", gpus, gpus == 1 ? "" : "s"),
         [&](paper::Training& training) { training.model.model_parallel = gpus; });
  }
  with("updates behind the next pass",
       [](paper::Training& training) { training.order = paper::Order::behind_next_pass; });
  return all;
}

std::vector<Timed> times(Report& report) {
  std::vector<Timed> timed;
  report.title("Throughput on 512 GPUs");
  report.head_times("TFLOP/s a GPU");
  for (const paper::TimedRow& row : paper::by_size()) {
    timed.push_back(foretell(row));
    report.add(timed.back(), "size", 1e12);
  }
  report.title("Weak scaling, a trillion parameters");
  report.head_times("PFLOP/s of all GPUs");
  for (const paper::TimedRow& row : paper::by_nodes()) {
    timed.push_back(foretell(row));
    report.add(timed.back(), "nodes", 1e15 / (row.training.nodes * paper::gpus_of_node));
  }
  report.title("One node: what tiers cost (the paper has a figure without numbers)");
  report.head_times("TFLOP/s a GPU");
  double all_on_gpu = 0;
  for (const paper::TimedRow& row : paper::by_tier()) {
    const Timed each = foretell(row);
    const double rate = each.rate(each.time.step);
    if (all_on_gpu == 0) all_on_gpu = rate;
    report.add(each, "tiers", 1e12,
               fmt::format("{:.0f}% waits; x {:.2f} of all on the GPU", 100 * (1 - each.time.compute / each.time.step),
                           all_on_gpu / rate));
  }
  return timed;
}

void sizes(Report& report) {
  report.title("The largest model on one node");
  report.print(fmt::format(
      "Allowances: {:.1f} GB a GPU and as much of the host for CUDA and a framework; one layer's activations of four "
      "sequences; checkpoints. The paper's trillion on NVMe is what it shows: by its formula the disks have room for "
      "{:.1f}.\n",
      paper::framework_bytes / 1e9, paper::gpus_of_node * paper::disk_bytes / 20 / 1e12));
  report.head_sizes("billions of parameters", "ours, 16 B", "20 B");
  for (const paper::SizeRow& row : paper::by_strategy()) {
    const paper::Largest largest = paper::largest_model(row.strategy, row.model);
    report.add({.group = "strategy",
                .name = row.strategy.name,
                .measured = row.measured,
                .foretold = largest.parameters,
                .by_formula = paper::largest_by_formula(row.strategy, row.model)},
               1e9,
               fmt::format("{} layers of {}; engine {:.1f} GB a GPU, {:.1f} host, {:.1f} NVMe; allowances {:.1f} GB",
                           largest.model.layers, largest.model.hidden, largest.device / 1e9, largest.host / 1e9,
                           largest.disk / 1e9, largest.allowances / 1e9));
  }
  report.title("The widest layer in GPU memory that is free in pieces of 2 GiB alone");
  report.head_sizes("hd in 1024, powers of 2", "ours", "");
  for (const paper::WidthRow& row : paper::by_tiles()) {
    const std::size_t widest = paper::widest_layer(row.tiles, 1024);
    const auto measured = static_cast<double>(row.measured);
    const double tensor = 8 * measured * measured / static_cast<double>(row.tiles) / paper::gibi;
    report.add(
        {.group = "tiling",
         .name = fmt::format("{} tile{}", row.tiles, row.tiles == 1 ? "" : "s"),
         .measured = measured,
         .foretold = static_cast<double>(std::bit_floor(widest)),
         .by_formula = 0},
        1024,
        fmt::format("to the 1024: {}; a weight has {:.1f} GiB at the paper's hd, and its gradient shares the piece",
                    widest / 1024, tensor));
  }
  report.print(
      "Sixteen tiles make a layer four times as wide, since bytes grow with hd squared; the paper's is eight times.\n");
}

int run(const std::filesystem::path& results) {
  Report report;
  ordered_json json;
  json["trillion"] = look_at_trillion(report);
  const std::vector<Timed> timed = times(report);
  sizes(report);
  json["curve"] = look_at_curve(report, timed);
  const ordered_json summary = report.summary();
  json["sensitivity"] = sensitivity(report);
  json["rows"] = report.rows;
  json["summary"] = summary;
  std::ofstream{results / "foresight.paper.txt"} << report.text();
  const std::filesystem::path path = results / "foresight.paper.json";
  std::ofstream stream{path};
  stream << json.dump(1) << '\n';
  stream.close();
  if (!stream) throw std::system_error{errno, std::generic_category(), "cannot write " + path.string()};
  fmt::print("\n{}\n", summary.dump());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path results = ".";
  CLI::App app{"Foretells what ZeRO-Infinity has measured on up to 512 GPUs, in virtual time."};
  app.add_option("--results", results, "Where the table and its JSON are written")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  try {
    app.parse(argc, argv);
    return run(results);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "foresight_paper: {}\n", error.what());
    return 1;
  }
}
