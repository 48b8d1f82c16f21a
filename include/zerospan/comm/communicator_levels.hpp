/// @file
/// CommunicatorLevels: ranks in groups, and what any use of two levels of communicators has in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/protocol/forwarding_communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// The two communicators of a rank of a group: `within` its group, and `across` groups, with the ranks that are at its
/// place in theirs. All groups have the same size.
template <TrainingCommunicator W, TrainingCommunicator A = W>
struct CommunicatorLevels {
  W within;
  A across;
};

/// Cuts ranks into groups of `ranks_per_group` consecutive ones; a collective.
/// @throws ConfigurationError if they cannot be cut so.
template <class C>
  requires Splits<C> && TrainingCommunicator<C>
CommunicatorLevels<C> split_into_groups(C& communicator, int ranks_per_group) {
  if (ranks_per_group < 1 || communicator.size() % ranks_per_group != 0) {
    throw_configuration_error(std::to_string(communicator.size()) + " ranks are no groups of " +
                              std::to_string(ranks_per_group));
  }
  const int rank = communicator.rank().value;
  const int group = rank / ranks_per_group;
  const int place = rank % ranks_per_group;
  C within = communicator.split({group, place});
  return {std::move(within), communicator.split({place, group})};
}

namespace detail {

/// Sums are taken within each group first, rounded to the input's type, and then across groups: whatever the collective
/// is, an element's sum has the same bits, unless a level quantizes.
template <TrainingCommunicator W, TrainingCommunicator A>
class TwoLevels : public PassedOnAbilities<TwoLevels<W, A>, W, A> {
  friend class PassedOnAbilities<TwoLevels<W, A>, W, A>;

 public:
  explicit TwoLevels(CommunicatorLevels<W, A> levels)
      : within_{std::move(levels.within)}, across_{std::move(levels.across)} {}

  void abort(const std::string& reason) noexcept {
    within_.abort(reason);
    across_.abort(reason);
  }

  void all_reduce(Collective what, const Reduction& reduction);
  void all_reduce(Collective what, std::span<std::int64_t> integers) {
    within_.all_reduce(what, integers);
    across_.all_reduce(what, integers);
  }
  void barrier(Collective what) {
    within_.barrier(what);
    across_.barrier(what);  // with ranks whose groups have all entered
  }

 protected:
  template <class Act>
  void for_each_part(Act act) {
    act(within_);
    act(across_);
  }

  static std::byte* element(std::byte* data, ElementType type, std::size_t index) {
    return data + index * element_bytes(type);
  }

  CommunicatorLevels<W, A> duplicates() {
    W within = within_.duplicate();
    return {std::move(within), across_.duplicate()};
  }

  int place() const noexcept { return within_.rank().value; }
  int group() const noexcept { return across_.rank().value; }

  W within_;
  A across_;
};

/// Each rank takes an equal slice of its group's sum across groups; what does not divide is summed whole.
template <TrainingCommunicator W, TrainingCommunicator A>
void TwoLevels<W, A>::all_reduce(Collective what, const Reduction& reduction) {
  const auto [type, input, output_type, output, elements] = reduction;
  const auto ranks = static_cast<std::size_t>(within_.size());
  const std::size_t slice = elements / ranks;
  const std::size_t first = static_cast<std::size_t>(place()) * slice;
  if (slice > 0) {
    std::byte* const own = element(input, type, first);
    within_.reduce_scatter(what, {type, input, type, own, slice});
    across_.all_reduce(what, {type, own, output_type, element(output, output_type, first), slice});
    const GatherPart part{output, slice * element_bytes(output_type)};
    within_.all_gather(what, {&part, 1});
  }
  if (const std::size_t rest = elements - ranks * slice; rest > 0) {
    std::byte* const tail = element(input, type, ranks * slice);
    within_.all_reduce(what, {type, tail, type, tail, rest});
    across_.all_reduce(what, {type, tail, output_type, element(output, output_type, ranks * slice), rest});
  }
}

}  // namespace detail

}  // namespace zerospan::inline v0
