/// @file
/// Metrics as JSON lines.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "figures.hpp"

namespace gpt {

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
  std::uint64_t parameter_hash;
  double validation_loss;
  std::size_t parameters;
};

/// Writes each line when it is known. Without a path it writes nothing.
class MetricsWriter {
 public:
  /// @throws std::system_error if the file cannot be written.
  explicit MetricsWriter(const std::filesystem::path& path) : path_{path} {
    if (path_.empty()) return;
    stream_.open(path_);
    check();
  }

  void write(const StepMetrics& m) {
    nlohmann::ordered_json line{{"step", m.step},
                                {"loss", m.loss},
                                {"learning_rate", m.learning_rate},
                                {"gradient_norm", m.gradient_norm},
                                {"skipped", m.skipped},
                                {"loss_scale", m.loss_scale},
                                {"seconds", m.seconds},
                                {"tokens_per_second", m.tokens_per_second},
                                {"bytes_read", static_cast<std::uint64_t>(m.bytes_read)},
                                {"bytes_written", static_cast<std::uint64_t>(m.bytes_written)},
                                {"hidden_transfer_share", m.hidden_transfer_share},
                                {"peak_device_bytes", static_cast<std::uint64_t>(m.peak_device_bytes)},
                                {"peak_host_bytes", static_cast<std::uint64_t>(m.peak_host_bytes)}};
    if (m.validation_loss) line["validation_loss_estimate"] = *m.validation_loss;
    write(line);
  }

  void write(const FinalMetrics& m) {
    write(nlohmann::ordered_json{{"parameter_hash", fmt::format("{:016x}", m.parameter_hash)},
                                 {"validation_loss", m.validation_loss},
                                 {"parameters", m.parameters}});
  }

 private:
  void write(const nlohmann::ordered_json& line) {
    if (path_.empty()) return;
    stream_ << line.dump() << std::endl;
    check();
  }
  void check() const {
    if (!stream_) throw std::system_error{errno, std::generic_category(), "cannot write metrics to " + path_.string()};
  }

  std::filesystem::path path_;
  std::ofstream stream_;
};

}  // namespace gpt
