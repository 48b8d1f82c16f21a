/// @file
/// StateSizes: how the states of a model are cut and aligned.
#pragma once

#include <algorithm>
#include <cstddef>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/stage.hpp>
#include <zerospan/optimizer/optimizer.hpp>

namespace zerospan::inline v0::detail {

template <Stage S, TrainingCommunicator C, Device D, Optimizer O>
class StateSizes {
 public:
  StateSizes(EngineCore<C, D>& core, const O& optimizer) : core_{core}, optimizer_{optimizer} {}

  /// Elements to which shards are aligned in their spaces, so that each begins at a transfer's boundary on any tier.
  std::size_t alignment() const {
    std::size_t bytes = 1;
    for (const TierRef tier : core_.placement.tiers()) {
      if (tier.addressable() == Addressable::nowhere) bytes = std::max(bytes, tier.alignment());
    }
    return round_up(std::max<std::size_t>(bytes / sizeof(bfloat16), 1), block_elements);
  }

  /// Elements of the largest sub-group of which three fit into the staging memory: one read, one updated, one written.
  /// @throws BudgetError if not even one does.
  std::size_t largest_group() const {
    const std::size_t unit = alignment();
    const auto slot = [](TierRef tier, std::size_t bytes) {
      return Staging<typename D::lanes_type>::slot_bytes(tier, bytes, Site::host);
    };
    const std::size_t unit_bytes =
        std::max(slot(core_.placement.optimizer, states_bytes(unit)),
                 slot(core_.placement.tier(StateKind::optimizer_share), states_bytes(unit))) +
        slot(core_.placement.gradients, unit * sizeof(float)) +
        std::max(slot(core_.placement.parameters, unit * sizeof(float)), slot(core_.replicas, unit * sizeof(float)));
    const std::size_t wanted = std::max(core_.options.sub_group_elements / unit, std::size_t{1});
    if (unit_bytes == 0) return wanted * unit;
    const std::size_t capacity = core_.staging.capacity();
    if (capacity < unit_bytes) {
      throw_budget_error("staging the smallest sub-group", Bytes{unit_bytes}, Bytes{capacity}, "raise the host budget");
    }
    return std::clamp(capacity / 3 / unit_bytes, std::size_t{1}, wanted) * unit;
  }

  /// Bytes of the master weights and the optimizer's states of so many elements.
  std::size_t states_bytes(std::size_t elements) const {
    return elements * sizeof(float) + optimizer_.state_bytes(elements);
  }

  /// Bytes of so many accumulated gradients.
  std::size_t gradient_bytes(std::size_t elements, ElementType parameters) const {
    return elements * element_bytes(core_.accumulator_type(parameters));
  }

  /// Whether accumulators are cut as shards are; otherwise (stage 1) each has a place of its own.
  static constexpr bool gradients_follow_shards() { return S::partitions_gradients || !S::partitions_optimizer; }

 private:
  EngineCore<C, D>& core_;
  const O& optimizer_;
};

}  // namespace zerospan::inline v0::detail
