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

#include <unistd.h>

#include <fmt/format.h>

namespace gpt {

/// "42 s", "3 min 20 s", "2 h 05 min".
inline std::string describe_seconds(double seconds) {
  const auto whole = static_cast<long>(std::lround(std::max(seconds, 0.0)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

/// Rewritten in place on a terminal; elsewhere a plain line every twentieth of the way and at each validation.
class Progress {
 public:
  explicit Progress(std::size_t steps) : steps_{steps} {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { finish(); }

  /// @param step Steps made. @param validation_loss The latest, if there is one.
  /// @param news Whether this step's line must not be left out.
  void show(std::size_t step, double loss, std::optional<double> validation_loss, double tokens_per_second, bool news) {
    if (!on_terminal_ && !news && step != steps_ && step % every() != 0) return;
    const double elapsed = std::chrono::duration<double>(Clock::now() - begin_).count();
    const double left = elapsed / static_cast<double>(step) * static_cast<double>(steps_ - step);
    const std::string validation = validation_loss ? fmt::format("  validation {:.4f}", *validation_loss) : "";
    const std::string line = fmt::format("step {}/{}  loss {:.4f}{}  {:.0f} tokens/s  {} left", step, steps_, loss,
                                         validation, tokens_per_second, describe_seconds(left));
    write(line);
  }

  /// A line about something that takes its time.
  void say(const std::string& line) { write(line); }

  /// Leaves the line as it stands; what is printed next begins on a new one.
  void finish() {
    if (line_is_open_) fmt::print(stderr, "\n");
    line_is_open_ = false;
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::size_t every() const { return std::max(steps_ / 20, std::size_t{1}); }

  void write(const std::string& line) {
    fmt::print(stderr, "{}", on_terminal_ ? "\r" + line + "\x1b[K" : line + "\n");
    std::fflush(stderr);
    line_is_open_ = on_terminal_;
  }

  const std::size_t steps_;
  const bool on_terminal_ = ::isatty(STDERR_FILENO) == 1;
  const Clock::time_point begin_ = Clock::now();
  bool line_is_open_ = false;
};

}  // namespace gpt
