/// Prints how fast each benchmark is beside its raw baseline, its goal and the table before, and writes that as JSON.
///
/// A benchmark `topic/...` is paired with `topic_raw/...` of the same arguments. Both are measured alternately in one
/// run, so that the ratio of their medians means something on a noisy machine where neither median does.
#include <cstdio>
#include <exception>
#include <string>
#include <tuple>
#include <vector>

#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include "report/json_files.hpp"
#include "report/table.hpp"

int main(int argc, char** argv) try {
  std::vector<std::string> reports;
  std::vector<std::string> lists;
  std::vector<std::tuple<std::string, std::string, std::string>> trainings;
  std::string goals;
  std::string previous;
  std::string output;
  CLI::App app{"The ratios of benchmarks to their raw baselines, beside their goals."};
  app.add_option("reports", reports, "Reports of Google Benchmark, in JSON");
  app.add_option("--measurements", lists, "Lists of name, unit, ours and baseline, in JSON; several times");
  app.add_option("--training", trainings,
                 "A name, its metrics and the metrics of its baseline, of two training runs; several times");
  app.add_option("--goals", goals, "The goals, in JSON")->required();
  app.add_option("--previous", previous, "The table before, to compare with");
  app.add_option("--output", output, "The JSON file to write; without it, goals and the table before are read alone");
  CLI11_PARSE(app, argc, argv);

  const auto wanted = bench::read_goals(goals);
  const auto before = previous.empty() ? std::vector<bench::Row>{} : bench::read_table(previous);
  if (output.empty()) return 0;

  std::vector<bench::Measurement> measurements;
  const auto add = [&](const std::vector<bench::Measurement>& more) {
    measurements.insert(measurements.end(), more.begin(), more.end());
  };
  for (const auto& report : reports) {
    const auto pairs = bench::read_report(report);
    if (pairs.empty()) fmt::print(stderr, "{}: no benchmark has a baseline\n", report);
    add(pairs);
  }
  for (const auto& list : lists) add(bench::read_measurements(list));
  for (const auto& [name, ours, baseline] : trainings) {
    add({bench::read_trainings(name, ours, baseline)});
  }
  for (const auto& [name, ours, baseline] : trainings) {
    if (const std::string products = bench::matrix_products(ours); !products.empty()) {
      fmt::print("{}: matrix products by {}\n", name, products);
    }
  }
  const auto table = bench::make_table(measurements, wanted, before);
  fmt::print("{}", bench::in_text(table.rows));
  bench::write_table(output, table.rows);
  const std::string complaints = bench::complaints(table);
  fmt::print(stderr, "{}", complaints);
  return complaints.empty() ? 0 : 1;
} catch (const std::exception& error) {
  fmt::print(stderr, "ratios: {}\n", error.what());
  return 1;
}
