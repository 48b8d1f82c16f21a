#include "paper_report.hpp"

#include <cstdio>

#include <fmt/format.h>

namespace paper {
namespace {

using nlohmann::ordered_json;

std::string with_error(double value, double measured, double unit) {
  return fmt::format("{:>8.1f}{:>+6.0f}%", value / unit, 100 * error_of(value, measured));
}

}  // namespace

void Report::print(const std::string& text) {
  fmt::print("{}", text);
  std::fflush(stdout);
  text_ += text;
}

void Report::title(std::string_view text) { print(fmt::format("\n{}\n", text)); }

void Report::head_times(std::string_view unit) {
  print(fmt::format("{:<25}{:>7}{:>15}{:>15}{:>15}{:>15}{:>10}  {}\n", unit, "paper", "ours", "at the floor",
                    "compute alone", "all in turn", "own order", "the paper's time"));
}

void Report::add(const Timed& timed, std::string_view group, double unit, const std::string& note) {
  const double ours = timed.rate(timed.time.step);
  const double floor = timed.rate(timed.floor.step);
  const double compute = timed.rate(timed.time.compute);
  const double lanes = timed.rate(timed.time.all_lanes);
  ordered_json json{{"group", group},
                    {"name", timed.row.name},
                    {"parameters", timed.row.training.model.parameters()},
                    {"step_seconds", timed.time.step},
                    {"compute_alone_seconds", timed.time.compute},
                    {"all_lanes_seconds", timed.time.all_lanes},
                    {"flops_per_second", ours},
                    {"flops_per_second_at_the_floor", floor},
                    {"own_order_flops_per_second", timed.rate(timed.own.step)}};
  const auto column = [&](double value) {
    return timed.row.measured ? with_error(value, *timed.row.measured, unit)
                              : fmt::format("{:>8.1f}{:>7}", value / unit, "");
  };
  std::string why = note;
  std::string paper = "-";
  if (timed.row.measured) {
    const double measured = *timed.row.measured;
    times_.ours.add(error_of(ours, measured));
    floor_.add(error_of(floor, measured));
    times_.compute_alone.add(error_of(compute, measured));
    times_.all_lanes.add(error_of(lanes, measured));
    json["measured_flops_per_second"] = measured;
    json["error"] = error_of(ours, measured);
    json["error_at_the_floor"] = error_of(floor, measured);
    json["error_of_compute_alone"] = error_of(compute, measured);
    json["error_of_all_lanes"] = error_of(lanes, measured);
    why = why_off(timed);
    paper = fmt::format("{:.1f}", measured / unit);
  }
  json["note"] = why;
  print(fmt::format("{:<25}{:>7}{}{}{}{}{:>10.1f}  {}\n", timed.row.name, paper, column(ours), column(floor),
                    column(compute), column(lanes), timed.rate(timed.own.step) / unit, why));
  rows.push_back(json);
}

void Report::head_sizes(std::string_view unit, std::string_view by_engine, std::string_view by_formula) {
  print(fmt::format("{:<25}{:>7}{:>15}{:>15}\n", unit, "paper", by_engine, by_formula));
}

void Report::add(const Sized& sized, double unit, const std::string& note) {
  const double error = error_of(sized.foretold, sized.measured);
  ordered_json json{{"group", sized.group},
                    {"name", sized.name},
                    {"measured", sized.measured},
                    {"foretold", sized.foretold},
                    {"error", error}};
  std::string by_formula;
  if (sized.by_formula > 0) {
    models_.add(error);
    models_by_formula_.add(error_of(sized.by_formula, sized.measured));
    by_formula = with_error(sized.by_formula, sized.measured, unit);
    json["by_formula"] = sized.by_formula;
    json["error_of_formula"] = error_of(sized.by_formula, sized.measured);
  }
  json["note"] = note;
  print(fmt::format("{:<25}{:>7.1f}{}{:>15}  {}\n", sized.name, sized.measured / unit,
                    with_error(sized.foretold, sized.measured, unit), by_formula, note));
  rows.push_back(json);
}

ordered_json Report::add(std::string_view name, const ErrorsOfModels& errors) {
  print(fmt::format("{:<58}", name));
  for (const Errors* of : {&errors.ours, &errors.compute_alone, &errors.all_lanes}) {
    print(fmt::format("{:>9.1f}% {:>5.0f}%", 100 * of->middle(), 100 * of->worst()));
  }
  print("\n");
  return {{"name", name},
          {"median_error", errors.ours.middle()},
          {"worst_error", errors.ours.worst()},
          {"median_error_of_compute_alone", errors.compute_alone.middle()},
          {"worst_error_of_compute_alone", errors.compute_alone.worst()},
          {"median_error_of_all_lanes", errors.all_lanes.middle()},
          {"worst_error_of_all_lanes", errors.all_lanes.worst()}};
}

ordered_json Report::summary() {
  const bool in_turn = times_.all_lanes.middle() < times_.compute_alone.middle();
  const Errors& nearer = in_turn ? times_.all_lanes : times_.compute_alone;
  print(fmt::format("With the curve {}: {} has a median error of {:.1f}%, the engine {:.1f}%.\n",
                    nearer.middle() < times_.ours.middle() ? "a null model is nearer" : "no null model is nearer",
                    in_turn ? "all in turn" : "compute alone", 100 * nearer.middle(), 100 * times_.ours.middle()));
  title("Sizes: median and worst error");
  print(
      fmt::format("{} largest models: {:.1f}% and {:.0f}% with the engine's 16 bytes a parameter, {:.1f}% and "
                  "{:.0f}% with the paper's 20.\n",
                  models_.all.size(), 100 * models_.middle(), 100 * models_.worst(), 100 * models_by_formula_.middle(),
                  100 * models_by_formula_.worst()));
  return {{"timed_rows", times_.ours.all.size()},
          {"median_error", times_.ours.middle()},
          {"worst_error", times_.ours.worst()},
          {"median_error_at_the_floor", floor_.middle()},
          {"worst_error_at_the_floor", floor_.worst()},
          {"median_error_of_compute_alone", times_.compute_alone.middle()},
          {"worst_error_of_compute_alone", times_.compute_alone.worst()},
          {"median_error_of_all_lanes", times_.all_lanes.middle()},
          {"worst_error_of_all_lanes", times_.all_lanes.worst()},
          {"largest_models", models_.all.size()},
          {"median_error_of_largest_models", models_.middle()},
          {"worst_error_of_largest_models", models_.worst()},
          {"median_error_of_formula", models_by_formula_.middle()},
          {"worst_error_of_formula", models_by_formula_.worst()}};
}

}  // namespace paper
