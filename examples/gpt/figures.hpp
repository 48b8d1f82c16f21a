/// @file
/// What one rank can tell of itself.
#pragma once

#include <algorithm>
#include <vector>

namespace gpt {

/// Totals and peaks of one rank's engine.
struct Figures {
  double bytes_read = 0;
  double bytes_written = 0;
  double transfer_seconds = 0;
  double exposed_seconds = 0;
  double prefetch_hits = 0;
  double prefetch_misses = 0;
  double prefetch_kept = 0;
  double prefetch_dropped = 0;
  double passes_mended = 0;
  double device_bytes = 0;
  double peak_device_bytes = 0;
  double host_bytes = 0;
  double peak_host_bytes = 0;
  double disk_bytes = 0;
  double peak_disk_bytes = 0;
  double activation_bytes = 0;
  double activation_bytes_offloaded = 0;
  double activation_bytes_fetched = 0;
};

/// The sum of one member over the ranks, in rank order.
template <class T>
double total(const std::vector<T>& ranks, double T::*member) {
  double sum = 0;
  for (const T& rank : ranks) sum += rank.*member;
  return sum;
}

/// The largest of one member over the ranks.
template <class T>
double largest(const std::vector<T>& ranks, double T::*member) {
  double most = 0;
  for (const T& rank : ranks) most = std::max(most, rank.*member);
  return most;
}

/// The share of the time of transfers that no rank waited for.
inline double hidden_share(double transfer_seconds, double exposed_seconds) {
  return transfer_seconds > 0 ? std::clamp(1.0 - exposed_seconds / transfer_seconds, 0.0, 1.0) : 1.0;
}

}  // namespace gpt
