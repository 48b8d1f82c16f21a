/// @file
/// CheckpointStore: the one abstract class that leases of checkpoints see.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include <zerospan/activation/options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/stream.hpp>

namespace zerospan::inline v0::detail {

/// What a lease of a checkpoint holds. Never used twice.
enum class CheckpointId : std::uint64_t {};

/// A checkpoint whose device memory is leased.
struct LeasedCheckpoint {
  CheckpointId id;
  Shape shape;
  ElementType type;
  std::byte* data;
};

/// A stack of tensors at rest. One thread at a time, whichever.
class CheckpointStore {
 public:
  CheckpointStore() = default;
  CheckpointStore(const CheckpointStore&) = delete;
  CheckpointStore& operator=(const CheckpointStore&) = delete;
  virtual ~CheckpointStore() = default;

  /// Leases device memory for a checkpoint to be. Its content is undefined.
  virtual LeasedCheckpoint push(StreamRef stream, const Shape& shape, ElementType type) = 0;

  /// Puts what was written on top of the stack, and ends the lease.
  virtual void commit(CheckpointId id) = 0;

  /// Takes the top off the stack and leases it. @param type Its element type; nothing: any.
  virtual LeasedCheckpoint pop(StreamRef stream, std::optional<ElementType> type) = 0;

  /// Ends a lease, if it is held. What is enqueued on its stream may still use the memory.
  virtual void release(CheckpointId id) noexcept = 0;

  /// Ends a lease by its destructor: what was pushed and neither committed nor released makes the stack unusable.
  virtual void drop(CheckpointId id) noexcept = 0;

  /// Takes everything off the stack.
  virtual void clear() = 0;

  virtual std::size_t size() const noexcept = 0;
  virtual ActivationCounters counters() const = 0;

  /// Ends the store: leases are inert from here on.
  virtual void close() noexcept = 0;
};

}  // namespace zerospan::inline v0::detail
