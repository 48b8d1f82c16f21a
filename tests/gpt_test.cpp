/// @file
/// The model of the example train_gpt: its layers' gradients, its data, its schedule, its 16-bit tensors.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <numeric>
#include <random>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/timeline.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/operation.hpp>

#include "gpt/cpu_math.hpp"
#include "gpt/data.hpp"
#include "gpt/exchange.hpp"
#include "gpt/fastest_products.hpp"
#include "gpt/figures.hpp"
#include "gpt/micro_batch.hpp"
#include "gpt/model.hpp"
#include "gpt/openblas.hpp"
#include "gpt/plain_parameter.hpp"
#include "gpt/products.hpp"
#include "gpt/sample.hpp"
#include "gpt/schedule.hpp"
#include "gpt/step_time.hpp"
#include "gpt/summary.hpp"
#include "gpt/text.hpp"
#include "gpt/zerospan_adapter.hpp"
#include "support/sample.hpp"

namespace {

using gpt::Tensor;
using Values = std::vector<double>;
template <class E>
using Model = gpt::Model<gpt::PlainParameter<E>, gpt::CpuMath<E>>;
template <class E>
using Activations = gpt::Activations<gpt::CpuMath<E>>;
template <class E>
using ActivationGradients = gpt::ActivationGradients<gpt::CpuMath<E>>;

Values random_values(std::size_t count, unsigned seed) {
  std::mt19937_64 generator{seed};
  std::normal_distribution<double> normal;
  Values values(count);
  for (double& value : values) value = normal(generator);
  return values;
}

Tensor<double> matrix(Values& values, std::size_t rows, std::size_t columns) {
  REQUIRE(values.size() == rows * columns);
  return {values.data(), rows, columns};
}

/// Some fixed projection of an output: a scalar whose gradient with respect to the output is `random_values(n, 99)`.
double project(const Values& output) {
  const Values direction = random_values(output.size(), 99);
  double sum = 0;
  for (std::size_t i = 0; i < output.size(); ++i) sum += output[i] * direction[i];
  return sum;
}

/// Compares `gradient` with central differences of `loss` over every element of `values`, fourth order, relative to the
/// largest element of the gradient.
template <class Loss>
void check_gradient(Values& values, const Values& gradient, Loss loss, double tolerance = 1e-8) {
  REQUIRE(values.size() == gradient.size());
  double largest = 0;
  for (const double g : gradient) largest = std::max(largest, std::abs(g));
  REQUIRE(largest > 0);
  double error = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    constexpr double h = 1e-3;
    const double at = values[i];
    const auto loss_at = [&](double offset) {
      values[i] = at + offset;
      return loss();
    };
    const double difference = (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h);
    values[i] = at;
    error = std::max(error, std::abs(difference - gradient[i]));
  }
  CHECK(error / largest < tolerance);
}

constexpr double not_written = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("a linear layer's gradients are those of finite differences, in one tile or several") {
  constexpr std::size_t n = 5, in = 3, out = 4;
  for (const std::size_t tiles : {1U, 3U}) {
    gpt::PlainStore<double> store{2};
    const gpt::Linear<gpt::PlainParameter<double>> linear{store, "linear", out, in, tiles, 1.0F};
    store.entries().back().values = random_values(out, 3);  // the bias
    gpt::CpuMath<double> math{{.layers = 1, .heads = 1, .width = in, .context = n}};
    Values x = random_values(n * in, 1);
    const auto loss = [&] {
      Values y(n * out, not_written);
      linear.forward(math, std::vector{gpt::LinearForward<double, double>{matrix(x, n, in), matrix(y, n, out)}});
      return project(y);
    };
    Values dy = random_values(n * out, 99), dx(n * in, not_written);
    linear.backward(math,
                    std::vector{gpt::LinearBackward<double>{matrix(x, n, in), matrix(dy, n, out), matrix(dx, n, in)}});
    check_gradient(x, dx, loss);
    CHECK(store.entries().size() == tiles + 1);
    for (auto& entry : store.entries()) check_gradient(entry.values, Values{entry.gradient}, loss);
  }
}

TEST_CASE("layer normalization's gradients are those of finite differences, added to the residual's") {
  constexpr std::size_t n = 4, width = 37;
  Values x = random_values(n * width, 1), weight = random_values(width, 2), bias = random_values(width, 3);
  Values mean(n), deviation(n);
  const gpt::RowStatistics<double> statistics{matrix(mean, 1, n), matrix(deviation, 1, n)};
  const auto loss = [&] {
    Values y(n * width, not_written);
    gpt::layer_norm_forward<double>(matrix(x, n, width), matrix(weight, 1, width), matrix(bias, 1, width),
                                    matrix(y, n, width), statistics);
    return project(y);
  };
  loss();
  Values dy = random_values(n * width, 99);
  Values dx(n * width, 0.5), dweight(width, not_written), dbias(width, not_written);
  gpt::layer_norm_backward_weight<double>(matrix(x, n, width), matrix(dy, n, width), statistics,
                                          matrix(dweight, 1, width));
  gpt::layer_norm_backward_bias<double>(matrix(dy, n, width), matrix(dbias, 1, width));
  gpt::layer_norm_backward_input<double>(matrix(x, n, width), matrix(weight, 1, width), matrix(dy, n, width),
                                         statistics, matrix(dx, n, width));
  for (double& value : dx) value -= 0.5;
  check_gradient(x, dx, loss);
  check_gradient(weight, dweight, loss);
  check_gradient(bias, dbias, loss);
}

TEST_CASE("layer normalization's output has mean 0 and variance 1") {
  constexpr std::size_t width = 50;
  Values x = random_values(width, 1), weight(width, 1), bias(width, 0), y(width), mean(1), deviation(1);
  for (double& value : x) value = 3 * value + 7;
  gpt::layer_norm_forward<double>(matrix(x, 1, width), matrix(weight, 1, width), matrix(bias, 1, width),
                                  matrix(y, 1, width), {matrix(mean, 1, 1), matrix(deviation, 1, 1)});
  double sum = 0, squares = 0;
  for (const double value : y) {
    sum += value;
    squares += value * value;
  }
  CHECK(sum / width == doctest::Approx(0.0).epsilon(1e-12));
  CHECK(squares / width == doctest::Approx(1.0).epsilon(1e-5));
}

TEST_CASE("GELU is GPT-2's, and its gradient is that of finite differences") {
  constexpr std::size_t n = 40;
  Values x = random_values(n, 1), y(n, not_written);
  for (double& value : x) value *= 2;
  gpt::gelu_forward<double>(matrix(x, 1, n), matrix(y, 1, n));
  for (std::size_t i = 0; i < n; ++i) {
    const double u = std::sqrt(2 / std::numbers::pi) * (x[i] + 0.044715 * x[i] * x[i] * x[i]);
    CHECK(std::abs(y[i] - 0.5 * x[i] * (1 + std::tanh(u))) < 1e-14);
  }
  Values dx = random_values(n, 99);
  gpt::gelu_backward<double>(matrix(x, 1, n), matrix(dx, 1, n));
  check_gradient(x, dx, [&] {
    gpt::gelu_forward<double>(matrix(x, 1, n), matrix(y, 1, n));
    return project(y);
  });
}

TEST_CASE("causal attention's gradients are those of finite differences") {
  constexpr gpt::AttentionShape shape{.sequences = 2, .length = 5, .heads = 3};
  constexpr std::size_t width = 6, n = shape.sequences * shape.length;
  Values qkv = random_values(n * 3 * width, 1), weights(n * shape.heads * shape.length, not_written);
  const auto loss = [&] {
    Values output(n * width, not_written);
    gpt::attention_forward<double>(matrix(qkv, n, 3 * width), shape, matrix(weights, n * shape.heads, shape.length),
                                   matrix(output, n, width));
    return project(output);
  };
  loss();
  Values doutput = random_values(n * width, 99), dqkv(qkv.size(), not_written);
  Values scratch(shape.length * shape.length, not_written);
  gpt::attention_backward<double>(matrix(qkv, n, 3 * width), matrix(weights, n * shape.heads, shape.length),
                                  matrix(doutput, n, width), shape, matrix(scratch, shape.length, shape.length),
                                  matrix(dqkv, n, 3 * width));
  check_gradient(qkv, dqkv, loss);
}

TEST_CASE("attention sees the past alone") {
  constexpr gpt::AttentionShape shape{.sequences = 1, .length = 4, .heads = 2};
  constexpr std::size_t width = 4;
  Values qkv = random_values(shape.length * 3 * width, 1), weights(shape.length * shape.heads * shape.length);
  const auto output_of = [&] {
    Values output(shape.length * width);
    gpt::attention_forward<double>(matrix(qkv, shape.length, 3 * width), shape,
                                   matrix(weights, shape.length * shape.heads, shape.length),
                                   matrix(output, shape.length, width));
    return output;
  };
  const Values before = output_of();
  for (std::size_t c = 0; c < 3 * width; ++c) qkv[2 * 3 * width + c] += 1;  // position 2
  const Values after = output_of();
  CHECK(std::equal(before.begin(), before.begin() + 2 * width, after.begin()));
  CHECK(std::ranges::mismatch(before, after).in1 == before.begin() + 2 * width);
}

TEST_CASE("the embeddings' gradients are those of finite differences, repeated tokens added, unused ones zero") {
  constexpr std::size_t vocabulary = 7, context = 4, width = 3, length = 3;
  const std::array<std::uint8_t, 6> tokens{2, 5, 2, 0, 2, 6};
  Values token = random_values(vocabulary * width, 1), position = random_values(context * width, 2);
  const auto loss = [&] {
    Values y(tokens.size() * width, not_written);
    gpt::embedding_forward<double>(tokens, length, matrix(token, vocabulary, width), matrix(position, context, width),
                                   matrix(y, tokens.size(), width));
    return project(y);
  };
  Values dy = random_values(tokens.size() * width, 99);
  Values dtoken(token.size(), not_written), dposition(position.size(), not_written);
  gpt::embedding_backward_token<double>(tokens, matrix(dy, tokens.size(), width), matrix(dtoken, vocabulary, width));
  gpt::embedding_backward_position<double>(length, matrix(dy, tokens.size(), width), matrix(dposition, context, width));
  check_gradient(token, dtoken, loss);
  check_gradient(position, dposition, loss);
  CHECK(std::all_of(dtoken.begin() + width, dtoken.begin() + 2 * width, [](double g) { return g == 0.0; }));
  CHECK(std::all_of(dposition.end() - width, dposition.end(), [](double g) { return g == 0.0; }));
}

TEST_CASE("cross-entropy's gradient is that of finite differences, and its value is known for equal logits") {
  constexpr std::size_t vocabulary = 21;
  const std::array<std::uint8_t, 4> targets{0, 20, 3, 3};
  Values logits = random_values(targets.size() * vocabulary, 1);
  const auto loss = [&] {
    Values probabilities = logits;
    return gpt::cross_entropy_forward<double>(matrix(probabilities, targets.size(), vocabulary), targets) /
           static_cast<double>(targets.size());
  };
  Values gradient = logits;
  gpt::cross_entropy_forward<double>(matrix(gradient, targets.size(), vocabulary), targets);
  gpt::cross_entropy_backward<double>(targets, matrix(gradient, targets.size(), vocabulary));
  check_gradient(logits, gradient, loss);
  std::ranges::fill(logits, 300.0);
  CHECK(loss() == doctest::Approx(std::log(21.0)).epsilon(1e-14));
}

TEST_CASE("the whole model's gradients are those of finite differences, the tied head's included") {
  gpt::Dimensions dimensions{.layers = 2, .heads = 2, .width = 8, .context = 6};
  SUBCASE("whole") {}
  SUBCASE("in tiles") { dimensions.tiles = 3; }
  gpt::PlainStore<double> store{7};
  gpt::CpuMath<double> math{dimensions};
  Model<double> model{store, math, dimensions};
  for (auto& entry : store.entries()) {  // biases of zero and weights of one would hide mistakes
    const Values noise = random_values(entry.values.size(), 5);
    for (std::size_t i = 0; i < noise.size(); ++i) entry.values[i] += 0.1 * noise[i];
  }
  Activations<double> activations{math, dimensions, 2, dimensions.layers};
  Activations<double> evaluation{math, dimensions, 3, 1};
  ActivationGradients<double> gradients{math, dimensions, 2};
  const std::array<std::uint8_t, 10> tokens{1, 7, 1, 255, 0, 9, 1, 7, 32, 32};
  const std::array<std::uint8_t, 10> targets{7, 1, 255, 0, 3, 1, 7, 32, 32, 10};
  const gpt::Batch batch{tokens, targets, 5};  // shorter than the context

  model.train(batch, activations, gradients);
  const double mean = model.take_loss();
  const auto loss = [&] { return model.loss(batch, evaluation) / 10.0; };
  CHECK(mean == loss());
  CHECK(store.entries().size() == 2 + dimensions.layers * (8 + 4 * dimensions.tiles) + 2);
  zerospan_test::Sample sample{5};
  for (auto& entry : store.entries()) {
    if (!sample.takes()) continue;
    CAPTURE(entry.name);
    check_gradient(entry.values, Values{entry.gradient}, loss, 1e-7);
  }
}

TEST_CASE("micro-batches that go through the model together have the losses and gradients of one after the other") {
  gpt::Dimensions dimensions{.layers = 3, .heads = 2, .width = 8, .context = 6};
  SUBCASE("whole") {}
  SUBCASE("in tiles") { dimensions.tiles = 3; }
  const std::array<std::uint8_t, 10> tokens{1, 7, 1, 255, 0, 9, 1, 7, 32, 32};
  const std::array<std::uint8_t, 10> targets{7, 1, 255, 0, 3, 1, 7, 32, 32, 10};
  const std::array batches{gpt::Batch{tokens, targets, 5},
                           gpt::Batch{std::span{tokens}.first(4), std::span{targets}.first(4), 4},
                           gpt::Batch{std::span{tokens}.last(6), std::span{targets}.last(6), 3}};
  const auto train = [&](bool is_together) {
    gpt::PlainStore<double> store{7};
    gpt::CpuMath<double> math{dimensions};
    Model<double> model{store, math, dimensions};
    std::vector<Activations<double>> activations;
    std::vector<ActivationGradients<double>> gradients;
    for (std::size_t i = 0; i < batches.size(); ++i) {
      activations.emplace_back(math, dimensions, 2, dimensions.layers);
      gradients.emplace_back(math, dimensions, 2);
    }
    if (is_together) {
      std::vector<gpt::MicroBatch<gpt::CpuMath<double>>> all;
      for (std::size_t i = 0; i < batches.size(); ++i) all.push_back({batches[i], &activations[i], &gradients[i]});
      model.train(all);
    } else {
      for (const gpt::Batch& batch : batches) model.train(batch, activations[0], gradients[0]);
    }
    std::vector<Values> all{{model.take_loss()}};
    for (const auto& entry : store.entries()) all.push_back(entry.gradient);
    return all;
  };
  const std::vector<Values> in_turn = train(false);
  const std::vector<Values> together = train(true);
  REQUIRE(together.size() == in_turn.size());
  for (std::size_t i = 0; i < in_turn.size(); ++i) {
    CAPTURE(i);
    if (i != 1) CHECK(together[i] == in_turn[i]);
  }
  // The token embedding and the tied head have one sum in a PlainStore, which they add to in another order.
  for (std::size_t k = 0; k < in_turn[1].size(); ++k) {
    REQUIRE(together[1][k] == doctest::Approx(in_turn[1][k]).epsilon(1e-12));
  }
}

TEST_CASE("a new model predicts every byte alike, and decays matrices alone") {
  constexpr gpt::Dimensions dimensions{.layers = 3, .heads = 4, .width = 32, .context = 16};
  gpt::PlainStore<float> store{1};
  gpt::CpuMath<float> math{dimensions};
  Model<float> model{store, math, dimensions};
  Activations<float> activations{math, dimensions, 1, 1};
  std::vector<std::uint8_t> tokens(dimensions.context, 'a'), targets(dimensions.context, 'b');
  const double loss = model.loss({tokens, targets, dimensions.context}, activations);
  CHECK(loss / 16 == doctest::Approx(std::log(256.0)).epsilon(0.02));
  for (const auto& entry : store.entries()) {
    const bool is_vector = entry.name.ends_with(".bias") || entry.name.find("norm") != std::string::npos;
    CHECK_MESSAGE(entry.options.group.weight_decay_factor == (is_vector ? 0.0F : 1.0F), entry.name);
  }
}

TEST_CASE("the dimensions tell every parameter's size") {
  constexpr gpt::Dimensions dimensions{.layers = 3, .heads = 2, .width = 8, .context = 6};
  gpt::PlainStore<float> store{1};
  gpt::CpuMath<float> math{dimensions};
  const Model<float> model{store, math, dimensions};
  std::multiset<std::size_t> declared, told;
  for (const auto& entry : store.entries()) declared.insert(entry.values.size());
  dimensions.for_each_parameter([&told](std::size_t elements) { told.insert(elements); });
  CHECK(told == declared);
  CHECK(dimensions.parameters() == std::accumulate(declared.begin(), declared.end(), std::size_t{0}));
}

TEST_CASE("a few steps of gradient descent learn a sentence by heart") {
  constexpr gpt::Dimensions dimensions{.layers = 1, .heads = 2, .width = 16, .context = 16};
  gpt::PlainStore<float> store{1};
  gpt::CpuMath<float> math{dimensions};
  Model<float> model{store, math, dimensions};
  Activations<float> activations{math, dimensions, 1, dimensions.layers};
  ActivationGradients<float> gradients{math, dimensions, 1};
  const std::string sentence = "to be or not to b";
  const std::vector<std::uint8_t> bytes{sentence.begin(), sentence.end()};
  const gpt::Batch batch{std::span{bytes}.first(16), std::span{bytes}.last(16), 16};
  model.train(batch, activations, gradients);
  const double before = model.take_loss();
  double after = before;
  for (int step = 0; step < 200; ++step) {
    store.clear_gradients();
    model.train(batch, activations, gradients);
    after = model.take_loss();
    for (auto& entry : store.entries()) {
      for (std::size_t i = 0; i < entry.values.size(); ++i) entry.values[i] -= 0.3F * entry.gradient[i];
    }
  }
  CHECK(before > 5.0);
  CHECK(after < 0.5);
}

TEST_CASE("the exponential is accurate over its range, clamped beyond it, and keeps NaN") {
  for (float x = -87.0F; x <= 87.0F; x += 0.0173F) {
    const double exact = std::exp(static_cast<double>(x));
    REQUIRE(std::abs(static_cast<double>(gpt::exponential(x)) - exact) < 2.5e-7 * exact);
  }
  CHECK(gpt::exponential(0.0F) == 1.0F);
  CHECK(gpt::exponential(-std::numeric_limits<float>::infinity()) == gpt::exponential(-87.0F));
  CHECK(gpt::exponential(1e30F) == gpt::exponential(87.0F));
  CHECK(std::isnan(gpt::exponential(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("sums and maxima take every element once, whatever their number") {
  for (std::size_t count = 1; count < 70; ++count) {
    std::vector<float> values(count, -1.0F);
    values[count / 2] = 5.0F;
    CHECK(gpt::sum<float>(count, [](std::size_t i) { return static_cast<float>(i); }) ==
          static_cast<float>(count * (count - 1) / 2));
    CHECK(gpt::maximum(values.data(), count) == 5.0F);
  }
}

TEST_CASE("kernels that are older than the processor are replaced, and others never") {
  using gpt::openblas::better_core;
  using gpt::openblas::VectorUnits;
  constexpr VectorUnits none{};
  constexpr VectorUnits avx2{.avx2 = true};
  constexpr VectorUnits avx512{.avx2 = true, .avx512 = true};
  for (const char* old : {"Prescott", "Core2", "Nehalem", "Sandybridge", "Generic", "Unknown"}) {
    CAPTURE(std::string{old});
    CHECK(better_core(avx512, old) == "SkylakeX");
    CHECK(better_core(avx2, old) == "Haswell");
    CHECK(!better_core(none, old));
    CHECK(better_core(avx512, old, "SkylakeX") == "Haswell");  // the library has none for AVX-512
    CHECK(!better_core(avx512, old, "Haswell"));
    CHECK(!better_core(avx2, old, "Haswell"));
  }
  CHECK(better_core(avx512, "Haswell") == "SkylakeX");
  CHECK(!better_core(avx512, "Haswell", "SkylakeX"));
  CHECK(!better_core(avx2, "Haswell"));
  for (const char* right : {"Zen", "SkylakeX", "Cooperlake", "SapphireRapids", "whatever comes next"}) {
    CAPTURE(std::string{right});
    CHECK(!better_core(avx2, right));
    CHECK(!better_core(avx512, right));
  }
}

TEST_CASE("who has chosen the kernels is said, and what would be faster") {
  constexpr gpt::openblas::VectorUnits avx2{.avx2 = true};
  const auto remark = [&](const char* core, const char* asked, const char* former) {
    return gpt::openblas::describe_kernels(avx2, core, asked, former).remark;
  };
  CHECK(remark("Zen", "", "").empty());
  CHECK(remark("Zen", "Zen", "") == "OPENBLAS_CORETYPE=Zen is set");
  CHECK(remark("Haswell", "Haswell", "Prescott").starts_with("by itself it takes those for Prescott"));
  CHECK(remark("Prescott", "Prescott", "").starts_with("WARNING: OPENBLAS_CORETYPE=Prescott is set"));
  CHECK(remark("Prescott", "", "").starts_with("WARNING: it does not know this processor, which has AVX2"));
  CHECK(remark("Prescott", "Haswell", "Prescott").starts_with("WARNING: it does not know this processor"));
}

TEST_CASE("products take transposes, strides and an old value") {
  Values a{1, 2, 3, 4, 5, 6}, b{1, 0, 2, 1, 1, 1}, c(9, 10.0);
  const Tensor<double> a23 = matrix(a, 2, 3);
  const Tensor<double> b23 = matrix(b, 2, 3);
  gpt::multiply(a23, gpt::transposed(b23), Tensor<double>{c.data(), 2, 2, 3}, 2, 1);
  CHECK(c == Values{24, 22, 10, 42, 40, 10, 10, 10, 10});
  gpt::multiply(gpt::transposed(a23.column_range(1, 2)), b23, Tensor<double>{c.data(), 2, 3});
  CHECK(c == Values{7, 5, 9, 9, 6, 12, 10, 10, 10});
}

/// Whole numbers of which bf16 has all, and fp32 all sums of their products.
std::vector<float> small_integers(std::size_t count, unsigned seed) {
  std::mt19937 generator{seed};
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(generator() % 17) - 8;
  return values;
}

std::vector<gpt::BFloat16> narrowed(const std::vector<float>& values) {
  std::vector<gpt::BFloat16> narrow;
  for (const float value : values) narrow.push_back(gpt::to_bfloat16(value));
  return narrow;
}

TEST_CASE("products in bf16 are those in fp32 of numbers that are whole in both") {
  if (gpt::Bf16Products::instructions().empty()) {
    MESSAGE("skipped: no products in bf16 here");
    return;
  }
  gpt::NarrowProducts narrow{1};
  gpt::Scratch<gpt::BFloat16> scratch{0};
  const auto check = [&](std::size_t m, std::size_t n, std::size_t k) {
    CAPTURE(m);
    CAPTURE(n);
    CAPTURE(k);
    const std::size_t wide = 3;  // columns of the activations beside those that are used
    const auto x = small_integers(m * (k + wide), 1);
    const auto w = small_integers(n * k, 2);
    const auto dy = small_integers(m * n, 3);
    const auto narrow_w = narrowed(w);
    const Tensor<const float> activations{x.data() + 1, m, k, k + wide};
    const Tensor<const float> output_gradient{dy.data(), m, n};
    using Weight = Tensor<const gpt::BFloat16>;

    std::vector<float> expected(m * n, 4.0F), y(m * n, 4.0F);
    gpt::multiply<float>(activations, gpt::transposed(Tensor<const float>{w.data(), n, k}),
                         Tensor<float>{expected.data(), m, n}, 1, 1);
    narrow.multiply(activations, gpt::transposed(Weight{narrow_w.data(), n, k}), Tensor<float>{y.data(), m, n},
                    gpt::Assignment::add);
    CHECK(y == expected);

    std::vector<float> expected_dx(m * k), dx(m * k, 7.0F);
    gpt::multiply<float>(output_gradient, Tensor<const float>{w.data(), n, k}, Tensor<float>{expected_dx.data(), m, k});
    narrow.multiply(output_gradient, Weight{narrow_w.data(), n, k}, Tensor<float>{dx.data(), m, k},
                    gpt::Assignment::replace);
    CHECK(dx == expected_dx);

    std::vector<float> expected_dw(n * k);
    std::vector<gpt::BFloat16> dw(n * k);
    gpt::multiply<float>(gpt::transposed(output_gradient), activations, Tensor<float>{expected_dw.data(), n, k});
    narrow.write(scratch, {dw.data(), n, k}, gpt::transposed(output_gradient), activations);
    for (std::size_t i = 0; i < dw.size(); ++i) REQUIRE(dw[i].bits == gpt::to_bfloat16(expected_dw[i]).bits);
  };
  for (const std::size_t m : {1U, 5U, 64U}) {
    for (const std::size_t n : {1U, 32U, 51U}) {
      for (const std::size_t k : {1U, 16U, 33U}) check(m, n, k);
    }
  }
}

TEST_CASE("of products in bf16 activations are rounded to nearest, and sums are not") {
  if (gpt::Bf16Products::instructions().empty()) {
    MESSAGE("skipped: no products in bf16 here");
    return;
  }
  gpt::NarrowProducts narrow{1};
  const std::vector<float> x{1 + 0x1p-9F, 1 + 0x1.8p-8F, 0x1p-8F};
  const auto w = narrowed({1, 1, 1});
  float y = 0;
  narrow.multiply(Tensor<const float>{x.data(), 1, 3}, gpt::transposed(Tensor<const gpt::BFloat16>{w.data(), 1, 3}),
                  Tensor<float>{&y, 1, 1}, gpt::Assignment::replace);
  CHECK(y == 1 + (1 + 0x1p-7F) + 0x1p-8F);
}

TEST_CASE("ranks multiply in bf16 where that is faster on all of them") {
  const auto answers = [](gpt::Products wanted, std::vector<bool> can) {
    return zerospan::run_ranks(static_cast<int>(can.size()), [&](zerospan::ThreadCommunicator communicator) {
      const bool can_here = can[static_cast<std::size_t>(communicator.rank().value)];
      zerospan::AnyCommunicator ranks{std::move(communicator)};
      return gpt::agree_on_narrow_products(ranks, wanted, can_here) ? 1 : 0;
    });
  };
  CHECK(answers(gpt::Products::fastest, {true, true}) == std::vector{1, 1});
  CHECK(answers(gpt::Products::fastest, {true, false, true}) == std::vector{0, 0, 0});
  CHECK(answers(gpt::Products::bf16, {true, true}) == std::vector{1, 1});
  CHECK_THROWS_WITH_AS(static_cast<void>(answers(gpt::Products::bf16, {true, false, true})),
                       doctest::Contains("1 of 3 ranks have none"), zerospan::ConfigurationError);
  if (gpt::Bf16Products::instructions().empty()) CHECK(!gpt::narrow_products_are_faster(1));
}

TEST_CASE("16-bit numbers are those of zerospan, bit for bit") {
  for (std::uint32_t upper = 0; upper <= 0xFFFF; ++upper) {
    const gpt::BFloat16 value{static_cast<std::uint16_t>(upper)};
    const float wide = gpt::to_float(value);
    REQUIRE(std::bit_cast<std::uint32_t>(wide) == upper << 16);
    zerospan::float16 half;
    half.bits = value.bits;
    REQUIRE(std::bit_cast<std::uint32_t>(gpt::to_float(gpt::Float16{half.bits})) ==
            std::bit_cast<std::uint32_t>(static_cast<float>(half)));
    for (const std::uint32_t lower : {0x0000U, 0x0001U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU}) {
      const auto between = std::bit_cast<float>(upper << 16 | lower);
      REQUIRE(gpt::to_bfloat16(between).bits == zerospan::bfloat16{between}.bits);
      REQUIRE(gpt::to_float16(between).bits == zerospan::float16{between}.bits);
    }
  }
}

TEST_CASE("scratch memory widens groups of 16-bit tensors and rounds what is written") {
  std::array<gpt::BFloat16, 5> storage{gpt::to_bfloat16(1), gpt::to_bfloat16(-2), gpt::to_bfloat16(3),
                                       gpt::to_bfloat16(0.5F), gpt::to_bfloat16(8)};
  const Tensor<gpt::BFloat16> vector{storage.data(), 1, 2};
  const Tensor<gpt::BFloat16> column{storage.data() + 2, 3, 1};
  gpt::Scratch<gpt::BFloat16> scratch{5};
  const std::tuple leases{&vector, &column};
  const auto [wide_vector, wide_column] = scratch.widen(leases);
  CHECK(std::vector(wide_vector.data, wide_vector.data + 2) == std::vector{1.0F, -2.0F});
  CHECK(std::vector(wide_column.data, wide_column.data + 3) == std::vector{3.0F, 0.5F, 8.0F});
  CHECK(wide_column.rows == 3);

  scratch.fill(vector, [](Tensor<float> wide) {
    wide.data[0] = 1.0F + 0x1p-8F;  // a tie: to even
    wide.data[1] = 1.0F + 0x1p-8F + 0x1p-20F;
  });
  CHECK(gpt::to_float(storage[0]) == 1.0F);
  CHECK(gpt::to_float(storage[1]) == 1.0F + 0x1p-7F);
}

TEST_CASE("scratch memory is not used where the types are equal") {
  std::array<float, 4> storage{1, 2, 3, 4};
  const Tensor<float> tensor{storage.data(), 2, 2};
  gpt::Scratch<float> scratch{0};
  const auto [same] = scratch.widen(std::tuple{&tensor});
  CHECK(same.data == storage.data());
  scratch.fill(tensor, [](Tensor<float> target) { target.data[3] = 9; });
  CHECK(storage[3] == 9);
}

TEST_CASE("tensors take zerospan's shapes") {
  using Traits = zerospan::TensorTraits<Tensor<float>>;
  Tensor<float> tensor = Traits::unbound({3, 5});
  CHECK(tensor.rows == 3);
  CHECK(tensor.columns == 5);
  CHECK(tensor.stride == 5);
  CHECK(Traits::data(tensor) == nullptr);
  std::array<float, 15> storage{};
  Traits::bind(tensor, storage.data());
  CHECK(Traits::data(tensor) == storage.data());
  CHECK(Traits::unbound({7}).rows == 1);
  CHECK(Traits::unbound({7}).columns == 7);
  CHECK(zerospan::ElementTraits<gpt::BFloat16>::type == zerospan::ElementType::bfloat16);
  CHECK(zerospan::ElementTraits<gpt::Float16>::type == zerospan::ElementType::float16);
}

TEST_CASE("the text's last tenth validates") {
  std::vector<std::uint8_t> bytes(1009);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i);
  const gpt::Text text{bytes};
  CHECK(text.train().size() == 908);
  CHECK(text.validation().size() == 101);
  CHECK(text.validation().front() == bytes[908]);
}

TEST_CASE("a file that cannot be read is named") {
  const std::array<std::filesystem::path, 1> files{"no/such/file.txt"};
  CHECK_THROWS_WITH_AS(gpt::Text::read(files), "cannot read the text no/such/file.txt", std::runtime_error);
}

TEST_CASE("batches are sequences of the text and what follows them, repeatable, different on each rank") {
  std::vector<std::uint8_t> text(200);
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::uint8_t>(i);
  gpt::BatchSampler first{text, 8, 42, 0, 2}, again{text, 8, 42, 0, 2}, other{text, 8, 42, 1, 2},
      alone{text, 8, 42, 0, 1};
  std::set<std::uint8_t> starts;
  std::vector<std::uint8_t> dealt, drawn_alone;
  for (int step = 0; step < 500; ++step) {
    const gpt::Batch batch = first.next(3);
    REQUIRE(batch.tokens.size() == 24);
    REQUIRE(batch.length == 8);
    for (std::size_t i = 0; i < 24; ++i) {
      REQUIRE(batch.targets[i] == batch.tokens[i] + 1);
      if (i % 8 != 0) REQUIRE(batch.tokens[i] == batch.tokens[i - 1] + 1);
    }
    const gpt::Batch same = again.next(3);
    REQUIRE(std::ranges::equal(batch.tokens, same.tokens));
    const gpt::Batch others = other.next(3);
    for (std::size_t s = 0; s < 24; s += 8) {
      starts.insert(batch.tokens[s]);
      dealt.push_back(batch.tokens[s]);
      dealt.push_back(others.tokens[s]);
    }
    const gpt::Batch both = alone.next(6);
    for (std::size_t s = 0; s < 48; s += 8) drawn_alone.push_back(both.tokens[s]);
  }
  CHECK(dealt == drawn_alone);  // the ranks share out one stream of sequences
  CHECK(*starts.begin() == 0);
  CHECK(*starts.rbegin() == 191);  // the last with a byte after it
  CHECK(starts.size() == 192);
}

TEST_CASE("batches go on where other ranks, however many, have stopped") {
  std::vector<std::uint8_t> text(200);
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::uint8_t>(i);
  gpt::BatchSampler alone{text, 8, 42, 0, 1};
  gpt::BatchSampler second_of_three{text, 8, 42, 1, 3};
  alone.next(6);
  CHECK(alone.drawn() == 6);
  second_of_three.go_on_after(alone.drawn());
  CHECK(second_of_three.drawn() == 6);
  const gpt::Batch batch = second_of_three.next(1);
  const std::vector<std::uint8_t> eighth{batch.tokens.begin(), batch.tokens.end()};
  alone.next(1);
  CHECK(std::ranges::equal(alone.next(1).tokens, eighth));
  second_of_three.go_on_after(7);  // none is drawn again
  CHECK(second_of_three.drawn() == 9);
}

TEST_CASE("windows cover the split once, in rounds of equal number on every rank") {
  std::vector<std::uint8_t> text(104);
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::uint8_t>(i);
  for (std::size_t ranks = 1; ranks <= 6; ++ranks) {
    std::vector<std::uint8_t> covered;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      gpt::Windows windows{text, 10, 3};
      CHECK(windows.count() == 10);
      CHECK(windows.rounds(ranks) == (4 + ranks - 1) / ranks);
      for (std::size_t round = 0; round < windows.rounds(ranks); ++round) {
        const gpt::Windows::Chunk chunk = windows.chunk(round, rank, ranks);
        REQUIRE(!chunk.batch.tokens.empty());
        REQUIRE(chunk.batch.targets.back() == chunk.batch.tokens.back() + 1);
        if (!chunk.spare) covered.insert(covered.end(), chunk.batch.tokens.begin(), chunk.batch.tokens.end());
      }
    }
    std::ranges::sort(covered);
    CHECK(std::ranges::equal(covered, std::span{text}.first(100)));
  }
}

TEST_CASE("the learning rate rises, falls along a cosine, and ends at its minimum") {
  const gpt::Schedule schedule{.maximum = 1.0, .minimum = 0.2, .warmup = 4, .steps = 14};
  CHECK(schedule.learning_rate(0) == doctest::Approx(0.2));
  CHECK(schedule.learning_rate(3) == doctest::Approx(0.8));
  CHECK(schedule.learning_rate(4) == 1.0);
  CHECK(schedule.learning_rate(9) == doctest::Approx(0.6));
  for (std::size_t step = 5; step < 14; ++step) CHECK(schedule.learning_rate(step) < schedule.learning_rate(step - 1));
  CHECK(schedule.learning_rate(14) == 0.2);
  CHECK(gpt::Schedule{.maximum = 1.0, .minimum = 0.0, .warmup = 0, .steps = 1}.learning_rate(0) == 1.0);
  CHECK(gpt::Schedule{.maximum = 1.0, .minimum = 0.0, .warmup = 9, .steps = 4}.learning_rate(3) < 1.0);
}

TEST_CASE("bytes are drawn as often as their probability says") {
  const std::array<double, 3> logits{0.0, std::log(2.0), std::log(5.0)};
  CHECK(gpt::draw<double>(logits, 1.0, 0.0) == 0);
  CHECK(gpt::draw<double>(logits, 1.0, 0.1249) == 0);
  CHECK(gpt::draw<double>(logits, 1.0, 0.1251) == 1);
  CHECK(gpt::draw<double>(logits, 1.0, 0.3749) == 1);
  CHECK(gpt::draw<double>(logits, 1.0, 0.3751) == 2);
  CHECK(gpt::draw<double>(logits, 1.0, std::nextafter(1.0, 0.0)) == 2);
  CHECK(gpt::draw<double>(logits, 0.5, 0.032) == 0);  // 1, 4, 25 of 30
  CHECK(gpt::draw<double>(logits, 0.5, 0.034) == 1);
}

TEST_CASE("a sample follows the model, and its context ends at the model's") {
  Values logits;
  const std::string text = gpt::sample<double>(6, 3, 1, [&logits](std::span<const std::uint8_t> bytes) {
    CHECK(bytes.size() <= 3);
    logits.assign(256, -1e9);
    logits[bytes.back() == '\n' ? 'a' : bytes.back() + 1U] = 0;
    return std::span<const double>{logits};
  });
  CHECK(text == "abcdef");
  CHECK(gpt::printable(std::string{"a\tb\nc\x1b[\x80\0", 9}) == "a\tb\nc?[??");
}

TEST_CASE("ranks exchange their values bit for bit, in rank order") {
  struct Pair {
    double first;
    double second;
  };
  const auto tables = zerospan::run_ranks(3, [](zerospan::ThreadCommunicator communicator) {
    const double rank = communicator.rank().value;
    return gpt::exchange(communicator, "test", Pair{-0.1 * rank, 1e300 / (rank + 1)});
  });
  for (const auto& table : tables) {
    REQUIRE(table.size() == 3);
    for (std::size_t r = 0; r < 3; ++r) {
      const auto rank = static_cast<double>(r);
      CHECK(std::bit_cast<std::uint64_t>(table[r].first) == std::bit_cast<std::uint64_t>(-0.1 * rank));
      CHECK(table[r].second == 1e300 / (rank + 1));
    }
    CHECK(gpt::total(table, &Pair::first) == -0.1 * 0.0 + -0.1 * 1.0 + -0.1 * 2.0);
    CHECK(gpt::largest(table, &Pair::second) == 1e300);
  }
}

TEST_CASE("the share of hidden transfers is between none and all") {
  CHECK(gpt::hidden_share(4, 1) == 0.75);
  CHECK(gpt::hidden_share(1, 4) == 0.0);
  CHECK(gpt::hidden_share(0, 0) == 1.0);
}

/// Two steps of rank 0, from 100 to 200 and from 250 to 350, with a save between them.
std::vector<zerospan::Span> two_steps() {
  std::vector<zerospan::Span> spans;
  const auto add = [&](int rank, std::string_view track, std::string_view kind, std::int64_t begin, std::int64_t end) {
    spans.push_back({zerospan::Rank{rank}, track, kind, "it", 1, begin, end});
  };
  const auto [read, copy, communicate, read_states, update, write] = zerospan::lane_names;
  add(0, write, "write", 10, 90);  // of the initial values
  add(0, copy, "fill", 100, 120);
  add(0, read, "read", 100, 140);
  add(0, "host", "compute", 100, 160);
  add(0, communicate, "all-gather", 150, 170);
  add(0, "host", "wait", 160, 180);
  add(0, "host", "compute", 180, 200);
  add(0, update, "update", 120, 200);
  add(0, "host", "wait", 200, 250);
  add(0, write, "write", 190, 260);
  add(1, read, "read", 100, 300);
  add(1, "host", "wait", 100, 300);
  add(2, "host", "compute", 260, 300);  // what the activation checkpoints of rank 0 take for its computation
  add(2, "host", "wait", 310, 320);
  add(2, copy, "copy", 300, 320);
  add(0, "host", "compute", 250, 400);
  add(0, read_states, "read", 350, 400);
  return spans;
}

const gpt::RanksOfTimeline rank_0_of_2{
    .engine = zerospan::Rank{0}, .checkpoints = zerospan::Rank{2}, .peers = {zerospan::Rank{1}}};

TEST_CASE("the time of steps: how busy each part is, and which transfers were hidden") {
  const gpt::StepTime time = gpt::time_of_steps(two_steps(), rank_0_of_2, {{100, 200}, {250, 350}});
  CHECK(time.steps == 2);
  CHECK(time.seconds == doctest::Approx(200e-9));
  const std::vector<gpt::PartOfMachine> parts{{"compute", 0.85}, {"updates", 0.4},       {"disk read", 0.2},
                                              {"copies", 0.2},   {"communication", 0.1}, {"disk write", 0.1}};
  REQUIRE(time.parts.size() == parts.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    CHECK(time.parts[i].what == parts[i].what);
    CHECK(time.parts[i].share == doctest::Approx(parts[i].share));
  }
  // A read of 40, a gather of 20, half of it waited for, 20 of a write, and a copy of 20, half of it waited for.
  CHECK(time.hidden_share == doctest::Approx(0.8));
  CHECK(gpt::describe(time) ==
        "a step of rank 0 takes 0.0 ms, by the last 2 steps: compute 85.0%, updates 40.0%, disk read 20.0%, copies "
        "20.0%, communication 10.0%, disk write 10.0% of its time\n"
        "bottleneck of a step: compute; 80.0% of the transfer time was hidden\n");
}

TEST_CASE("what is busiest is the bottleneck, whatever it is") {
  auto spans = two_steps();
  spans.push_back({zerospan::Rank{0}, zerospan::lane_names[0], "read", "more", 1, 250, 350});
  spans.push_back({zerospan::Rank{0}, zerospan::lane_names[3], "read", "more", 1, 130, 200});
  const gpt::StepTime time = gpt::time_of_steps(spans, rank_0_of_2, {{100, 200}, {250, 350}});
  CHECK(time.parts.front().what == "disk read");
  CHECK(time.parts.front().share == doctest::Approx(1.0));  // at once it does not count twice
}

TEST_CASE("what a collective waits for other ranks is no transfer") {
  auto spans = two_steps();
  const auto peer = [&](std::string_view kind, const char* name, std::int64_t begin, std::int64_t end) {
    spans.push_back({zerospan::Rank{1}, zerospan::lane_names[2], kind, name, 1, begin, end});
  };
  peer("all-gather", "it", 110, 150);  // an earlier one
  peer("broadcast", "it", 150, 155);   // another
  peer("all-gather", "it", 158, 171);  // this one: rank 1 has come to it later
  peer("all-gather", "it", 175, 190);
  const std::vector<gpt::TimeInterval> steps{{100, 200}, {250, 350}};
  const gpt::StepTime time = gpt::time_of_steps(spans, rank_0_of_2, steps);
  CHECK(time.peers_share == doctest::Approx(0.04));
  CHECK(time.parts[4].what == "disk write");
  CHECK(time.parts[5].what == "communication");
  CHECK(time.parts[5].share == doctest::Approx(0.06));
  CHECK(time.hidden_share == doctest::Approx(1 - 20.0 / 92));
  CHECK(gpt::describe(time).find("communication 6.0%, waiting for other ranks 4.0% of its time") != std::string::npos);

  const gpt::RanksOfTimeline alone{.engine = zerospan::Rank{0}, .checkpoints = zerospan::Rank{2}};
  CHECK(gpt::time_of_steps(spans, alone, steps).peers_share == 0);  // a process of its own, which knows no other
}

TEST_CASE("steps of which the timeline may have lost something do not count") {
  auto spans = two_steps();
  spans.front().end = 101;
  const gpt::StepTime time = gpt::time_of_steps(spans, rank_0_of_2, {{100, 200}, {250, 350}});
  CHECK(time.steps == 1);
  CHECK(time.parts.front().share == doctest::Approx(0.9));  // the second step's compute
  CHECK(gpt::describe(time).find("by the last step: ") != std::string::npos);
  for (const gpt::StepTime& none :
       {gpt::time_of_steps(spans, rank_0_of_2, {{100, 200}}), gpt::time_of_steps(spans, rank_0_of_2, {}),
        gpt::time_of_steps({}, rank_0_of_2, {{100, 200}})}) {
    CHECK(none.steps == 0);
    CHECK(gpt::describe(none).empty());
  }
}
