/// @file
/// PartitionedParameter: a tensor of the model, born partitioned, entered through leases, alone or in groups.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

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

struct GroupLease;

/// The parameter that an element of a range is, refers to or points at.
template <class Element>
const auto& parameter_of(const Element& element) noexcept {
  if constexpr (requires { *element; }) {
    return *element;
  } else if constexpr (requires { element.get(); }) {
    return element.get();
  } else {
    return element;
  }
}

/// What an iterator yields stays where it is while the range is read: it is no temporary that owns its parameter.
template <class Reference>
concept Staying = std::is_lvalue_reference_v<Reference> || std::is_trivially_copyable_v<Reference>;

template <class R>
using parameter_in = std::remove_cvref_t<decltype(parameter_of(*std::begin(std::declval<R&>())))>;

}  // namespace detail

/// Parameters of one tensor type, to be leased as a group.
///
/// @concept
/// - `R` has `std::begin` and `std::end`: a span, a vector, a view;
/// - its elements are parameters, or pointers or references (`std::reference_wrapper`) to them.
template <class R>
concept ParameterRange = requires(R& range) {
  { std::begin(range) != std::end(range) } -> std::convertible_to<bool>;
  requires detail::Staying<decltype(*std::begin(range))>;
  typename detail::parameter_in<R>::tensor_type;
  requires std::derived_from<detail::parameter_in<R>,
                             PartitionedParameter<typename detail::parameter_in<R>::tensor_type>>;
};

/// Gathers several parameters of one engine at once, as one group of collectives.
/// @throws BudgetError if they do not fit together beside the leases held; LeaseError if their engines differ. Nothing
/// is leased then.
template <HostTensor... Ts>
[[nodiscard]] std::tuple<ReadLease<Ts>...> gather(StreamRef stream, const PartitionedParameter<Ts>&... parameters);

/// The same for a range of them. @return Their leases, in its order; none for an empty range.
template <ParameterRange R>
[[nodiscard]] auto gather(StreamRef stream, R&& parameters);

/// Memory for the whole gradients of several parameters, of one micro-batch.
/// @param content What is in it at first.
/// @throws BudgetError if they do not fit together beside the leases held; LeaseError if their engines differ, one is
/// frozen, its gradient leased or committed already. Nothing is leased then.
template <HostTensor... Ts>
[[nodiscard]] std::tuple<GradientLease<Ts>...> gradients(StreamRef stream, GradientContent content,
                                                         const PartitionedParameter<Ts>&... parameters);
template <HostTensor... Ts>
[[nodiscard]] std::tuple<GradientLease<Ts>...> gradients(StreamRef stream,
                                                         const PartitionedParameter<Ts>&... parameters);

/// The same for a range of them. @return Their leases, in its order; none for an empty range.
template <ParameterRange R>
[[nodiscard]] auto gradients(StreamRef stream, GradientContent content, R&& parameters);
template <ParameterRange R>
[[nodiscard]] auto gradients(StreamRef stream, R&& parameters);

/// A parameter of the model, of the host's tensor type. Its elements are partitioned over the ranks and rest on the
/// engine's tiers (ZeRO, arXiv 1910.02054, section 5.3); only leases make it whole.
///
/// A copy is the same parameter. It may outlive its engine; every call that needs the engine then throws LeaseError.
/// @see zerospan/partition/lease.hpp for the lifetime contract.
template <class T>
class PartitionedParameter {
  static_assert(detail::check_adaptation<T>());

 public:
  using tensor_type = T;

  /// None: to be assigned later. Until then every call but `declared()` throws LeaseError.
  PartitionedParameter() = default;

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

  template <ParameterHost E, std::integral Size, class... More>
  PartitionedParameter(E&, std::string, Size,  // zerospan: a shape is extents in braces: {100}, {rows, columns}
                       More&&...) = delete;

  template <ParameterHost E, class... More>
    requires(std::same_as<std::remove_cvref_t<More>, Training> || ...)
  PartitionedParameter(E&, std::string, Shape,  // zerospan: say ParameterOptions{.training = Training::frozen}
                       More&&...) = delete;

  /// A further use of the same values elsewhere in the model (a tied head). Its gradient accumulates apart; both are
  /// added, in declaration order, at the step. @throws as the constructor.
  PartitionedParameter tie(std::string name) const {
    const ParameterId id = store().tie(id_, name);
    return PartitionedParameter{store_, std::move(name), shape_, type_, id};
  }

  /// Whether it was declared in an engine: false for one that was default-constructed or moved from.
  bool declared() const noexcept { return store_ != nullptr; }

  const std::string& name() const { return check_declared().name_; }
  const Shape& shape() const { return check_declared().shape_; }
  ElementType element_type() const { return check_declared().type_; }

  /// The whole tensor, to read. Waits for its prefetch, or fetches it now.
  /// @throws BudgetError if it does not fit beside the leases held.
  [[nodiscard]] ReadLease<T> gather(StreamRef stream) const { return std::get<0>(zerospan::gather(stream, *this)); }

  /// The whole tensor, to change outside of a step (loading, surgery). Nothing is kept without `commit()`.
  /// @param content `undefined` reads nothing, neither from tiers nor from other ranks: write every element then.
  [[nodiscard]] WriteLease<T> write(StreamRef stream, WriteContent content = WriteContent::current) const {
    std::byte* data = nullptr;
    const LeaseId lease = store().gather_for_write(stream, id_, content, data);
    return WriteLease<T>{detail::Lease{store_, lease}, shape_, type_, data};
  }

  /// Memory for this micro-batch's whole gradient: write it all (or add to `zeros`), then `commit()`.
  [[nodiscard]] GradientLease<T> gradient(StreamRef stream,
                                          GradientContent content = GradientContent::undefined) const {
    return std::get<0>(gradients(stream, content, *this));
  }

  /// Says that this rank has no gradient in this micro-batch while others have: it joins their reduction with zeros.
  /// It stands exactly where the others lease and commit theirs: every rank leases and releases in the same order,
  /// since what is fetched ahead follows from it.
  void skip() const { store().skip(id_); }

  /// Whether it is updated, and has a gradient to commit: kernels that write every gradient ask it first.
  bool trains() const { return store().training(id_) == Training::trainable; }

  /// Between steps, on every rank alike: from now on it has no gradient and is not updated. Its optimizer states stay.
  /// @throws LeaseError while leases are held or gradients of this step were committed.
  void freeze() const { store().set_training(id_, Training::frozen); }

  /// Between steps, on every rank alike: it is updated again.
  /// @throws LeaseError as `freeze()`, and for a parameter that was declared frozen: it has no optimizer states.
  void unfreeze() const { store().set_training(id_, Training::trainable); }

 private:
  friend struct detail::GroupLease;

  PartitionedParameter(std::shared_ptr<ParameterStore> store, std::string name, Shape shape, ElementType type,
                       Initializer initializer, ParameterOptions options)
      : store_{std::move(store)},
        name_{std::move(name)},
        shape_{std::move(shape)},
        type_{type},
        id_{store_->declare({name_, shape_, type, std::move(initializer), options})} {}

  PartitionedParameter(std::shared_ptr<ParameterStore> store, std::string name, Shape shape, ElementType type,
                       ParameterId id)
      : store_{std::move(store)}, name_{std::move(name)}, shape_{std::move(shape)}, type_{type}, id_{id} {}

  const PartitionedParameter& check_declared() const {
    if (!store_) throw_lease_error("this parameter was never declared: it was default-constructed, or moved from");
    return *this;
  }
  ParameterStore& store() const { return *check_declared().store_; }

  std::shared_ptr<ParameterStore> store_;
  std::string name_;
  Shape shape_{};
  ElementType type_{};
  ParameterId id_{};
};

namespace detail {

/// Leases several parameters by one call of their store.
struct GroupLease {
  /// @param take Fills the addresses and leases of the parameters that it is told: `take(store, ids, data, leases)`.
  template <template <class> class L, class Take, HostTensor... Ts>
  static std::tuple<L<Ts>...> each(Take take, const PartitionedParameter<Ts>&... parameters) {
    static_assert(sizeof...(Ts) > 0, "zerospan: name at least one parameter to lease");
    const std::array<ParameterStore*, sizeof...(Ts)> stores{&parameters.store()...};
    for (const ParameterStore* store : stores) check_engine(*stores[0], *store);
    const std::array<ParameterId, sizeof...(Ts)> ids{parameters.id_...};
    std::array<std::byte*, sizeof...(Ts)> data{};
    std::array<LeaseId, sizeof...(Ts)> leases{};
    take(*stores[0], ids, data, leases);
    return bind<L>(std::index_sequence_for<Ts...>{}, data, leases, parameters...);
  }

  template <template <class> class L, class Take, ParameterRange R>
  static auto all(Take take, R& range) {
    using T = typename parameter_in<R>::tensor_type;
    std::vector<const PartitionedParameter<T>*> parameters;
    std::vector<ParameterId> ids;
    for (auto&& element : range) {
      const PartitionedParameter<T>& parameter = parameter_of(element);
      check_engine(parameters.empty() ? parameter.store() : *parameters[0]->store_, parameter.store());
      parameters.push_back(&parameter);
      ids.push_back(parameter.id_);
    }
    std::vector<L<T>> bound;
    if (parameters.empty()) return bound;
    std::vector<std::byte*> data(ids.size());
    std::vector<LeaseId> leases(ids.size());
    std::vector<Lease> held;
    held.reserve(ids.size());
    bound.reserve(ids.size());
    take(*parameters[0]->store_, ids, data, leases);
    for (const LeaseId lease : leases) held.emplace_back(parameters[0]->store_, lease);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      bound.emplace_back(std::move(held[i]), parameters[i]->shape_, parameters[i]->type_, data[i]);
    }
    return bound;
  }

 private:
  static void check_engine(const ParameterStore& first, const ParameterStore& other) {
    if (&first != &other) throw_lease_error("parameters of different engines cannot be leased as one group");
  }

  template <template <class> class L, std::size_t... I, HostTensor... Ts>
  static std::tuple<L<Ts>...> bind(std::index_sequence<I...>, std::span<std::byte* const> data,
                                   std::span<const LeaseId> leases, const PartitionedParameter<Ts>&... parameters) {
    std::array<Lease, sizeof...(Ts)> held{Lease{parameters.store_, leases[I]}...};  // whatever a trait throws below
    return {L<Ts>{std::move(held[I]), parameters.shape_, parameters.type_, data[I]}...};
  }
};

inline auto take_gather(StreamRef stream) {
  return [stream](ParameterStore& store, std::span<const ParameterId> ids, std::span<std::byte*> data,
                  std::span<LeaseId> leases) { store.gather(stream, ids, data, leases); };
}

inline auto take_gradients(StreamRef stream, GradientContent content) {
  return [stream, content](ParameterStore& store, std::span<const ParameterId> ids, std::span<std::byte*> data,
                           std::span<LeaseId> leases) { store.gradients(stream, ids, content, data, leases); };
}

}  // namespace detail

template <HostTensor... Ts>
std::tuple<ReadLease<Ts>...> gather(StreamRef stream, const PartitionedParameter<Ts>&... parameters) {
  return detail::GroupLease::each<ReadLease>(detail::take_gather(stream), parameters...);
}

template <ParameterRange R>
auto gather(StreamRef stream, R&& parameters) {
  return detail::GroupLease::all<ReadLease>(detail::take_gather(stream), parameters);
}

template <HostTensor... Ts>
std::tuple<GradientLease<Ts>...> gradients(StreamRef stream, GradientContent content,
                                           const PartitionedParameter<Ts>&... parameters) {
  return detail::GroupLease::each<GradientLease>(detail::take_gradients(stream, content), parameters...);
}

template <HostTensor... Ts>
std::tuple<GradientLease<Ts>...> gradients(StreamRef stream, const PartitionedParameter<Ts>&... parameters) {
  return gradients(stream, GradientContent::undefined, parameters...);
}

template <ParameterRange R>
auto gradients(StreamRef stream, GradientContent content, R&& parameters) {
  return detail::GroupLease::all<GradientLease>(detail::take_gradients(stream, content), parameters);
}

template <ParameterRange R>
auto gradients(StreamRef stream, R&& parameters) {
  return gradients(stream, GradientContent::undefined, parameters);
}

}  // namespace zerospan::inline v0
