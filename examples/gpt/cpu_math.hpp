/// @file
/// The model's arithmetic on the CPU: on the calling thread, in `Scalar<E>`.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include <zerospan/core/stream.hpp>
#include <zerospan/tiling/tile_grid.hpp>

#include "attention.hpp"
#include "batch.hpp"
#include "cross_entropy.hpp"
#include "dimensions.hpp"
#include "embedding.hpp"
#include "factor.hpp"
#include "gelu.hpp"
#include "layer_norm.hpp"
#include "math.hpp"
#include "products.hpp"
#include "scratch.hpp"
#include "slab.hpp"
#include "tensor.hpp"
#include "vector_math.hpp"

namespace gpt {

/// @tparam E The element type of the parameters.
/// @tparam Products How it multiplies by them.
template <class E, class Products = WideProducts<E>>
class CpuMath {
 public:
  using Weight = E;
  using Value = Scalar<E>;
  using Residual = Value;
  using Statistic = Value;
  using Logit = Value;

  /// y = bias, plus products, plus the residual in the end.
  class LinearSum {
   public:
    LinearSum(CpuMath& math, Tensor<Value> y, Tensor<const Value> residual) : math_{math}, y_(y), residual_(residual) {}

    void set_bias(Tensor<E> narrow) {
      const Tensor<const Value> bias = math_.scratch_.widen(narrow);
      for (std::size_t r = 0; r < y_.rows; ++r) std::copy_n(bias.data, bias.columns, y_.row(r));
    }
    void add_product(const zerospan::Tile& tile, Tensor<const Value> x, Tensor<E> weight) {
      math_.multiply(columns(x, tile.inputs), transposed(math_.operand(weight)), columns(y_, tile.outputs),
                     Assignment::add);
    }
    void finish() {
      if (residual_.data) add(residual_, y_);
    }

   private:
    CpuMath& math_;
    Tensor<Value> y_;
    Tensor<const Value> residual_;
  };

  explicit CpuMath(const Dimensions& dimensions, Products products = Products{})
      : scratch_{dimensions.largest_group()}, products_{std::move(products)} {}

  static zerospan::StreamRef stream() { return zerospan::calling_thread; }

  std::shared_ptr<std::byte> allocate(std::size_t bytes) {
    constexpr std::align_val_t alignment{Slab::alignment};
    allocated_ += bytes;
    return {static_cast<std::byte*>(::operator new(bytes, alignment)),
            [](std::byte* memory) { ::operator delete(memory, alignment); }};
  }
  std::size_t allocated() const { return allocated_; }

  static Batch stage(const Batch& batch) { return batch; }

  template <class... Leases>
  auto operands(const std::tuple<Leases...>& leases) {
    return scratch_.widen(leases);
  }
  auto operand(Tensor<E> weight) { return products_.operand(scratch_, weight); }

  template <class Write>
  void write(Tensor<E> gradient, Write write) {
    scratch_.fill(gradient, write);
  }

  void multiply(Factor<Value> a, Factor<Value> b, Tensor<Value> c, Assignment assignment = Assignment::replace) {
    products_.multiply(a, b, c, assignment);
  }
  template <class W = E>
    requires(!std::is_same_v<W, Value>)
  void multiply(Factor<Value> a, Factor<std::type_identity_t<W>> b, Tensor<Value> c, Assignment assignment) {
    products_.multiply(a, b, c, assignment);
  }
  void write_product(Tensor<E> gradient, Factor<Value> a, Factor<Value> b) {
    products_.write(scratch_, gradient, a, b);
  }
  LinearSum sum_into(Tensor<Value> y, Tensor<const Value> residual) { return {*this, y, residual}; }
  void sum_of_rows(Tensor<const Value> matrix, Tensor<Value> total) { gpt::sum_of_rows(matrix, total); }
  static Tensor<const Value> values(Tensor<const Residual> gradient, Tensor<Value>) { return gradient; }

  void copy(Tensor<const Residual> from, Tensor<Residual> to) { std::copy_n(from.data, from.size(), to.data); }
  void clear(Tensor<Residual> target) { std::fill_n(target.data, target.size(), Residual{0}); }

  void embedding_forward(std::span<const std::uint8_t> tokens, std::size_t length, Tensor<const Value> token,
                         Tensor<const Value> position, Tensor<Residual> y) {
    gpt::embedding_forward(tokens, length, token, position, y);
  }
  void embedding_backward_token(std::span<const std::uint8_t> tokens, Tensor<const Residual> dy, Tensor<Value> dtoken) {
    gpt::embedding_backward_token(tokens, dy, dtoken);
  }
  void embedding_backward_position(std::size_t length, Tensor<const Residual> dy, Tensor<Value> dposition) {
    gpt::embedding_backward_position(length, dy, dposition);
  }

  void layer_norm_forward(Tensor<const Residual> x, Tensor<const Value> weight, Tensor<const Value> bias,
                          Tensor<Value> y, RowStatistics<Statistic> statistics) {
    gpt::layer_norm_forward(x, weight, bias, y, statistics);
  }
  void layer_norm_backward_bias(Tensor<const Value> dy, Tensor<Value> dbias) {
    gpt::layer_norm_backward_bias(dy, dbias);
  }
  void layer_norm_backward_weight(Tensor<const Residual> x, Tensor<const Value> dy, RowStatistics<Statistic> statistics,
                                  Tensor<Value> dweight) {
    gpt::layer_norm_backward_weight(x, dy, statistics, dweight);
  }
  void layer_norm_backward_input(Tensor<const Residual> x, Tensor<const Value> weight, Tensor<const Value> dy,
                                 RowStatistics<Statistic> statistics, Tensor<Residual> dx) {
    gpt::layer_norm_backward_input(x, weight, dy, statistics, dx);
  }

  void gelu_forward(Tensor<const Value> x, Tensor<Value> y) { gpt::gelu_forward(x, y); }
  void gelu_backward(Tensor<const Value> x, Tensor<Value> gradient) { gpt::gelu_backward(x, gradient); }

  static std::size_t attention_heads_at_once(AttentionShape) { return 1; }
  void attention_forward(Tensor<const Value> qkv, AttentionShape shape, Tensor<Value> weights, Tensor<Value> output) {
    gpt::attention_forward(qkv, shape, weights, output);
  }
  void attention_backward(Tensor<const Value> qkv, Tensor<const Value> weights, Tensor<const Value> doutput,
                          AttentionShape shape, Tensor<Value> scratch, Tensor<Value> dqkv) {
    gpt::attention_backward(qkv, weights, doutput, shape, scratch, dqkv);
  }

  void cross_entropy_forward(Tensor<Logit> logits, std::span<const std::uint8_t> targets, double divisor) {
    loss_ += gpt::cross_entropy_forward(logits, targets) / divisor;
  }
  Tensor<const Value> cross_entropy_backward(std::span<const std::uint8_t> targets, Tensor<Logit> probabilities,
                                             float loss_scale) {
    gpt::cross_entropy_backward(targets, probabilities, loss_scale);
    return probabilities;
  }
  double take_loss() { return std::exchange(loss_, 0.0); }

  static std::span<const Logit> on_host(Tensor<const Logit> row) { return {row.data, row.columns}; }

 private:
  Scratch<E> scratch_;
  Products products_;
  std::size_t allocated_ = 0;
  double loss_ = 0;
};

static_assert(Math<CpuMath<float>> && Math<CpuMath<double>> && Math<CpuMath<BFloat16>>);
static_assert(Math<CpuMath<BFloat16, NarrowProducts>>);

}  // namespace gpt
