/// @file
/// What the processor does by itself: the products of a tile, copies, sums of gradients, and the optimizer's update.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <cblas.h>

#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/kernels/gradient_operations.hpp>
#include <zerospan/optimizer/adamw.hpp>

#include "gpt/blas.hpp"
#include "gpt/options.hpp"
#include "gpt/scratch.hpp"
#include "gpt/tensor.hpp"
#include "gpt/trial.hpp"

namespace large {

/// How often a second `work` can be done: the median of five trials.
template <class Work>
double measure(Work work) {
  std::array<double, 5> rates;
  for (double& rate : rates) rate = gpt::times_a_second(work);
  std::ranges::nth_element(rates, rates.begin() + 2);
  return rates[2];
}

/// The products of a tile [width x width] with the tokens of a step, as the model has them: weights come in bf16 and
/// are widened, gradients are rounded.
class TileProducts {
 public:
  explicit TileProducts(const gpt::Options& o)
      : n_{o.tokens_a_step()},
        width_{o.model.width},
        scratch_{width_ * width_},
        weights_(2 * width_ * width_, gpt::to_bfloat16(0.01F)),
        gradient_(width_ * width_),
        x_(n_ * width_, 1.0F),
        y_(n_ * width_, 1.0F) {
    ::openblas_set_num_threads(o.threads);
  }

  /// Operations a second.
  double forward_flops() {
    return flops() *
           measure([&] { gpt::multiply<float>(x(), gpt::transposed(scratch_.widen(next_weight())), y(), 1, 1); });
  }
  double backward_flops() {
    return 2 * flops() * measure([&] {
             gpt::multiply<float>(y(), scratch_.widen(next_weight()), x());
             scratch_.fill({gradient_.data(), width_, width_},
                           [&](gpt::Tensor<float> wide) { gpt::multiply<float>(gpt::transposed(y()), x(), wide); });
           });
  }

 private:
  double flops() const { return 2 * static_cast<double>(n_ * width_ * width_); }
  gpt::Tensor<float> x() { return {x_.data(), n_, width_}; }
  gpt::Tensor<float> y() { return {y_.data(), n_, width_}; }

  /// They take turns, as in a model each weight is met once.
  gpt::Tensor<gpt::BFloat16> next_weight() {
    turn_ = 1 - turn_;
    return {weights_.data() + turn_ * width_ * width_, width_, width_};
  }

  std::size_t n_;
  std::size_t width_;
  gpt::Scratch<gpt::BFloat16> scratch_;
  std::vector<gpt::BFloat16> weights_;
  std::vector<gpt::BFloat16> gradient_;
  std::vector<float> x_;
  std::vector<float> y_;
  std::size_t turn_ = 0;
};

/// Bytes a second that one thread copies: what was read, in pieces, to where it is gathered.
inline double measure_copies() {
  constexpr std::size_t piece = std::size_t{8} << 20;
  constexpr std::size_t pieces = 8;
  const std::vector<std::byte> from(pieces * piece, std::byte{1});
  std::vector<std::byte> to(pieces * piece);
  std::size_t n = 0;
  return static_cast<double>(piece) * measure([&] {
           std::memcpy(to.data() + n * piece, from.data() + n * piece, piece);
           n = (n + 1) % pieces;
         });
}

/// Elements a second of a bf16 gradient that one thread writes to its sum, with their norm.
inline double measure_sums() {
  constexpr std::size_t elements = std::size_t{4} << 20;
  const std::vector<std::byte> gradient(2 * elements, std::byte{0x3c});
  std::vector<std::byte> sum(2 * elements);
  std::array<std::int64_t, zerospan::detail::ExactSum::limb_count> limbs{};
  return static_cast<double>(elements) * measure([&] {
           limbs.fill(0);
           zerospan::add_gradient(zerospan::calling_thread, {.type = zerospan::ElementType::bfloat16,
                                                             .target = sum.data(),
                                                             .source_type = zerospan::ElementType::bfloat16,
                                                             .source = gradient.data(),
                                                             .elements = elements,
                                                             .addition = zerospan::Addition::replace,
                                                             .norm_begin = 0,
                                                             .norm_end = elements,
                                                             .limbs = limbs.data()});
         });
}

/// Elements a second that AdamW updates on one thread: a sub-group of bf16 parameters.
inline double measure_updates() {
  constexpr std::size_t elements = std::size_t{1} << 20;
  const zerospan::AdamW adamw{};
  std::vector<float> master(elements, 1.0F);
  std::vector<std::byte> states(8 * elements);
  const std::vector<std::byte> gradient(2 * elements, std::byte{0x3c});
  std::vector<std::byte> parameter(2 * elements);
  std::int64_t step = 0;
  return static_cast<double>(elements) * measure([&] {
           adamw.update({.master = master.data(),
                         .states = states.data(),
                         .capacity = elements,
                         .first = 0,
                         .elements = elements,
                         .gradient = gradient.data(),
                         .gradient_type = zerospan::ElementType::bfloat16,
                         .parameter = parameter.data(),
                         .parameter_type = zerospan::ElementType::bfloat16,
                         .gradient_scale = 1.0F,
                         .step = ++step,
                         .group = {}});
         });
}

}  // namespace large
