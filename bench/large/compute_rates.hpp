/// @file
/// What the processor does by itself: the products of a tile, copies, sums of gradients, and the optimizer's update.
#pragma once

#include <cstddef>
#include <string>
#include <variant>
#include <vector>

#include <cblas.h>

#include <zerospan/core/element.hpp>
#include <zerospan/kernels/gradient_operations.hpp>
#include <zerospan/optimizer/adamw.hpp>

#include "gpt/bf16_products.hpp"
#include "gpt/factor.hpp"
#include "gpt/fastest_products.hpp"
#include "gpt/options.hpp"
#include "gpt/products.hpp"
#include "gpt/scratch.hpp"
#include "gpt/tensor.hpp"
#include "gpt/trial.hpp"
#include "machine/library_work.hpp"
#include "machine/work.hpp"

namespace large {

/// The products of a tile [width x width] with the tokens of a step, as the model has them: weights and gradients are
/// in bf16, and products too where those are faster.
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
    if (gpt::narrow_products_are_faster(o.threads)) products_.emplace<gpt::NarrowProducts>(o.threads);
  }

  /// With which oneDNN computes those in bf16; empty: they are in fp32.
  std::string instructions() const {
    return std::holds_alternative<gpt::NarrowProducts>(products_) ? gpt::Bf16Products::instructions() : "";
  }

  /// Operations a second.
  double forward_flops() {
    return flops() * times_a_second([&](auto& products) {
             products.multiply(x(), gpt::transposed(products.operand(scratch_, next_weight())), y(),
                               gpt::Assignment::add);
           });
  }
  double backward_flops() {
    return 2 * flops() * times_a_second([&](auto& products) {
             products.multiply(y(), products.operand(scratch_, next_weight()), x(), gpt::Assignment::replace);
             products.write(scratch_, {gradient_.data(), width_, width_}, gpt::transposed(y()), x());
           });
  }

 private:
  template <class Work>
  double times_a_second(Work work) {
    return std::visit([&](auto& products) { return gpt::median_times_a_second([&] { work(products); }); }, products_);
  }

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
  std::variant<gpt::WideProducts<gpt::BFloat16>, gpt::NarrowProducts> products_;
  std::vector<gpt::BFloat16> weights_;
  std::vector<gpt::BFloat16> gradient_;
  std::vector<float> x_;
  std::vector<float> y_;
  std::size_t turn_ = 0;
};

/// What one thread does in memory, a second.
struct MemoryRates {
  double copied_bytes;  ///< What was read, in pieces, to where it is gathered.
  double sums;          ///< Elements of a bf16 gradient that are written to their sum, with their norm.
  double updates;       ///< Elements that AdamW updates: a sub-group of bf16 parameters.
};

inline MemoryRates measure_memory() {
  using zerospan::ElementType;
  machine::Stopwatch stopwatch{1, 0.05};
  constexpr auto bf16 = ElementType::bfloat16;
  return {stopwatch.alone(machine::copies(std::size_t{8} << 20)),
          stopwatch.alone(machine::sums(zerospan::Addition::replace, bf16, bf16, std::size_t{4} << 20)),
          stopwatch.alone(machine::updates(zerospan::AdamW{}, "AdamW", bf16, std::size_t{1} << 20))};
}

}  // namespace large
