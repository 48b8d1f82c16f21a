/// @file
/// What a run tells while it goes on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "matrix_products.hpp"
#include "options.hpp"
#include "text.hpp"

namespace gpt {

/// The name of the phase from whose beginning on the time of steps counts.
inline constexpr std::string_view training_phase = "step";

/// One step. Losses, bytes and tokens are of all ranks, peaks of the rank that has the highest.
struct StepMetrics {
  std::size_t step;  ///< Steps made, this one included.
  double loss;
  std::optional<double> validation_loss;  ///< An estimate, if one was made after this step.
  double learning_rate;
  double gradient_norm;
  bool skipped;
  double loss_scale;
  double seconds;
  double tokens_per_second;
  double bytes_read;
  double bytes_written;
  double hidden_transfer_share;
  double peak_device_bytes;
  double peak_host_bytes;
};

/// The whole run.
struct FinalMetrics {
  std::optional<std::uint64_t> parameter_hash;
  std::optional<double> validation_loss;
  std::size_t parameters;
};

/// Where rank 0 reports.
class Reports {
 public:
  Reports() = default;
  Reports(const Reports&) = delete;
  Reports& operator=(const Reports&) = delete;
  virtual ~Reports() = default;

  /// Before anything is done. @param products Of rank 0.
  virtual void begin(const Options& options, const Text& text, const MatrixProducts& products) = 0;

  /// How far something is that takes its time ("validating", 3, 32). Called once with `done` 0, and often.
  virtual void progress(std::string_view what, std::size_t done, std::size_t of) = 0;

  virtual void step(const StepMetrics& metrics) = 0;

  /// Something worth a line: where training goes on from, and where it is saved.
  virtual void note(std::string_view line) = 0;

  /// All steps are made: the latest spans of the timeline are those of training.
  virtual void trained() = 0;

  virtual void end(const FinalMetrics& metrics) = 0;
};

}  // namespace gpt
