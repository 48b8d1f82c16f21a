/// @file
/// HybridCommunicator: shards within groups of ranks, replicated across them.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/communicator_levels.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// Hybrid sharding (MiCS, arXiv 2205.00119, section 3): each group has all of the model and its states. Gathers stay in
/// the group; of each gradient the rank's shard alone crosses between groups, twice. The price is memory: shards are of
/// a group's size, not of the world's.
/// @code
/// zerospan::HybridCommunicator ranks{zerospan::split_into_groups(communicator, ranks_per_node)};
/// @endcode
/// The number of a rank here is its place in its group. Sums are those of GroupedCommunicator, bit for bit.
template <TrainingCommunicator W, TrainingCommunicator A = W>
class HybridCommunicator : public detail::TwoLevels<W, A> {
  using Levels = detail::TwoLevels<W, A>;

 public:
  explicit HybridCommunicator(CommunicatorLevels<W, A> levels) : Levels{std::move(levels)} {}

  Rank rank() const noexcept { return this->within_.rank(); }
  int size() const noexcept { return this->within_.size(); }
  int replicas() const noexcept { return this->across_.size(); }
  int replica() const noexcept { return this->group(); }

  HybridCommunicator duplicate() { return HybridCommunicator{this->duplicates()}; }

  void all_gather(Collective what, std::span<const GatherPart> parts) { this->within_.all_gather(what, parts); }
  void reduce_scatter(Collective what, const Reduction& reduction) {
    const auto [type, input, output_type, output, elements] = reduction;
    std::byte* const own = Levels::element(input, type, static_cast<std::size_t>(rank().value) * elements);
    this->within_.reduce_scatter(what, {type, input, type, own, elements});
    this->across_.all_reduce(what, {type, own, output_type, output, elements});
  }
  void reduce(Collective what, const Reduction& reduction, Rank root) {
    const auto [type, input, output_type, output, elements] = reduction;
    this->within_.reduce(what, {type, input, type, input, elements}, root);
    if (rank() == root) this->across_.all_reduce(what, reduction);
  }
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root) {
    if (rank() == root) this->across_.broadcast(what, bytes, Rank{0});
    this->within_.broadcast(what, bytes, root);
  }
};

template <TrainingCommunicator W, TrainingCommunicator A>
HybridCommunicator(CommunicatorLevels<W, A>) -> HybridCommunicator<W, A>;

}  // namespace zerospan::inline v0
