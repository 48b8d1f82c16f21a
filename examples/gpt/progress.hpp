/// @file
/// One line on standard error that tells how training goes.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include <unistd.h>

#include <fmt/format.h>

#include "reports.hpp"

namespace gpt {

/// "42 s", "3 min 20 s", "2 h 05 min".
inline std::string describe_seconds(double seconds) {
  const auto whole = static_cast<long>(std::lround(std::max(seconds, 0.0)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

/// Rewritten in place on a terminal; elsewhere plain lines: a step's every twentieth of the way and at each validation,
/// another phase's at its beginning and then every ten seconds.
class Progress {
 public:
  explicit Progress(std::size_t steps) : steps_{steps} {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { finish(); }

  /// @param step Steps made. @param validation_loss The latest, if there is one.
  /// @param news Whether this step's line must not be left out.
  void show_step(std::size_t step, double loss, std::optional<double> validation_loss, double tokens_per_second,
                 bool news) {
    if (!on_terminal_ && !news && step != steps_ && step % every() != 0) return;
    const double made = static_cast<double>(step - first_step_);
    const double left = seconds_since(training_begin_) / made * static_cast<double>(steps_ - step);
    const std::string validation = validation_loss ? fmt::format("  validation {:.4f}", *validation_loss) : "";
    write(fmt::format("step {}/{}  loss {:.4f}{}  {:.0f} tokens/s  {} left", step, steps_, loss, validation,
                      tokens_per_second, describe_seconds(left)));
  }

  /// A phase other than a step. Its first call, with `done` 0, begins it; that of steps is its only one.
  void show(std::string_view what, std::size_t done, std::size_t of) {
    if (what == training_phase) {
      training_begin_ = Clock::now();
      first_step_ = done;
    }
    const bool begins = done == 0 || what == training_phase;
    if (begins) phase_begin_ = Clock::now();
    if (!begins && seconds_since(latest_) < (on_terminal_ ? 0.1 : 10.0)) return;
    latest_ = Clock::now();
    const double elapsed = seconds_since(phase_begin_);
    const std::string left = begins || elapsed < 1
                                 ? ""
                                 : fmt::format("  {} left", describe_seconds(elapsed / static_cast<double>(done) *
                                                                             static_cast<double>(of - done)));
    write(fmt::format("{} {}/{}{}", what, done, of, left));
  }

  /// Lines that stay.
  void say(const std::string& lines) {
    finish();
    fmt::print(stderr, "{}", lines);
    std::fflush(stderr);
  }

  /// Leaves the line as it stands; what is printed next begins on a new one.
  void finish() {
    if (line_is_open_) fmt::print(stderr, "\n");
    line_is_open_ = false;
  }

 private:
  using Clock = std::chrono::steady_clock;

  static double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  std::size_t every() const { return std::max(steps_ / 20, std::size_t{1}); }

  void write(const std::string& line) {
    fmt::print(stderr, "{}", on_terminal_ ? "\r" + line + "\x1b[K" : line + "\n");
    std::fflush(stderr);
    line_is_open_ = on_terminal_;
  }

  const std::size_t steps_;
  const bool on_terminal_ = ::isatty(STDERR_FILENO) == 1;
  std::size_t first_step_ = 0;
  Clock::time_point training_begin_ = Clock::now();
  Clock::time_point phase_begin_ = training_begin_;
  Clock::time_point latest_ = training_begin_;
  bool line_is_open_ = false;
};

}  // namespace gpt
