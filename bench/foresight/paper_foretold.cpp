#include "paper_foretold.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <fmt/format.h>

namespace paper {
namespace {

StepTime time_at(Training training, double full_waves) {
  training.gpu.full_waves = full_waves;
  return step_time(training);
}

}  // namespace

Timed foretell(const TimedRow& row) {
  Training own = row.training;
  own.order = Order::behind_next_pass;
  return {.row = row,
          .time = step_time(row.training),
          .floor = time_at(row.training, waves_of_megatron),
          .own = step_time(own)};
}

std::string why_off(const Timed& timed) {
  const double measured = timed.measured_seconds();
  const double waits = timed.time.all_lanes - timed.time.compute;
  const double hidden_there = 1 - (measured - timed.time.compute) / waits;
  if (hidden_there < 0) {
    return fmt::format("slower compute: {:.0f} s, all in turn {:.0f}", measured, timed.time.all_lanes);
  }
  const double hidden = 1 - (timed.time.step - timed.time.compute) / waits;
  return fmt::format("{:.0f}% of {:.0f} s hidden, here {:.0f}%", 100 * hidden_there, waits, 100 * hidden);
}

/// A step is nearly linear in the inverse of the speed.
double implied_waves(const TimedRow& row) {
  const double wanted = flops_of_step(row.training.model) / row.measured.value();
  const auto seconds = [&](double inverse) { return time_at(row.training, 1 / inverse).step; };
  double a = 1 / waves_of_paper;
  double b = 1 / waves_of_megatron;
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

ErrorsOfModels errors_at(const std::vector<Timed>& rows, double full_waves) {
  ErrorsOfModels errors;
  for (const Timed& each : rows) {
    const StepTime time = time_at(each.row.training, full_waves);
    errors.ours.add(error_of(each.measured_seconds(), time.step));
    errors.compute_alone.add(error_of(each.measured_seconds(), time.compute));
    errors.all_lanes.add(error_of(each.measured_seconds(), time.all_lanes));
  }
  return errors;
}

ErrorsOfModels errors_at_what_others_imply(const std::vector<Timed>& rows, const std::vector<double>& implied) {
  ErrorsOfModels errors;
  std::vector<double> by_compute;
  std::vector<double> by_lanes;
  const auto waits = [](const Timed& each) { return each.time.all_lanes - each.time.compute; };
  const auto work = [](const Timed& each) { return each.row.training.gpu.full_waves * each.time.compute; };
  for (const Timed& each : rows) {
    by_compute.push_back(work(each) / each.measured_seconds());
    by_lanes.push_back(work(each) / (each.measured_seconds() - waits(each)));
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto of_others = [&](std::vector<double> speeds) {
      speeds.erase(speeds.begin() + static_cast<std::ptrdiff_t>(i));
      return median(speeds);
    };
    const Timed& each = rows[i];
    const double measured = each.measured_seconds();
    errors.ours.add(error_of(measured, time_at(each.row.training, of_others(implied)).step));
    errors.compute_alone.add(error_of(measured, work(each) / of_others(by_compute)));
    errors.all_lanes.add(error_of(measured, work(each) / of_others(by_lanes) + waits(each)));
  }
  return errors;
}

}  // namespace paper
