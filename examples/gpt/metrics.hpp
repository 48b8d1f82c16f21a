/// @file
/// Metrics as JSON lines.
#pragma once

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "matrix_products.hpp"
#include "reports.hpp"

namespace gpt {

/// Writes each line when it is known. Without a path it writes nothing.
class MetricsWriter {
 public:
  /// @throws std::system_error if the file cannot be written.
  explicit MetricsWriter(const std::filesystem::path& path) : path_{path} {
    if (path_.empty()) return;
    stream_.open(path_);
    check();
  }

  /// Says in each step's line what computes its products.
  void name(const MatrixProducts& products) { products_ = products; }

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
    line["matrix_library"] = products_.library;
    if (!products_.kernels.empty()) line["matrix_kernels"] = products_.kernels;
    if (!products_.instructions.empty()) line["bf16_products"] = "oneDNN with " + products_.instructions;
    if (products_.threads > 0) line["matrix_threads"] = products_.threads;
    if (products_.flops_per_second > 0) line["matrix_gflops"] = products_.flops_per_second / 1e9;
    if (m.validation_loss) line["validation_loss_estimate"] = *m.validation_loss;
    write(line);
  }

  void write(const FinalMetrics& m) {
    nlohmann::ordered_json line;
    if (m.parameter_hash) line["parameter_hash"] = fmt::format("{:016x}", *m.parameter_hash);
    if (m.validation_loss) line["validation_loss"] = *m.validation_loss;
    line["parameters"] = m.parameters;
    write(line);
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
  MatrixProducts products_;
};

}  // namespace gpt
