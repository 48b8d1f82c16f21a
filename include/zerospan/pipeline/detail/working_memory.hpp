/// @file
/// WorkingMemory: gathered parameters and gradients come and go in one range of memory, in program order.
#pragma once

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/pipeline/detail/address_ranges.hpp>
#include <zerospan/pipeline/detail/former_uses.hpp>

namespace zerospan::inline v0::detail {

/// Deals out ranges of an arena's working allocation. A range that is given back is free at once, in program order;
/// whoever gets it next is told which completions its first use must wait for. So nobody ever blocks on an allocation,
/// and addresses depend on the order of the calls alone.
class WorkingMemory {
 public:
  static constexpr std::size_t alignment = 64;

  /// @param memory Of an arena, which counts what is in use.
  explicit WorkingMemory(Allocation memory) : memory_{std::move(memory)} {}

  std::size_t capacity() const noexcept { return memory_.bytes() / alignment * alignment; }
  std::byte* data(std::size_t offset) const noexcept { return memory_.data() + offset; }

  /// The lowest free offset that `bytes` fit at.
  std::optional<std::size_t> find(std::size_t bytes) const {
    const std::size_t offset = live_.lowest(bytes);
    return capacity() >= bytes && offset <= capacity() - bytes ? std::optional{offset} : std::nullopt;
  }

  /// The highest free offset that `bytes` fit at.
  std::optional<std::size_t> find_highest(std::size_t bytes) const { return live_.highest(bytes, capacity()); }

  /// Bytes of the largest free range.
  std::size_t largest_free() const { return live_.largest_gap(capacity()); }

  /// Whether [offset, offset + bytes) is free.
  bool is_free(std::size_t offset, std::size_t bytes) const {
    return offset + bytes <= capacity() && live_.is_free(offset, bytes);
  }

  /// Takes a free range (a multiple of `alignment`). @return What its first use waits for.
  std::vector<Completion> take(std::size_t offset, std::size_t bytes) {
    live_.insert(offset, bytes);
    memory_.charge(Bytes{bytes});
    return former_.overwrite(offset, bytes);
  }

  /// Gives a range back; `last_uses` are the ends of what still uses it.
  void give_back(std::size_t offset, std::vector<Completion> last_uses) {
    const std::size_t bytes = live_.erase(offset);
    memory_.discharge(Bytes{bytes});
    for (Completion& last_use : last_uses) former_.record(offset, bytes, std::move(last_use));
  }

 private:
  Allocation memory_;
  AddressRanges live_;
  FormerUses former_;
};

}  // namespace zerospan::inline v0::detail
