/// @file
/// CheckpointTransfers: the way of a checkpoint from device memory to its tier, and back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/activation/detail/checkpoint.hpp>
#include <zerospan/activation/detail/tier_space.hpp>
#include <zerospan/activation/options.hpp>
#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/pipeline/detail/former_uses.hpp>
#include <zerospan/pipeline/detail/staging.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

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
    return host_memory.allocate(Bytes{bytes}, "staging " + options.name);
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
