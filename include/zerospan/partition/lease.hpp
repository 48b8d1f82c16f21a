/// @file
/// Leases: the only way into a partitioned tensor.
///
/// The lifetime contract. A lease's tensor points at the store's memory from the moment the lease is made until it is
/// released or destroyed; then the memory is dealt out again. Nothing taken from the tensor may be used on the host
/// after that, and no lease may be held over a step:
/// @code
/// float* data = weight.gather(stream)->data;     // wrong: the lease ends with the expression, data dangles
/// const auto full = weight.gather(stream);       // right: the tensor is whole while `full` is in scope
/// use(full->data);
///
/// use(*weight.gather(stream));                   // right: the lease lasts as long as the call
///
/// auto gradient = weight.gradient(stream);
/// engine.step();                                 // wrong: throws LeaseError, a lease is held
/// gradient.commit();                             // right: it ends the lease (so does `discard()`), and
/// engine.step();                                 // the step may follow
///
/// { auto forgotten = weight.gradient(stream); }  // wrong: neither committed nor discarded,
/// engine.step();                                 // which the next step refuses
/// @endcode
/// What is enqueued on the lease's stream before the lease ends may still use the memory.
///
/// Communicators, devices and tiers outlive the engine:
/// @code
/// Placement gone{HostTier{device}, host, host};  // wrong, and refused by the compiler: a tier that ends at once
/// HostTier host{device};                         // right: declared before the engine, destroyed after it
/// ZeroEngine engine{Stage3{}, ranks, device, Placement{host, host, host}, AdamW{}};
/// @endcode
/// Parameters and leases may outlive it: they keep its memory alive, releasing them does nothing, and every other call
/// on them throws LeaseError.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/tensor_traits.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/partition/parameter_store.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// A slot of a store that is released exactly once. It keeps the store alive.
class Lease {
 public:
  Lease(std::shared_ptr<ParameterStore> store, LeaseId id) noexcept : store_{std::move(store)}, id_{id} {}
  Lease(Lease&&) noexcept = default;
  Lease& operator=(Lease&& other) noexcept {
    if (this != &other) {
      release();
      store_ = std::move(other.store_);
      id_ = other.id_;
    }
    return *this;
  }
  ~Lease() { release(); }

  void release() noexcept {
    if (const auto store = std::exchange(store_, nullptr)) store->release(id_);
  }

  /// The store, for an operation that the lease must still be held for.
  ParameterStore& held() const {
    if (!store_) throw_lease_error("the lease was released already");
    return *store_;
  }

  /// Lets go of a slot that the store has ended.
  void forget() noexcept { store_ = nullptr; }

  LeaseId id() const noexcept { return id_; }
  bool active() const noexcept { return store_ != nullptr; }

 private:
  std::shared_ptr<ParameterStore> store_;
  LeaseId id_;
};

/// What all leases have in common: a host tensor bound to the store's memory while the lease is held.
template <HostTensor T>
class BoundLease {
 public:
  BoundLease(Lease lease, const Shape& shape, ElementType type, std::byte* data)
      : lease_{std::move(lease)}, tensor_{TensorBinding<T>::unbound(shape, type)}, data_{data} {
    TensorBinding<T>::bind(tensor_, data_);
  }
  BoundLease(const BoundLease&) = delete;  // zerospan: a lease is held once: move it
  BoundLease& operator=(const BoundLease&) = delete;
  BoundLease(BoundLease&&) = default;
  BoundLease& operator=(BoundLease&& other) noexcept {
    if (this != &other) {
      release();
      lease_ = std::move(other.lease_);
      replace(tensor_, std::move(other.tensor_));
      data_ = other.data_;
    }
    return *this;
  }
  ~BoundLease() { release(); }

  /// Ends the lease now, on the stream that it was taken on; the tensor is unbound. Leases end in any order.
  void release() noexcept {
    if (!lease_.active()) return;
    TensorBinding<T>::bind(tensor_, nullptr);
    lease_.release();
  }

 protected:
  /// Assigning a view may copy elements (Eigen's does): it is constructed anew.
  template <class View>
  static void replace(View& view, View&& by) noexcept {
    std::destroy_at(&view);
    std::construct_at(&view, std::move(by));
  }

  /// @throws LeaseError if the tensor no longer points at the lease's memory: what the host wrote went elsewhere.
  void check_bound() const {
    static_cast<void>(lease_.held());
    if (TensorBinding<T>::data(tensor_) != data_) {
      throw_lease_error("the leased tensor was bound to other storage; what it holds now is not the lease's");
    }
  }

  /// The store has ended the lease: nothing is left to release.
  void ended() noexcept {
    TensorBinding<T>::bind(tensor_, nullptr);
    lease_.forget();
  }

  Lease lease_;
  T tensor_;
  std::byte* data_;
};

}  // namespace detail

/// The whole tensor, for reading. It may be used on the stream that the lease was taken on.
///
/// It lends what `TensorTraits<T>::constant(tensor)` makes of the tensor, where the trait has that function, and a
/// `const T&` otherwise. Constness may be shallow then: where a constant tensor still yields elements that can be
/// changed, nothing keeps the host from writing to them. What it writes reaches the parameter's other leases, is lost
/// when the buffer is dealt out again, and on a parameter that stays gathered makes this rank differ from the others
/// for good.
template <HostTensor T>
class [[nodiscard]] ReadLease : public detail::BoundLease<T> {
 public:
  using detail::BoundLease<T>::BoundLease;

  const T& operator*() const noexcept { return this->tensor_; }
  const T* operator->() const noexcept { return &this->tensor_; }
};

template <ReadOnlyTensor T>
class [[nodiscard]] ReadLease<T> : public detail::BoundLease<T> {
  using Base = detail::BoundLease<T>;

 public:
  ReadLease(detail::Lease lease, const Shape& shape, ElementType type, std::byte* data)
      : Base{std::move(lease), shape, type, data}, view_{TensorTraits<T>::constant(this->tensor_)} {}
  ReadLease(ReadLease&&) = default;
  ReadLease& operator=(ReadLease&& other) noexcept {
    Base::operator=(std::move(other));
    if (this != &other) Base::replace(view_, std::move(other.view_));
    return *this;
  }
  ~ReadLease() = default;

  const constant_tensor<T>& operator*() const noexcept { return view_; }
  const constant_tensor<T>* operator->() const noexcept { return &view_; }

  void release() noexcept {
    if (!this->lease_.active()) return;
    Base::release();
    Base::replace(view_, TensorTraits<T>::constant(this->tensor_));
  }

 private:
  constant_tensor<T> view_;
};

/// The whole tensor, for changing it outside of a step.
template <HostTensor T>
class [[nodiscard]] WriteLease : public detail::BoundLease<T> {
 public:
  using detail::BoundLease<T>::BoundLease;

  T& operator*() noexcept { return this->tensor_; }
  T* operator->() noexcept { return &this->tensor_; }

  /// Publishes what rank `source` wrote, on every rank (a collective), and ends the lease. Where it throws, the lease
  /// is still held.
  void commit(Rank source = {}) {
    this->check_bound();
    this->lease_.held().publish(this->lease_.id(), source);
    this->ended();
  }
};

/// The whole gradient of one micro-batch, for writing. It ends with `commit()` or `discard()`; one that is destroyed
/// without either was forgotten, and the next step refuses.
template <HostTensor T>
class [[nodiscard]] GradientLease : public detail::BoundLease<T> {
 public:
  using detail::BoundLease<T>::BoundLease;

  T& operator*() noexcept { return this->tensor_; }
  T* operator->() noexcept { return &this->tensor_; }

  /// Hands the gradient over to be reduced over ranks, accumulated and offloaded, and ends the lease. Where it throws,
  /// the lease is still held.
  /// @note Asynchronous: an error in doing so is thrown by a later call on the engine.
  void commit() {
    this->check_bound();
    this->lease_.held().commit(this->lease_.id());
    this->ended();
  }

  /// Ends the lease of a gradient that is not wanted: to the step it is as if it had not been leased.
  void discard() {
    this->lease_.held().discard(this->lease_.id());
    this->ended();
  }

  void release() = delete;  // zerospan: a gradient lease ends with commit() or discard()
};

}  // namespace zerospan::inline v0
