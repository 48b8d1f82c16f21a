/// @file
/// StripedSpace: which ranges of a striped tier are dealt out, and where their parts are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/tier/detail/stripes.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

/// Extents of an unbounded striped range, first fit, each of them one extent of every member. Not synchronized.
class StripedSpace {
 public:
  using Shares = std::vector<std::size_t>;  ///< Bytes of each member.

  /// Where an extent's bytes are: one extent of each member, some of them empty; none before they are placed.
  struct Placed {
    std::size_t bytes;
    std::vector<Extent> parts;
  };
  using Map = std::map<std::uint64_t, Placed>;

  static constexpr std::size_t most_bytes = std::numeric_limits<std::int64_t>::max();

  explicit StripedSpace(Stripes stripes) : stripes_{std::move(stripes)} {}

  const Stripes& stripes() const noexcept { return stripes_; }

  /// The lowest offset at which `bytes` are free.
  std::uint64_t first_fit(std::size_t bytes) const {
    std::uint64_t found = 0;
    visit_gaps([&](std::uint64_t begin, std::size_t free) {
      found = begin;
      return free >= bytes;
    });
    return found;
  }

  /// Each member's share of the first `bytes` that are free.
  Shares free_shares(std::size_t bytes) const {
    Shares shares(stripes_.members());
    visit_gaps([&](std::uint64_t begin, std::size_t free) {
      const std::size_t taken = std::min(bytes, free);
      for (std::size_t i = 0; i < shares.size(); ++i) shares[i] += stripes_.share(i, begin, taken);
      bytes -= taken;
      return bytes == 0;
    });
    return shares;
  }

  /// Takes an extent that is free.
  Map::iterator insert(const Extent& extent) { return placed_.emplace(extent.offset, Placed{extent.bytes, {}}).first; }

  void erase(Map::iterator entry) noexcept { placed_.erase(entry); }

  /// The entry of an extent that was taken as it is, or `end()`.
  Map::iterator find(const Extent& extent) noexcept {
    const auto found = placed_.find(extent.offset);
    return found != placed_.end() && found->second.bytes == extent.bytes ? found : placed_.end();
  }

  /// The entry of the extent that was taken and holds `extent`, or `end()`.
  Map::const_iterator holder(const Extent& extent) const noexcept {
    const auto next = placed_.upper_bound(extent.offset);
    if (next == placed_.begin()) return placed_.end();
    const auto found = std::prev(next);
    const std::uint64_t within = extent.offset - found->first;
    const std::size_t bytes = found->second.bytes;
    return within < bytes && extent.bytes <= bytes - within ? found : placed_.end();
  }

  Map::const_iterator end() const noexcept { return placed_.end(); }

 private:
  /// Calls `f(begin, bytes)` for each free range, in order, until it returns true.
  template <class F>
  void visit_gaps(F f) const {
    std::uint64_t begin = 0;
    for (const auto& [offset, placed] : placed_) {
      if (offset > begin && f(begin, static_cast<std::size_t>(offset - begin))) return;
      begin = offset + placed.bytes;
    }
    f(begin, most_bytes);
  }

  Stripes stripes_;
  Map placed_;
};

}  // namespace zerospan::inline v0::detail
