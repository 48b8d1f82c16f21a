/// @file
/// sim::Communicator: a rank of a simulated cluster.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/sim/cluster.hpp>

namespace zerospan::inline v0::sim {

/// Says who is who. Collectives are posted on a simulated device's lanes, which record and do not run them; the cluster
/// lets them meet when it resolves its clocks.
class Communicator {
 public:
  Communicator(const Cluster& cluster, Rank rank) : size_{cluster.size()}, rank_{rank} {}

  Rank rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  Communicator duplicate() const { return *this; }
  void abort(const std::string&) noexcept {}

  void all_gather(Collective, std::span<const GatherPart>) const noexcept {}
  void reduce_scatter(Collective, const Reduction&) const noexcept {}
  void reduce(Collective, const Reduction&, Rank) const noexcept {}
  void all_reduce(Collective, const Reduction&) const noexcept {}
  void all_reduce(Collective, std::span<std::int64_t>) const noexcept {}
  void broadcast(Collective, std::span<std::byte>, Rank) const noexcept {}
  void barrier(Collective) const noexcept {}

 private:
  int size_;
  Rank rank_;
};

static_assert(TrainingCommunicator<Communicator>);

}  // namespace zerospan::inline v0::sim
