/// @file
/// The arithmetic of the example train_gpt on a GPU, against that on the CPU: each function, and whole models.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <type_traits>
#include <vector>

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <zerospan/device/cuda_error.hpp>

#include "gpt/activations.hpp"
#include "gpt/cpu_math.hpp"
#include "gpt/cuda/cuda_math.hpp"
#include "gpt/linear.hpp"
#include "gpt/model.hpp"
#include "gpt/plain_parameter.hpp"
#include "support/pinned_parameter.hpp"

namespace {

using gpt::BFloat16;
using gpt::Float16;
using gpt::Tensor;
using zerospan_test::PinnedAllocator;
using zerospan_test::PinnedParameter;
using zerospan_test::wait_for_gpu;

template <class E>
E number(float value) {
  if constexpr (std::is_same_v<E, float>) {
    return value;
  } else {
    return gpt::narrow<E>(value);
  }
}

template <class E>
float number_of(E value) {
  if constexpr (std::is_same_v<E, float>) {
    return value;
  } else {
    return gpt::to_float(value);
  }
}

/// The same numbers for the CPU, in float, and for the GPU, in E.
template <class E>
class Matrix {
 public:
  /// Random numbers that E has.
  Matrix(std::size_t rows, std::size_t columns, unsigned seed, float deviation = 1.0F)
      : rows_{rows}, columns_{columns}, here_(rows * columns), there_(rows * columns) {
    std::mt19937_64 generator{seed};
    std::normal_distribution<float> normal{0.0F, deviation};
    for (std::size_t i = 0; i < here_.size(); ++i) {
      there_[i] = number<E>(normal(generator));
      here_[i] = number_of(there_[i]);
    }
  }

  Tensor<float> cpu() { return {here_.data(), rows_, columns_}; }
  Tensor<E> gpu() { return {there_.data(), rows_, columns_}; }

  /// The largest difference, relative to the largest number on the CPU.
  double difference() {
    wait_for_gpu();
    double largest = 0, difference = 0;
    for (std::size_t i = 0; i < here_.size(); ++i) {
      largest = std::max(largest, std::abs(double{here_[i]}));
      difference = std::max(difference, std::abs(double{here_[i]} - double{number_of(there_[i])}));
      if (std::isnan(here_[i]) || std::isnan(number_of(there_[i]))) return INFINITY;
    }
    return difference / largest;
  }

  std::vector<E> bits() {
    wait_for_gpu();
    return {there_.begin(), there_.end()};
  }

 private:
  std::size_t rows_;
  std::size_t columns_;
  std::vector<float> here_;
  std::vector<E, PinnedAllocator<E>> there_;
};

template <class E>
bool equal(const std::vector<E>& a, const std::vector<E>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](E x, E y) { return number_of(x) == number_of(y); });
}

/// Of one rounding to E, and of sums in float in another order.
template <class E>
constexpr double tolerance = std::is_same_v<E, BFloat16>  ? 0x1p-8
                             : std::is_same_v<E, Float16> ? 0x1p-10
                                                          : 2e-5;

constexpr gpt::Dimensions dimensions{.layers = 2, .heads = 4, .width = 64, .context = 32};
constexpr std::size_t most_tokens = 512;

/// Bytes that the GPU addresses.
std::vector<std::uint8_t, PinnedAllocator<std::uint8_t>> random_bytes(std::size_t count, unsigned values) {
  std::mt19937 generator{count + values};
  std::vector<std::uint8_t, PinnedAllocator<std::uint8_t>> bytes(count);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(generator() % values);
  return bytes;
}

template <class E>
struct Maths {
  gpt::CpuMath<float> cpu{dimensions};
  gpt::CudaMath<E> gpu{dimensions, most_tokens};
};

}  // namespace

TEST_CASE_TEMPLATE("products are those of the CPU, of any shape and order, and add to what is there", E, float,
                   BFloat16, Float16) {
  Maths<E> math;
  for (const std::size_t n : {64U, 37U}) {
    Matrix<E> a{n, 48, 1}, b{48, 24, 2}, at{48, n, 3}, bt{24, 48, 4}, c{n, 24, 5};
    math.cpu.multiply(a.cpu(), b.cpu(), c.cpu());
    math.gpu.multiply(a.gpu(), b.gpu(), c.gpu(), gpt::Assignment::replace);
    CHECK(c.difference() < tolerance<E>);
    math.cpu.multiply(transposed(at.cpu()), transposed(bt.cpu()), c.cpu(), gpt::Assignment::add);
    math.gpu.multiply(transposed(at.gpu()), transposed(bt.gpu()), c.gpu(), gpt::Assignment::add);
    CHECK(c.difference() < 3 * tolerance<E>);
    math.cpu.multiply(a.cpu(), transposed(bt.cpu()), c.cpu());
    math.gpu.multiply(a.gpu(), transposed(bt.gpu()), c.gpu(), gpt::Assignment::replace);
    CHECK(c.difference() < tolerance<E>);
    math.cpu.multiply(transposed(at.cpu()), b.cpu(), c.cpu());
    math.gpu.multiply(transposed(at.gpu()), b.gpu(), c.gpu(), gpt::Assignment::replace);
    CHECK(c.difference() < tolerance<E>);
  }
}

TEST_CASE_TEMPLATE("sums of bias, residual and products in tiles are those of the CPU", E, float, BFloat16, Float16) {
  constexpr std::size_t n = 50, in = 64, out = 90;
  Maths<E> math;
  Matrix<E> x{n, in, 1}, weight{out, in, 2}, bias{1, out, 3}, y{n, out, 4};
  Matrix<float> residual{n, out, 5}, wide{n, out, 6};
  const zerospan::Tile first{.outputs = {0, 45}, .inputs = {0, in}}, second{.outputs = {45, 45}, .inputs = {0, in}};
  const auto add_all = [&](auto& sum, auto x_of, auto weight_of, auto bias_of) {
    sum.set_bias(bias_of);
    for (const zerospan::Tile& tile : std::vector{first, second}) {
      sum.add_product(tile, x_of, weight_of.row_range(tile.outputs.first, tile.outputs.count));
    }
    sum.finish();
  };
  auto cpu = math.cpu.sum_into(y.cpu(), {});
  add_all(cpu, x.cpu(), weight.cpu(), bias.cpu());
  auto gpu = math.gpu.sum_into(y.gpu(), {});
  add_all(gpu, x.gpu(), weight.gpu(), bias.gpu());
  CHECK(y.difference() < tolerance<E>);

  auto cpu_wide = math.cpu.sum_into(wide.cpu(), residual.cpu());
  add_all(cpu_wide, x.cpu(), weight.cpu(), bias.cpu());
  auto gpu_wide = math.gpu.sum_into(wide.gpu(), residual.gpu());
  add_all(gpu_wide, x.gpu(), weight.gpu(), bias.gpu());
  CHECK(wide.difference() < tolerance<float>);
}

TEST_CASE_TEMPLATE("the weight's inputs may be in tiles too", E, float, BFloat16) {
  constexpr std::size_t n = 16, in = 64, out = 32;
  Maths<E> math;
  Matrix<E> x{n, in, 1}, left{out, in / 2, 2}, right{out, in / 2, 3}, bias{1, out, 4};
  Matrix<float> residual{n, out, 5}, y{n, out, 6};
  const auto add_both = [&](auto sum, auto x_of, auto left_of, auto right_of, auto bias_of) {
    sum.set_bias(bias_of);
    const zerospan::Tile first{.outputs = {0, out}, .inputs = {0, in / 2}};
    const zerospan::Tile second{.outputs = {0, out}, .inputs = {in / 2, in / 2}};
    sum.add_product(first, x_of, left_of);
    sum.add_product(second, x_of, right_of);
    sum.finish();
  };
  add_both(math.cpu.sum_into(y.cpu(), residual.cpu()), x.cpu(), left.cpu(), right.cpu(), bias.cpu());
  add_both(math.gpu.sum_into(y.gpu(), residual.gpu()), x.gpu(), left.gpu(), right.gpu(), bias.gpu());
  CHECK(y.difference() < tolerance<float>);
}

TEST_CASE_TEMPLATE("sums of rows are those of the CPU, for many rows and few", E, float, BFloat16, Float16) {
  Maths<E> math;
  for (const std::size_t rows : {1U, 7U, 300U, 9000U}) {
    for (const std::size_t columns : {256U, 64U, 37U, 1U}) {
      Matrix<E> matrix{rows, columns, 1}, total{1, columns, 2};
      math.cpu.sum_of_rows(matrix.cpu(), total.cpu());
      math.gpu.sum_of_rows(matrix.gpu(), total.gpu());
      CHECK(total.difference() < tolerance<E>);
    }
  }
}

TEST_CASE_TEMPLATE("layer normalization is that of the CPU, forward and backward", E, float, BFloat16, Float16) {
  constexpr std::size_t n = 70;
  Maths<E> math;
  for (const std::size_t width : {64U, 37U, 256U, 1000U, 4096U}) {
    Matrix<float> x{n, width, 1}, dx{n, width, 2}, mean{1, n, 3}, deviation{1, n, 4};
    Matrix<E> weight{1, width, 5}, bias{1, width, 6}, y{n, width, 7}, dy{n, width, 8}, dweight{1, width, 9},
        dbias{1, width, 10};
    const gpt::RowStatistics<float> here{mean.cpu(), deviation.cpu()}, there{mean.gpu(), deviation.gpu()};
    math.cpu.layer_norm_forward(x.cpu(), weight.cpu(), bias.cpu(), y.cpu(), here);
    math.gpu.layer_norm_forward(x.gpu(), weight.gpu(), bias.gpu(), y.gpu(), there);
    CHECK(y.difference() < tolerance<E>);
    CHECK(mean.difference() < tolerance<float>);
    CHECK(deviation.difference() < tolerance<float>);
    math.cpu.layer_norm_backward_input(x.cpu(), weight.cpu(), dy.cpu(), here, dx.cpu());
    math.gpu.layer_norm_backward_input(x.gpu(), weight.gpu(), dy.gpu(), there, dx.gpu());
    CHECK(dx.difference() < tolerance<float>);
    if (width > 4 * dimensions.width) continue;  // column sums have no room for more
    math.cpu.layer_norm_backward_weight(x.cpu(), dy.cpu(), here, dweight.cpu());
    math.gpu.layer_norm_backward_weight(x.gpu(), dy.gpu(), there, dweight.gpu());
    CHECK(dweight.difference() < tolerance<E>);
    math.cpu.layer_norm_backward_bias(dy.cpu(), dbias.cpu());
    math.gpu.layer_norm_backward_bias(dy.gpu(), dbias.gpu());
    CHECK(dbias.difference() < tolerance<E>);
  }
}

TEST_CASE_TEMPLATE("GELU is that of the CPU, forward and backward", E, float, BFloat16, Float16) {
  Maths<E> math;
  for (const std::size_t width : {64U, 37U}) {
    Matrix<E> x{9, width, 1, 3.0F}, y{9, width, 2}, gradient{9, width, 3};
    math.cpu.gelu_forward(x.cpu(), y.cpu());
    math.gpu.gelu_forward(x.gpu(), y.gpu());
    CHECK(y.difference() < tolerance<E>);
    math.cpu.gelu_backward(x.cpu(), gradient.cpu());
    math.gpu.gelu_backward(x.gpu(), gradient.gpu());
    CHECK(gradient.difference() < tolerance<E>);
  }
}

TEST_CASE_TEMPLATE("causal attention is that of the CPU, forward and backward, in batches of either kind", E, float,
                   BFloat16, Float16) {
  Maths<E> math;
  for (const gpt::AttentionShape shape :
       std::vector<gpt::AttentionShape>{{.sequences = 3, .length = 16, .heads = 2},
                                        {.sequences = 2, .length = 40, .heads = 4},
                                        {.sequences = 1, .length = 5, .heads = 1},
                                        {.sequences = 1, .length = 1, .heads = 3},
                                        {.sequences = 4, .length = 264, .heads = 4}}) {
    CAPTURE(shape.length);
    const std::size_t n = shape.positions(), width = 16 * shape.heads;
    Matrix<E> qkv{n, 3 * width, 1}, weights{n * shape.heads, shape.length, 2}, output{n, width, 3};
    math.cpu.attention_forward(qkv.cpu(), shape, weights.cpu(), output.cpu());
    math.gpu.attention_forward(qkv.gpu(), shape, weights.gpu(), output.gpu());
    CHECK(weights.difference() < 8 * tolerance<E>);  // scores are rounded before the softmax
    CHECK(output.difference() < 8 * tolerance<E>);

    Matrix<E> doutput{n, width, 4}, scratch{n * shape.heads, shape.length, 5}, dqkv{n, 3 * width, 6};
    std::vector<float> head(shape.length * shape.length);
    math.cpu.attention_backward(qkv.cpu(), weights.cpu(), doutput.cpu(), shape,
                                Tensor<float>{head.data(), shape.length, shape.length}, dqkv.cpu());
    math.gpu.attention_backward(qkv.gpu(), weights.gpu(), doutput.gpu(), shape, scratch.gpu(), dqkv.gpu());
    CHECK(dqkv.difference() < 8 * tolerance<E>);
  }
}

TEST_CASE_TEMPLATE("embeddings are those of the CPU, and their gradients are repeatable", E, float, BFloat16, Float16) {
  constexpr std::size_t vocabulary = gpt::Dimensions::vocabulary, context = 12, length = 10, n = 400;
  Maths<E> math;
  for (const std::size_t width : {64U, 37U, 200U}) {
    const auto tokens = random_bytes(n, 9);
    const std::span<const std::uint8_t> span{tokens.data(), n};
    Matrix<E> token{vocabulary, width, 1}, position{context, width, 2}, dtoken{vocabulary, width, 3},
        dposition{context, width, 4}, again{vocabulary, width, 5};
    Matrix<float> y{n, width, 6}, dy{n, width, 7};
    math.cpu.embedding_forward(span, length, token.cpu(), position.cpu(), y.cpu());
    math.gpu.embedding_forward(span, length, token.gpu(), position.gpu(), y.gpu());
    CHECK(y.difference() == 0);
    math.cpu.embedding_backward_token(span, dy.cpu(), dtoken.cpu());
    math.gpu.embedding_backward_token(span, dy.gpu(), dtoken.gpu());
    CHECK(dtoken.difference() < tolerance<E>);
    math.cpu.embedding_backward_position(length, dy.cpu(), dposition.cpu());
    math.gpu.embedding_backward_position(length, dy.gpu(), dposition.gpu());
    CHECK(dposition.difference() < tolerance<E>);
    math.gpu.embedding_backward_token(span, dy.gpu(), again.gpu());
    CHECK(equal(dtoken.bits(), again.bits()));
  }
}

TEST_CASE_TEMPLATE("cross-entropy is that of the CPU; the loss is summed until it is taken", E, float, BFloat16,
                   Float16) {
  constexpr std::size_t vocabulary = gpt::Dimensions::vocabulary, n = 301;
  Maths<E> math;
  const auto targets = random_bytes(n, 256);
  const std::span<const std::uint8_t> span{targets.data(), n};
  Matrix<float> logits{n, vocabulary, 1, 4.0F};
  math.cpu.cross_entropy_forward(logits.cpu(), span, 2.0);
  math.gpu.cross_entropy_forward(logits.gpu(), span, 2.0);
  CHECK(logits.difference() < tolerance<float>);
  const double loss = math.gpu.take_loss();
  CHECK(loss == doctest::Approx(math.cpu.take_loss()).epsilon(1e-6));
  CHECK(math.gpu.take_loss() == 0);

  const Tensor<const float> here = math.cpu.cross_entropy_backward(span, logits.cpu(), 1024.0F);
  const Tensor<const E> there = math.gpu.cross_entropy_backward(span, logits.gpu(), 1024.0F);
  wait_for_gpu();
  double difference = 0;
  for (std::size_t r = 0; r < n; ++r) {
    for (std::size_t c = 0; c < vocabulary; ++c) {
      difference = std::max(difference, std::abs(double{number_of(there.row(r)[c])} - double{here.row(r)[c]}));
    }
  }
  CHECK(difference < tolerance<E> * 1024 / n);
}

TEST_CASE_TEMPLATE("what is on its way to the GPU and back is what it was", E, float, BFloat16, Float16) {
  Maths<E> math;
  Matrix<float> gradient{8, 64, 1}, target{8, 64, 2};
  math.gpu.copy(gradient.gpu(), target.gpu());
  Matrix<E> copy{8, 64, 3}, room{8, 64, 4};
  const Tensor<const E> values = math.gpu.values(gradient.gpu(), room.gpu());
  zerospan::check_cuda(cudaMemcpy(copy.gpu().data, values.data, values.size() * sizeof(E), cudaMemcpyDefault),
                       "a copy");
  wait_for_gpu();
  for (std::size_t i = 0; i < gradient.cpu().size(); ++i) {
    REQUIRE(target.gpu().data[i] == gradient.cpu().data[i]);
    REQUIRE(number_of(copy.gpu().data[i]) == number_of(number<E>(gradient.cpu().data[i])));
  }
  const std::span<const float> row = math.gpu.on_host(gradient.gpu().row_range(3, 1));
  CHECK(std::equal(row.begin(), row.end(), gradient.cpu().row(3)));
  math.gpu.clear(target.gpu());
  wait_for_gpu();
  CHECK(std::all_of(target.gpu().data, target.gpu().data + target.gpu().size(), [](float x) { return x == 0; }));

  for (unsigned round = 0; round < 5; ++round) {
    const auto bytes = random_bytes(40 + round, 200);
    const std::span<const std::uint8_t> span{bytes.data(), bytes.size()};
    const gpt::Batch batch = math.gpu.stage({span.first(20), span.last(20), 10});
    std::vector<std::uint8_t> tokens(20), targets(20);
    wait_for_gpu();
    cudaMemcpy(tokens.data(), batch.tokens.data(), 20, cudaMemcpyDefault);
    cudaMemcpy(targets.data(), batch.targets.data(), 20, cudaMemcpyDefault);
    CHECK(std::equal(tokens.begin(), tokens.end(), span.begin()));
    CHECK(std::equal(targets.begin(), targets.end(), span.last(20).begin()));
    CHECK(batch.length == 10);
  }
}

namespace {

/// A small model on the CPU or the GPU.
template <class Parameter, class Math>
struct TestModel {
  explicit TestModel(const gpt::Dimensions& d, auto... more)
      : math{d, more...}, model{store, math, d}, a{math, d, 3, d.layers}, g{math, d, 3} {}

  void descend(float rate) {
    wait_for_gpu();
    for (auto& entry : store.entries()) {
      for (std::size_t i = 0; i < entry.values.size(); ++i) entry.values[i] -= rate * entry.gradient[i];
    }
    store.clear_gradients();
  }

  typename Parameter::Store store{7};
  Math math;
  gpt::Model<Parameter, Math> model;
  gpt::Activations<Math> a;
  gpt::ActivationGradients<Math> g;
};

using CpuModel = TestModel<gpt::PlainParameter<float>, gpt::CpuMath<float>>;
using GpuModel = TestModel<PinnedParameter<float>, gpt::CudaMath<float>>;

constexpr std::size_t batch_tokens = 60;

gpt::Batch sentence(std::vector<std::uint8_t>& bytes) {
  bytes.clear();
  for (std::size_t i = 0; i <= batch_tokens; ++i) bytes.push_back(static_cast<std::uint8_t>('a' + i * i % 23));
  return {std::span{bytes}.first(batch_tokens), std::span{bytes}.last(batch_tokens), 20};
}

}  // namespace

TEST_CASE("a model's loss and gradients are those of the CPU, whole or in tiles") {
  gpt::Dimensions d{.layers = 2, .heads = 2, .width = 32, .context = 24};
  SUBCASE("whole") {}
  SUBCASE("in tiles") { d.tiles = 3; }
  CpuModel cpu{d};
  GpuModel gpu{d, batch_tokens};
  std::vector<std::uint8_t> bytes;
  const gpt::Batch batch = sentence(bytes);
  cpu.model.train(batch, cpu.a, cpu.g);
  gpu.model.train(batch, gpu.a, gpu.g);
  CHECK(gpu.model.take_loss() == doctest::Approx(cpu.model.take_loss()).epsilon(1e-6));
  CHECK(gpu.model.loss(batch, gpu.a) == doctest::Approx(cpu.model.loss(batch, cpu.a)).epsilon(1e-6));
  REQUIRE(gpu.store.entries().size() == cpu.store.entries().size());
  for (std::size_t e = 0; e < cpu.store.entries().size(); ++e) {
    const auto& here = cpu.store.entries()[e];
    const auto& there = gpu.store.entries()[e];
    CAPTURE(here.name);
    double largest = 0, difference = 0;
    for (std::size_t i = 0; i < here.gradient.size(); ++i) {
      largest = std::max(largest, std::abs(double{here.gradient[i]}));
      difference = std::max(difference, std::abs(double{here.gradient[i]} - double{there.gradient[i]}));
    }
    CHECK(difference < 1e-4 * largest);
  }
}

TEST_CASE("a model learns as on the CPU, equally each time, and predicts the same") {
  constexpr gpt::Dimensions d{.layers = 1, .heads = 2, .width = 32, .context = 24};
  CpuModel cpu{d};
  GpuModel gpu{d, batch_tokens};
  GpuModel again{d, batch_tokens};
  std::vector<std::uint8_t> bytes;
  const gpt::Batch batch = sentence(bytes);
  double first = 0, last = 0;
  for (int step = 0; step < 60; ++step) {
    cpu.model.train(batch, cpu.a, cpu.g);
    gpu.model.train(batch, gpu.a, gpu.g);
    again.model.train(batch, again.a, again.g);
    last = cpu.model.take_loss();
    if (step == 0) first = last;
    const double there = gpu.model.take_loss();
    CHECK(there == doctest::Approx(last).epsilon(1e-4));
    CHECK(there == again.model.take_loss());
    cpu.descend(0.03F);
    gpu.descend(0.03F);
    again.descend(0.03F);
  }
  CHECK(last < first / 2);
  for (const std::size_t length : {1U, 7U, 20U}) {
    const auto here = cpu.model.predict(std::span{bytes}.first(length), cpu.a);
    const auto there = gpu.model.predict(std::span{bytes}.first(length), gpu.a);
    CHECK(std::max_element(here.begin(), here.end()) - here.begin() ==
          std::max_element(there.begin(), there.end()) - there.begin());
  }
}
