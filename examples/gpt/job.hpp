/// @file
/// What all ranks share.
#pragma once

#include <chrono>
#include <cmath>

#include <zerospan/core/timeline.hpp>

#include "options.hpp"
#include "reports.hpp"
#include "text.hpp"

namespace gpt {

struct Job {
  const Options& options;
  const Text& text;
  zerospan::Timeline& timeline;
  Reports& reports;
};

inline std::chrono::milliseconds timeout_of(const Options& options) {
  return std::chrono::milliseconds{std::llround(1000 * options.timeout)};
}

}  // namespace gpt
