/// @file
/// What all ranks share.
#pragma once

#include <chrono>
#include <cmath>

#include <zerospan/core/timeline.hpp>
#include <zerospan/core/units.hpp>

#include "options.hpp"
#include "reports.hpp"
#include "saves.hpp"
#include "text.hpp"

namespace gpt {

struct Job {
  const Options& options;
  const Text& text;
  zerospan::Timeline& timeline;
  Reports& reports;
  Saves& saves;

  /// Where a rank reports: rank 0; nullptr on the others.
  Reports* reports_of(zerospan::Rank rank) const { return rank == zerospan::Rank{0} ? &reports : nullptr; }
};

inline std::chrono::milliseconds timeout_of(const Options& options) {
  return std::chrono::milliseconds{std::llround(1000 * options.timeout)};
}

}  // namespace gpt
