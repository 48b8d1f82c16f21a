/// @file
/// What is printed of a forecast: before a training, and beside what it took in the end.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "../../machine/measure.hpp"
#include "../../machine/rates.hpp"
#include "../../machine/rates_file.hpp"
#include "../announcement.hpp"
#include "../options.hpp"
#include "../step_time.hpp"
#include "forecast.hpp"
#include "link_prices.hpp"

namespace gpt::forecast {

/// The file's, or this machine's, which is measured for a moment.
inline machine::Rates rates_of(const Options& o) {
  if (!o.rates.empty()) return machine::read_rates(o.rates);
  if (needs_links(o)) refuse_without_links();
  machine::MeasureOptions options{.directory = o.nvme_path.front(), .models = {{o.model, o.batch}}};
  if (o.ranks > 1) options.ranks = {o.ranks};
  options.progress = [](std::string_view what) { fmt::print(stderr, "measuring {}\n", what); };
  return machine::measure(options);
}

inline std::string describe(const Forecast& f) {
  std::string text = fmt::format("predicted a step of {:.1f} ms; of rank 0\n", 1e3 * f.step_seconds);
  text +=
      fmt::format("  disk      {} read, {} written\n", describe_bytes(f.bytes.read), describe_bytes(f.bytes.written));
  text += fmt::format("  memory    {} copied, {} of states updated\n", describe_bytes(f.bytes.copied),
                      describe_bytes(f.bytes.updated));
  text += fmt::format("  ranks     {} gathered, {} summed\n", describe_bytes(f.bytes.gathered),
                      describe_bytes(f.bytes.reduced));
  text += fmt::format("  peaks     {} of device memory, {} of host memory, {} on disk\n",
                      describe_bytes(f.peak_device_bytes), describe_bytes(f.peak_host_bytes),
                      describe_bytes(f.peak_disk_bytes));
  for (const TrackTime& track : f.tracks) {
    if (track.seconds <= 0) continue;
    text += fmt::format("  {:<18}{:8.1f} ms, alone {:.1f}\n", track.what, 1e3 * track.seconds, 1e3 * track.alone);
  }
  return text;
}

/// Empty where the timeline had too little room for a step.
inline std::string compare(const Forecast& f, const StepTime& time) {
  if (time.steps == 0) return "";
  const double measured = time.seconds / static_cast<double>(time.steps);
  return fmt::format("a step was predicted to take {:.1f} ms and took {:.1f} ms: {:+.1f}%\n", 1e3 * f.step_seconds,
                     1e3 * measured, 100 * (f.step_seconds / measured - 1));
}

}  // namespace gpt::forecast
