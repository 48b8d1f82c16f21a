// The formulas of ZeRO-Infinity reproduce the tables of its paper, and the curve of a V100 is as its sources say.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>

#include <zerospan/sim/compute.hpp>

#include "../bench/foresight/paper_layer.hpp"
#include "../bench/foresight/paper_model.hpp"
#include "../bench/foresight/paper_v100.hpp"

namespace {

using paper::gibi;
using paper::Model;
using paper::tebi;

/// To the two digits that the table prints.
double rounded(double value) { return std::round(100 * value) / 100; }

struct TableRow {
  std::size_t layers;
  std::size_t hidden;
  std::size_t heads;
  double parameters;        ///< In 1e12, as the table names it.
  double states;            ///< TiB
  double full_activations;  ///< TiB a node
  double checkpoints;       ///< TiB a node
  double largest_layer;     ///< GiB
  double working;           ///< GiB
};

TEST_CASE("the paper's formulas give its table of memory to the digit") {
  // The paper prints 1.95 GiB for the largest layer of the first row; its formula gives 1.5625.
  constexpr TableRow rows[]{{80, 10, 128, 0.1, 1.83, 2.03, 0.05, 1.56, 1.63},
                            {100, 20, 160, 0.5, 9.16, 3.91, 0.12, 6.25, 2.50},
                            {128, 25, 256, 1, 18.31, 7.13, 0.20, 9.77, 3.56},
                            {195, 64, 512, 10, 182.81, 24.38, 0.76, 64.00, 8.00},
                            {315, 160, 1024, 100, 1845.70, 88.59, 3.08, 400.00, 18.00}};
  constexpr double gpus = 16;
  for (const TableRow& row : rows) {
    CAPTURE(row.parameters);
    const Model model{.hidden = 1024 * row.hidden, .layers = row.layers, .batch = 4, .heads = row.heads};
    CHECK(model.parameters() / 1e12 == doctest::Approx(row.parameters).epsilon(0.02));
    CHECK(rounded(paper::bytes_of_states(model) / tebi) == doctest::Approx(row.states));
    CHECK(rounded(gpus * model.nl() * paper::bytes_of_activations(model, 4) / tebi) ==
          doctest::Approx(row.full_activations).epsilon(0.001));
    CHECK(rounded(paper::bytes_of_checkpoints(model, 32) / tebi) == doctest::Approx(row.checkpoints));
    CHECK(rounded(paper::bytes_of_largest_layer(model) / gibi) == doctest::Approx(row.largest_layer));
    CHECK(rounded(paper::bytes_of_activations(model, 4) / gibi) == doctest::Approx(row.working));
  }
}

TEST_CASE("a step has eight operations for each parameter and token, as recomputation counts") {
  const Model model{.hidden = 25 * 1024, .layers = 128, .batch = 5, .heads = 256};
  CHECK(paper::flops_of_step(model) == 2.0 * 4 * 12 * 5 * 1024 * 128 * 25600.0 * 25600.0);
}

TEST_CASE("GPUs that share matrices keep the operations of a GPU") {
  const Model alone{.hidden = 88 * 1024, .layers = 205, .batch = 1.25, .heads = 704};
  Model shared = alone;
  shared.model_parallel = 8;
  CHECK(paper::flops_of_step(shared) == paper::flops_of_step(alone));
}

TEST_CASE("one full wave of tiles is as fast as full waves are, and one tile more takes another wave") {
  const paper::V100 gpu;
  const double k = 1 << 16;  // so that memory does not matter
  CHECK(gpu(10 * 256, 8 * 128, k) == doctest::Approx(gpu.full_waves));
  CHECK(gpu(11 * 256, 8 * 128, k) == doctest::Approx(gpu.full_waves * 88 / 160));
}

TEST_CASE("half a tile takes as long as a tile") {
  const paper::V100 gpu;
  CHECK(gpu(256, 64, 1 << 20) == doctest::Approx(gpu(256, 128, 1 << 20) / 2));
}

TEST_CASE("a thin product is as fast as its operands cross the memory") {
  const paper::V100 gpu;
  const double n = 1 << 14;
  CHECK(gpu(n, n, 16) == doctest::Approx(2 * n * n * 16 / (2 * (2 * 16 * n + n * n)) * gpu.memory));
}

TEST_CASE("work without a shape crosses the memory") {
  const paper::V100 gpu;
  CHECK(gpu(zerospan::sim::Work{1e9}) == gpu.memory);
  CHECK(gpu(zerospan::sim::matrix_product(2560, 1024, 1 << 16)) == doctest::Approx(gpu.full_waves));
}

TEST_CASE("with cuBLAS' speed of full waves the curve has the squares that were measured") {
  struct Square {
    double n;
    double measured;
    double off;  ///< At most.
  };
  // The smallest has fewer tiles than there are multiprocessors: cuBLAS takes smaller ones.
  constexpr Square squares[]{{1024, 57.30e12, 0.33}, {2048, 78.23e12, 0.01}, {4096, 95.73e12, 0.08},
                             {8192, 97.36e12, 0.02}, {8192, 96.0e12, 0.01},  {10240, 89.37e12, 0.09}};
  const paper::V100 gpu{.full_waves = paper::waves_of_cublas};
  for (const Square& square : squares) {
    CAPTURE(square.n);
    CHECK(std::abs(gpu(square.n, square.n, square.n) / square.measured - 1) <= square.off);
  }
}

/// Operations a second of training a layer, as its products alone count, with or without those of attention.
double rate(const paper::V100& gpu, const Model& model, bool recomputes, bool counts_attention) {
  const paper::Layer layer{model};
  const double seconds = (recomputes ? 2 : 1) * layer.forward_seconds(gpu) + layer.backward_seconds(gpu);
  const double attention = counts_attention ? 4 * model.tokens() * model.seq() * model.hd() : 0;
  return (recomputes ? 4 : 3) * (24 * model.tokens() * model.hd() * model.hd() + attention) / seconds;
}

TEST_CASE("the paper's layers reach its achievable peak on average over its widths") {
  double sum = 0;
  for (const std::size_t hidden : {8U, 16U, 32U, 64U}) {
    const Model model{.hidden = 1024 * hidden, .layers = 1, .batch = 4, .heads = 8 * hidden};
    sum += rate({.full_waves = paper::waves_of_paper}, model, true, false);
  }
  CHECK(sum / 4 == doctest::Approx(70e12).epsilon(0.002));
}

TEST_CASE("Megatron-LM's model of 1.2e9 parameters takes what was measured on one GPU") {
  const Model model{.hidden = 1536, .layers = 40, .batch = 8, .heads = 16};
  CHECK(rate({.full_waves = paper::waves_of_megatron}, model, true, true) == doctest::Approx(39e12).epsilon(0.002));
  CHECK(rate({.full_waves = paper::waves_of_megatron_without_attention}, model, true, false) ==
        doctest::Approx(39e12).epsilon(0.002));
}

TEST_CASE("a layer of BERT that nobody was asked to fit is within a sixth of what was measured") {
  // github.com/mli/transformers-benchmarks, README: 53 TFLOP/s forward, 64 forward and backward.
  const Model model{.hidden = 1024, .layers = 1, .batch = 128, .heads = 16, .sequence = 128};
  const paper::V100 gpu{.full_waves = paper::waves_of_cublas};
  const double forward = (24 * model.hd() + 4 * model.seq()) * model.tokens() * model.hd();
  CHECK(forward / paper::Layer{model}.forward_seconds(gpu) == doctest::Approx(53e12).epsilon(1 / 6.0));
  CHECK(rate(gpu, model, false, true) == doctest::Approx(64e12).epsilon(1 / 6.0));
}

TEST_CASE("the products of a layer have the operations of the formula, shared or not") {
  Model model{.hidden = 4096, .layers = 1, .batch = 2, .heads = 32};
  for (const int gpus : {1, 4}) {
    model.model_parallel = gpus;
    const paper::Layer layer{model};
    double flops = 0;
    for (std::size_t i = 0; i < paper::Layer::matrices; ++i) {
      flops += 2 * layer.output(i).flops + layer.gradient_of_input(i).flops + layer.gradient_of_weight(i).flops;
    }
    CHECK(flops == paper::flops_of_step(model));
  }
}

/// What crosses memory, operation by operation: elements read and written, for each token of the GPU.
double passes_of_forward(double hd, double scores) {
  const double norm = 2 * hd;
  const double dropout_of_hd = 2 * hd + hd / 2;  // a byte of mask for each element of two
  const double bias_of_hd = 2 * hd;
  const double residual = 3 * hd;
  const double order_of_heads = 2 * hd;
  const double bias_and_gelu = 2 * (4 * hd) + 2 * (4 * hd);
  const double mask_and_softmax = 2 * scores + 2 * scores;
  const double dropout_of_scores = 2 * scores + scores / 2;
  return 2 * (norm + bias_of_hd + dropout_of_hd + residual) + order_of_heads + bias_and_gelu + mask_and_softmax +
         dropout_of_scores;
}

double passes_of_backward(double hd, double scores) {
  const double norm = 3 * hd + 2 * hd;  // of its input, and of its scale and shift
  const double dropout_of_hd = 2 * hd + hd / 2;
  const double residual = 3 * hd;
  const double gelu = 3 * (4 * hd);
  const double biases = 2 * hd + 4 * hd + 3 * hd;
  const double order_of_heads = 2 * hd + 2 * (3 * hd);
  const double softmax_and_mask = 3 * scores + 2 * scores;
  const double dropout_of_scores = 2 * scores + scores / 2;
  return 2 * (norm + dropout_of_hd + residual) + gelu + biases + order_of_heads + softmax_and_mask + dropout_of_scores;
}

TEST_CASE("what crosses memory beside products is what the layer's operations read and write") {
  const Model model{.hidden = 4096, .layers = 1, .batch = 2, .heads = 32};
  const paper::Layer layer{model};
  const double scores = static_cast<double>(model.heads) * model.seq();
  CHECK(layer.beside_forward().flops == 2 * model.tokens() * passes_of_forward(model.hd(), scores));
  CHECK(layer.beside_backward().flops == 2 * model.tokens() * passes_of_backward(model.hd(), scores));
}

}  // namespace
