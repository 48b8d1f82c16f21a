/// @file
/// ToyModel: a model without mathematics, whose gradients depend on every parameter, on the rank, the micro-batch and
/// the step, so that whatever is lost, stale or out of order shows in the numbers.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <zerospan/core/element.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/tensor_traits.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>

namespace zerospan_test {

/// The host tensor of the tests: a pointer and a size.
template <zerospan::Element E>
struct Array {
  E* data = nullptr;
  std::size_t size = 0;
};

/// One whose element type is a field.
struct RuntimeArray {
  std::byte* data = nullptr;
  std::size_t size = 0;
  zerospan::ElementType type{};
};

template <zerospan::Element E>
E* elements_of(const Array<E>& array) {
  return array.data;
}

/// @throws std::logic_error if its elements are others.
template <zerospan::Element E>
E* elements_of(const RuntimeArray& array) {
  if (array.type != zerospan::ElementTraits<E>::type) throw std::logic_error{"a tensor of another element type"};
  return reinterpret_cast<E*>(array.data);
}

}  // namespace zerospan_test

template <zerospan::Element E>
struct zerospan::TensorTraits<zerospan_test::Array<E>> {
  using element_type = E;
  static zerospan_test::Array<E> unbound(const Shape& shape) { return {nullptr, shape.elements()}; }
  static void bind(zerospan_test::Array<E>& array, E* data) { array.data = data; }
  static E* data(const zerospan_test::Array<E>& array) { return array.data; }
};

template <>
struct zerospan::TensorTraits<zerospan_test::RuntimeArray> {
  static zerospan_test::RuntimeArray unbound(const Shape& shape, ElementType type) {
    return {nullptr, shape.elements(), type};
  }
  static void bind(zerospan_test::RuntimeArray& array, std::byte* data) { array.data = data; }
  static std::byte* data(const zerospan_test::RuntimeArray& array) { return array.data; }
};

namespace zerospan_test {

struct Layer {
  std::string_view name;
  std::size_t elements;
  zerospan::ParameterOptions options{};
};

inline constexpr zerospan::ParameterOptions frozen{.group = {}, .training = zerospan::Training::frozen};
inline constexpr zerospan::ParameterOptions undecayed{
    .group = {.learning_rate_factor = 0.5F, .weight_decay_factor = 0.0F}};

/// Uneven on purpose: shorter than a block, whole blocks, one more, and longer than the smallest staging memory.
inline constexpr std::array layers{Layer{"embedding", 4099},
                                   Layer{"one", 1, undecayed},
                                   Layer{"seven", 7},
                                   Layer{"frozen", 2051, frozen},
                                   Layer{"prime", 1031},
                                   Layer{"block", 1024},
                                   Layer{"wide", 20011},
                                   Layer{"sometimes", 3001},
                                   Layer{"idle", 515},
                                   Layer{"frozen small", 5, frozen},
                                   Layer{"blocks", 2048, undecayed}};

inline constexpr std::size_t sometimes = 7;
inline constexpr std::size_t idle = 8;

/// Uses are the layers, then these, which are tied to layers.
struct TiedUse {
  std::string_view name;
  std::size_t layer;
};
inline constexpr std::array tied_uses{TiedUse{"head", 0}, TiedUse{"frozen again", 3}, TiedUse{"seven again", 2}};

inline constexpr std::size_t use_count = layers.size() + tied_uses.size();

constexpr std::size_t layer_of(std::size_t use) {
  return use < layers.size() ? use : tied_uses[use - layers.size()].layer;
}

/// The uses that a pass makes, in forward order.
using Route = std::vector<std::size_t>;

inline Route full_route() {
  Route route;
  for (std::size_t use = 0; use < use_count; ++use) route.push_back(use);
  return route;
}

/// Whether a use that a route visits has a gradient in a step.
inline bool has_gradient(std::size_t use, std::int64_t step) {
  if (layers[layer_of(use)].options.training == zerospan::Training::frozen || use == idle) return false;
  return use != sometimes || step % 2 == 1;
}

/// Where in the data set the model is.
struct Position {
  int rank;
  std::int64_t step;
  std::size_t micro_batch;
};

/// A value in [-1, 1) for each element of each use at each position.
inline float noise(std::size_t use, const Position& at, std::size_t element) {
  std::uint64_t x = element + (std::uint64_t{use} << 32) + (static_cast<std::uint64_t>(at.rank) << 40) +
                    (static_cast<std::uint64_t>(at.step) << 44) + (std::uint64_t{at.micro_batch} << 60);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return static_cast<float>((x ^ (x >> 31)) >> 40) * 0x1p-23F - 1.0F;
}

inline float gradient_of(float weight, float data) { return std::fma(0.25F, weight, data); }

/// What a use adds to the loss.
template <class E>
double loss_of(const E* weights, std::size_t use, const Position& at) {
  double loss = 0;
  for (std::size_t k = 0; k < layers[layer_of(use)].elements; k += 7) {
    loss += static_cast<double>(static_cast<float>(weights[k])) * static_cast<double>(noise(use, at, k));
  }
  return loss;
}

inline zerospan::Initializer toy_initializer() { return zerospan::init::normal(1.0F); }

/// How a model computes: where, and when.
class Compute {
 public:
  Compute() = default;
  virtual ~Compute() = default;

  virtual zerospan::StreamRef stream() const = 0;

  /// Runs a computation, in the order of the calls.
  virtual void run(std::function<void()> f) const = 0;

  /// Waits for all that was run.
  virtual void finish() const = 0;

  /// Where the computation that is run next finds so many elements of a lease, to read them or to write them.
  template <class E>
  const E* read(const E* pointer, std::size_t elements) const {
    return reinterpret_cast<const E*>(readable(reinterpret_cast<const std::byte*>(pointer), elements * sizeof(E)));
  }
  template <class E>
  E* write(E* pointer, std::size_t elements) const {
    return reinterpret_cast<E*>(writable(reinterpret_cast<std::byte*>(pointer), elements * sizeof(E)));
  }

 protected:
  Compute(const Compute&) = default;
  Compute& operator=(const Compute&) = default;

 private:
  virtual const std::byte* readable(const std::byte* data, std::size_t bytes) const = 0;
  virtual std::byte* writable(std::byte* data, std::size_t bytes) const = 0;
};

/// Computes at once, on the calling thread.
class ThreadCompute : public Compute {
 public:
  zerospan::StreamRef stream() const override { return zerospan::calling_thread; }
  void run(std::function<void()> f) const override { f(); }
  void finish() const override {}

 private:
  const std::byte* readable(const std::byte* data, std::size_t) const override { return data; }
  std::byte* writable(std::byte* data, std::size_t) const override { return data; }
};

inline const ThreadCompute at_once;

/// The store of an engine, whatever the engine.
struct StoreOf {
  std::shared_ptr<zerospan::ParameterStore> store() const { return parameters; }
  std::shared_ptr<zerospan::ParameterStore> parameters;
};

/// The layers as parameters of an engine.
template <zerospan::Element E, zerospan::HostTensor T = Array<E>>
class ToyModel {
 public:
  using Parameter = zerospan::PartitionedParameter<T>;

  /// @param compute Outlives the model.
  template <zerospan::ParameterHost Engine>
  explicit ToyModel(Engine& engine, const Compute& compute = at_once) : ToyModel{StoreOf{engine.store()}, compute} {}

  ToyModel(StoreOf engine, const Compute& compute) : compute_{&compute} {
    for (const Layer& layer : layers) {
      if constexpr (zerospan::TypedTensor<T>) {
        uses_.emplace_back(engine, std::string{layer.name}, zerospan::Shape{layer.elements}, toy_initializer(),
                           layer.options);
      } else {
        uses_.emplace_back(engine, std::string{layer.name}, zerospan::Shape{layer.elements},
                           zerospan::ElementTraits<E>::type, toy_initializer(), layer.options);
      }
    }
    for (const TiedUse& tied : tied_uses) uses_.push_back(uses_[tied.layer].tie(std::string{tied.name}));
  }

  const Parameter& operator[](std::size_t use) const { return uses_[use]; }

  /// Forward: each use alone or as a group with its successors, one of them twice. @return the loss.
  double forward(const Route& route, const Position& at) const { return forward(route, std::span{&at, 1}).front(); }

  /// The same for micro-batches together, each use for all of them before the next use. @return their losses.
  std::vector<double> forward(const Route& route, std::span<const Position> all) const {
    // What was run may outlive a pass that throws.
    const auto losses = std::make_shared<std::vector<double>>(all.size());
    const auto add_losses = [&](const T& tensor, std::size_t use) {
      for (std::size_t m = 0; m < all.size(); ++m) {
        compute_->run([losses, use, m, at = all[m], weights = compute_->read(elements_of<E>(tensor), tensor.size)] {
          (*losses)[m] += loss_of(weights, use, at);
        });
      }
    };
    for (std::size_t i = 0; i < route.size();) {
      const bool has_next = i + 1 < route.size();
      if (i % 5 == 1 && has_next) {
        const auto leases = gather(compute_->stream(), uses_[route[i]], uses_[route[i + 1]], uses_[route[i]]);
        add_losses(*std::get<0>(leases), route[i]);
        add_losses(*std::get<1>(leases), route[i + 1]);
        i += 2;
      } else {
        add_losses(*uses_[route[i]].gather(compute_->stream()), route[i]);
        ++i;
      }
    }
    compute_->finish();
    return *losses;
  }

  /// Backward: every gradient, in reverse order; leases end now before, now after the commit.
  void backward(const Route& route, const Position& at) const { backward(route, std::span{&at, 1}); }

  /// The same for micro-batches together, each use for all of them before the next use.
  void backward(const Route& route, std::span<const Position> all) const {
    for (std::size_t i = route.size(); i-- > 0;) {
      const std::size_t use = route[i];
      auto full = uses_[use].gather(compute_->stream());
      for (const Position& at : all) {
        if (!has_gradient(use, at.step)) continue;
        auto gradient = uses_[use].gradient(compute_->stream());
        compute_->run([use, at, size = gradient->size, weights = compute_->read(elements_of<E>(*full), full->size),
                       gradients = compute_->write(elements_of<E>(*gradient), gradient->size)] {
          for (std::size_t k = 0; k < size; ++k) {
            gradients[k] = E{gradient_of(static_cast<float>(weights[k]), noise(use, at, k))};
          }
        });
        if (use % 2 == 1 && &at == &all.back()) full.release();
        gradient.commit();
      }
    }
  }

 private:
  const Compute* compute_;
  std::vector<Parameter> uses_;
};

}  // namespace zerospan_test
