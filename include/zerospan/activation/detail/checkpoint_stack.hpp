/// @file
/// Which checkpoints are in device memory and which on the tier, which leave for the next one, and which will have to.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/pipeline/detail/address_ranges.hpp>
#include <zerospan/pipeline/detail/working_memory.hpp>

namespace zerospan::inline v0::detail {

struct Checkpoint {
  Shape shape;
  ElementType type;
  std::size_t offset = 0;               ///< In device memory: where it is, or was when it left.
  std::size_t place = 0;                ///< On the tier, once it is saved.
  std::size_t ordinal = 0;              ///< How many of its pass were committed before it.
  std::vector<Completion> ready{};      ///< What reading it in device memory waits for.
  Completion copied{};                  ///< The end of reading it there for the tier.
  std::vector<Completion> transfers{};  ///< The ends of what uses its place on the tier.

  std::size_t bytes() const { return shape.elements() * element_bytes(type); }
  std::size_t device_bytes() const { return round_up(bytes(), WorkingMemory::alignment); }
};

/// "a checkpoint of float32 [128 x 64]".
inline std::string describe(const Checkpoint& checkpoint) {
  std::string text = "a checkpoint of " + std::string{to_string(checkpoint.type)} + " [";
  for (std::size_t i = 0; i < checkpoint.shape.rank(); ++i) {
    text += (i == 0 ? "" : " x ") + std::to_string(checkpoint.shape[i]);
  }
  return text + "]";
}

/// What was pushed last is popped first: so the top of the stack is resident in device memory, and the bottom is saved
/// on the tier. Whoever has to make room is the lowest resident: its next use is the farthest (Belady's rule). Saved
/// ones stay saved until they are popped: one that comes back and leaves again is not written twice. Since they are the
/// lowest, the tier's space is a stack too, without holes.
class CheckpointStack {
 public:
  /// Where a checkpoint goes, and the lowest one that stays resident then.
  struct Room {
    std::size_t offset;
    std::size_t residents;
  };

  /// @param device_bytes Of device memory. @param tier_bytes Of the tier, dealt out in multiples of `tier_alignment`.
  CheckpointStack(std::size_t device_bytes, std::size_t tier_bytes, std::size_t tier_alignment)
      : device_bytes_{device_bytes}, tier_bytes_{tier_bytes}, tier_alignment_{tier_alignment} {}

  bool empty() const noexcept { return checkpoints_.empty(); }
  std::size_t size() const noexcept { return checkpoints_.size(); }
  Checkpoint& operator[](std::size_t i) { return checkpoints_[i]; }
  Checkpoint& top() { return checkpoints_.back(); }

  /// The lowest checkpoint in device memory; those above are there too. `size()`: none is.
  std::size_t residents() const noexcept { return residents_; }

  /// How many, from the lowest on, are on the tier.
  std::size_t saved() const noexcept { return saved_; }

  /// The lowest free place in device memory beside `leased`, with as few leaving for it as possible.
  std::optional<Room> find_room(std::size_t bytes, AddressRanges leased) const {
    if (bytes > device_bytes_) return std::nullopt;
    for (std::size_t i = residents_; i < size(); ++i) {
      leased.insert(checkpoints_[i].offset, checkpoints_[i].device_bytes());
    }
    for (std::size_t stays = residents_;; ++stays) {
      const std::size_t offset = leased.lowest(bytes);
      if (offset <= device_bytes_ - bytes) return Room{offset, stays};
      if (stays == size()) return std::nullopt;
      leased.erase(checkpoints_[stays].offset);
    }
  }

  /// Bytes of the tier that a checkpoint takes.
  std::size_t tier_bytes(std::size_t bytes) const { return round_up(bytes, tier_alignment_); }

  /// Bytes of the tier that saving the lowest `count` takes, beyond those that are saved.
  std::size_t unsaved_bytes(std::size_t count) const {
    std::size_t bytes = 0;
    for (std::size_t i = saved_; i < count; ++i) bytes += tier_bytes(checkpoints_[i].bytes());
    return bytes;
  }
  std::size_t free_tier_bytes() const { return tier_bytes_ - used_tier_bytes(); }
  std::size_t used_tier_bytes() const {
    return saved_ == 0 ? 0 : checkpoints_[saved_ - 1].place + tier_bytes(checkpoints_[saved_ - 1].bytes());
  }

  void push(Checkpoint checkpoint) { checkpoints_.push_back(std::move(checkpoint)); }

  /// Deals the lowest one that is not saved its place on the tier; there is room for it.
  Checkpoint& save_next() {
    Checkpoint& next = checkpoints_[saved_];
    next.place = used_tier_bytes();
    ++saved_;
    return next;
  }

  /// The lowest resident leaves; it is saved.
  Checkpoint& evict_next() { return checkpoints_[residents_++]; }

  /// The one below the lowest resident comes back.
  Checkpoint& fetch_next() { return checkpoints_[--residents_]; }

  /// Takes the top off; it is resident or not.
  Checkpoint pop() {
    Checkpoint top = std::move(checkpoints_.back());
    checkpoints_.pop_back();
    saved_ = std::min(saved_, size());
    residents_ = std::min(residents_, size());
    return top;
  }

 private:
  std::size_t device_bytes_;
  std::size_t tier_bytes_;
  std::size_t tier_alignment_;
  std::vector<Checkpoint> checkpoints_;
  std::size_t residents_ = 0;
  std::size_t saved_ = 0;
};

/// Counts the checkpoints of a pass as they are committed.
class OffloadForecast {
 public:
  /// The ordinal of the next checkpoint of the pass.
  std::size_t next() noexcept { return committed_++; }

  /// Takes note of one that has left.
  void left(std::size_t ordinal) {
    if (ordinal >= left_.size()) left_.resize(ordinal + 1);
    left_[ordinal] = true;
  }

  /// Whether the one of this ordinal left in the last pass.
  bool expects(std::size_t ordinal) const { return ordinal < expected_.size() && expected_[ordinal]; }

  /// Nothing is on the stack, and nothing is leased.
  void end_pass() {
    if (committed_ == 0) return;
    committed_ = 0;
    expected_ = std::exchange(left_, {});
  }

 private:
  std::size_t committed_ = 0;
  std::vector<bool> left_;
  std::vector<bool> expected_;
};

}  // namespace zerospan::inline v0::detail
