/// Prints how fast each benchmark is beside its raw baseline, as a table and as JSON, and what has computed the matrix
/// products of training runs.
///
/// A benchmark `topic/...` is paired with `topic_raw/...` of the same arguments. Both are measured alternately in one
/// run, so that the ratio of their medians means something on a noisy machine where neither median does.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <fmt/core.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace {

using nlohmann::json;

/// The median of one benchmark's repetitions. More is better.
struct Speed {
  std::string unit;
  double value;
};

/// How fast ours is beside the baseline: 1 is as fast.
struct Ratio {
  std::string name;
  std::string unit;
  double ours;
  double baseline;

  double value() const { return ours / baseline; }
};

/// The speed that the aggregate `entry` tells: bytes a second, else items a second, else runs per unit of real time.
Speed speed_of(const json& entry) {
  for (const std::string unit : {"bytes_per_second", "items_per_second"}) {
    if (entry.contains(unit)) return {unit, entry.at(unit).get<double>()};
  }
  return {"runs_per_" + entry.at("time_unit").get<std::string>(), 1.0 / entry.at("real_time").get<double>()};
}

json read_json(const std::string& path) {
  std::ifstream file{path};
  try {
    return json::parse(file);
  } catch (const json::parse_error& error) {
    throw std::runtime_error{path + " is not JSON: " + error.what()};
  }
}

/// The medians in a Google Benchmark JSON report, by the name of the run.
std::map<std::string, Speed> read_medians(const std::string& path) {
  const auto report = read_json(path);
  std::map<std::string, Speed> medians;
  for (const auto& entry : report.at("benchmarks")) {
    const auto name = entry.at("run_name").get<std::string>();
    if (entry.value("error_occurred", false)) {
      throw std::runtime_error{name + " failed: " + entry.value("error_message", "")};
    }
    if (entry.value("aggregate_name", "") == "median") medians.emplace(name, speed_of(entry));
  }
  return medians;
}

/// The name of the baseline of `name`: the part before the first '/' followed by "_raw".
std::string baseline_of(const std::string& name) {
  const auto end = std::min(name.find('/'), name.size());
  return name.substr(0, end) + "_raw" + name.substr(end);
}

std::vector<Ratio> pair_with_baselines(const std::map<std::string, Speed>& medians) {
  std::vector<Ratio> ratios;
  for (const auto& [name, ours] : medians) {
    const auto baseline = medians.find(baseline_of(name));
    if (baseline == medians.end()) continue;
    if (baseline->second.unit != ours.unit) throw std::runtime_error{name + " and its baseline differ in their unit"};
    ratios.push_back({name, ours.unit, ours.value, baseline->second.value});
  }
  return ratios;
}

/// The median tokens a second in the metrics that a training run wrote: one JSON object a line.
double median_tokens_per_second(const std::string& path) {
  std::ifstream file{path};
  std::vector<double> rates;
  for (std::string line; std::getline(file, line);) {
    const auto metrics = json::parse(line);
    if (metrics.contains("tokens_per_second")) rates.push_back(metrics.at("tokens_per_second").get<double>());
  }
  if (rates.empty()) throw std::runtime_error{path + " tells no tokens_per_second"};
  const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2);
  std::nth_element(rates.begin(), middle, rates.end());
  return *middle;
}

/// What has computed the matrix products of a training run, by its first metrics; null if they do not tell.
json matrix_products(const std::string& path) {
  std::ifstream file{path};
  std::string line;
  std::getline(file, line);
  const auto metrics = json::parse(line);
  json products;
  for (const std::string key : {"matrix_library", "matrix_kernels", "matrix_threads", "matrix_gflops"}) {
    if (metrics.contains(key)) products[key.substr(key.find('_') + 1)] = metrics.at(key);
  }
  return products;
}

void print_products(const std::string& name, const json& products) {
  if (products.is_null()) return;
  fmt::print("{}: matrix products by {} with its kernels for {}, threads {}: {:.1f} GFLOP/s\n", name,
             products.value("library", "?"), products.value("kernels", "?"), products.value("threads", 1),
             products.value("gflops", 0.0));
}

void print_table(const std::vector<Ratio>& ratios) {
  std::size_t width = 9;
  for (const auto& ratio : ratios) width = std::max(width, ratio.name.size());
  fmt::print("{:{}}  {:>12}  {:>12}  {:>6}  {}\n", "benchmark", width, "ours", "baseline", "ratio", "unit");
  for (const auto& ratio : ratios) {
    fmt::print("{:{}}  {:>12.4g}  {:>12.4g}  {:>6.3f}  {}\n", ratio.name, width, ratio.ours, ratio.baseline,
               ratio.value(), ratio.unit);
  }
}

void write_json(const std::string& path, const std::vector<Ratio>& ratios, const json& products) {
  auto list = json::array();
  for (const auto& ratio : ratios) {
    list.push_back({{"name", ratio.name},
                    {"unit", ratio.unit},
                    {"ours", ratio.ours},
                    {"baseline", ratio.baseline},
                    {"ratio", ratio.value()}});
  }
  std::ofstream file{path};
  file << json{{"ratios", list}, {"matrix_products", products}}.dump(2) << '\n';
  if (!file) throw std::runtime_error{"cannot write " + path};
}

}  // namespace

int main(int argc, char** argv) try {
  std::vector<std::string> reports;
  std::vector<std::tuple<std::string, std::string, std::string>> trainings;
  std::string output;
  CLI::App app{"The ratios of benchmarks to their raw baselines."};
  app.add_option("reports", reports, "Reports of Google Benchmark, in JSON")->check(CLI::ExistingFile);
  app.add_option("--training", trainings,
                 "A name, its metrics and the metrics of its baseline, of two training runs; several times");
  app.add_option("--output", output, "The JSON file to write")->required();
  CLI11_PARSE(app, argc, argv);

  std::vector<Ratio> ratios;
  for (const auto& report : reports) {
    const auto pairs = pair_with_baselines(read_medians(report));
    if (pairs.empty()) fmt::print(stderr, "{}: no benchmark has a baseline\n", report);
    ratios.insert(ratios.end(), pairs.begin(), pairs.end());
  }
  json products = json::object();
  for (const auto& [name, ours, baseline] : trainings) {
    ratios.push_back(
        {name, "tokens_per_second", median_tokens_per_second(ours), median_tokens_per_second(baseline)});
    products[name] = matrix_products(ours);
    print_products(name, products[name]);
  }
  print_table(ratios);
  write_json(output, ratios, products);
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "ratios: {}\n", error.what());
  return 1;
}
