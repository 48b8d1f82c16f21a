/// @file
/// ActivationCheckpoints: what the forward pass leaves for the backward pass, on any tier.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>

#include <zerospan/activation/checkpoint_lease.hpp>
#include <zerospan/activation/detail/checkpoint_store.hpp>
#include <zerospan/activation/detail/device_checkpoints.hpp>
#include <zerospan/activation/options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/tensor_traits.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

/// A stack of tensors: pushed in the forward pass, popped in reverse in the backward pass, and in between at rest on a
/// tier as far as device memory does not hold them (ZeRO-Infinity, arXiv 2104.07857, sections 5.1.2 and 6.2). What is
/// recomputed between checkpoints is the host's business.
/// @code
/// ActivationCheckpoints checkpoints{device, nvme, {.bytes = 64_GiB, .device_bytes = 1_GiB}};
/// auto saved = checkpoints.push<my::Tensor>(stream, {tokens, width});  // forward: write it all, then commit
/// my::block(x, *saved);
/// saved.commit();
/// ...
/// auto x = checkpoints.pop<my::Tensor>(stream);                        // backward, in reverse
/// @endcode
///
/// What is promised:
/// - What was pushed last stays in device memory, because it is popped first. A checkpoint leaves only when a further
///   push needs its memory, the oldest first, and as few as possible; a stack that fits is never moved, and what
///   overflows is moved there and back once. On a tier that is device memory nothing is ever moved.
/// - A push waits, on its stream, until what leaves for it was copied out of device memory (not until it is on the
///   tier). From the second pass on, what had to leave in the last pass is copied out as soon as it is committed, so
///   that its memory is free when it is needed; if this pass turns out smaller, such a write was in vain. A pass ends
///   when nothing is on the stack and nothing is leased.
/// - A pop waits only if its checkpoint is late. Each time that memory becomes free, the topmost of those that left
///   come back to where they were, as far as there is room.
/// - Equal passes get equal addresses, and nothing is decided by time.
///
/// Pushes and pops may alternate: it is one stack, whoever uses it. Several leases may be held at once; those of pushes
/// may be committed in any order, which is then the order of the stack.
///
/// Budgets. Space on the tier, device memory and staging memory are taken by the constructor. A push that does not fit
/// is refused before anything has changed. An engine takes what device memory is left at its first gather: make the
/// checkpoints before it.
///
/// Lifetimes are those of zerospan/partition/lease.hpp; device and tier outlive the checkpoints and their leases. A
/// lease that outlives the checkpoints keeps its memory; releasing it does nothing, committing it throws LeaseError.
/// One thread at a time, any one. The first error of a transfer is kept: every later call throws it.
class ActivationCheckpoints {
 public:
  /// @throws BudgetError if tier, device or host memory cannot hold what the options ask for (IoError if the disk is
  /// full); ConfigurationError if they contradict each other.
  template <Device D>
  ActivationCheckpoints(D& device, TierRef tier, const ActivationOptions& options)
      : store_{std::make_shared<detail::DeviceCheckpoints<D>>(device, tier, options)} {}
  ActivationCheckpoints(const ActivationCheckpoints&) = delete;
  ActivationCheckpoints& operator=(const ActivationCheckpoints&) = delete;
  ~ActivationCheckpoints() { store_->close(); }

  /// Device memory for a checkpoint, to be written on `stream`; nothing is on the stack before its `commit()`.
  /// @throws BudgetError if there is no room beside the leases held, or none on the tier for what would have to leave;
  /// LeaseError if one was dropped before.
  template <TypedTensor T>
  [[nodiscard]] PushLease<T> push(StreamRef stream, const Shape& shape) {
    const detail::LeasedCheckpoint leased = store_->push(stream, shape, detail::element_type_of<T>);
    return {detail::CheckpointHold{store_, leased.id}, leased};
  }

  /// The same, for tensors whose element type is known at run time.
  template <RuntimeTypedTensor T>
  [[nodiscard]] PushLease<T> push(StreamRef stream, const Shape& shape, ElementType type) {
    const detail::LeasedCheckpoint leased = store_->push(stream, shape, type);
    return {detail::CheckpointHold{store_, leased.id}, leased};
  }

  /// The checkpoint that was committed last, in the shape that it was pushed with, for reading on `stream`.
  /// @throws LeaseError if there is none, if its elements are of another type, or if one was dropped before;
  /// BudgetError if it was moved and the leases held leave no room for it. The stack is as before then.
  template <HostTensor T>
  [[nodiscard]] PopLease<T> pop(StreamRef stream) {
    std::optional<ElementType> type;
    if constexpr (TypedTensor<T>) type = detail::element_type_of<T>;
    const detail::LeasedCheckpoint leased = store_->pop(stream, type);
    return {detail::CheckpointHold{store_, leased.id}, leased};
  }

  /// Takes everything off the stack: after a forward pass without a backward one, or one that failed. Leases held are
  /// not on the stack, and stay.
  void clear() { store_->clear(); }

  /// How many are on the stack.
  std::size_t size() const noexcept { return store_->size(); }

  ActivationCounters counters() const { return store_->counters(); }

 private:
  std::shared_ptr<detail::CheckpointStore> store_;
};

}  // namespace zerospan::inline v0
