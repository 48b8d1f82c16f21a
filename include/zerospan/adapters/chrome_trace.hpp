/// @file
/// A Timeline as Chrome trace JSON, for ui.perfetto.dev or chrome://tracing. Needs nlohmann-json.
#pragma once

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <map>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/checked_path.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/timeline.hpp>
#include <zerospan/device/operation.hpp>

namespace zerospan::inline v0 {

/// Writes the spans recorded so far: one process a rank, one track a lane, the host's thread first. Spans are complete
/// events ("X"), with their bytes as an argument; times are microseconds.
/// Format: "Trace Event Format", Google.
/// @note Whether `out` took it all is told by the stream.
inline void write_chrome_trace(const Timeline& timeline, std::ostream& out) {
  // The host's thread is track 0, a lane follows in its order.
  const auto track_number = [](std::string_view track) {
    const auto lane = std::ranges::find(lane_names, track);
    return lane == lane_names.end() ? 0 : lane - lane_names.begin() + 1;
  };
  std::map<std::pair<int, std::ptrdiff_t>, std::string_view> tracks;
  const char* separator = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n";
  const auto write = [&](const nlohmann::json& event) { out << std::exchange(separator, ",\n") << event; };
  for (const Span& span : timeline.spans()) {
    const std::ptrdiff_t number = track_number(span.track);
    tracks.emplace(std::pair{span.rank.value, number}, span.track);
    write({{"ph", "X"},
           {"pid", span.rank.value},
           {"tid", number},
           {"name", std::string{span.kind} + " " + span.name},
           {"cat", span.kind},
           {"ts", static_cast<double>(span.begin) * 1e-3},
           {"dur", static_cast<double>(span.end - span.begin) * 1e-3},
           {"args", {{"bytes", span.bytes}}}});
  }
  for (const auto& [track, name] : tracks) {
    const auto& [rank, number] = track;
    write({{"ph", "M"}, {"pid", rank}, {"name", "process_name"}, {"args", {{"name", "rank " + std::to_string(rank)}}}});
    write({{"ph", "M"}, {"pid", rank}, {"tid", number}, {"name", "thread_name"}, {"args", {{"name", name}}}});
  }
  if (tracks.empty()) out << separator;
  out << "\n]}\n";
}

/// The same, into a file that is made or replaced.
/// @param path Where it is relative, it begins at the directory that the process is in.
/// @throws ConfigurationError if it is empty, IoError if the file cannot be made or written.
inline void write_chrome_trace(const Timeline& timeline, const std::string& path) {
  errno = 0;
  std::ofstream file{detail::checked_path(path, "file", "a Chrome trace")};
  if (file) write_chrome_trace(timeline, file);
  file.close();
  if (!file) throw_io_error(errno != 0 ? errno : EIO, "writing a Chrome trace", path, 0, 0);
}

}  // namespace zerospan::inline v0
