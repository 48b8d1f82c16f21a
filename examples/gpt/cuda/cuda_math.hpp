/// @file
/// The model's arithmetic on a GPU: activations of the parameters' type, sums and the residual stream in fp32.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <tuple>
#include <type_traits>

#include <cuda_runtime_api.h>

#include <zerospan/core/stream.hpp>
#include <zerospan/device/cuda_error.hpp>
#include <zerospan/device/cuda_runtime.hpp>

#include "../batch.hpp"
#include "../dimensions.hpp"
#include "../factor.hpp"
#include "../math.hpp"
#include "../row_statistics.hpp"
#include "../slab.hpp"
#include "../tensor.hpp"
#include "attention.hpp"
#include "kernels.hpp"
#include "linear_sum.hpp"
#include "memory.hpp"
#include "products.hpp"
#include "staged_batch.hpp"

namespace gpt {

/// On a stream of the device that is current when it is made, and whenever it is used. All of it is enqueued, in order;
/// equal calls give equal bits.
/// @tparam E The element type of the parameters.
template <class E>
class CudaMath {
 public:
  using Weight = E;
  using Value = E;
  using Residual = float;
  using Statistic = float;
  using Logit = float;

  /// @param tokens The most of a batch.
  CudaMath(const Dimensions& dimensions, std::size_t tokens)
      : stream_{zerospan::CudaStreamOwner::make(0)},
        products_{raw_stream()},
        batch_{tokens},
        scratch_{dimensions, tokens},
        pinned_{cuda::allocate_pinned(pinned_bytes)},
        allocated_{scratch_.bytes + cuda::Products::workspace_bytes + 2 * tokens} {
    zerospan::check_cuda(cudaMemsetAsync(scratch_.loss, 0, sizeof(double), raw_stream()), "the loss of 0");
  }
  CudaMath(const CudaMath&) = delete;
  CudaMath& operator=(const CudaMath&) = delete;

  zerospan::StreamRef stream() const { return zerospan::StreamRef{static_cast<void*>(raw_stream())}; }

  std::shared_ptr<std::byte> allocate(std::size_t bytes) {
    auto memory = cuda::allocate_device(bytes);
    allocated_ += bytes;
    return memory;
  }
  std::size_t allocated() const { return allocated_; }

  Batch stage(const Batch& batch) { return batch_.stage(raw_stream(), batch); }

  template <class... Leases>
  std::array<Tensor<const E>, sizeof...(Leases)> operands(const std::tuple<Leases...>& leases) {
    return std::apply(
        [](const auto&... lease) { return std::array<Tensor<const E>, sizeof...(Leases)>{Tensor<const E>(*lease)...}; },
        leases);
  }
  static Tensor<const E> operand(Tensor<E> weight) { return weight; }

  template <class Write>
  void write(Tensor<E> gradient, Write write) {
    write(gradient);
  }
  void write_product(Tensor<E> gradient, Factor<E> a, Factor<E> b) { multiply(a, b, gradient, Assignment::replace); }

  template <class C>
  void multiply(Factor<E> a, Factor<E> b, Tensor<C> c, Assignment assignment) {
    products_.multiply(cuda::Product{.a = a.matrix,
                                     .order_a = a.order,
                                     .b = b.matrix,
                                     .order_b = b.order,
                                     .result = c,
                                     .addend = assignment == Assignment::add ? c.data : nullptr,
                                     .addend_stride = c.stride});
  }
  template <class Y>
  cuda::LinearSum<E, Y> sum_into(Tensor<Y> y, Input<Y> residual) {
    return {raw_stream(), products_, scratch_.bias, y, residual};
  }
  void sum_of_rows(Tensor<const E> matrix, Tensor<E> total) {
    Kernels::sum_of_rows(raw_stream(), sums(), matrix, total);
  }
  Tensor<const E> values(Tensor<const float> gradient, Tensor<E> room) {
    if constexpr (std::is_same_v<E, float>) {
      return gradient;
    } else {
      cuda::convert<float, E>(raw_stream(), gradient, room);
      return room;
    }
  }

  void copy(Tensor<const float> from, Tensor<float> to) {
    zerospan::check_cuda(
        cudaMemcpyAsync(to.data, from.data, from.size() * sizeof(float), cudaMemcpyDeviceToDevice, raw_stream()),
        "the copy of a checkpoint");
  }
  void clear(Tensor<float> target) {
    zerospan::check_cuda(cudaMemsetAsync(target.data, 0, target.size() * sizeof(float), raw_stream()),
                         "the gradient of 0");
  }

  void embedding_forward(std::span<const std::uint8_t> tokens, std::size_t length, Tensor<const E> token,
                         Tensor<const E> position, Tensor<float> y) {
    Kernels::embedding_forward(raw_stream(), tokens, length, token, position, y);
  }
  void embedding_backward_token(std::span<const std::uint8_t> tokens, Tensor<const float> dy, Tensor<E> dtoken) {
    Kernels::embedding_backward_token(raw_stream(), tokens, dy, dtoken);
  }
  void embedding_backward_position(std::size_t length, Tensor<const float> dy, Tensor<E> dposition) {
    Kernels::embedding_backward_position(raw_stream(), length, dy, dposition);
  }

  void layer_norm_forward(Tensor<const float> x, Tensor<const E> weight, Tensor<const E> bias, Tensor<E> y,
                          RowStatistics<float> statistics) {
    Kernels::layer_norm_forward(raw_stream(), x, weight, bias, y, statistics);
  }
  void layer_norm_backward_bias(Tensor<const E> dy, Tensor<E> dbias) { sum_of_rows(dy, dbias); }
  void layer_norm_backward_weight(Tensor<const float> x, Tensor<const E> dy, RowStatistics<float> statistics,
                                  Tensor<E> dweight) {
    Kernels::layer_norm_backward_weight(raw_stream(), sums(), x, dy, statistics, dweight);
  }
  void layer_norm_backward_input(Tensor<const float> x, Tensor<const E> weight, Tensor<const E> dy,
                                 RowStatistics<float> statistics, Tensor<float> dx) {
    Kernels::layer_norm_backward_input(raw_stream(), x, weight, dy, statistics, dx);
  }

  void gelu_forward(Tensor<const E> x, Tensor<E> y) { Kernels::gelu_forward(raw_stream(), x, y); }
  void gelu_backward(Tensor<const E> x, Tensor<E> gradient) { Kernels::gelu_backward(raw_stream(), x, gradient); }

  static std::size_t attention_heads_at_once(AttentionShape shape) { return shape.sequences * shape.heads; }
  void attention_forward(Tensor<const E> qkv, AttentionShape shape, Tensor<E> weights, Tensor<E> output) {
    cuda::attention_forward(raw_stream(), products_, qkv, shape, weights, output);
  }
  void attention_backward(Tensor<const E> qkv, Tensor<const E> weights, Tensor<const E> doutput, AttentionShape shape,
                          Tensor<E> scratch, Tensor<E> dqkv) {
    cuda::attention_backward(raw_stream(), products_, qkv, weights, doutput, shape, scratch, dqkv);
  }

  void cross_entropy_forward(Tensor<float> logits, std::span<const std::uint8_t> targets, double divisor) {
    Kernels::cross_entropy_forward(raw_stream(), logits, targets, divisor, scratch_.losses, scratch_.loss);
  }
  Tensor<const E> cross_entropy_backward(std::span<const std::uint8_t> targets, Tensor<float> probabilities,
                                         float loss_scale) {
    return Kernels::cross_entropy_backward(raw_stream(), targets, probabilities, loss_scale);
  }
  double take_loss() {
    auto* const loss = reinterpret_cast<double*>(pinned_.get());
    read(loss, scratch_.loss, sizeof(double));
    zerospan::check_cuda(cudaMemsetAsync(scratch_.loss, 0, sizeof(double), raw_stream()), "the loss of 0");
    return *loss;
  }

  std::span<const float> on_host(Tensor<const float> row) {
    auto* const values = reinterpret_cast<float*>(pinned_.get());
    read(values, row.data, row.columns * sizeof(float));
    return {values, row.columns};
  }

 private:
  using Kernels = cuda::Kernels<E>;

  static constexpr std::size_t pinned_bytes = Dimensions::vocabulary * sizeof(float);

  /// What no call leaves to the next but where said.
  struct Scratch {
    Scratch(const Dimensions& d, std::size_t tokens) : bytes{deal(Slab{}, d, tokens)} {
      memory = cuda::allocate_device(bytes);
      deal(Slab{memory.get()}, d, tokens);
    }

    std::size_t deal(Slab slab, const Dimensions& d, std::size_t tokens) {
      const std::size_t widest = 4 * d.width;
      partial = slab.deal<float>(cuda::ColumnSums::most_chunks, widest).data;
      bias = slab.deal<float>(1, widest).data;
      losses = slab.deal<float>(1, tokens).data;
      loss = slab.deal<double>(1, 1).data;
      return slab.used();
    }

    float* partial;  // of column sums
    float* bias;     // of the linear layer that is being computed
    float* losses;   // of each row
    double* loss;    // since it was last taken
    std::size_t bytes;
    std::shared_ptr<std::byte> memory;
  };

  cudaStream_t raw_stream() const { return stream_.ref().handle; }
  cuda::ColumnSums sums() const { return cuda::ColumnSums{scratch_.partial}; }

  void read(void* to, const void* from, std::size_t bytes) {
    zerospan::check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, raw_stream()), "reading a result");
    zerospan::check_cuda(cudaStreamSynchronize(raw_stream()), "the model's work");
  }

  zerospan::CudaStreamOwner stream_;
  cuda::Products products_;
  cuda::StagedBatch batch_;
  Scratch scratch_;
  std::shared_ptr<std::byte> pinned_;
  std::size_t allocated_;
};

static_assert(Math<CudaMath<float>> && Math<CudaMath<BFloat16>> && Math<CudaMath<Float16>>);

}  // namespace gpt
