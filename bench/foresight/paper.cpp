/// @file
/// Foretells what ZeRO-Infinity (arXiv 2104.07857) has measured on up to 512 GPUs, by the library's engine in virtual
/// time, and prints both.
///
/// Speeds of links and sizes of memories are those that the paper names. Compute has one curve (paper_v100.hpp), which
/// is the same in all rows. Nothing is fitted to what is foretold. Beside it stand two null models: the time that
/// computing takes by itself, and the sum of everything, one after the other. The last line is a JSON object.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>

#include "paper_cluster.hpp"
#include "paper_memory.hpp"
#include "paper_model.hpp"
#include "paper_rows.hpp"
#include "paper_step.hpp"
#include "paper_v100.hpp"

namespace {

using nlohmann::ordered_json;

double error_of(double foretold, double measured) { return foretold / measured - 1; }

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

/// Errors of one way to foretell.
struct Errors {
  std::vector<double> all;
  void add(double error) { all.push_back(std::abs(error)); }
  double middle() const { return median(all); }
  double worst() const { return std::ranges::max(all); }
};

/// A row that was timed, and what is foretold of it.
struct Timed {
  paper::TimedRow row;
  paper::StepTime time;
  paper::StepTime own;       ///< In the library's own order.
  double implied_waves = 0;  ///< Operations a second of full waves at which it would be what was measured.

  double rate(double seconds) const { return paper::flops_per_second(row.training, seconds); }
};

/// At which speed of full waves the row takes what was measured: a step is nearly linear in its inverse.
double implied_waves(const paper::TimedRow& row) {
  const double wanted = paper::flops_of_step(row.training.model) / row.measured.value();
  const auto seconds = [&](double inverse) {
    paper::Training training = row.training;
    training.gpu.full_waves = 1 / inverse;
    return paper::step_time(training).step;
  };
  double a = 1 / 70e12;
  double b = 1 / 50e12;
  double at_a = seconds(a);
  double at_b = seconds(b);
  for (int i = 0; i < 3 && std::abs(at_b / wanted - 1) > 1e-3; ++i) {
    const double next = std::max(b + (wanted - at_b) * (b - a) / (at_b - at_a), 1 / 125e12);
    a = b;
    at_a = at_b;
    b = next;
    at_b = seconds(b);
  }
  return 1 / b;
}

Timed foretell(const paper::TimedRow& row) {
  Timed timed{.row = row, .time = paper::step_time(row.training), .own = {}};
  paper::Training own = row.training;
  own.order = paper::Order::behind_next_pass;
  timed.own = paper::step_time(own);
  if (row.measured) timed.implied_waves = implied_waves(row);
  return timed;
}

/// Why a row is off: compute is slower than the curve says, or less is hidden behind it.
std::string note_of(const Timed& t) {
  const double measured = paper::flops_of_step(t.row.training.model) / t.row.measured.value();
  const double others = t.time.all_lanes - t.time.compute;
  const double hidden = 1 - (t.time.step - t.time.compute) / others;
  const double hidden_there = 1 - (measured - t.time.compute) / others;
  const std::string waves = fmt::format("Full waves of {:.1f} TFLOP/s, not {:.0f}, make it the paper's",
                                        t.implied_waves / 1e12, t.row.training.gpu.full_waves / 1e12);
  if (hidden_there < 0) {
    return fmt::format("{}: with nothing hidden at all the step took {:.0f} s, and the paper's took {:.0f}.", waves,
                       t.time.all_lanes, measured);
  }
  return fmt::format(
      "{}; or else {:.0f}% of the {:.0f} s that are not compute were hidden there, and {:.0f}% are here.", waves,
      100 * hidden_there, others, 100 * hidden);
}

class Report {
 public:
  void print(const std::string& text) {
    fmt::print("{}", text);
    std::fflush(stdout);
    text_ += text;
  }

  void title(std::string_view text) { print(fmt::format("\n{}\n", text)); }

  void heading(std::string_view unit) {
    print(fmt::format("{:<26}{:>8}{:>8}{:>8}{:>17}{:>17}{:>13}\n", unit, "paper", "ours", "error", "compute alone",
                      "sum of lanes", "own order"));
  }

  /// @param unit Operations a second, of all GPUs or one, that are one in the table.
  /// @param note Of a row without a measurement.
  void add(const Timed& t, std::string_view group, double unit, std::string note = {}) {
    const double ours = t.rate(t.time.step);
    const double compute = t.rate(t.time.compute);
    const double lanes = t.rate(t.time.all_lanes);
    ordered_json json{{"group", group}, {"name", t.row.name}, {"parameters", t.row.training.model.parameters()}};
    std::string line = fmt::format("{:<26}", t.row.name);
    const auto column = [&](double value) {
      return t.row.measured ? fmt::format("{:>8.1f} {:>+7.0f}%", value / unit, 100 * error_of(value, *t.row.measured))
                            : fmt::format("{:>8.1f}{:>9}", value / unit, "");
    };
    line += t.row.measured ? fmt::format("{:>8.1f}", *t.row.measured / unit) : fmt::format("{:>8}", "-");
    line += fmt::format("{:>16}{:>17}{:>17}{:>13.1f}\n", column(ours), column(compute), column(lanes),
                        t.rate(t.own.step) / unit);
    print(line);
    json["step_seconds"] = t.time.step;
    json["compute_alone_seconds"] = t.time.compute;
    json["all_lanes_seconds"] = t.time.all_lanes;
    json["flops_per_second"] = ours;
    json["own_order_flops_per_second"] = t.rate(t.own.step);
    if (t.row.measured) {
      ours_.add(error_of(ours, *t.row.measured));
      compute_.add(error_of(compute, *t.row.measured));
      lanes_.add(error_of(lanes, *t.row.measured));
      json["measured_flops_per_second"] = *t.row.measured;
      json["error"] = error_of(ours, *t.row.measured);
      json["error_of_compute_alone"] = error_of(compute, *t.row.measured);
      json["error_of_all_lanes"] = error_of(lanes, *t.row.measured);
      json["implied_full_waves"] = t.implied_waves;
      note = note_of(t);
    }
    json["note"] = note;
    print("    " + note + "\n");
    rows.push_back(json);
  }

  /// @param by_formula By the paper's 20 bytes a parameter.
  void add_size(std::string_view group, std::string_view name, double measured, double ours, double unit,
                const std::string& note, std::optional<double> by_formula = {}) {
    sizes_.add(error_of(ours, measured));
    std::string line = fmt::format("{:<26}{:>8.1f}{:>8.1f}{:>+7.0f}%", name, measured / unit, ours / unit,
                                   100 * error_of(ours, measured));
    ordered_json json{{"group", group},
                      {"name", name},
                      {"measured", measured},
                      {"foretold", ours},
                      {"error", error_of(ours, measured)}};
    if (by_formula) {
      formula_.add(error_of(*by_formula, measured));
      line += fmt::format("{:>10.1f}{:>+6.0f}%", *by_formula / unit, 100 * error_of(*by_formula, measured));
      json["by_formula"] = *by_formula;
      json["error_of_formula"] = error_of(*by_formula, measured);
    }
    json["note"] = note;
    print(line + "\n    " + note + "\n");
    rows.push_back(json);
  }

  ordered_json summary() {
    title("Errors");
    print(fmt::format("{:<42}{:>8}{:>17}{:>17}\n", "", "ours", "compute alone", "sum of lanes"));
    const auto line = [&](std::string_view name, auto of) {
      print(fmt::format("{:<42}{:>7.1f}%{:>16.1f}%{:>16.1f}%\n", name, 100 * of(ours_), 100 * of(compute_),
                        100 * of(lanes_)));
    };
    line(fmt::format("median of {} timed rows", ours_.all.size()), [](const Errors& e) { return e.middle(); });
    line("worst", [](const Errors& e) { return e.worst(); });
    print(fmt::format("{:<42}{:>8}{:>17}\n", "", "ours", "20 B a parameter"));
    print(fmt::format("{:<42}{:>7.1f}%{:>16.1f}%\n", fmt::format("median of {} sizes", sizes_.all.size()),
                      100 * sizes_.middle(), 100 * formula_.middle()));
    print(fmt::format("{:<42}{:>7.1f}%{:>16.1f}%\n", "worst", 100 * sizes_.worst(), 100 * formula_.worst()));
    return {{"timed_rows", ours_.all.size()},
            {"median_error", ours_.middle()},
            {"worst_error", ours_.worst()},
            {"median_error_of_compute_alone", compute_.middle()},
            {"worst_error_of_compute_alone", compute_.worst()},
            {"median_error_of_all_lanes", lanes_.middle()},
            {"worst_error_of_all_lanes", lanes_.worst()},
            {"sizes", sizes_.all.size()},
            {"median_error_of_sizes", sizes_.middle()},
            {"worst_error_of_sizes", sizes_.worst()},
            {"median_error_of_formula", formula_.middle()},
            {"worst_error_of_formula", formula_.worst()}};
  }

  const std::string& text() const { return text_; }

  ordered_json rows = ordered_json::array();

 private:
  std::string text_;
  Errors ours_;
  Errors compute_;
  Errors lanes_;
  Errors sizes_;
  Errors formula_;
};

/// How much of the errors is the curve's one speed: each row with the speed that the others imply, and the null models
/// by the same rule.
ordered_json look_at_curve(Report& report, const std::vector<Timed>& timed) {
  Errors ours;
  Errors compute;
  Errors lanes;
  std::vector<double> implied;
  for (std::size_t i = 0; i < timed.size(); ++i) {
    const Timed& t = timed[i];
    const double full_waves = t.row.training.gpu.full_waves;
    const auto of_others = [&](auto waves_of) {
      std::vector<double> others;
      for (std::size_t j = 0; j < timed.size(); ++j) {
        if (j != i) others.push_back(waves_of(timed[j]));
      }
      return median(others);
    };
    const auto wanted = [](const Timed& each) {
      return paper::flops_of_step(each.row.training.model) / each.row.measured.value();
    };
    const auto rest = [](const Timed& each) { return each.time.all_lanes - each.time.compute; };
    implied.push_back(t.implied_waves / 1e12);
    paper::Training training = t.row.training;
    training.gpu.full_waves = of_others([](const Timed& each) { return each.implied_waves; });
    ours.add(error_of(wanted(t), paper::step_time(training).step));
    const double by_compute =
        of_others([&](const Timed& each) { return full_waves * each.time.compute / wanted(each); });
    compute.add(error_of(wanted(t), t.time.compute * full_waves / by_compute));
    const double by_lanes =
        of_others([&](const Timed& each) { return full_waves * each.time.compute / (wanted(each) - rest(each)); });
    lanes.add(error_of(wanted(t), t.time.compute * full_waves / by_lanes + rest(t)));
  }
  report.title("What of the errors is the curve: each row with the speed of full waves that the other rows imply");
  report.print(fmt::format("They imply {:.1f} TFLOP/s, from {:.1f} to {:.1f}; the curve has 70.\n", median(implied),
                           std::ranges::min(implied), std::ranges::max(implied)));
  report.print(fmt::format("{:<42}{:>7.1f}%{:>16.1f}%{:>16.1f}%\n", "median error", 100 * ours.middle(),
                           100 * compute.middle(), 100 * lanes.middle()));
  report.print(fmt::format("{:<42}{:>7.1f}%{:>16.1f}%{:>16.1f}%\n", "worst error", 100 * ours.worst(),
                           100 * compute.worst(), 100 * lanes.worst()));
  return {{"implied_full_waves", median(implied) * 1e12},
          {"median_error", ours.middle()},
          {"worst_error", ours.worst()},
          {"median_error_of_compute_alone", compute.middle()},
          {"worst_error_of_compute_alone", compute.worst()},
          {"median_error_of_all_lanes", lanes.middle()},
          {"worst_error_of_all_lanes", lanes.worst()}};
}

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
  report.print("The row below is computed with 4 bytes on the GPU: the optimizer's 12 rest on the hosts.\n");
  return {{"room", room}, {"states", 16 * model.parameters() / gpus}, {"largest_matrix", matrix}, {"engine", refusal}};
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
  both("GPU memory", &paper::Hardware::device_memory, 0.2);
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
  with("no model parallelism", [](paper::Training& training) { training.model.model_parallel = 1; });
  with("updates behind the next pass",
       [](paper::Training& training) { training.order = paper::Order::behind_next_pass; });
  return all;
}

std::string note_of(const paper::Largest& largest) {
  return fmt::format(
      "{} layers of hd {}; the engine reserves {:.1f} GB a GPU, {:.1f} host, {:.1f} NVMe; allowances {:.1f} GB.",
      largest.model.layers, largest.model.hidden, largest.device / 1e9, largest.host / 1e9, largest.disk / 1e9,
      largest.allowances / 1e9);
}

int run(const std::filesystem::path& results) {
  Report report;
  std::vector<Timed> timed;
  ordered_json json;

  json["trillion"] = look_at_trillion(report);
  report.title("Throughput on 512 GPUs");
  report.heading("TFLOP/s a GPU");
  for (const paper::TimedRow& row : paper::by_size()) {
    timed.push_back(foretell(row));
    report.add(timed.back(), "size", 1e12);
  }
  report.title("Weak scaling, a trillion parameters");
  report.heading("PFLOP/s of all GPUs");
  for (const paper::TimedRow& row : paper::by_nodes()) {
    timed.push_back(foretell(row));
    report.add(timed.back(), "nodes", 1e15 / (row.training.nodes * paper::gpus_of_node));
  }
  report.title("One node: what tiers cost (the paper has a figure without numbers)");
  report.heading("TFLOP/s a GPU");
  double all_on_gpu = 0;
  for (const paper::TimedRow& row : paper::by_tier()) {
    const Timed t = foretell(row);
    const double rate = t.rate(t.time.step);
    if (all_on_gpu == 0) all_on_gpu = rate;
    report.add(
        t, "tiers", 1e12,
        fmt::format("{:.0f}% of the step are waits; an operation takes {:.2f} times what it takes where all is on "
                    "the GPU.",
                    100 * (1 - t.time.compute / t.time.step), all_on_gpu / rate));
  }

  report.title("The largest model on one node");
  report.print(fmt::format(
      "16 bytes a parameter rest here, 20 with the fp32 gradient that the paper counts. Its trillion on NVMe is "
      "what it shows: by its formula the disks have room for {:.1f}.\n",
      paper::gpus_of_node * paper::disk_bytes / 20 / 1e12));
  report.print(fmt::format("{:<26}{:>8}{:>8}{:>8}{:>17}\n", "billions of parameters", "paper", "ours", "error",
                           "20 B a parameter"));
  for (const paper::SizeRow& row : paper::by_strategy()) {
    const paper::Largest largest = paper::largest_model(row.strategy, row.model);
    const double by_formula = paper::largest_by_formula(row.strategy, row.model);
    report.add_size("strategy", row.strategy.name, row.measured, largest.parameters, 1e9, note_of(largest), by_formula);
  }
  report.title("The widest layer in GPU memory that is free in pieces of 2 GiB alone");
  report.print(fmt::format("{:<26}{:>8}{:>8}{:>8}\n", "hd in 1024, powers of two", "paper", "ours", "error"));
  for (const paper::WidthRow& row : paper::by_tiles()) {
    const std::size_t widest = paper::widest_layer(row.tiles, 1024);
    const auto measured = static_cast<double>(row.measured);
    const double tensor = 8 * measured * measured / static_cast<double>(row.tiles) / paper::gibi;
    report.add_size(
        "tiling", fmt::format("{} tile{}", row.tiles, row.tiles == 1 ? "" : "s"), measured,
        static_cast<double>(std::bit_floor(widest)), 1024,
        fmt::format("To the 1024: {}. A weight and its gradient share one piece here; each of them takes {:.1f} "
                    "GiB at the paper's hd.",
                    widest / 1024, tensor));
  }
  report.print(
      "    Sixteen tiles make a layer four times as wide, since bytes grow with hd squared; the paper's is eight "
      "times.\n");

  json["sensitivity"] = sensitivity(report);
  ordered_json summary = report.summary();
  json["one_speed_of_the_curve"] = look_at_curve(report, timed);
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
