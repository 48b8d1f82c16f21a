/// @file
/// What is foretold of a row that the paper has timed, by the engine and by two null models.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "paper_errors.hpp"
#include "paper_rows.hpp"
#include "paper_step.hpp"

namespace paper {

struct Timed {
  TimedRow row;
  StepTime time;
  StepTime floor;  ///< With the speed of Megatron-LM's baseline.
  StepTime own;    ///< In the library's own order.

  double rate(double seconds) const { return flops_per_second(row.training, seconds); }
  double measured_seconds() const { return flops_of_step(row.training.model) / row.measured.value(); }
};

Timed foretell(const TimedRow& row);

/// Where the paper's time is, in few words: beyond everything in turn, or which part of the waits was hidden.
std::string why_off(const Timed& timed);

/// The speed of full waves at which the row would take what was measured.
double implied_waves(const TimedRow& row);

/// Errors of the engine and of the null models.
struct ErrorsOfModels {
  Errors ours;
  Errors compute_alone;
  Errors all_lanes;
};

/// With full waves of that speed in all rows.
ErrorsOfModels errors_at(const std::vector<Timed>& rows, double full_waves);

/// With the median of the speeds that the other rows imply in each row, for each of the three models: a fit.
ErrorsOfModels errors_at_what_others_imply(const std::vector<Timed>& rows, const std::vector<double>& implied);

}  // namespace paper
