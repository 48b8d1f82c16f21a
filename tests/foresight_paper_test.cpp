// The formulas of ZeRO-Infinity reproduce the tables of its paper, and the curve of a V100 is as its source says.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>

#include <zerospan/sim/compute.hpp>

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

}  // namespace
