/// @file
/// CheckpointMemory: the device memory and the tier's space of a stack of checkpoints, taken once.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include <zerospan/activation/detail/tier_space.hpp>
#include <zerospan/activation/options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/pipeline/detail/working_memory.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

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

}  // namespace zerospan::inline v0::detail
