/// @file
/// sim::Cluster: records what the ranks of a simulated cluster post, and resolves their clocks afterwards.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/sim/detail/equals.hpp>
#include <zerospan/sim/detail/fluid_links.hpp>
#include <zerospan/sim/detail/links_of_ranks.hpp>
#include <zerospan/sim/detail/recording.hpp>
#include <zerospan/sim/detail/resolution.hpp>
#include <zerospan/sim/schedule.hpp>
#include <zerospan/sim/topology.hpp>

namespace zerospan::inline v0::sim {

namespace detail {

class DevicePrices;

}  // namespace detail

/// Whose programs are run.
enum class Simulate : std::uint8_t {
  every_rank,
  one_of_equals,  ///< Links are shared by as many as there are.
};

struct ClusterOptions {
  Simulate simulate = Simulate::every_rank;
  std::vector<Slower> slower{};  ///< Ranks that are injected as stragglers, disks that are slow.
  std::vector<int> kinds{};      ///< Of each rank: those of different kinds run different programs. Empty: all run one.
  int ranks_per_group = 0;       ///< As in `split_into_groups`, where equals are to be found in groups; 0: no groups.
};

/// Bytes of tensors that a rank has received from others.
struct Traffic {
  double within = 0;   ///< Its node.
  double between = 0;  ///< Nodes.
};

/// The simulated ranks. Each rank's program runs by itself, one after the other or on threads of their own; nothing
/// waits for anything, memory is never touched. Afterwards `resolve()` plays all recordings against each other, as the
/// lanes of devices would: an item begins when it was posted, its lane is free and its predecessors have ended,
/// collectives begin when the last of their ranks has come to them, and transfers share the links of the topology with
/// all that uses them at that time.
/// @code
/// sim::Cluster cluster{dgx2, {.simulate = sim::Simulate::one_of_equals}};
/// for (const zerospan::Rank rank : cluster.ranks()) train(cluster, rank);
/// const sim::Schedule schedule = cluster.resolve();
/// @endcode
class Cluster {
 public:
  /// @throws ConfigurationError if the topology or the options make no sense.
  explicit Cluster(const Topology& topology, const ClusterOptions& options = {})
      : topology_{checked(topology, options)},
        slower_{options.slower},
        equals_{kinds_of(options), sets_of(options)},
        links_{topology_, slower_, equals_},
        recordings_(static_cast<std::size_t>(size())),
        traffic_(static_cast<std::size_t>(size())) {
    std::vector<int> all;
    for (int r = 0; r < size(); ++r) all.push_back(r);
    world_ = group_of(Key{detail::none, 0, {}}, all);
  }
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  int size() const noexcept { return topology_.ranks(); }
  const Topology& topology() const noexcept { return topology_; }

  /// The ranks whose programs are to be run: all, or the first of each class of equals.
  std::vector<Rank> ranks() const {
    std::vector<Rank> ranks;
    for (const int rank : equals_.representatives()) ranks.push_back(Rank{rank});
    std::ranges::sort(ranks);
    return ranks;
  }

  /// The rank that is simulated in place of `rank`: itself, or an equal.
  Rank representative(Rank rank) const { return Rank{equals_.representative(rank.value)}; }

  /// What a simulated rank has received in collectives so far.
  Traffic traffic(Rank rank) const { return traffic_[index(rank)]; }

  /// All events of all simulated ranks.
  /// @throws DivergenceError if the ranks' sequences of collectives differ.
  Schedule resolve() const {
    std::vector<detail::RankRecording> recordings;
    for (const Rank rank : ranks()) recordings.push_back({rank, &recordings_[index(rank)]});
    detail::Resolution resolution{recordings, links_, group_sizes_};
    resolution.run();
    std::vector<Event> events;
    Schedule::Names names;
    std::size_t count = 0;
    for (const auto& [rank, recording] : recordings) count += recording->size();
    events.reserve(count);
    for (std::size_t r = 0; r < recordings.size(); ++r) {
      const auto& [rank, recording] = recordings[r];
      names.push_back(recording->names());
      for (std::size_t i = 0; i < recording->size(); ++i) {
        const detail::Item& item = (*recording)[i];
        const auto [begin, end] = resolution.times(r, i);
        events.push_back(
            {rank, item.kind, track_of(item), recording->name(item), static_cast<std::size_t>(item.bytes), begin, end});
      }
    }
    std::vector<LinkLoad> loads;
    for (detail::LinkId link = 0; link < links_.speeds().size(); ++link) {
      const auto [bytes, busy] = resolution.load(link);
      loads.push_back({links_.name(link), links_.speeds()[link].alone, bytes, busy});
    }
    return {std::move(events), std::move(names), std::move(loads)};
  }

 private:
  friend class Communicator;
  friend class detail::DevicePrices;
  template <DeviceMemory>
  friend class BasicDevice;
  template <DeviceMemory>
  friend class Lanes;

  /// How a group was made: of which one, by which of its calls, of which classes of ranks. Equal for equals.
  struct Key {
    detail::GroupId parent;
    std::uint32_t call;
    std::vector<int> classes;
    friend auto operator<=>(const Key&, const Key&) = default;
  };

  static std::size_t index(Rank rank) { return static_cast<std::size_t>(rank.value); }

  static std::string_view track_of(const detail::Item& item) {
    if (item.runner == detail::Runner::host) return "host";
    if (item.runner == detail::Runner::stream) return "stream";
    return lane_names[item.lane];
  }

  static Topology checked(const Topology& topology, const ClusterOptions& options) {
    const auto require = [](bool holds, const char* what) {
      if (!holds) throw_configuration_error(std::string{"a simulated cluster needs "} + what);
    };
    require(topology.nodes > 0 && topology.ranks_per_node > 0, "nodes and ranks");
    require(topology.host_link.ranks > 0, "at least one rank below each host link");
    for (const double speed :
         {topology.within.bytes_per_second, topology.between.bytes_per_second, topology.adapter,
          topology.host_link.to_device.bytes_per_second, topology.host_link.to_host.bytes_per_second,
          topology.disk.read, topology.disk.write, topology.host_memory.bytes_per_second, topology.host_memory.fill,
          topology.host_memory.accumulate, topology.host_memory.update, topology.device_memory.bytes_per_second,
          topology.device_memory.fill, topology.device_memory.accumulate, topology.device_memory.update,
          topology.flops_per_second}) {
      require(speed > 0, "speeds that are positive");
    }
    for (const MemoryTraffic& traffic : {topology.host_memory.traffic, topology.device_memory.traffic}) {
      require(traffic.fill > 0 && traffic.accumulate > 0 && traffic.update > 0, "kernels that touch memory");
      require(traffic.copy >= 0 && traffic.disk >= 0, "traffic that is not negative");
    }
    require(options.kinds.empty() || options.kinds.size() == static_cast<std::size_t>(topology.ranks()),
            "a kind for each rank, or none at all");
    require(options.ranks_per_group >= 0 &&
                (options.ranks_per_group == 0 || topology.ranks() % options.ranks_per_group == 0),
            "groups of equal size");
    for (const Slower& slow : options.slower) {
      require(slow.rank.value >= 0 && slow.rank.value < topology.ranks(), "slower ranks that are among its ranks");
      require(slow.compute > 0 && slow.disk > 0 && slow.copies > 0 && slow.network > 0, "positive factors of slowness");
    }
    return topology;
  }

  std::vector<int> kinds_of(const ClusterOptions& options) const {
    std::vector<int> kinds;
    for (int r = 0; r < size(); ++r) kinds.push_back(r);
    if (options.simulate == Simulate::every_rank) return kinds;
    std::map<std::tuple<int, double, double, double, double>, int> numbers;
    for (int r = 0; r < size(); ++r) {
      const auto factor = [&](double Slower::*of) {
        double most = 1;
        for (const Slower& slow : slower_) {
          if (slow.rank.value == r) most = std::max(most, slow.*of);
        }
        return most;
      };
      const int kind = options.kinds.empty() ? 0 : options.kinds[static_cast<std::size_t>(r)];
      const std::tuple key{kind, factor(&Slower::compute), factor(&Slower::disk), factor(&Slower::copies),
                           factor(&Slower::network)};
      kinds[static_cast<std::size_t>(r)] = numbers.emplace(key, static_cast<int>(numbers.size())).first->second;
    }
    return kinds;
  }

  std::vector<detail::RankSets> sets_of(const ClusterOptions& options) const {
    using detail::RankSets;
    std::vector<RankSets> sets{RankSets::make(size(), [&](int r) { return r / topology_.ranks_per_node; }),
                               detail::LinksOfRanks::switches_of(topology_)};
    if (const int in_group = options.ranks_per_group; in_group > 0) {
      sets.push_back(RankSets::make(size(), [&](int r) { return r / in_group; }));
      sets.push_back(RankSets::make(size(), [&](int r) { return r % in_group; }));
    }
    return sets;
  }

  /// The number of a group of ranks; the same for all of its members, and their equals.
  detail::GroupId group_of(Key key, const std::vector<int>& members) {
    const std::scoped_lock lock{mutex_};
    const auto [known, is_new] = groups_.try_emplace(std::move(key), static_cast<detail::GroupId>(groups_.size()));
    if (is_new) {
      std::vector<int> classes = equals_.composition(members);
      const auto duplicates = std::ranges::unique(classes);
      group_sizes_.push_back(classes.size() - duplicates.size());
    }
    return known->second;
  }

  detail::RouteId route(Rank rank, std::span<const detail::Use> uses, double cap = instant) {
    const std::scoped_lock lock{mutex_};
    return links_.route(rank.value, uses, cap);
  }

  std::pair<detail::RouteId, detail::RouteId> private_disk(Rank rank, const Disk& disk) {
    const std::scoped_lock lock{mutex_};
    return links_.private_disk(rank.value, disk);
  }

  double slower(Rank rank, double Slower::*of) const { return links_.slowest({rank.value}, of); }

  Completion record(Rank rank, const detail::Item& item, std::string_view name, std::span<const Completion> after,
                    std::span<const detail::Part> parts) {
    return never_.completion(recordings_[index(rank)].add(item, name, after, parts));
  }

  std::uint8_t add_lanes(Rank rank) {
    std::uint8_t& sets = recordings_[index(rank)].lane_sets;
    if (sets == 255) throw_configuration_error("more than 255 engines on one simulated device");
    return sets++;
  }

  Topology topology_;
  std::vector<Slower> slower_;
  detail::Equals equals_;
  mutable std::mutex mutex_;  ///< Of links and groups.
  detail::LinksOfRanks links_;
  std::map<Key, detail::GroupId> groups_;
  std::vector<std::size_t> group_sizes_;
  detail::GroupId world_ = 0;
  std::vector<detail::Recording> recordings_;
  std::vector<Traffic> traffic_;
  Promise never_{"an operation in virtual time"};  ///< What is recorded stays undone until the cluster goes.
};

}  // namespace zerospan::inline v0::sim
