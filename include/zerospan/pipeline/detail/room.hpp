/// @file
/// Room: whether the buffers in use lie so that others still find a place.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/pipeline/detail/address_ranges.hpp>

namespace zerospan::inline v0::detail {

/// Keeps the buffers in use twice: where they are, and where each would be if it had gone to its lowest place, as on a
/// first pass. Uses are numbered from 0 in the order in which they are added.
class Room {
 public:
  void add(std::size_t offset, std::size_t bytes) {
    in_use_.insert(offset, bytes);
    stacked_at_.push_back(stacked_.lowest(bytes));
    stacked_.insert(stacked_at_.back(), bytes);
  }

  void remove(std::size_t use, std::size_t offset) {
    in_use_.erase(offset);
    stacked_.erase(stacked_at_[use]);
  }

  /// Begins anew; nothing is in use.
  void restart() { stacked_at_.clear(); }

  /// Whether another buffer at `offset` leaves as much in one piece as if every buffer were at its lowest place, up to
  /// what is `needed`.
  bool remains_beside(std::size_t offset, std::size_t bytes, std::size_t capacity, std::size_t needed) const {
    AddressRanges beside = in_use_;
    beside.insert(offset, bytes);
    const std::size_t top = std::max(stacked_.top(), stacked_.lowest(bytes) + bytes);
    return beside.largest_gap(capacity) + top >= std::min(capacity, needed);
  }

 private:
  AddressRanges in_use_;
  AddressRanges stacked_;
  std::vector<std::size_t> stacked_at_;  ///< A use: its lowest place.
};

}  // namespace zerospan::inline v0::detail
