/// @file
/// sim::Communicator: a rank of a simulated cluster, and what its collectives send over which links.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/communicator_levels.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/sim/cluster.hpp>
#include <zerospan/sim/stream.hpp>

namespace zerospan::inline v0::sim {

namespace detail {

enum class RootOfCollective : std::uint8_t { sends, receives };
enum class IsCounted : std::uint8_t { yes, no };

/// Bytes that a rank receives and sends in a collective.
struct Shipment {
  double from_within = 0;
  double to_within = 0;
  double from_between = 0;
  double to_between = 0;
};

}  // namespace detail

/// Collectives that move nothing. Each says how many bytes its rank sends and receives, within its node and between
/// nodes; when the cluster resolves its clocks, it begins when all of its ranks have come to it, and ends for all of
/// them at once. The decorators of `comm` run over it as over any other: what they send is priced call by call.
///
/// One program runs after the other, and so a split has to know where all ranks go: `split(place_of)` takes a function
/// in place of the rank's own place. `split_into_groups` does.
class Communicator {
 public:
  /// All ranks of the cluster, which outlives it.
  Communicator(Cluster& cluster, Rank rank) : Communicator{cluster, rank.value, all_of(cluster), cluster.world_} {}

  Rank rank() const noexcept { return Rank{place_}; }
  int size() const noexcept { return static_cast<int>(members_->size()); }

  Communicator duplicate() {
    return {*cluster_, self_, members_, cluster_->group_of({group_, calls_++, {}}, *members_)};
  }

  /// @param place_of Of each rank of this communicator, where it goes.
  /// @throws ConfigurationError if one rank stands for equals that are not equals any more.
  template <std::invocable<Rank> PlaceOf>
  Communicator split(PlaceOf place_of) {
    std::map<int, std::vector<std::pair<int, int>>> colors;  // keys and ranks of the cluster
    for (int r = 0; r < size(); ++r) {
      const SplitPlace place = place_of(Rank{r});
      colors[place.color].emplace_back(place.key, (*members_)[static_cast<std::size_t>(r)]);
    }
    std::map<int, std::vector<int>> compositions;  // by class
    auto own = std::make_shared<std::vector<int>>();
    for (auto& [color, ranks] : colors) {
      std::ranges::sort(ranks);
      std::vector<int> members;
      for (const auto& [key, rank] : ranks) members.push_back(rank);
      check_equals(members, compositions);
      if (color == place_of(rank()).color) *own = std::move(members);
    }
    const detail::GroupId group = cluster_->group_of({group_, calls_++, cluster_->equals_.composition(*own)}, *own);
    return {*cluster_, self_, std::move(own), group};
  }

  void abort(const std::string&) noexcept {}

  void all_gather(Collective what, std::span<const GatherPart> parts) {
    double shards = 0;
    for (const GatherPart& part : parts) shards += static_cast<double>(part.shard_bytes);
    post(what, OperationKind::all_gather, exchange(shards), 1);
  }
  void reduce_scatter(Collective what, const Reduction& reduction) {
    post(what, OperationKind::reduce_scatter, exchange(input_bytes(reduction)), 1);
  }
  void reduce(Collective what, const Reduction& reduction, Rank root) {
    post(what, OperationKind::reduce, rooted(input_bytes(reduction), root, Root::receives), 1);
  }
  /// A reduce-scatter and an all-gather of even slices.
  void all_reduce(Collective what, const Reduction& reduction) {
    const auto slice = static_cast<double>((reduction.elements + members_->size() - 1) / members_->size());
    const std::size_t widths = element_bytes(reduction.input_type) + element_bytes(reduction.output_type);
    post(what, OperationKind::all_reduce, exchange(slice * static_cast<double>(widths)), 2);
  }
  void all_reduce(Collective what, std::span<std::int64_t> integers) {
    const double slice = static_cast<double>(integers.size_bytes()) / static_cast<double>(size());
    post(what, OperationKind::all_reduce, exchange(2 * slice), 2, IsCounted::no);
  }
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root) {
    post(what, OperationKind::broadcast, rooted(static_cast<double>(bytes.size()), root, Root::sends), 1);
  }
  void barrier(Collective what) { post(what, OperationKind::barrier, {}, 1); }
  void all_to_all(Collective what, const SliceExchange& slices) {
    post(what, OperationKind::all_gather, exchange(static_cast<double>(slices.bytes)), 1);
  }

 private:
  using Members = std::shared_ptr<const std::vector<int>>;
  using Root = detail::RootOfCollective;
  using IsCounted = detail::IsCounted;
  using Shipment = detail::Shipment;

  Communicator(Cluster& cluster, int self, Members members, detail::GroupId group)
      : cluster_{&cluster}, self_{self}, members_{std::move(members)}, group_{group} {
    const auto at = std::ranges::find(*members_, self);
    if (at == members_->end()) {
      throw_configuration_error("a simulated cluster of " + std::to_string(cluster.size()) + " ranks has no rank " +
                                std::to_string(self));
    }
    place_ = static_cast<int>(at - members_->begin());
    near_ = static_cast<int>(std::ranges::count_if(*members_, [this](int other) { return is_near(other); }));
    std::set<int> nodes;
    for (const int other : *members_) nodes.insert(node_of(other));
    nodes_ = static_cast<int>(nodes.size());
  }

  static Members all_of(const Cluster& cluster) {
    std::vector<int> all;
    for (int r = 0; r < cluster.size(); ++r) all.push_back(r);
    return std::make_shared<const std::vector<int>>(std::move(all));
  }

  int node_of(int rank) const { return rank / cluster_->topology().ranks_per_node; }
  bool is_near(int other) const { return node_of(other) == node_of(self_); }

  static double input_bytes(const Reduction& reduction) {
    return static_cast<double>(reduction.elements * element_bytes(reduction.input_type));
  }

  /// The members of a class have to be in groups of one composition.
  void check_equals(const std::vector<int>& members, std::map<int, std::vector<int>>& compositions) const {
    const std::vector<int> composition = cluster_->equals_.composition(members);
    for (const int rank : members) {
      const auto [known, is_new] = compositions.try_emplace(cluster_->equals_.class_of(rank), composition);
      if (is_new || known->second == composition) continue;
      throw_configuration_error(
          "rank " + std::to_string(rank) +
          " is in a group of other ranks than the rank that is simulated in its place: say ranks_per_group in "
          "ClusterOptions, or simulate every rank");
    }
  }

  /// Each rank has so many bytes for each other one.
  Shipment exchange(double slice) const {
    if (cluster_->topology().collectives == Algorithm::ring) return along_ring(slice * (size() - 1));
    const double within = slice * (near_ - 1);
    const double between = slice * (size() - near_);
    return {within, within, between, between};
  }

  /// So many bytes go from each rank to the next. Of the ranks of a node, one is next to another node.
  Shipment along_ring(double bytes) const {
    const double between = nodes_ > 1 ? bytes / near_ : 0;
    return {bytes - between, bytes - between, between, between};
  }

  /// One rank has so many bytes for, or from, each other. Where equals are simulated once, nobody knows which of them
  /// it is, and bytes go from rank to rank.
  Shipment rooted(double bytes, Rank root, Root does) const {
    const int of = (*members_)[static_cast<std::size_t>(root.value)];
    if (size() == 1) return {};
    if (cluster_->topology().collectives == Algorithm::ring || cluster_->equals_.count(of, *members_) > 1) {
      return along_ring(bytes);
    }
    Shipment result;
    const bool receives = (of == self_) == (does == Root::receives);
    double& within = receives ? result.from_within : result.to_within;
    double& between = receives ? result.from_between : result.to_between;
    if (of == self_) {
      within = bytes * (near_ - 1);
      between = bytes * (size() - near_);
    } else {
      (is_near(of) ? within : between) = bytes;
    }
    return result;
  }

  double latency(int rounds) const {
    const Topology& topology = cluster_->topology();
    if (topology.collectives == Algorithm::direct) {
      return rounds * (nodes_ > 1 ? topology.between : topology.within).latency;
    }
    const int between = nodes_ > 1 ? nodes_ : 0;
    return rounds * (topology.within.latency * std::max(0, size() - 1 - between) + topology.between.latency * between);
  }

  /// @param rounds In which every rank hears from every other.
  void post(Collective what, OperationKind kind, const Shipment& bytes, int rounds,
            IsCounted is_counted = IsCounted::yes) {
    if (size() == 1) return;
    if (is_counted == IsCounted::yes) {
      Traffic& traffic = cluster_->traffic_[static_cast<std::size_t>(self_)];
      traffic.within += bytes.from_within;
      traffic.between += bytes.from_between;
    }
    const std::array amounts{bytes.from_within, bytes.to_within, bytes.from_between, bytes.to_between};
    const double most = std::ranges::max(amounts);
    const detail::Part part{most, latency(rounds), most > 0 ? route(amounts, most) : detail::none, group_};
    if (what.stream.is_calling_thread()) {
      cluster_->record(Rank{self_}, {.bytes = most, .kind = kind, .runner = detail::Runner::host}, what.name, {},
                       {&part, 1});
    } else {
      const Stream stream{what.stream};
      stream.item().parts.push_back(part);
      stream.item().call_ends(kind, what.name);
    }
  }

  detail::RouteId route(const std::array<double, 4>& amounts, double most) {
    std::array<double, 4> shares{};
    for (std::size_t i = 0; i < amounts.size(); ++i) shares[i] = amounts[i] / most;
    if (const auto known = routes_.find(shares); known != routes_.end()) return known->second;
    using detail::Resource;
    const std::array<detail::Use, 6> uses{{{Resource::to_within, shares[0]},
                                           {Resource::from_within, shares[1]},
                                           {Resource::to_between, shares[2]},
                                           {Resource::from_between, shares[3]},
                                           {Resource::to_adapter, shares[2]},
                                           {Resource::from_adapter, shares[3]}}};
    return routes_[shares] = cluster_->route(Rank{self_}, uses);
  }

  Cluster* cluster_;
  int self_;  // in the cluster
  Members members_;
  detail::GroupId group_;
  int place_ = 0;
  int near_ = 0;             ///< Members in this rank's node, itself included.
  int nodes_ = 0;            ///< Nodes of all members.
  std::uint32_t calls_ = 0;  ///< That have made communicators of this one.
  std::map<std::array<double, 4>, detail::RouteId> routes_;
};

static_assert(TrainingCommunicator<Communicator> && ExchangesSlices<Communicator>);

/// Cuts ranks into groups of `ranks_per_group` consecutive ones. @see zerospan::split_into_groups
inline CommunicatorLevels<Communicator> split_into_groups(Communicator& communicator, int ranks_per_group) {
  if (ranks_per_group < 1 || communicator.size() % ranks_per_group != 0) {
    throw_configuration_error(std::to_string(communicator.size()) + " ranks are no groups of " +
                              std::to_string(ranks_per_group));
  }
  const int n = ranks_per_group;
  Communicator within = communicator.split([n](Rank rank) { return SplitPlace{rank.value / n, rank.value % n}; });
  return {std::move(within), communicator.split([n](Rank rank) { return SplitPlace{rank.value % n, rank.value / n}; })};
}

}  // namespace zerospan::inline v0::sim

namespace zerospan::inline v0 {

using sim::split_into_groups;

}  // namespace zerospan::inline v0
