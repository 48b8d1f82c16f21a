/// @file
/// PartitionedParameter: a tensor of the model, born partitioned, entered through leases.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/tensor_traits.hpp>
#include <zerospan/partition/lease.hpp>
#include <zerospan/partition/parameter_store.hpp>

namespace zerospan::inline v0 {

/// Something that parameters can be declared in: an engine.
template <class E>
concept ParameterHost = requires(E& engine) {
  { engine.store() } -> std::same_as<std::shared_ptr<ParameterStore>>;
};

template <class T>
class PartitionedParameter;

namespace detail {
struct GroupGather;
}

/// Gathers several parameters of one engine at once, as one group of collectives.
/// @throws BudgetError if they do not fit together beside the leases held; LeaseError if their engines differ.
template <HostTensor... Ts>
[[nodiscard]] std::tuple<ReadLease<Ts>...> gather(StreamRef stream, const PartitionedParameter<Ts>&... parameters);

/// A parameter of the model, of the host's tensor type. Its elements are partitioned over the ranks and rest on the
/// engine's tiers (ZeRO, arXiv 1910.02054, section 5.3); only leases make it whole.
///
/// A parameter may outlive its engine; every call on it then throws LeaseError.
/// @see zerospan/partition/lease.hpp for the lifetime contract.
template <class T>
class PartitionedParameter {
  static_assert(detail::check_adaptation<T>());

 public:
  using tensor_type = T;

  /// Declares the parameter; a collective: every rank declares the same ones in the same order, before the first
  /// gather.
  /// @param name Unique in the engine.
  /// @throws BudgetError if it can never fit, IoError if its tier has no space, ConfigurationError if the name is
  /// taken or declaration has ended.
  template <ParameterHost E>
    requires TypedTensor<T>
  PartitionedParameter(E& engine, std::string name, Shape shape, Initializer initializer, ParameterOptions options = {})
      : PartitionedParameter{engine.store(),         std::move(name), std::move(shape), detail::element_type_of<T>,
                             std::move(initializer), options} {}

  /// The same, for tensors whose element type is known at run time.
  template <ParameterHost E>
    requires RuntimeTypedTensor<T>
  PartitionedParameter(E& engine, std::string name, Shape shape, ElementType type, Initializer initializer,
                       ParameterOptions options = {})
      : PartitionedParameter{engine.store(), std::move(name), std::move(shape), type, std::move(initializer), options} {
  }

  template <ParameterHost E>
    requires RuntimeTypedTensor<T>
  PartitionedParameter(E&, std::string, Shape, Initializer,  // zerospan: pass an ElementType after the Shape
                       ParameterOptions = {}) = delete;

  /// A further use of the same values elsewhere in the model (a tied head). Its gradient accumulates apart; both are
  /// added, in declaration order, at the step. @throws as the constructor.
  PartitionedParameter tie(std::string name) const {
    return PartitionedParameter{store_, shape_, type_, store_->tie(id_, std::move(name))};
  }

  const Shape& shape() const noexcept { return shape_; }
  ElementType element_type() const noexcept { return type_; }

  /// The whole tensor, to read. Waits for its prefetch, or fetches it now.
  /// @throws BudgetError if it does not fit beside the leases held.
  [[nodiscard]] ReadLease<T> gather(StreamRef stream) const { return std::get<0>(zerospan::gather(stream, *this)); }

  /// The whole tensor, to change outside of a step (loading, surgery). Nothing is kept without `commit()`.
  [[nodiscard]] WriteLease<T> write(StreamRef stream) const {
    std::byte* data = nullptr;
    const LeaseId lease = store_->gather_for_write(stream, id_, WriteContent::current, data);
    return WriteLease<T>{detail::Lease{store_, lease}, shape_, type_, data};
  }

  /// Memory for this micro-batch's whole gradient, uninitialized: write it all, then `commit()`.
  [[nodiscard]] GradientLease<T> gradient(StreamRef stream) const {
    std::byte* data = nullptr;
    LeaseId lease{};
    store_->gradients(stream, {&id_, 1}, GradientContent::undefined, {&data, 1}, {&lease, 1});
    return GradientLease<T>{detail::Lease{store_, lease}, shape_, type_, data};
  }

  /// Says that this rank has no gradient in this micro-batch while others have: it joins their reduction with zeros.
  /// It stands exactly where the others lease and commit theirs: every rank leases and releases in the same order,
  /// since what is fetched ahead follows from it.
  void skip() const { store_->skip(id_); }

 private:
  friend struct detail::GroupGather;

  PartitionedParameter(std::shared_ptr<ParameterStore> store, std::string name, Shape shape, ElementType type,
                       Initializer initializer, ParameterOptions options)
      : store_{std::move(store)},
        shape_{std::move(shape)},
        type_{type},
        id_{store_->declare({std::move(name), shape_, type, std::move(initializer), options})} {}

  PartitionedParameter(std::shared_ptr<ParameterStore> store, Shape shape, ElementType type, ParameterId id)
      : store_{std::move(store)}, shape_{std::move(shape)}, type_{type}, id_{id} {}

  std::shared_ptr<ParameterStore> store_;
  Shape shape_;
  ElementType type_;
  ParameterId id_;
};

namespace detail {

struct GroupGather {
  template <HostTensor... Ts>
  static std::tuple<ReadLease<Ts>...> gather(StreamRef stream, const PartitionedParameter<Ts>&... parameters) {
    const std::array<ParameterStore*, sizeof...(Ts)> stores{parameters.store_.get()...};
    for (const ParameterStore* store : stores) {
      if (store != stores[0]) throw_lease_error("parameters of different engines cannot be gathered as one group");
    }
    const std::array<ParameterId, sizeof...(Ts)> ids{parameters.id_...};
    std::array<std::byte*, sizeof...(Ts)> data{};
    std::array<LeaseId, sizeof...(Ts)> leases{};
    stores[0]->gather(stream, ids, data, leases);
    return bind(std::index_sequence_for<Ts...>{}, data, leases, parameters...);
  }

 private:
  template <std::size_t... I, HostTensor... Ts>
  static std::tuple<ReadLease<Ts>...> bind(std::index_sequence<I...>, std::span<std::byte* const> data,
                                           std::span<const LeaseId> leases,
                                           const PartitionedParameter<Ts>&... parameters) {
    std::array<Lease, sizeof...(Ts)> held{Lease{parameters.store_, leases[I]}...};  // whatever a trait throws below
    return {ReadLease<Ts>{std::move(held[I]), parameters.shape_, parameters.type_, data[I]}...};
  }
};

}  // namespace detail

template <HostTensor... Ts>
std::tuple<ReadLease<Ts>...> gather(StreamRef stream, const PartitionedParameter<Ts>&... parameters) {
  static_assert(sizeof...(Ts) > 0, "gather takes at least one parameter");
  return detail::GroupGather::gather(stream, parameters...);
}

}  // namespace zerospan::inline v0
