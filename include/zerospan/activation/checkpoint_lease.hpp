/// @file
/// Leases of checkpoints: a tensor of the host bound to device memory, to be written in forward or read in backward.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include <zerospan/activation/detail/checkpoint_store.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/tensor_traits.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// A leased checkpoint that ends exactly once. It keeps the store's memory alive.
class CheckpointHold {
 public:
  CheckpointHold(std::shared_ptr<detail::CheckpointStore> store, detail::CheckpointId id) noexcept
      : store_{std::move(store)}, id_{id} {}
  CheckpointHold(CheckpointHold&&) noexcept = default;
  CheckpointHold& operator=(CheckpointHold&& other) noexcept {
    if (this != &other) {
      drop();
      store_ = std::move(other.store_);
      id_ = other.id_;
    }
    return *this;
  }
  ~CheckpointHold() { drop(); }

  void release() noexcept {
    if (const auto store = std::exchange(store_, nullptr)) store->release(id_);
  }
  void commit() {
    if (!store_) throw_lease_error("the checkpoint's lease has ended already");
    store_->commit(id_);
    store_ = nullptr;
  }
  bool active() const noexcept { return store_ != nullptr; }

 private:
  void drop() noexcept {
    if (const auto store = std::exchange(store_, nullptr)) store->drop(id_);
  }

  std::shared_ptr<detail::CheckpointStore> store_;
  detail::CheckpointId id_;
};

/// The one place where a host tensor meets a checkpoint: its element type, its shape and its storage.
template <HostTensor T>
class BoundCheckpoint {
 public:
  BoundCheckpoint(CheckpointHold hold, const detail::LeasedCheckpoint& leased)
      : hold_{std::move(hold)}, tensor_{TensorBinding<T>::unbound(leased.shape, leased.type)}, data_{leased.data} {
    TensorBinding<T>::bind(tensor_, data_);
  }
  BoundCheckpoint(BoundCheckpoint&&) = default;
  BoundCheckpoint& operator=(BoundCheckpoint&&) = default;
  ~BoundCheckpoint() {
    if (hold_.active()) TensorBinding<T>::bind(tensor_, nullptr);
  }

  /// Ends the lease now, on the stream that it was taken on; the tensor is unbound. Leases end in any order.
  void release() noexcept {
    if (!hold_.active()) return;
    TensorBinding<T>::bind(tensor_, nullptr);
    hold_.release();
  }

 protected:
  void commit_bound() {
    if (hold_.active() && TensorBinding<T>::data(tensor_) != data_) {
      throw_lease_error("the leased checkpoint was bound to other storage; what it holds now is not the lease's");
    }
    hold_.commit();
    TensorBinding<T>::bind(tensor_, nullptr);
  }

  CheckpointHold hold_;
  T tensor_;
  std::byte* data_;
};

}  // namespace detail

/// Device memory for a checkpoint; uninitialized: write it all, then `commit()`. `release()` gives it up on purpose;
/// destroyed with neither, it makes the stack unusable until `clear()`, because what is popped next would be another.
template <HostTensor T>
class [[nodiscard]] PushLease : public detail::BoundCheckpoint<T> {
 public:
  using detail::BoundCheckpoint<T>::BoundCheckpoint;

  T& operator*() noexcept { return this->tensor_; }
  T* operator->() noexcept { return &this->tensor_; }

  /// Puts the checkpoint on top of the stack, and ends the lease. The order of commits is the order of the stack.
  /// @note Asynchronous: an error in moving it is thrown by a later call.
  void commit() { this->commit_bound(); }
};

/// A checkpoint that was taken off the stack, for reading. It may be used on the stream that it was popped on.
template <HostTensor T>
class [[nodiscard]] PopLease : public detail::BoundCheckpoint<T> {
 public:
  using detail::BoundCheckpoint<T>::BoundCheckpoint;

  const T& operator*() const noexcept { return this->tensor_; }
  const T* operator->() const noexcept { return &this->tensor_; }
};

}  // namespace zerospan::inline v0
