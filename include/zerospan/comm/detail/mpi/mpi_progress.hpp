/// @file
/// How far the channels of a family have come.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// How many collectives of a channel have begun: all ranks have called them.
struct MpiBegun {
  std::uint64_t channel;
  std::uint64_t collectives;
};

/// Which collectives had begun when a rank failed: these end, for a rank that has seen all others call them knows that
/// all others will see it too; no other does. Guarded by the family's mutex, but for the counters.
class MpiProgress {
 public:
  using Counter = std::atomic<std::uint64_t>;

  /// The count of a channel of this rank, which its communicator keeps. It is looked at after the communicator's end
  /// too, until the channel is forgotten.
  std::shared_ptr<Counter> open(std::uint64_t channel) {
    return counters_.emplace(channel, std::make_shared<Counter>(0)).first->second;
  }

  /// No rank waits in a collective of the channel any more.
  void forget(std::uint64_t channel) { counters_.erase(channel); }

  /// This rank's counts, of the latest channels.
  std::vector<MpiBegun> latest(std::size_t channels) const {
    std::vector<MpiBegun> counts;
    for (auto each = counters_.rbegin(); each != counters_.rend() && counts.size() < channels; ++each) {
      counts.push_back({each->first, each->second->load()});
    }
    return counts;
  }

  /// A rank that has failed had come so far.
  void learn(std::span<const MpiBegun> counts) {
    for (const auto [channel, collectives] : counts) {
      std::uint64_t& known = at_failure_[channel];
      known = std::max(known, collectives);
    }
  }

  /// What has been learned.
  std::vector<MpiBegun> known() const {
    std::vector<MpiBegun> counts;
    for (const auto& [channel, collectives] : at_failure_) counts.push_back({channel, collectives});
    return counts;
  }

  bool had_begun(std::uint64_t channel, std::uint64_t number) const {
    const auto known = at_failure_.find(channel);
    return known != at_failure_.end() && known->second > number;
  }

 private:
  std::map<std::uint64_t, std::shared_ptr<Counter>> counters_;
  std::map<std::uint64_t, std::uint64_t> at_failure_;
};

}  // namespace zerospan::inline v0::detail
