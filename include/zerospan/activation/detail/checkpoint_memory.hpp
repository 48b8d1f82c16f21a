/// @file
/// The memory of a stack of checkpoints, taken once, and the way of a checkpoint between device memory and its tier.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/activation/detail/checkpoint_stack.hpp>
#include <zerospan/activation/options.hpp>
#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/pipeline/detail/former_uses.hpp>
#include <zerospan/pipeline/detail/staging.hpp>
#include <zerospan/pipeline/detail/working_memory.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

/// The tier outlives it.
class TierSpace {
 public:
  /// @throws BudgetError, or IoError when the disk is full; nothing is taken then.
  TierSpace(TierRef tier, Bytes bytes, std::string_view what) : tier_{tier} {
    tier.reserve(bytes, what);
    try {
      extent_ = tier.place(bytes.count);
    } catch (...) {
      tier.cancel(bytes);
      throw;
    }
  }
  TierSpace(const TierSpace&) = delete;
  TierSpace& operator=(const TierSpace&) = delete;
  ~TierSpace() { give_back(); }

  TierRef tier() const noexcept { return tier_; }
  const Extent& extent() const noexcept { return extent_; }

  void give_back() noexcept {
    const Extent extent = std::exchange(extent_, {});
    if (extent.bytes > 0) tier_.remove(extent);
  }

  /// Leaves the extent taken: something may still use it.
  void forfeit() noexcept { extent_ = {}; }

 private:
  TierRef tier_;
  Extent extent_;
};

/// Where the tier is device memory, checkpoints rest in its extent and never move.
class CheckpointMemory {
 public:
  template <Device D>
  CheckpointMemory(D& device, TierRef tier, const ActivationOptions& options)
      : space_{tier, options.bytes, options.name},
        owned_{in_place() ? Allocation{} : device.memory().allocate(options.device_bytes, options.name)},
        arena_{options.name, storage(), in_place() ? options.bytes : options.device_bytes},
        working_{arena_.allocate_working(arena_.capacity())} {}

  bool in_place() const { return space_.tier().addressable() == Addressable::on_device; }

  /// The device memory, dealt out.
  WorkingMemory& working() noexcept { return working_; }
  const WorkingMemory& working() const noexcept { return working_; }

  /// The most of it that was in use at once.
  Bytes peak() const noexcept { return arena_.peak(); }

  /// The tier's space; empty once it has been given back.
  const TierSpace& space() const noexcept { return space_; }

  /// Nothing is moved any more; leases may still use the device memory.
  void close() noexcept {
    if (!in_place()) space_.give_back();
  }

  /// Leaves everything taken: a transfer that was given up may still touch it.
  void forfeit() noexcept {
    owned_.forfeit();
    space_.forfeit();
  }

 private:
  std::shared_ptr<std::byte> storage() const {
    return {std::shared_ptr<void>{}, in_place() ? space_.tier().view(space_.extent()) : owned_.data()};
  }

  TierSpace space_;
  Allocation owned_;
  Arena arena_;  ///< Of its own, within what was taken: it counts what is in use.
  WorkingMemory working_;
};

/// Posts copies, in pieces where they pass through the staging memory, so that the copy of one piece and the transfer
/// of the next go on at once.
template <DeviceLanes Lanes>
class CheckpointTransfers {
 public:
  /// @param host_memory Where the staging memory comes from. @param options Outlive it.
  CheckpointTransfers(Lanes& lanes, Arena& host_memory, const TierSpace& space, const ActivationOptions& options)
      : staging_{lanes, staging(host_memory, space.tier(), options)}, space_{space}, name_{options.name} {}

  /// Posts the transfer of what is at `data` to the checkpoint's place on the tier.
  void save(Checkpoint& checkpoint, const std::byte* data) {
    const std::vector<Completion> place_free = former_.overwrite(checkpoint.place, checkpoint.bytes());
    in_pieces(checkpoint.bytes(), [&](std::size_t begin, std::size_t bytes) {
      const Operand target = operand(checkpoint, begin, bytes, Operand::Access::write, place_free);
      PostedWork posted = run(target, checkpoint.ready, [from = data + begin, bytes](auto& stream, std::byte* to) {
        copy_bytes(stream, to, from, bytes);
      });
      checkpoint.copied = std::move(posted.work);  // copies end in order
      std::ranges::move(posted.ends, std::back_inserter(checkpoint.transfers));
    });
  }

  /// Posts the transfer of the checkpoint to `data`. @param after What the first write there waits for.
  void fetch(Checkpoint& checkpoint, std::byte* data, const std::vector<Completion>& after) {
    Completion copied;
    in_pieces(checkpoint.bytes(), [&](std::size_t begin, std::size_t bytes) {
      const Operand source = operand(checkpoint, begin, bytes, Operand::Access::read, checkpoint.transfers);
      copied = run(source, after, [to = data + begin, bytes](auto& stream, const std::byte* from) {
                 copy_bytes(stream, to, from, bytes);
               }).work;
    });
    checkpoint.ready = {copied};
    checkpoint.copied = {};
    checkpoint.transfers.push_back(std::move(copied));
  }

  /// The checkpoint's place on the tier is free, once its transfers have ended.
  void vacate(const Checkpoint& checkpoint) {
    for (const Completion& end : checkpoint.transfers) former_.record(checkpoint.place, checkpoint.bytes(), end);
  }

  void forfeit() noexcept { staging_.forfeit(); }

 private:
  static Allocation staging(Arena& host_memory, TierRef tier, const ActivationOptions& options) {
    if (tier.addressable() != Addressable::nowhere) return {};
    if (tier.alignment() > Arena::alignment) {
      throw_configuration_error(std::string{tier.name()} + " wants transfers aligned to " +
                                std::to_string(tier.alignment()) + " bytes; at most 4096 are supported");
    }
    const std::size_t bytes = options.staging.count / Arena::alignment * Arena::alignment;
    if (bytes == 0) {
      throw_configuration_error("transfers to " + std::string{tier.name()} + " need 4096 bytes of staging memory");
    }
    return host_memory.allocate({bytes}, "staging " + options.name);
  }

  template <class Piece>
  void in_pieces(std::size_t all, Piece piece) {
    const std::size_t most = staging_.piece_bytes(space_.tier());
    for (std::size_t done = 0; done < all;) {
      const std::size_t bytes = std::min(most, all - done);
      piece(done, bytes);
      done += bytes;
    }
  }

  Operand operand(const Checkpoint& checkpoint, std::size_t begin, std::size_t bytes, Operand::Access access,
                  const std::vector<Completion>& ready) const {
    return {space_.tier(), space_.extent(), checkpoint.place + begin, bytes, access, ready};
  }

  template <class Copy>
  PostedWork run(const Operand& operand, const std::vector<Completion>& after, Copy copy) {
    return staging_.run(Lane::copy, {OperationKind::copy, name_, operand.bytes}, {&operand, 1}, after,
                        [copy](auto& stream, std::span<std::byte* const> at) { copy(stream, at[0]); });
  }

  Staging<Lanes> staging_;
  const TierSpace& space_;
  std::string_view name_;
  FormerUses former_;  ///< Of the tier's space.
};

}  // namespace zerospan::inline v0::detail
