/// @file
/// What one GPU computes in a layer of the transformer: products of matrices, attention, and what crosses its memory
/// beside them. The program is the paper's: Megatron-LM-v1.1.5-ZeRO3 (github.com/microsoft/DeepSpeedExamples), whose
/// example fuses neither softmax nor bias, GeLU and dropout.
#pragma once

#include <cstddef>

#include <zerospan/sim/compute.hpp>

#include "paper_model.hpp"
#include "paper_v100.hpp"

namespace paper {

class Layer {
 public:
  using Work = zerospan::sim::Work;

  /// Parameters are matrices of hd x hd, twelve a layer: three for queries, keys and values, one behind attention, four
  /// up, four down.
  static constexpr std::size_t matrices = 12;
  static constexpr std::size_t last_of_queries = 2;
  static constexpr std::size_t last_of_attention = 3;
  static constexpr std::size_t last_up = 7;

  explicit Layer(const Model& model) : model_{model} {}

  /// Those that share a layer have their sequences in common.
  std::size_t tokens() const {
    return static_cast<std::size_t>(model_.tokens() * static_cast<double>(model_.model_parallel));
  }

  /// Rows of a GPU's part of a matrix.
  std::size_t width() const { return model_.hidden / static_cast<std::size_t>(model_.model_parallel); }

  /// A matrix's share of a product that it has with its neighbours.
  Work output(std::size_t matrix) const {
    const Shape whole = product(matrix);
    return share(tokens(), whole.outputs, whole.inputs, whole.matrices);
  }
  Work gradient_of_input(std::size_t matrix) const {
    const Shape whole = product(matrix);
    return share(tokens(), whole.inputs, whole.outputs, whole.matrices);
  }
  Work gradient_of_weight(std::size_t matrix) const {
    const Shape whole = product(matrix);
    return share(whole.outputs, whole.inputs, tokens(), whole.matrices);
  }

  /// Of all heads. In backward each counts twice. The paper counts neither.
  Work scores() const { return zerospan::sim::matrix_product(rows(), model_.sequence, of_head()); }
  Work values() const { return zerospan::sim::matrix_product(rows(), of_head(), model_.sequence); }

  /// Bytes beside products. Of elements of two bytes, by token: hd are read and written 4 times by layer norms and 15
  /// by biases, dropouts and residuals, all of them on each GPU that shares the layer; of a share, 2 by the order of
  /// heads and 16 by the bias and the GeLU of 4 hd; heads x seq 6.5 times by mask, softmax and dropout.
  Work beside_forward() const { return passes(19, 18, 6.5); }

  /// Likewise: 10 by layer norms, 13 by dropouts, biases and where residuals join; 27 by GeLU, biases, heads and the
  /// joint gradient of queries, keys and values; 7.5 by dropout, softmax and mask.
  Work beside_backward() const { return passes(23, 27, 7.5); }

  double forward_seconds(const V100& gpu) const {
    double seconds = gpu.seconds(scores()) + gpu.seconds(values()) + gpu.seconds(beside_forward());
    for (std::size_t i = 0; i < matrices; ++i) seconds += gpu.seconds(output(i));
    return seconds;
  }

  double backward_seconds(const V100& gpu) const {
    double seconds = 2 * (gpu.seconds(scores()) + gpu.seconds(values())) + gpu.seconds(beside_backward());
    for (std::size_t i = 0; i < matrices; ++i) {
      seconds += gpu.seconds(gradient_of_input(i)) + gpu.seconds(gradient_of_weight(i));
    }
    return seconds;
  }

 private:
  struct Shape {
    std::size_t outputs;
    std::size_t inputs;
    std::size_t matrices;
  };

  /// Queries, keys and values are one product, and so are the four up and the four down.
  Shape product(std::size_t matrix) const {
    if (matrix <= last_of_queries) return {3 * width(), model_.hidden, 3};
    if (matrix <= last_of_attention) return {model_.hidden, width(), 1};
    if (matrix <= last_up) return {4 * width(), model_.hidden, 4};
    return {model_.hidden, 4 * width(), 4};
  }

  static Work share(std::size_t m, std::size_t n, std::size_t k, std::size_t matrices_of_product) {
    Work work = zerospan::sim::matrix_product(m, n, k);
    work.flops /= static_cast<double>(matrices_of_product);
    return work;
  }

  std::size_t rows() const { return tokens() * model_.heads / static_cast<std::size_t>(model_.model_parallel); }
  std::size_t of_head() const { return model_.hidden / model_.heads; }

  Work passes(double whole, double shared, double of_scores) const {
    const auto gpus = static_cast<double>(model_.model_parallel);
    const double elements =
        (whole + shared / gpus) * model_.hd() + of_scores * static_cast<double>(model_.heads) * model_.seq() / gpus;
    return {.flops = 2 * static_cast<double>(tokens()) * elements};
  }

  Model model_;
};

}  // namespace paper
