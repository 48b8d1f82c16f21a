/// @file
/// The model's kernels, as the host enqueues them. nvcc compiles them in kernels.cu, for all that includes this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <cuda_runtime_api.h>

#include "../row_statistics.hpp"
#include "../tensor.hpp"

namespace gpt::cuda {

/// Memory for partial sums over rows.
struct ColumnSums {
  static constexpr std::size_t most_chunks = 128;

  float* partial;  ///< `most_chunks` times the most columns.
};

/// to = from, rounded where its type is narrower: matrices of contiguous rows. The types are equal, or one is float.
template <class From, class To>
void convert(cudaStream_t stream, Tensor<const From> from, Tensor<To> to);

/// What is enqueued for parameters of the type S: float, BFloat16 or Float16.
template <class S>
struct Kernels {
  /// Fills `total`, a vector, with the sum of the rows of `matrix`. The order of additions depends on the shape alone.
  static void sum_of_rows(cudaStream_t stream, ColumnSums sums, Input<S> matrix, Tensor<S> total);

  /// @param tokens    [n], in device memory: sequences of `length` each
  /// @param token     [vocabulary x width]
  /// @param position  [context x width], context >= length
  /// @param y         [n x width], overwritten.
  static void embedding_forward(cudaStream_t stream, std::span<const std::uint8_t> tokens, std::size_t length,
                                Input<S> token, Input<S> position, Tensor<float> y);

  /// @param dtoken [vocabulary x width], overwritten; of contiguous rows.
  static void embedding_backward_token(cudaStream_t stream, std::span<const std::uint8_t> tokens,
                                       Tensor<const float> dy, Tensor<S> dtoken);

  /// @param dposition [context x width], overwritten.
  static void embedding_backward_position(cudaStream_t stream, std::size_t length, Tensor<const float> dy,
                                          Tensor<S> dposition);

  /// @param x           [n x width]
  /// @param weight,bias [width]
  /// @param y           [n x width], overwritten.
  static void layer_norm_forward(cudaStream_t stream, Tensor<const float> x, Input<S> weight, Input<S> bias,
                                 Tensor<S> y, RowStatistics<float> statistics);

  /// @param dweight [width], overwritten.
  static void layer_norm_backward_weight(cudaStream_t stream, ColumnSums sums, Tensor<const float> x, Input<S> dy,
                                         RowStatistics<float> statistics, Tensor<S> dweight);

  /// @param dx [n x width]; the gradient is added to it: the residual path's is there already.
  static void layer_norm_backward_input(cudaStream_t stream, Tensor<const float> x, Input<S> weight, Input<S> dy,
                                        RowStatistics<float> statistics, Tensor<float> dx);

  /// y = gelu(x), element by element, for matrices of contiguous rows.
  static void gelu_forward(cudaStream_t stream, Input<S> x, Tensor<S> y);

  /// Turns `gradient` from that of gelu(x) into that of x.
  static void gelu_backward(cudaStream_t stream, Input<S> x, Tensor<S> gradient);

  /// Replaces scores by weights: position i of each [length x length] sees the columns up to i; the others become zero.
  /// @param scores [matrices length x length], contiguous.
  static void causal_softmax_forward(cudaStream_t stream, Tensor<S> scores);

  /// Turns `gradient` from that of the weights into that of the scores.
  static void causal_softmax_backward(cudaStream_t stream, Input<S> weights, Tensor<S> gradient);

  /// @param logits  [n x vocabulary], contiguous; replaced by the probabilities.
  /// @param targets [n], in device memory.
  /// @param losses  [n], overwritten: of each row, in nats.
  /// @param loss    In device memory; the sum over the rows, divided, is added to it.
  static void cross_entropy_forward(cudaStream_t stream, Tensor<float> logits, std::span<const std::uint8_t> targets,
                                    double divisor, float* losses, double* loss);

  /// Turns the probabilities into the gradient of the mean over the rows, times `loss_scale`, with respect to the
  /// logits.
  /// @return The gradient; it begins where the probabilities' rows do, and leaves gaps where S is narrower.
  static Tensor<const S> cross_entropy_backward(cudaStream_t stream, std::span<const std::uint8_t> targets,
                                                Tensor<float> probabilities, float loss_scale);
};

}  // namespace gpt::cuda
