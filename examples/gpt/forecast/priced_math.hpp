/// @file
/// The model's arithmetic as a price: no number is touched, the host's program records how long each would take.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>

#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/detail/huge_pages.hpp>
#include <zerospan/tiling/tile_grid.hpp>

#include "../../machine/rates.hpp"
#include "../batch.hpp"
#include "../dimensions.hpp"
#include "../factor.hpp"
#include "../math.hpp"
#include "../row_statistics.hpp"
#include "../tensor.hpp"
#include "../zerospan_adapter.hpp"
#include "recorder.hpp"

namespace gpt::forecast {

/// What CpuMath<E> does, by its rates.
/// @tparam E The element type of the parameters.
template <class E>
class PricedMath {
 public:
  using Weight = E;
  using Value = Scalar<E>;
  using Residual = Value;
  using Statistic = Value;
  using Logit = Value;

  /// @see CpuMath
  class LinearSum {
   public:
    LinearSum(PricedMath& math, Tensor<Value> y, Tensor<const Value> residual)
        : math_{math}, y_(y), residual_(residual) {}

    void set_bias(Tensor<E> bias) {
      static_cast<void>(math_.widened(bias));
      math_.elementwise("bias", y_.size());
    }
    void add_product(const zerospan::Tile& tile, Tensor<const Value> x, Tensor<E> weight) {
      math_.multiply(columns(x, tile.inputs), transposed(math_.operand(weight)), columns(y_, tile.outputs),
                     Assignment::add);
    }
    void finish() {
      if (residual_.data) math_.elementwise("residual", y_.size());
    }

   private:
    PricedMath& math_;
    Tensor<Value> y_;
    Tensor<const Value> residual_;
  };

  /// @param recorder,rates Outlive it.
  /// @param has_narrow_products Whether weights are multiplied as they are, in bf16.
  PricedMath(Recorder& recorder, const machine::Rates& rates, bool has_narrow_products)
      : recorder_{recorder}, rates_{rates}, has_narrow_products_{has_narrow_products} {}

  static zerospan::StreamRef stream() { return zerospan::calling_thread; }

  /// Addresses alone.
  std::shared_ptr<std::byte> allocate(std::size_t bytes) {
    allocated_ += bytes;
    return zerospan::detail::map_huge_pages(zerospan::Bytes{bytes});
  }
  std::size_t allocated() const { return allocated_; }

  static Batch stage(const Batch& batch) { return batch; }

  template <class... Leases>
  auto operands(const std::tuple<Leases...>& leases) {
    return std::apply(
        [this](const auto&... lease) {
          return std::array<Tensor<const Value>, sizeof...(Leases)>{this->widened(*lease)...};
        },
        leases);
  }
  Tensor<const Value> operand(Tensor<E> weight) {
    if (has_narrow_products_) return {reinterpret_cast<const Value*>(weight.data), weight.rows, weight.columns};
    return widened(weight);
  }

  template <class Write>
  void write(Tensor<E> gradient, Write write) {
    if constexpr (std::is_same_v<E, Value>) {
      write(gradient);
    } else {
      write(Tensor<Value>{reinterpret_cast<Value*>(gradient.data), gradient.rows, gradient.columns});
      elementwise("gradient " + type(), gradient.size());
    }
  }

  void write_product(Tensor<E> gradient, Factor<Value> a, Factor<Value> b) {
    if (has_narrow_products_) {
      product(a, b, gradient.rows, gradient.columns);
    } else {
      write(gradient, [&](Tensor<Value> wide) { multiply(a, b, wide); });
    }
  }

  void multiply(Factor<Value> a, Factor<Value> b, Tensor<Value> c, Assignment = Assignment::replace) {
    product(a, b, c.rows, c.columns);
  }
  LinearSum sum_into(Tensor<Value> y, Tensor<const Value> residual) { return {*this, y, residual}; }
  void sum_of_rows(Tensor<const Value> matrix, Tensor<Value>) { elementwise("sum of rows", matrix.size()); }
  static Tensor<const Value> values(Tensor<const Residual> gradient, Tensor<Value>) { return gradient; }

  void copy(Tensor<const Residual>, Tensor<Residual> to) { elementwise("copy of activations", to.size()); }
  void clear(Tensor<Residual> target) { elementwise("clear", target.size()); }

  void embedding_forward(std::span<const std::uint8_t>, std::size_t, Tensor<const Value>, Tensor<const Value>,
                         Tensor<Residual> y) {
    elementwise("embedding forward", y.size());
  }
  void embedding_backward_token(std::span<const std::uint8_t>, Tensor<const Residual> dy, Tensor<Value>) {
    elementwise("embedding backward", dy.size());
  }
  void embedding_backward_position(std::size_t, Tensor<const Residual> dy, Tensor<Value>) {
    elementwise("embedding backward", dy.size());
  }

  void layer_norm_forward(Tensor<const Residual> x, Tensor<const Value>, Tensor<const Value>, Tensor<Value>,
                          RowStatistics<Statistic>) {
    elementwise("layer norm forward", x.size());
  }
  void layer_norm_backward_bias(Tensor<const Value> dy, Tensor<Value>) { elementwise("sum of rows", dy.size()); }
  void layer_norm_backward_weight(Tensor<const Residual> x, Tensor<const Value>, RowStatistics<Statistic>,
                                  Tensor<Value>) {
    elementwise("layer norm backward weight", x.size());
  }
  void layer_norm_backward_input(Tensor<const Residual> x, Tensor<const Value>, Tensor<const Value>,
                                 RowStatistics<Statistic>, Tensor<Residual>) {
    elementwise("layer norm backward input", x.size());
  }

  void gelu_forward(Tensor<const Value>, Tensor<Value> y) { elementwise("gelu forward", y.size()); }
  void gelu_backward(Tensor<const Value> x, Tensor<Value>) { elementwise("gelu backward", x.size()); }

  static std::size_t attention_heads_at_once(AttentionShape) { return 1; }
  void attention_forward(Tensor<const Value> qkv, AttentionShape shape, Tensor<Value>, Tensor<Value>) {
    attention(qkv, shape, &machine::AttentionRate::forward);
  }
  void attention_backward(Tensor<const Value> qkv, Tensor<const Value>, Tensor<const Value>, AttentionShape shape,
                          Tensor<Value>, Tensor<Value>) {
    attention(qkv, shape, &machine::AttentionRate::backward);
  }

  void cross_entropy_forward(Tensor<Logit> logits, std::span<const std::uint8_t>, double) {
    elementwise("cross entropy forward", logits.size());
  }
  Tensor<const Value> cross_entropy_backward(std::span<const std::uint8_t>, Tensor<Logit> probabilities, float) {
    elementwise("cross entropy backward", probabilities.size());
    return probabilities;
  }
  static double take_loss() { return 0; }

  static std::span<const Logit> on_host(Tensor<const Logit> row) { return {row.data, row.columns}; }

 private:
  static std::string type() { return to_string(zerospan::ElementTraits<E>::type); }

  Tensor<const Value> widened(Tensor<E> weight) {
    if constexpr (std::is_same_v<E, Value>) {
      return weight;
    } else {
      elementwise("operand " + type(), weight.size());
      return {reinterpret_cast<const Value*>(weight.data), weight.rows, weight.columns};
    }
  }

  void product(Factor<Value> a, Factor<Value> b, std::size_t rows, std::size_t columns) {
    using machine::ProductKind;
    const std::size_t k = a.order == Order::straight ? a.matrix.columns : a.matrix.rows;
    const ProductKind kind = a.order == Order::transposed   ? ProductKind::weight
                             : b.order == Order::transposed ? ProductKind::forward
                                                            : ProductKind::input;
    const auto& rates = has_narrow_products_ ? rates_.bf16_products : rates_.products;
    recorder_.compute(machine::WorkKind::product, machine::Rates::seconds({kind, rows, columns, k}, rates));
  }

  void elementwise(const std::string& name, std::size_t elements) {
    recorder_.compute(machine::WorkKind::elementwise, rates_.seconds(name, static_cast<double>(elements)));
  }

  void attention(Tensor<const Value> qkv, AttentionShape shape, double machine::AttentionRate::*direction) {
    const std::size_t head = qkv.columns / 3 / shape.heads;
    recorder_.compute(machine::WorkKind::elementwise, static_cast<double>(shape.sequences * shape.heads) *
                                                          rates_.attention_seconds(shape.length, head, direction));
  }

  Recorder& recorder_;
  const machine::Rates& rates_;
  bool has_narrow_products_;
  std::size_t allocated_ = 0;
};

static_assert(Math<PricedMath<float>> && Math<PricedMath<BFloat16>>);

}  // namespace gpt::forecast
