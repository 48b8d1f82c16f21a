/// @file
/// How long a step of train_gpt will take on a machine: its own model, training loop and engine, run over work that is
/// priced and not done.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include <zerospan/core/timeline.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/plan/planned_span.hpp>

#include "../../machine/rates.hpp"
#include "../options.hpp"

namespace gpt::forecast {

/// Seconds of one track of a rank in a step: a lane, or the host's computing.
struct TrackTime {
  std::string what;    ///< "compute", or the lane's name.
  double seconds = 0;  ///< In which it did something, by itself or held up by others.
  double alone = 0;    ///< What that would take if it had the machine to itself.
};

/// Bytes that one rank moves in a step.
struct StepBytes {
  double read = 0;
  double written = 0;
  double copied = 0;    ///< Between staging memory and device memory.
  double gathered = 0;  ///< Received from other ranks in gathers.
  double reduced = 0;   ///< Of gradients that are summed over ranks.
  double updated = 0;   ///< Of optimizer states and master weights.
};

/// A step in the middle of a training.
struct Forecast {
  double step_seconds = 0;
  std::vector<TrackTime> tracks;  ///< Of rank 0.
  StepBytes bytes;                ///< Of rank 0.

  double compute_alone = 0;  ///< A null model: what the ranks compute, on the cores that there are, and nothing else.
  double all_lanes = 0;      ///< Another one: everything one after the other.

  double peak_device_bytes = 0;  ///< Of rank 0: exact.
  double peak_host_bytes = 0;
  double peak_disk_bytes = 0;

  std::vector<zerospan::plan::PlannedSpan> spans;  ///< Of rank 0 in one step, in the order of their begins.
  std::vector<zerospan::plan::PlannedSpan>
      critical_path;  ///< Those that each wait for the one before, to the end of the step.
};

/// @param timeline Gets what the ranks do in all steps, if it is given.
/// @throws zerospan::ConfigurationError if the training is one that cannot be foretold: on GPUs, quantized, over
/// MPI by rates without links; or if something that it does was not measured. Whatever the training would throw.
Forecast foretell(Options options, const machine::Rates& rates, zerospan::Timeline* timeline = nullptr);

}  // namespace gpt::forecast
