/// @file
/// Reports of train_gpt: a line on standard error, the file of metrics, and the timeline.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <zerospan/adapters/chrome_trace.hpp>
#include <zerospan/core/timeline.hpp>

#include "announcement.hpp"
#include "matrix_products.hpp"
#include "metrics.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "reports.hpp"

namespace gpt {

class TerminalReports final : public Reports {
 public:
  /// @param timeline Outlives the reports. @throws std::system_error if the metrics cannot be written.
  TerminalReports(const Options& options, const zerospan::Timeline& timeline)
      : timeline_{timeline}, trace_{options.trace}, metrics_{options.metrics}, progress_{options.schedule.steps} {}

  void begin(const Options& options, const Text& text, const MatrixProducts& products) override {
    metrics_.name(products);
    progress_.say(announce(options, text, products));
  }

  void progress(std::string_view what, std::size_t done, std::size_t of) override { progress_.show(what, done, of); }

  void step(const StepMetrics& metrics) override {
    const bool is_news = metrics.validation_loss.has_value();
    if (is_news) validation_loss_ = metrics.validation_loss;
    metrics_.write(metrics);
    progress_.show_step(metrics.step, metrics.loss, validation_loss_, metrics.tokens_per_second, is_news);
  }

  void note(std::string_view line) override { progress_.say(std::string{line} + "\n"); }

  void trained() override { zerospan::write_chrome_trace(timeline_, trace_.string()); }

  void end(const FinalMetrics& metrics) override {
    progress_.finish();
    metrics_.write(metrics);
  }

 private:
  const zerospan::Timeline& timeline_;
  std::filesystem::path trace_;
  MetricsWriter metrics_;
  Progress progress_;
  std::optional<double> validation_loss_;
};

}  // namespace gpt
