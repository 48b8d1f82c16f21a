/// @file
/// Staging: work on extents of any tier, brought through a ring of host memory where they are not addressable.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/pipeline/detail/former_uses.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

/// A range of the ring that a piece of work was given.
struct StagingSlot {
  std::size_t begin = 0;
  std::size_t bytes = 0;
  std::uint64_t number = 0;  ///< Of those that were given; 0: none.
};

/// What a piece of work has left in its slot.
struct StagedValues {
  const std::byte* data;
  Completion work;
  StagingSlot slot;
  bool are_on_tier = true;  ///< Or will be. If not, whoever reads them must come before others get the slot.

  /// Those from so many bytes on.
  StagedValues from(std::size_t bytes) const { return {data + bytes, work, slot, are_on_tier}; }
};

/// A range of an extent that work reads, writes or changes. Its offset is a multiple of the tier's alignment.
struct Operand {
  enum class Access : std::uint8_t {
    read,
    write,
    change,
    leave  ///< Written, and left in the ring, if it passes through it: the tier gets what `write_back` is called for.
  };

  TierRef tier;
  Extent extent;
  std::size_t offset;
  std::size_t bytes;
  Access access;
  std::vector<Completion> ready{};       ///< The ends of the last transfers of the range.
  std::optional<StagedValues> staged{};  ///< What is in the range, to be read there while the ring holds the slot.
};

/// Work that was posted: the end of the work itself, and the ends of all that follows from it.
struct PostedWork {
  Completion work;
  std::vector<Completion> ends;

  Completion last_end;              ///< When the last operand is as the work leaves it, on its tier.
  const std::byte* last = nullptr;  ///< Where it is in the ring, while that holds the slot; nullptr: it is addressable.
  StagingSlot slot;
};

/// Work that has its slot before it can be posted, and whose operands that it changes are read.
struct BegunWork {
  StagingSlot slot;
  std::vector<Completion> free;             ///< The ends of those who had the slot.
  std::map<std::size_t, Completion> reads;  ///< Of operands, by their indices.
  bool is_reserved = false;                 ///< The slot was taken before the work is posted, and operands are read.
};

/// Whose processors do a piece of work. The device's address host memory too, the host's not always the device's.
enum class Site : std::uint8_t { device, host };

/// Posts work on operands. Where all of them are addressable, it is one item on its lane. Otherwise those that are not
/// get a slot of the ring: reads are posted before the work, writes after it; while one piece of work runs, the next
/// one's reads and the last one's writes go on. For work on the host, memory of a device of its own is such a tier.
///
/// What work has left in its slot stays there until the slot is given to others: whoever finds it there needs not read
/// it from the tier.
template <DeviceLanes Lanes>
class Staging {
 public:
  using stream_type = typename Lanes::stream_type;

  Staging(Lanes& lanes, Allocation memory) : lanes_{&lanes}, memory_{std::move(memory)} {}

  std::size_t capacity() const noexcept { return memory_.bytes(); }

  /// Takes other memory; its own is given back. Before anything has passed through it.
  void take(Allocation memory) noexcept { memory_ = std::move(memory); }

  /// Keeps the ring from ever being used again: a transfer that was given up may still write to it.
  void forfeit() noexcept { memory_.forfeit(); }

  /// Whether operands on `tier` pass through the ring.
  static bool passes(TierRef tier, Site site) {
    const bool is_remote = site == Site::host && !Lanes::is_unified && tier.addressable() == Addressable::on_device;
    return is_remote || tier.addressable() == Addressable::nowhere;
  }

  /// Bytes of the ring that an operand of `bytes` takes.
  static std::size_t slot_bytes(TierRef tier, std::size_t bytes, Site site) {
    return passes(tier, site) ? round_up(bytes, Arena::alignment) : 0;
  }

  /// The same of all operands of a piece of work.
  static std::size_t slot_bytes(std::span<const Operand> operands, Site site) {
    std::size_t bytes = 0;
    for (const Operand& o : operands) bytes += slot_bytes(o.tier, o.bytes, site);
    return bytes;
  }

  /// How much of an operand on `tier` one piece of work may take, so that several pieces are under way at once.
  std::size_t piece_bytes(TierRef tier) const {
    if (tier.addressable() != Addressable::nowhere) return std::numeric_limits<std::size_t>::max();
    return std::max(Arena::alignment, capacity() / 8 / Arena::alignment * Arena::alignment);
  }

  /// Whether a read of `o` into device memory can do without the ring: the host's threads reach that memory, and it
  /// lies as the tier demands.
  static bool reads_directly(const Operand& o, const std::byte* to) {
    const std::size_t all = std::bit_cast<std::uintptr_t>(to) | o.offset | o.bytes;
    return Lanes::is_unified && o.tier.addressable() == Addressable::nowhere && all % o.tier.alignment() == 0;
  }

  /// Reads `o` into device memory like that. @param after What has that memory.
  Completion read_directly(std::string_view name, const Operand& o, std::byte* to, std::vector<Completion> after) {
    return post_read(Lane::read, name, o, to, std::move(after));
  }

  /// Posts work for the device.
  /// @param after What the work itself waits for, besides its operands.
  /// @param work Called as `work(stream, pointers)` with the memory of each operand; enqueues on the stream.
  template <class Work>
  PostedWork run(Lane lane, const Operation& operation, std::span<const Operand> operands,
                 std::vector<Completion> after, Work work) {
    return bring(Site::device, lane, operation, operands, take_for(Site::device, operation.name, operands),
                 std::move(after), [&](std::vector<std::byte*> pointers, std::vector<Completion> ready) {
                   return lanes_->post(lane, std::move(ready), operation,
                                       [pointers, work = std::move(work)](stream_type& stream) -> Completion {
                                         work(stream, std::span{pointers});
                                         return {};
                                       });
                 });
  }

  /// Posts work for the host. @param after As in `run`. @param work Called as `work(pointers)`; is done when it
  /// returns.
  template <class Work>
  PostedWork run_on_host(Lane lane, const Operation& operation, std::span<const Operand> operands,
                         std::vector<Completion> after, Work work) {
    return run_on_host(lane, operation, operands, take_for(Site::host, operation.name, operands), std::move(after),
                       std::move(work));
  }

  /// The same for work that was begun.
  template <class Work>
  PostedWork run_on_host(Lane lane, const Operation& operation, std::span<const Operand> operands, BegunWork begun,
                         std::vector<Completion> after, Work work) {
    return bring(Site::host, lane, operation, operands, std::move(begun), std::move(after),
                 [&](std::vector<std::byte*> pointers, std::vector<Completion> ready) {
                   return lanes_->post_host(lane, std::move(ready), operation,
                                            [pointers, work = std::move(work)]() -> Completion {
                                              work(std::span{pointers});
                                              return {};
                                            });
                 });
  }

  /// Takes memory for an update on the host that will be posted later, and reads now, of those of its operands that are
  /// not addressable, what it will change. Nobody else gets that memory meanwhile.
  /// @param others Bytes of the largest piece of work that will be posted before this one.
  /// @return Nothing, where that would leave less than half of the ring, or no room for the others.
  std::optional<BegunWork> begin(std::string_view name, std::span<const Operand> operands, std::size_t others) {
    const std::size_t bytes = slot_bytes(operands, Site::host);
    const std::size_t at = begun_ > 0 ? kept_end_ : cursor_ + bytes > capacity() ? 0 : cursor_;
    const std::size_t from = begun_ > 0 ? kept_begin_ : at;
    const std::size_t end = at + bytes;
    const bool is_room_left = end <= capacity() && std::max(from, capacity() - end) >= others;
    if (!is_room_left || end - from > capacity() / 2) return std::nullopt;
    kept_begin_ = from;
    kept_end_ = end;
    if (cursor_ < end && cursor_ >= from) cursor_ = end;
    ++begun_;
    BegunWork begun = give(at, bytes);
    begun.is_reserved = true;
    std::byte* next = memory_.data() + begun.slot.begin;
    for (std::size_t i = 0; i < operands.size(); ++i) {
      const Operand& o = operands[i];
      if (!passes(o.tier, Site::host)) continue;
      if (o.access == Operand::Access::change) {
        begun.reads.emplace(i, post_read(Lane::read_states, name, o, next, begun.free));
      }
      next += slot_bytes(o.tier, o.bytes, Site::host);
    }
    return begun;
  }

  /// Work that was begun will not be posted.
  void drop(const BegunWork& begun) {
    for (const auto& [operand, read] : begun.reads) former_.record(begun.slot.begin, begun.slot.bytes, read);
    end_reservation();
  }

  /// Whether what was left in a slot is still there.
  bool holds(const StagingSlot& slot) const {
    const auto owner = owners_.find(slot.begin);
    return owner != owners_.end() && owner->second.number == slot.number && owner->second.bytes == slot.bytes;
  }

  /// Writes a range of what was left in a slot that is held. @return The end.
  Completion write_back(std::string_view name, const Operand& range, const StagedValues& values) {
    const Completion end = post_write(name, range, values.data, values.work);
    record_use(values.slot, end);
    return end;
  }

  /// Whoever gets the memory of a slot that is held waits for `use` too.
  void record_use(const StagingSlot& slot, const Completion& use) { former_.record(slot.begin, slot.bytes, use); }

 private:
  /// Whether the ring still has these values. @throws BudgetError if nobody else has.
  bool is_there(std::string_view name, const StagedValues& values) const {
    const bool is_held = holds(values.slot);
    if (!is_held && !values.are_on_tier) {
      throw_budget_error("what staging memory is to keep for " + std::string{name}, Bytes{values.slot.bytes}, Bytes{0},
                         "raise the host budget");
    }
    return is_held;
  }

  /// @param post Called as `post(pointers, after)`; returns the end of the work.
  template <class Post>
  PostedWork bring(Site site, Lane lane, const Operation& operation, std::span<const Operand> operands, BegunWork begun,
                   std::vector<Completion> after, Post post) {
    const bool was_begun = begun.is_reserved;
    std::vector<std::byte*> pointers(operands.size());
    std::vector<StagingSlot> read_in;  // slots of others
    std::size_t next = begun.slot.begin;
    for (std::size_t i = 0; i < operands.size(); ++i) {
      const Operand& o = operands[i];
      if (passes(o.tier, site)) {
        pointers[i] = memory_.data() + next;
        next += slot_bytes(o.tier, o.bytes, site);
        if (o.access == Operand::Access::write || o.access == Operand::Access::leave) continue;
        if (o.access == Operand::Access::read && o.staged && is_there(operation.name, *o.staged)) {
          pointers[i] = const_cast<std::byte*>(o.staged->data);
          after.push_back(o.staged->work);
          read_in.push_back(o.staged->slot);
          continue;
        }
        const auto read = begun.reads.find(i);
        after.push_back(read != begun.reads.end()
                            ? read->second
                            : post_read(reads_for(lane), operation.name, o, pointers[i], begun.free));
      } else {
        pointers[i] = o.tier.view(o.extent) + o.offset;
        after.insert(after.end(), o.ready.begin(), o.ready.end());
      }
    }
    after.insert(after.end(), begun.free.begin(), begun.free.end());

    PostedWork posted;
    posted.work = post(pointers, std::move(after));
    posted.last_end = posted.work;
    posted.slot = begun.slot;
    for (std::size_t i = 0; i < operands.size(); ++i) {
      const Operand& o = operands[i];
      if (!passes(o.tier, site)) continue;
      const bool is_written = o.access == Operand::Access::write || o.access == Operand::Access::change;
      if (is_written) posted.ends.push_back(post_write(operation.name, o, pointers[i], posted.work));
      if (i + 1 < operands.size()) continue;
      posted.last = pointers[i];
      if (is_written) posted.last_end = posted.ends.back();
    }
    if (posted.ends.empty()) posted.ends.push_back(posted.work);
    for (const Completion& end : posted.ends) former_.record(begun.slot.begin, begun.slot.bytes, end);
    for (const StagingSlot& slot : read_in) record_use(slot, posted.work);
    if (was_begun) end_reservation();
    return posted;
  }

  /// The next slot of the ring, for all of the operands that pass through it.
  BegunWork take_for(Site site, std::string_view what, std::span<const Operand> operands) {
    const std::size_t bytes = slot_bytes(operands, site);
    if (bytes == 0) return {};
    const auto fits = [&](std::size_t begin) {
      return begin + bytes <= capacity() && (begin >= kept_end_ || begin + bytes <= kept_begin_);
    };
    for (const std::size_t begin : {cursor_, cursor_ <= kept_begin_ ? kept_end_ : 0, std::size_t{0}, kept_end_}) {
      if (!fits(begin)) continue;
      cursor_ = begin + bytes;
      return give(begin, bytes);
    }
    throw_budget_error("staging " + std::string{what}, Bytes{bytes},
                       Bytes{std::max(kept_begin_, capacity() - kept_end_)}, "raise the host budget");
  }

  BegunWork give(std::size_t begin, std::size_t bytes) {
    auto owner = owners_.lower_bound(begin);
    if (owner != owners_.begin() && std::prev(owner)->first + std::prev(owner)->second.bytes > begin) --owner;
    while (owner != owners_.end() && owner->first < begin + bytes) owner = owners_.erase(owner);
    owners_.emplace(begin, Owner{bytes, ++given_});
    return {{begin, bytes, given_}, former_.overwrite(begin, bytes), {}, false};
  }

  /// Of work that was begun; the memory is everybody's again when it was the last. What was used before it is free
  /// sooner.
  void end_reservation() {
    if (--begun_ > 0) return;
    cursor_ = kept_end_;
    kept_begin_ = kept_end_ = 0;
  }

  /// The lane of what work on a lane reads.
  static Lane reads_for(Lane lane) { return lane == Lane::update ? Lane::read_states : Lane::read; }

  Completion post_read(Lane lane, std::string_view name, const Operand& o, std::byte* data,
                       std::vector<Completion> after) {
    after.insert(after.end(), o.ready.begin(), o.ready.end());
    if (o.tier.addressable() == Addressable::on_device) {
      return post_copy(lane, name, data, o.tier.view(o.extent) + o.offset, o.bytes, std::move(after));
    }
    const std::size_t bytes = round_up(o.bytes, o.tier.alignment());
    return lanes_->post_host(lane, std::move(after), {OperationKind::read, name, bytes, o.tier.identity()},
                             [o, data, bytes] { return o.tier.read(o.extent, o.offset, data, bytes); });
  }

  Completion post_write(std::string_view name, const Operand& o, const std::byte* data, const Completion& work) {
    std::vector<Completion> after = o.ready;
    after.push_back(work);
    if (o.tier.addressable() == Addressable::on_device) {
      return post_copy(Lane::write, name, o.tier.view(o.extent) + o.offset, data, o.bytes, std::move(after));
    }
    const std::size_t bytes = round_up(o.bytes, o.tier.alignment());
    return lanes_->post_host(Lane::write, std::move(after), {OperationKind::write, name, bytes, o.tier.identity()},
                             [o, data, bytes] { return o.tier.write(o.extent, o.offset, data, bytes); });
  }

  Completion post_copy(Lane lane, std::string_view name, std::byte* to, const std::byte* from, std::size_t bytes,
                       std::vector<Completion> after) {
    return lanes_->post(lane, std::move(after), {OperationKind::copy, name, bytes},
                        [to, from, bytes](stream_type& stream) -> Completion {
                          copy_bytes(stream, to, from, bytes);
                          return {};
                        });
  }

  struct Owner {
    std::size_t bytes;
    std::uint64_t number;
  };

  Lanes* lanes_;
  Allocation memory_;
  std::size_t cursor_ = 0;
  std::size_t begun_ = 0;  ///< Pieces of work that was begun.
  std::size_t kept_begin_ = 0;
  std::size_t kept_end_ = 0;  ///< The range of the ring that they have.
  std::uint64_t given_ = 0;   ///< Slots so far.
  FormerUses former_;
  std::map<std::size_t, Owner> owners_;  ///< By where a slot begins: who was given it last.
};

}  // namespace zerospan::inline v0::detail
