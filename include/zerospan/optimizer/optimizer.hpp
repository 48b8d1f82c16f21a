/// @file
/// The concept Optimizer: how many bytes of states a block has, and one fused update of a shard.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/optimizer/detail/optimizer_settings.hpp>
#include <zerospan/optimizer/setting.hpp>
#include <zerospan/optimizer/state_array.hpp>
#include <zerospan/partition/parameter_store.hpp>

namespace zerospan::inline v0 {

/// A contiguous run of elements of one parameter within a sub-group, and all that its update reads and writes.
/// A sub-group holds the optimizer's states for `capacity` elements; `first` and `elements` select the run; both are
/// multiples of `block_elements`, except that the last run may end early.
struct ShardUpdate {
  float* master;              ///< The run's master weights, fp32.
  std::byte* states;          ///< The sub-group's `state_bytes(capacity)` bytes of states.
  std::size_t capacity;       ///< Elements of the sub-group: a multiple of `block_elements`.
  std::size_t first;          ///< The run's first element in the sub-group.
  std::size_t elements;       ///< The run's length.
  const std::byte* gradient;  ///< The run's accumulated gradients: the sum over ranks and micro-batches.
  ElementType gradient_type;
  std::byte* parameter;  ///< Where the run's updated elements are written, rounded to `parameter_type`: the master
                         ///< weights themselves, where an fp32 parameter has no others.
  ElementType parameter_type;
  float gradient_scale;  ///< Multiplies each gradient first: 1 / (world size * micro-batches), and the clipping.
  std::int64_t step;     ///< Updates of this parameter, this one included: 1 at the first.
  ParameterGroup group;

  /// So many of its elements, from `begin` on, which is a multiple of `block_elements`.
  ShardUpdate part(std::size_t begin, std::size_t count) const noexcept {
    ShardUpdate some = *this;
    if (master) some.master += begin;
    some.first += begin;
    some.elements = count;
    some.gradient += begin * element_bytes(gradient_type);
    some.parameter += begin * element_bytes(parameter_type);
    return some;
  }

  /// Whether the updated elements are where they belong when the master weights are updated.
  bool parameter_is_master() const noexcept { return parameter == reinterpret_cast<const std::byte*>(master); }
};

/// A partitioned optimizer (ZeRO-1). Element-wise, or block-wise over blocks of `block_elements` logical elements.
///
/// @concept
/// - `optimizer.state_bytes(elements)` is the size of the states of that many elements (a multiple of
///   `block_elements`), the fp32 master weights not counted; states start as zeros;
/// - `optimizer.update(shard)` updates master weights and states in place and writes the new elements, in one pass over
///   memory. It gives the same bits however a parameter is cut into runs;
/// - it is copyable: an update under way keeps the settings it was posted with.
///
/// What it may have besides:
/// - `optimizer.settings()`, an array of `NamedSetting`: before every step the library refuses those outside their
///   ranges, and tells ranks whose settings differ. Without it, settings are compared if all members are floats, or if
///   equal optimizers have equal bytes (integers, no padding); those of any other type are not;
/// - `optimizer.state_arrays()` (`NamesStates`): what its states are. Without it, they can be neither saved nor loaded;
/// - `optimizer.validate()`, which throws a ConfigurationError of settings without sense; called before every step;
/// - `O::name`, what errors call it (a `std::string_view`); otherwise its type's name;
/// - an overload of `update(stream, optimizer, runs)` for a device's streams (`UpdatesOn`), or
///   `static constexpr bool updates_on_host = true`.
template <class O>
concept Optimizer = std::copyable<O> && requires(const O& optimizer, std::size_t elements, const ShardUpdate& shard) {
  { optimizer.state_bytes(elements) } -> std::same_as<std::size_t>;
  optimizer.update(shard);
};

/// An optimizer whose states can be read element by element: `optimizer.state_arrays()` are some StateArrays, of as
/// many bytes together as its `state_bytes` of a block. In the states of a sub-group they lie one after the other in
/// that order, each whole: the first one's `capacity` elements, then the second one's.
template <class O>
concept NamesStates = Optimizer<O> && requires(const O& optimizer) {
  std::span<const StateArray>{optimizer.state_arrays()};
};

/// Updates runs of one sub-group on the calling thread. A device's stream type has overloads of its own, which enqueue
/// the update, for the optimizers that the device knows.
template <Optimizer O>
void update(std::same_as<StreamRef> auto&, const O& optimizer, std::span<const ShardUpdate> runs) {
  for (const ShardUpdate& run : runs) optimizer.update(run);
}

/// An optimizer that can be run on streams of a type: `update(stream, optimizer, runs)` enqueues the updates of runs
/// that do not overlap; the span may go before they are done.
template <class O, class Stream>
concept UpdatesOn = Optimizer<O> && requires(Stream& stream, const O& optimizer, std::span<const ShardUpdate> runs) {
  update(stream, optimizer, runs);
};

/// An optimizer that says it is run by the host alone (`updates_on_host`). States in memory that the host cannot touch
/// are brought to the host's for each update.
template <class O>
concept UpdatesOnHost = Optimizer<O> && requires {
  requires bool{O::updates_on_host};
};

/// An optimizer whose states may rest in the memory of a device: of one that shares the host's streams, any; of another
/// one that is `UpdatesOn` its streams, or is `UpdatesOnHost`. Which of both runs it is decided by the optimizer alone,
/// never by the headers that happen to be included: where the overload is not, this is an error.
template <class O, class D>
concept UpdatableOn = std::same_as<typename D::lanes_type::stream_type, StreamRef> || UpdatesOnHost<O> ||
    UpdatesOn<O, typename D::lanes_type::stream_type>;

/// Refuses the factors of a parameter that are negative or not finite.
/// @throws ConfigurationError that names the parameter and the factor.
inline void validate(const ParameterGroup& group, std::string_view parameter) {
  const auto require = [&](std::string_view factor, float value) {
    const std::string_view fault = detail::fault(value, SettingRange::not_negative);
    if (!fault.empty()) detail::require("parameter " + std::string{parameter}, {factor, value}, fault);
  };
  require("learning_rate_factor", group.learning_rate_factor);
  require("weight_decay_factor", group.weight_decay_factor);
}

namespace detail {

/// For a static_assert: true, or an error in words.
template <class O, class D>
consteval bool require_updatable() {
  static_assert(
      UpdatableOn<O, D>,
      "zerospan: this optimizer has no update(stream, optimizer, runs) for the device's streams here: include "
      "zerospan/cuda.hpp, or the header of your own; or let the host run it, by `static constexpr bool "
      "updates_on_host = true` in it");
  return true;
}

}  // namespace detail

}  // namespace zerospan::inline v0
