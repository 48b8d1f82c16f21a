/// @file
/// Staging: work on extents of any tier, brought through a ring of host memory where they are not addressable.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
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

/// A range of an extent that work reads, writes or changes. Its offset is a multiple of the tier's alignment.
struct Operand {
  enum class Access : std::uint8_t { read, write, change };

  TierRef tier;
  Extent extent;
  std::size_t offset;
  std::size_t bytes;
  Access access;
  std::vector<Completion> ready{};  ///< The ends of the last transfers of the range.
};

/// Work that was posted: the end of the work itself, and the ends of all that follows from it.
struct PostedWork {
  Completion work;
  std::vector<Completion> ends;
  Completion last_operand;  ///< When the last of the operands is as the work leaves it, on its tier.
};

/// Whose processors do a piece of work. The device's address host memory too, the host's not always the device's.
enum class Site : std::uint8_t { device, host };

/// Posts work on operands. Where all of them are addressable, it is one item on its lane. Otherwise those that are not
/// get a slot of the ring: reads are posted before the work, writes after it; while one piece of work runs, the next
/// one's reads and the last one's writes go on. For work on the host, memory of a device of its own is such a tier.
template <DeviceLanes Lanes>
class Staging {
 public:
  using stream_type = typename Lanes::stream_type;

  Staging(Lanes& lanes, Allocation memory) : lanes_{&lanes}, memory_{std::move(memory)} {}

  std::size_t capacity() const noexcept { return memory_.bytes(); }

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

  /// How much of an operand on `tier` one piece of work may take, so that several pieces are under way at once.
  std::size_t piece_bytes(TierRef tier) const {
    if (tier.addressable() != Addressable::nowhere) return std::numeric_limits<std::size_t>::max();
    return std::max(Arena::alignment, capacity() / 8 / Arena::alignment * Arena::alignment);
  }

  /// Posts work for the device.
  /// @param after What the work itself waits for, besides its operands.
  /// @param work Called as `work(stream, pointers)` with the memory of each operand; enqueues on the stream.
  template <class Work>
  PostedWork run(Lane lane, const Operation& operation, std::span<const Operand> operands,
                 std::vector<Completion> after, Work work) {
    return bring(Site::device, operation, operands, std::move(after),
                 [&](std::vector<std::byte*> pointers, std::vector<Completion> ready) {
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
    return bring(Site::host, operation, operands, std::move(after),
                 [&](std::vector<std::byte*> pointers, std::vector<Completion> ready) {
                   return lanes_->post_host(lane, std::move(ready), operation,
                                            [pointers, work = std::move(work)]() -> Completion {
                                              work(std::span{pointers});
                                              return {};
                                            });
                 });
  }

 private:
  /// @param post Called as `post(pointers, after)`; returns the end of the work.
  template <class Post>
  PostedWork bring(Site site, const Operation& operation, std::span<const Operand> operands,
                   std::vector<Completion> after, Post post) {
    std::size_t slots = 0;
    for (const Operand& o : operands) slots += slot_bytes(o.tier, o.bytes, site);
    auto [slot, slot_free] = take(slots, operation.name);

    std::vector<std::byte*> pointers(operands.size());
    std::size_t next = slot;
    for (std::size_t i = 0; i < operands.size(); ++i) {
      const Operand& o = operands[i];
      if (passes(o.tier, site)) {
        pointers[i] = memory_.data() + next;
        next += slot_bytes(o.tier, o.bytes, site);
        if (o.access != Operand::Access::write) after.push_back(post_read(operation.name, o, pointers[i], slot_free));
      } else {
        pointers[i] = o.tier.view(o.extent) + o.offset;
        after.insert(after.end(), o.ready.begin(), o.ready.end());
      }
    }
    after.insert(after.end(), slot_free.begin(), slot_free.end());

    PostedWork posted;
    posted.work = post(pointers, std::move(after));
    posted.last_operand = posted.work;
    for (std::size_t i = 0; i < operands.size(); ++i) {
      const Operand& o = operands[i];
      if (passes(o.tier, site) && o.access != Operand::Access::read) {
        posted.ends.push_back(post_write(operation.name, o, pointers[i], posted.work));
        if (i + 1 == operands.size()) posted.last_operand = posted.ends.back();
      }
    }
    if (posted.ends.empty()) posted.ends.push_back(posted.work);
    if (slots > 0) {
      for (const Completion& end : posted.ends) former_.record(slot, slots, end);
    }
    return posted;
  }

  std::pair<std::size_t, std::vector<Completion>> take(std::size_t bytes, std::string_view what) {
    if (bytes == 0) return {};
    if (bytes > capacity()) {
      throw_budget_error("staging " + std::string{what}, Bytes{bytes}, Bytes{capacity()}, "raise the host budget");
    }
    if (cursor_ + bytes > capacity()) cursor_ = 0;
    const std::size_t slot = std::exchange(cursor_, cursor_ + bytes);
    return {slot, former_.overwrite(slot, bytes)};
  }

  Completion post_read(std::string_view name, const Operand& o, std::byte* data, std::vector<Completion> after) {
    after.insert(after.end(), o.ready.begin(), o.ready.end());
    if (o.tier.addressable() == Addressable::on_device) {
      return post_copy(Lane::read, name, data, o.tier.view(o.extent) + o.offset, o.bytes, std::move(after));
    }
    const std::size_t bytes = round_up(o.bytes, o.tier.alignment());
    return lanes_->post_host(Lane::read, std::move(after), {OperationKind::read, name, bytes, o.tier.identity()},
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

  Lanes* lanes_;
  Allocation memory_;
  std::size_t cursor_ = 0;
  FormerUses former_;
};

}  // namespace zerospan::inline v0::detail
