/// @file
/// LinksOfRanks: the links of a topology that simulated ranks use, and the routes that they take over them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/sim/detail/equals.hpp>
#include <zerospan/sim/detail/fluid_links.hpp>
#include <zerospan/sim/detail/recording.hpp>
#include <zerospan/sim/topology.hpp>

namespace zerospan::inline v0::sim {

/// A rank that is slower than the topology says: so many times as slow.
struct Slower {
  Rank rank{};
  double compute = 1;
  double disk = 1;     ///< A disk that a node shares is as slow as that of its slowest rank.
  double copies = 1;   ///< Its links to and from host memory, shared ones like disks.
  double network = 1;  ///< Its links to other ranks, and those of its node to others.
};

namespace detail {

/// The resources that a transfer of a rank may use.
enum class Resource : std::uint8_t {
  to_within,
  from_within,
  to_between,
  from_between,
  to_adapter,
  from_adapter,
  to_device,
  to_host,
  disk_read,
  disk_write,
  host_memory,
  device_memory,
};

struct Use {
  Resource resource;
  double bytes;  ///< For each byte of the transfer.
};

struct Route {
  std::vector<LinkUse> uses;
  double cap = instant;
};

/// What links are called; disks are called by what is done to them.
inline constexpr std::array<std::string_view, 12> resource_names{"links within nodes, into ranks,",
                                                                 "links within nodes, out of ranks,",
                                                                 "links between nodes, inwards,",
                                                                 "links between nodes, outwards,",
                                                                 "the adapter, inwards,",
                                                                 "the adapter, outwards,",
                                                                 "copies to devices",
                                                                 "copies to the host",
                                                                 "disk reads",
                                                                 "disk writes",
                                                                 "host memory",
                                                                 "device memory"};

class LinksOfRanks {
 public:
  LinksOfRanks(const Topology& topology, std::span<const Slower> slower, const Equals& equals)
      : topology_{topology},
        slower_{slower.begin(), slower.end()},
        equals_{equals},
        nodes_{RankSets::make(topology.ranks(), [&](int r) { return r / topology.ranks_per_node; })},
        switches_{switches_of(topology)} {}

  static RankSets switches_of(const Topology& topology) {
    const int in_node = (topology.ranks_per_node + topology.host_link.ranks - 1) / topology.host_link.ranks;
    return RankSets::make(topology.ranks(), [&](int r) {
      return r / topology.ranks_per_node * in_node + r % topology.ranks_per_node / topology.host_link.ranks;
    });
  }

  const RankSets& nodes() const noexcept { return nodes_; }
  const std::vector<LinkSpeed>& speeds() const noexcept { return speeds_; }
  const std::string& name(LinkId link) const { return names_[link]; }
  const Route& route(RouteId id) const { return routes_[id]; }

  /// How a rank's transfers of a kind go; the same each time that it is asked.
  /// @param cap Bytes a second that one transfer never exceeds.
  RouteId route(int rank, std::span<const Use> uses, double cap = instant) {
    Route route{{}, cap};
    for (const Use& use : uses) {
      if (use.bytes <= 0) continue;
      const auto [link, sharers] = link_of(rank, use.resource);
      if (link != none) route.uses.push_back({link, to_weight(use.bytes) * sharers});
    }
    return add(std::move(route));
  }

  /// The routes of reads and writes of a disk that one rank has alone.
  std::pair<RouteId, RouteId> private_disk(int rank, const Disk& disk) {
    const double slower = slowest({rank}, &Slower::disk);
    const auto [read, write] = add_disk(disk, slower, "of rank " + std::to_string(rank));
    Route reads{{{read, to_weight(1)}}, instant};
    Route writes{{{write, to_weight(1)}}, instant};
    if (const auto [memory, sharers] = link_of(rank, Resource::host_memory); memory != none) {
      const Weight weight = to_weight(topology_.host_memory.traffic.disk) * sharers;
      reads.uses.push_back({memory, weight});
      writes.uses.push_back({memory, weight});
    }
    return {add(std::move(reads)), add(std::move(writes))};
  }

  double slowest(const std::vector<int>& ranks, double Slower::*of) const {
    double most = 1;
    for (const Slower& slow : slower_) {
      if (std::ranges::find(ranks, slow.rank.value) != ranks.end()) most = std::max(most, slow.*of);
    }
    return most;
  }

 private:
  struct Shared {
    LinkId link;
    Weight sharers;  ///< Equals of a rank that use it as it does.
  };

  RouteId add(Route route) {
    routes_.push_back(std::move(route));
    return static_cast<RouteId>(routes_.size() - 1);
  }

  LinkId add_link(double speed, std::string name) {
    speeds_.push_back({speed, speed, none});
    names_.push_back(std::move(name));
    return static_cast<LinkId>(speeds_.size() - 1);
  }

  std::pair<LinkId, LinkId> add_disk(const Disk& disk, double slower, const std::string& of) {
    const LinkId read = add_link(disk.read / slower, "disk reads " + of);
    const LinkId write = add_link(disk.write / slower, "disk writes " + of);
    if (disk.mixed > 0) {
      speeds_[read] = {disk.read / slower, disk.mixed / slower, write};
      speeds_[write] = {disk.write / slower, disk.mixed / slower, read};
    }
    return {read, write};
  }

  Shared link_of(int rank, Resource resource) {
    const auto of = [&](const std::vector<int>& sharing, double speed, double Slower::*slower) {
      return shared(rank, resource, sharing, slower ? speed / slowest(sharing, slower) : speed);
    };
    const std::vector<int> alone{rank};
    const std::vector<int>& node = nodes_.around(rank);
    const std::vector<int>& below_switch = switches_.around(rank);
    switch (resource) {
      case Resource::to_within:
      case Resource::from_within:
        return of(alone, topology_.within.bytes_per_second, &Slower::network);
      case Resource::to_between:
      case Resource::from_between:
        return of(node, topology_.between.bytes_per_second, &Slower::network);
      case Resource::to_adapter:
      case Resource::from_adapter:
        return of(alone, topology_.adapter, &Slower::network);
      case Resource::to_device:
        return of(below_switch, topology_.host_link.to_device.bytes_per_second, &Slower::copies);
      case Resource::to_host:
        return of(below_switch, topology_.host_link.to_host.bytes_per_second, &Slower::copies);
      case Resource::disk_read:
      case Resource::disk_write:
        return disk_of(rank, resource, topology_.disk.scope == Scope::node ? node : alone);
      case Resource::host_memory:
        return of(node, topology_.host_memory.bytes_per_second, nullptr);
      case Resource::device_memory:
        return of(alone, topology_.device_memory.bytes_per_second, nullptr);
    }
    return {none, 0};
  }

  /// " of rank 3", " of ranks 4 to 7"
  static std::string whose(const std::vector<int>& sharing) {
    if (sharing.size() == 1) return " of rank " + std::to_string(sharing.front());
    return " of ranks " + std::to_string(sharing.front()) + " to " + std::to_string(sharing.back());
  }

  Shared shared(int rank, Resource resource, const std::vector<int>& sharing, double speed) {
    if (speed == instant) return {none, 0};
    const auto [known, is_new] = links_.try_emplace({resource, sharing.front()}, none);
    if (is_new)
      known->second = add_link(speed, std::string{resource_names[static_cast<std::size_t>(resource)]} + whose(sharing));
    return {known->second, equals_.count(rank, sharing)};
  }

  Shared disk_of(int rank, Resource resource, const std::vector<int>& sharing) {
    if (topology_.disk.read == instant && topology_.disk.write == instant) return {none, 0};
    const auto [known, is_new] = links_.try_emplace({Resource::disk_read, sharing.front()}, none);
    if (is_new)
      known->second = add_disk(topology_.disk, slowest(sharing, &Slower::disk), whose(sharing).substr(1)).first;
    return {known->second + (resource == Resource::disk_write ? 1U : 0U), equals_.count(rank, sharing)};
  }

  Topology topology_;
  std::vector<Slower> slower_;
  const Equals& equals_;
  RankSets nodes_;
  RankSets switches_;
  std::vector<LinkSpeed> speeds_;
  std::vector<std::string> names_;
  std::map<std::pair<Resource, int>, LinkId> links_;  // by the first rank that shares them
  std::vector<Route> routes_;
};

}  // namespace detail
}  // namespace zerospan::inline v0::sim
