/// @file
/// GroupedCommunicator: every collective in two hops, within groups of near ranks and across them.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/communicator_levels.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// Shards over all ranks, of which each byte crosses the links between groups once a group and not once a rank: with N
/// groups, a gather brings (N - 1) / N of a tensor into each group, and a reduce-scatter as much out of it.
/// @code
/// zerospan::GroupedCommunicator ranks{zerospan::split_into_groups(communicator, ranks_per_node)};
/// @endcode
/// The number of a rank here is `place in its group * groups + group`; errors of its levels name those that they have.
///
/// A reduction sums in rank order within each group, rounds to the input's type, and sums that in the order of groups:
/// the same bits for every collective and every run, not those of one communicator over all ranks.
template <TrainingCommunicator W, TrainingCommunicator A = W>
class GroupedCommunicator : public detail::TwoLevels<W, A> {
  using Levels = detail::TwoLevels<W, A>;

 public:
  explicit GroupedCommunicator(CommunicatorLevels<W, A> levels) : Levels{std::move(levels)} {}

  Rank rank() const noexcept { return Rank{this->place() * groups() + this->group()}; }
  int size() const noexcept { return this->within_.size() * groups(); }
  int groups() const noexcept { return this->across_.size(); }

  GroupedCommunicator duplicate() { return GroupedCommunicator{this->duplicates()}; }

  void all_gather(Collective what, std::span<const GatherPart> parts) {
    gather_across(what, parts);
    gather_within(what, parts);
  }
  void gather_across(Collective what, std::span<const GatherPart> parts) {
    std::vector<GatherPart> shards;
    for (const auto& [buffer, bytes, approximable] : parts) {
      shards.push_back({buffer + first_shard() * bytes, bytes, approximable});
    }
    this->across_.all_gather(what, shards);
  }
  void gather_within(Collective what, std::span<const GatherPart> parts) {
    std::vector<GatherPart> ranges;
    for (const auto& [buffer, bytes, approximable] : parts) {
      ranges.push_back({buffer, static_cast<std::size_t>(groups()) * bytes, approximable});
    }
    this->within_.all_gather(what, ranges);
  }

  void reduce_scatter(Collective what, const Reduction& reduction) {
    const auto [type, input, output_type, output, elements] = reduction;
    std::byte* const own = Levels::element(input, type, first_shard() * elements);
    this->within_.reduce_scatter(what, {type, input, type, own, static_cast<std::size_t>(groups()) * elements});
    this->across_.reduce_scatter(what, {type, own, output_type, output, elements});
  }
  void reduce(Collective what, const Reduction& reduction, Rank root) {
    const auto [type, input, output_type, output, elements] = reduction;
    this->within_.reduce(what, {type, input, type, input, elements}, place_of(root));
    if (this->within_.rank() == place_of(root)) this->across_.reduce(what, reduction, group_of(root));
  }
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root) {
    if (this->within_.rank() == place_of(root)) this->across_.broadcast(what, bytes, group_of(root));
    this->within_.broadcast(what, bytes, place_of(root));
  }

 private:
  /// The first of the shards of all ranks at this rank's place.
  std::size_t first_shard() const noexcept { return static_cast<std::size_t>(this->place() * groups()); }

  Rank place_of(Rank rank) const noexcept { return Rank{rank.value / groups()}; }
  Rank group_of(Rank rank) const noexcept { return Rank{rank.value % groups()}; }
};

template <TrainingCommunicator W, TrainingCommunicator A>
GroupedCommunicator(CommunicatorLevels<W, A>) -> GroupedCommunicator<W, A>;

}  // namespace zerospan::inline v0
