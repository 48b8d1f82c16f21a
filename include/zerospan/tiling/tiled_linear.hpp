/// @file
/// TiledLinear: one linear layer of any size, never whole in device memory.
#pragma once

#include <concepts>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
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
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>
#include <zerospan/tiling/tile_grid.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// What a parameter's lease for reading dereferences to.
template <class P>
using lent_tensor = decltype(*std::declval<const P&>().gather(std::declval<StreamRef>()));

/// A tensor, to be read: itself, or what its trait names for that.
template <class Lent, class T>
concept LentForReading = std::convertible_to<Lent, const T&> || requires {
  requires ReadOnlyTensor<T>;
  requires std::same_as<std::remove_cvref_t<Lent>, constant_tensor<T>>;
};

}  // namespace detail

/// A parameter that lends a tensor to be read, and one for its gradient.
///
/// @concept
/// - `P::tensor_type` is the tensor;
/// - `parameter.gather(stream)` is a lease that dereferences to the tensor, or to what its trait names for reading, and
///   ends with its scope;
/// - `parameter.gradient(stream)` is one that dereferences to the gradient, which `commit()` hands over.
template <class P>
concept LeasedParameter = std::movable<P> && requires(const P& parameter, StreamRef stream) {
  { *parameter.gather(stream) } -> detail::LentForReading<typename P::tensor_type>;
  { *parameter.gradient(stream) } -> std::same_as<typename P::tensor_type&>;
  parameter.gradient(stream).commit();
};

/// The bias of a linear layer: one vector, of all outputs.
struct LinearBias {
  Initializer initializer = init::zeros();
  ParameterOptions options{};
};

namespace detail {

/// Stands for a callable where a layer has no bias.
struct NoBias {
  void operator()(const auto&...) const noexcept {}
};

}  // namespace detail

/// y = x W^T + b, with W [outputs x inputs] as a grid of tiles, each a parameter of its own: gathered, used and
/// released in turn, so that working memory is a tile's instead of a layer's (memory-centric tiling: ZeRO-Infinity,
/// arXiv 2104.07857, section 5.1.3). The pipeline prefetches the next tile, as any parameter.
///
/// The host multiplies: its callables get a tile's tensor, row-major [tile.outputs.count x tile.inputs.count], and
/// the ranges of the whole that it stands for:
/// @code
/// zerospan::TiledLinear<my::Tensor> up{engine, "mlp.up", {.outputs = 4 * width, .inputs = width}, {.outputs = 4},
///                                      zerospan::init::normal(0.02f)};
/// up.forward(stream, [&](const zerospan::Tile& tile, const my::Tensor& weight) {
///   my::gemm(x.columns(tile.inputs), weight, y.columns(tile.outputs), tile.accumulates);
/// });
/// @endcode
/// One tile, one gradient or the bias is leased at a time; a callable that throws leaves no lease behind. A
/// gradient that it was writing counts as forgotten: the next step refuses until the batch is abandoned.
///
/// Every result range is finished before the next is begun, its terms in increasing order. So with a multiplication
/// that adds to each element of its result in increasing order of the summed index, one multiply-add at a time, no bit
/// of outputs, gradients and weights depends on the tiling. The gradient norm alone sums up tile by tile: with
/// clipping, tilings agree within rounding.
///
/// A tile within the engine's `persistence_threshold` stays gathered, as any parameter: a layer cut as finely as that
/// is whole in device memory all the time.
template <LeasedParameter P>
class BasicTiledLinear {
 public:
  using tensor_type = typename P::tensor_type;

  /// What a weight or a bias is lent as: `tensor_type`, or what its trait names for reading.
  using read_type = std::remove_cvref_t<detail::lent_tensor<P>>;

  /// A tile's place in the matrix, and its parameter.
  struct Part {
    Tile tile;
    P weight;
  };

  /// Declares "NAME.weight" (several tiles, row by row: "NAME.weight[i,j]"), then "NAME.bias". A collective, as the
  /// declaration of every parameter; what was declared before an error stays declared.
  /// @param initializer Of the whole weight: initial values do not depend on the tiling.
  /// @param options Of the weight.
  /// @throws ConfigurationError for no tiles or more than there are outputs or inputs; whatever P's constructor throws.
  template <class Engine>
    requires std::constructible_from<P, Engine&, std::string, Shape, Initializer, ParameterOptions>
  BasicTiledLinear(Engine& engine, std::string name, LinearExtents extents, TileCounts tiles, Initializer initializer,
                   ParameterOptions options = {}, const std::optional<LinearBias>& bias = {})
      : BasicTiledLinear{std::move(name),
                         extents,
                         tiles,
                         std::move(initializer),
                         options,
                         bias,
                         [&engine](std::string part, Shape shape, Initializer values, ParameterOptions how) {
                           return P{engine, std::move(part), std::move(shape), std::move(values), how};
                         }} {}

  /// The same, for tensors whose element type is known at run time.
  template <class Engine>
    requires std::constructible_from<P, Engine&, std::string, Shape, ElementType, Initializer, ParameterOptions>
  BasicTiledLinear(Engine& engine, std::string name, LinearExtents extents, TileCounts tiles, ElementType type,
                   Initializer initializer, ParameterOptions options = {}, const std::optional<LinearBias>& bias = {})
      : BasicTiledLinear{std::move(name),
                         extents,
                         tiles,
                         std::move(initializer),
                         options,
                         bias,
                         [&engine, type](std::string part, Shape shape, Initializer values, ParameterOptions how) {
                           return P{engine, std::move(part), std::move(shape), type, std::move(values), how};
                         }} {}

  /// The tiles, row by row: to load them, for example.
  std::span<const Part> parts() const noexcept { return parts_; }

  const std::optional<P>& bias() const noexcept { return bias_; }

  /// Calls `put_bias(b)`, where there is a bias, to set every row of y to it; then `multiply(tile, weight)` for each
  /// tile, one range of outputs after the other: y[:, tile.outputs] (+)= x[:, tile.inputs] weight^T.
  /// @throws ConfigurationError if there is a bias and no `put_bias`.
  template <std::invocable<const Tile&, const read_type&> Multiply,
            std::invocable<const read_type&> PutBias = detail::NoBias>
  void forward(StreamRef stream, Multiply multiply, PutBias put_bias = {}) const {
    check_bias<PutBias>();
    if (bias_) put_bias(*bias_->gather(stream));
    for (const auto& [tile, weight] : parts_) {
      multiply(tile.accumulating(bias_ || tile.inputs.first > 0), *weight.gather(stream));
    }
  }

  /// Calls `bias_gradient(db)`, where there is a bias: db = the sum of dy's rows; then for each tile, one range of
  /// inputs after the other, `weight_gradient(tile, dw)`: dw = dy[:, tile.outputs]^T x[:, tile.inputs], and
  /// `input_gradient(tile, weight)`: dx[:, tile.inputs] (+)= dy[:, tile.outputs] weight. Gradients of parameters are
  /// leased uninitialized and committed after the call; those of frozen ones are left out.
  /// @throws ConfigurationError if there is a bias and no `bias_gradient`.
  template <std::invocable<const Tile&, const read_type&> InputGradient,
            std::invocable<const Tile&, tensor_type&> WeightGradient,
            std::invocable<tensor_type&> BiasGradient = detail::NoBias>
  void backward(StreamRef stream, InputGradient input_gradient, WeightGradient weight_gradient,
                BiasGradient bias_gradient = {}) const {
    check_bias<BiasGradient>();
    visit_backward(stream, 1, of_one(weight_gradient), of_one(bias_gradient), [&](const Part& part) {
      input_gradient(part.tile.accumulating(part.tile.outputs.first > 0), *part.weight.gather(stream));
    });
  }

  /// The same without an input gradient: a model's first layer needs none, and gathers nothing.
  template <std::invocable<const Tile&, tensor_type&> WeightGradient,
            std::invocable<tensor_type&> BiasGradient = detail::NoBias>
  void backward_weight(StreamRef stream, WeightGradient weight_gradient, BiasGradient bias_gradient = {}) const {
    check_bias<BiasGradient>();
    visit_backward(stream, 1, of_one(weight_gradient), of_one(bias_gradient), [](const Part&) {});
  }

  /// Backward for several micro-batches at once: each tile is gathered once for all of them. For the bias, and then for
  /// each tile, `bias_gradient(i, db)` or `weight_gradient(i, tile, dw)` is called for micro-batch i = 0, 1, ..., and
  /// `input_gradient(tile, weight)` after that once, to do what is to be done for each. (So do `forward`'s callables.)
  /// @throws as `backward` of one.
  template <std::invocable<const Tile&, const read_type&> InputGradient,
            std::invocable<std::size_t, const Tile&, tensor_type&> WeightGradient,
            std::invocable<std::size_t, tensor_type&> BiasGradient = detail::NoBias>
  void backward(StreamRef stream, std::size_t micro_batches, InputGradient input_gradient,
                WeightGradient weight_gradient, BiasGradient bias_gradient = {}) const {
    check_bias<BiasGradient>();
    visit_backward(stream, micro_batches, weight_gradient, bias_gradient, [&](const Part& part) {
      input_gradient(part.tile.accumulating(part.tile.outputs.first > 0), *part.weight.gather(stream));
    });
  }

 private:
  template <class Declare>
  BasicTiledLinear(std::string name, LinearExtents extents, TileCounts tiles, Initializer initializer,
                   ParameterOptions options, const std::optional<LinearBias>& bias, Declare declare)
      : name_{std::move(name)},
        grid_{name_, extents, tiles},
        weight_training_{options.training},
        bias_training_{bias ? bias->options.training : Training::frozen} {
    const std::string weight = name_ + ".weight";
    parts_.reserve(tiles.outputs * tiles.inputs);
    for (std::size_t row = 0; row < tiles.outputs; ++row) {
      for (std::size_t column = 0; column < tiles.inputs; ++column) {
        const Tile tile = grid_.tile(row, column);
        parts_.push_back(
            {tile, declare(weight + grid_.suffix(row, column), {tile.outputs.count, tile.inputs.count},
                           tile_initializer(initializer, name_stream(weight), extents.inputs, tile), options)});
      }
    }
    if (bias) bias_.emplace(declare(name_ + ".bias", {extents.outputs}, bias->initializer, bias->options));
  }

  template <class F>
  void check_bias() const {
    if (std::same_as<F, detail::NoBias> && bias_) {
      throw_configuration_error(name_ + " has a bias: it takes one callable more");
    }
  }

  /// A callable of one micro-batch, as one that is told which.
  static auto of_one(auto& gradient) {
    return [&gradient](std::size_t, auto&... of) { gradient(of...); };
  }

  /// The weight's gradient goes first, so that it is reduced and offloaded while the tile is fetched and used.
  void visit_backward(StreamRef stream, std::size_t micro_batches, auto&& weight_gradient, auto&& bias_gradient,
                      auto&& after_weight) const {
    if (bias_ && trains(*bias_, bias_training_)) {
      for (std::size_t i = 0; i < micro_batches; ++i) {
        commit(stream, *bias_, [&](tensor_type& gradient) { bias_gradient(i, gradient); });
      }
    }
    const TileCounts counts = grid_.counts();
    for (std::size_t column = 0; column < counts.inputs; ++column) {
      for (std::size_t row = 0; row < counts.outputs; ++row) {
        const Part& part = parts_[row * counts.inputs + column];
        for (std::size_t i = 0; i < micro_batches && trains(part.weight, weight_training_); ++i) {
          commit(stream, part.weight, [&](tensor_type& gradient) { weight_gradient(i, part.tile, gradient); });
        }
        after_weight(part);
      }
    }
  }

  /// Parameters that can be frozen later are asked.
  static bool trains(const P& parameter, Training declared) {
    if constexpr (requires { parameter.trains(); }) return parameter.trains();
    return declared == Training::trainable;
  }

  static void commit(StreamRef stream, const P& parameter, auto&& write) {
    auto gradient = parameter.gradient(stream);
    write(*gradient);
    gradient.commit();
  }

  std::string name_;
  TileGrid grid_;
  Training weight_training_;
  Training bias_training_;
  std::vector<Part> parts_;
  std::optional<P> bias_;
};

/// The layer as models declare it.
template <HostTensor T>
using TiledLinear = BasicTiledLinear<PartitionedParameter<T>>;

}  // namespace zerospan::inline v0
