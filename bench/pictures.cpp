/// Draws what bench/run.sh has measured, as SVG: ratios beside their goals, a step lane by lane, and losses.
#include <cstdio>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include "drawing/timeline.hpp"
#include "report/json_files.hpp"
#include "report/losses.hpp"
#include "report/ratio_chart.hpp"

int main(int argc, char** argv) try {
  std::string output;
  CLI::App app{"Draws what was measured, as SVG."};
  app.require_subcommand(1);
  const auto add = [&](const std::string& name, const std::string& what) {
    CLI::App* const picture = app.add_subcommand(name, what);
    picture->add_option("--output", output, "The SVG file to write")->required();
    return picture;
  };

  std::string table;
  CLI::App* const ratios = add("ratios", "All ratios beside their goals");
  ratios->add_option("table", table, "A table that ratios wrote")->required();

  std::string trace;
  int rank = 0;
  CLI::App* const timeline = add("timeline", "The last whole step of a training, lane by lane");
  timeline->add_option("trace", trace, "What train_gpt --trace wrote")->required();
  timeline->add_option("--rank", rank, "Whose lanes")->capture_default_str();

  std::vector<std::pair<std::string, std::string>> trainings;
  CLI::App* const losses = add("losses", "The losses of trainings, on one another");
  losses->add_option("--training", trainings, "A name, and what train_gpt --metrics wrote; several times")->required();
  CLI11_PARSE(app, argc, argv);

  if (ratios->parsed()) {
    bench::write_file(output, bench::draw_ratios(bench::read_table(table)));
  } else if (timeline->parsed()) {
    const auto lanes = bench::read_lanes(trace, rank);
    bench::write_file(output,
                      drawing::draw_timeline(lanes, drawing::last_whole_step(lanes), fmt::format("rank {}", rank)));
  } else {
    std::vector<bench::LossCurve> curves;
    for (const auto& [name, metrics] : trainings) curves.push_back(bench::read_losses(name, metrics));
    bench::write_file(output, bench::draw_losses(curves));
  }
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "pictures: {}\n", error.what());
  return 1;
}
