/// @file
/// LinkPrices: what collectives of ranks that are processes cost, on links between hosts that were measured.
#pragma once

#include <cstddef>
#include <string>

#include <fmt/format.h>

#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/device/operation.hpp>

#include "../../machine/host_links.hpp"
#include "../../machine/links.hpp"
#include "../../machine/rates.hpp"
#include "../options.hpp"
#include "recorder.hpp"

namespace gpt::forecast {

/// What it costs ranks to meet: all of them, those of a group, and those at one place of all groups.
struct Meetings {
  Cost all;
  Cost within;
  Cost across;
};

/// Whether what ranks do together goes over links that must have been measured.
inline bool needs_links(const Options& o) { return o.communicator == CommunicatorKind::mpi && o.ranks > 1; }

/// @throws zerospan::ConfigurationError, which says what to measure.
[[noreturn]] inline void refuse_without_links() {
  zerospan::throw_configuration_error(
      "no time is foretold of --comm mpi by rates without the links between the ranks: measure_rates --add-links "
      "RATES, started by mpirun like the training, adds them");
}

/// One hop after the other.
inline Cost operator+(Cost a, const Cost& b) {
  a.latency += b.latency;
  a.busy_latency += b.busy_latency;
  a.link += b.link;
  a.busy_link += b.busy_link;
  a.link_core_seconds += b.link_core_seconds;
  return a;
}

/// In one hop between all ranks; where they are in groups, in hops within them and across.
class LinkPrices {
 public:
  /// @param parameter,sum The types of gradients, and of their sums over ranks.
  /// @throws zerospan::ConfigurationError unless links of so many ranks in such groups were measured on one machine.
  LinkPrices(const machine::Rates& rates, const Options& options, zerospan::ElementType parameter,
             zerospan::ElementType sum)
      : links_{measured(rates, options)},
        is_in_groups_{options.ranks_per_group > 0},
        is_replicated_{options.sharding == Sharding::group},
        shards_{static_cast<double>(is_replicated_ ? options.ranks_per_group : options.ranks)},
        within_{static_cast<double>(options.ranks_per_group)},
        inner_types_{" " + machine::reduction_types(parameter, parameter)},
        types_{" " + machine::reduction_types(parameter, sum)} {}

  Meetings meetings() const {
    if (!is_in_groups_) return {meeting("all"), {}, {}};
    return {meeting("all"), meeting("within"), meeting("across")};
  }

  Cost of(zerospan::OperationKind kind, double bytes) const {
    using zerospan::OperationKind;
    switch (kind) {
      case OperationKind::all_gather:
        return gather(shards_ < 2 ? 0 : bytes * shards_ / (shards_ - 1));
      case OperationKind::broadcast:
        if (!is_in_groups_) return hop("all", "broadcast", bytes);
        return hop("across", "broadcast", bytes) + hop("within", "broadcast", bytes);
      case OperationKind::reduce_scatter:
        if (!is_in_groups_) return hop("all", "reduce-scatter" + types_, bytes);
        return hop("within", "reduce-scatter" + inner_types_, bytes) +
               hop("across", (is_replicated_ ? "all-reduce" : "reduce-scatter") + types_, bytes / within_);
      case OperationKind::reduce:
        if (!is_in_groups_) return hop("all", "reduce" + types_, bytes);
        return hop("within", "reduce" + inner_types_, bytes) +
               hop("across", (is_replicated_ ? "all-reduce" : "reduce") + types_, bytes);
      case OperationKind::all_reduce:
        if (!is_in_groups_) return hop("all", "all-reduce" + types_, bytes);
        return hop("within", "reduce-scatter" + inner_types_, bytes) +
               hop("across", "all-reduce" + types_, bytes / within_) + hop("within", "all-gather", bytes);
      default:
        return is_in_groups_ ? meeting("within") + meeting("across") : meeting("all");
    }
  }

 private:
  /// @param bytes Of the whole tensor.
  Cost gather(double bytes) const {
    if (!is_in_groups_) return hop("all", "all-gather", bytes);
    if (is_replicated_) return hop("within", "all-gather", bytes);
    return hop("across", "all-gather", bytes / within_) + hop("within", "all-gather", bytes);
  }

  Cost hop(const std::string& level_name, const std::string& collective, double bytes) const {
    const machine::LinkLevel& level = links_.level(level_name);
    Cost cost = meeting(level_name);
    if (level.ranks < 2 || bytes <= 0) return cost;
    const machine::LinkRate& rate = level.rate(collective);
    cost.link = rate.alone.seconds(bytes);
    cost.busy_link = rate.busy.seconds(bytes);
    cost.link_core_seconds = rate.cores.seconds(bytes);
    return cost;
  }

  Cost meeting(const std::string& level_name) const {
    const machine::LinkLevel& level = links_.level(level_name);
    Cost cost{.meets = true};
    if (level.ranks < 2) return cost;
    cost.latency = level.rendezvous;
    cost.busy_latency = level.busy_rendezvous - level.rendezvous;
    return cost;
  }

  static const machine::HostLinks& measured(const machine::Rates& rates, const Options& o) {
    if (!rates.host_links) refuse_without_links();
    const machine::HostLinks& links = *rates.host_links;
    if (links.machines > 1) {
      zerospan::throw_configuration_error(fmt::format(
          "no time is foretold of hosts with cores of their own: the links in the rates are between {} machines",
          links.machines));
    }
    if (links.ranks != o.ranks || links.ranks_per_group != o.ranks_per_group) {
      zerospan::throw_configuration_error(
          fmt::format("the rates have the links of {} ranks in groups of {} (0: none), not of {} in groups of {}: "
                      "measure_rates --add-links measures those of the ranks that mpirun starts",
                      links.ranks, links.ranks_per_group, o.ranks, o.ranks_per_group));
    }
    return links;
  }

  const machine::HostLinks& links_;
  bool is_in_groups_;
  bool is_replicated_;  ///< Each group has all states.
  double shards_;
  double within_;  ///< Ranks of a group.
  std::string inner_types_;
  std::string types_;
};

}  // namespace gpt::forecast
