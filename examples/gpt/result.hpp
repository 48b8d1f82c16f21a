/// @file
/// What a run has in the end.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "directory_use.hpp"
#include "figures.hpp"
#include "matrix_products.hpp"
#include "step_time.hpp"

namespace gpt {

/// Seconds that rank 0 spent on one kind of work.
struct TimeSpent {
  std::string_view what;
  double seconds;
};

struct Summary {
  std::size_t parameters;
  std::optional<double> validation_loss;
  double training_seconds;
  std::size_t steps;       ///< Made so far, by the runs before this one too.
  std::size_t steps_here;  ///< Made by this run.
  std::size_t skipped_steps;
  std::vector<Figures> ranks;             ///< After training, before validation.
  MatrixProducts products;                ///< Of rank 0.
  StepTime step_time;                     ///< Of rank 0.
  std::vector<DirectoryUse> directories;  ///< Of rank 0, after training.
  std::vector<TimeSpent> time;            ///< Operations of the lanes; they overlap with one another, and computing.
};

/// What rank 0 has in the end; empty on the others.
struct Result {
  std::string sample;
  Summary summary;
  bool is_interrupted = false;  ///< It was asked to end, and has neither validated nor written.
};

}  // namespace gpt
