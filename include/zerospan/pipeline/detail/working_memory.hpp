/// @file
/// WorkingMemory: gathered parameters and gradients come and go in one range of memory, in program order.
/// FragmentationGuard: what is in use must leave room in one piece.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
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

/// What a range of working memory is taken for.
enum class WorkingUse : std::uint8_t { gathered, gradient, written };

inline constexpr std::size_t working_uses = 3;

/// Bytes in use.
struct WorkingBytes {
  std::size_t now = 0;
  std::size_t peak = 0;
};

/// Deals out ranges of an arena's working allocation. A range that is given back is free at once, in program order;
/// whoever gets it next is told which completions its first use must wait for. So nobody ever blocks on an allocation,
/// and addresses depend on the order of the calls alone.
class WorkingMemory {
 public:
  static constexpr std::size_t alignment = 512;  ///< What most disks demand of memory that they are read into.

  /// @param memory Of an arena, which counts what is in use.
  explicit WorkingMemory(Allocation memory) : memory_{std::move(memory)} {}

  /// Keeps the memory from ever being used again: a read that was given up may still write to it.
  void forfeit() noexcept { memory_.forfeit(); }

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

  /// Bytes that are taken for a use.
  WorkingBytes bytes_of(WorkingUse use) const noexcept { return bytes_[static_cast<std::size_t>(use)]; }

  /// Takes a free range (a multiple of `alignment`). @return What its first use waits for.
  std::vector<Completion> take(std::size_t offset, std::size_t bytes, WorkingUse use = WorkingUse::written) {
    live_.insert(offset, bytes, static_cast<std::size_t>(use));
    memory_.charge(Bytes{bytes});
    WorkingBytes& taken = bytes_[static_cast<std::size_t>(use)];
    taken.now += bytes;
    taken.peak = std::max(taken.peak, taken.now);
    return former_.overwrite(offset, bytes);
  }

  /// Gives a range back; `last_uses` are the ends of what still uses it.
  void give_back(std::size_t offset, const std::vector<Completion>& last_uses) {
    const std::size_t use = live_.find(offset)->label;
    const std::size_t bytes = live_.erase(offset);
    bytes_[use].now -= bytes;
    memory_.discharge(Bytes{bytes});
    for (const Completion& last_use : last_uses) former_.record(offset, bytes, last_use);
  }

 private:
  Allocation memory_;
  AddressRanges live_;  ///< Labelled with what they are taken for.
  std::array<WorkingBytes, working_uses> bytes_{};
  FormerUses former_;
};

/// Keeps the buffers in use twice: where they are, and where each would be if it had gone to the lowest free offset
/// (stacked), as on a first pass. Uses are numbered from 0 in the order in which they are added.
class FragmentationGuard {
 public:
  void add(std::size_t offset, std::size_t bytes) {
    in_use_.insert(offset, bytes, stacked_at_.size());
    stacked_at_.push_back(stacked_.lowest(bytes));
    stacked_.insert(stacked_at_.back(), bytes);
  }

  /// The use whose buffer is at `offset`.
  std::size_t use_at(std::size_t offset) const { return in_use_.find(offset)->label; }

  void remove(std::size_t offset) {
    stacked_.erase(stacked_at_[use_at(offset)]);
    in_use_.erase(offset);
  }

  /// Begins anew; nothing is in use.
  void restart() { stacked_at_.clear(); }

  /// How high memory is filled when stacked.
  std::size_t stacked_top() const noexcept { return stacked_.top(); }

  /// Whether another buffer at `offset` leaves as much in one piece as if every buffer were stacked, up to what is
  /// `needed`.
  bool leaves_room(std::size_t offset, std::size_t bytes, std::size_t capacity, std::size_t needed) {
    in_use_.insert(offset, bytes);
    const std::size_t gap = in_use_.largest_gap(capacity);
    in_use_.erase(offset);
    return gap + std::max(stacked_.top(), stacked_.lowest(bytes) + bytes) >= std::min(capacity, needed);
  }

 private:
  AddressRanges in_use_;  ///< Labelled with their uses.
  AddressRanges stacked_;
  std::vector<std::size_t> stacked_at_;  ///< A use: its lowest place.
};

}  // namespace zerospan::inline v0::detail
