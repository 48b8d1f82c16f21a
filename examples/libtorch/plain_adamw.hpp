/// @file
/// zerospan's AdamW by hand, on the tensors of a plain model: to compare bits with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <zerospan/core/units.hpp>
#include <zerospan/optimizer/adamw.hpp>

/// Updates float tensors from their gradients, which it then drops.
class PlainAdamW {
 public:
  PlainAdamW(std::vector<at::Tensor> tensors, const zerospan::AdamW& optimizer) : optimizer_{optimizer} {
    for (at::Tensor& tensor : tensors) {
      const auto elements = static_cast<std::size_t>(tensor.numel());
      const float* const values = tensor.data_ptr<float>();
      const std::size_t capacity = zerospan::round_up(elements, zerospan::block_elements);
      states_.push_back({std::move(tensor),
                         capacity,
                         {values, values + elements},
                         std::vector<std::byte>(optimizer_.state_bytes(capacity))});
    }
  }

  void step() {
    ++steps_;
    for (State& state : states_) {
      if (!state.tensor.grad().defined()) continue;
      const at::Tensor gradient = state.tensor.grad().contiguous();
      optimizer_.update({.master = state.master.data(),
                         .states = state.moments.data(),
                         .capacity = state.capacity,
                         .first = 0,
                         .elements = state.master.size(),
                         .gradient = static_cast<const std::byte*>(gradient.data_ptr()),
                         .gradient_type = zerospan::ElementType::float32,
                         .parameter = static_cast<std::byte*>(state.tensor.data_ptr()),
                         .parameter_type = zerospan::ElementType::float32,
                         .gradient_scale = 1.0F,
                         .step = steps_,
                         .group = {}});
      state.tensor.mutable_grad().reset();
    }
  }

 private:
  struct State {
    at::Tensor tensor;
    std::size_t capacity;
    std::vector<float> master;
    std::vector<std::byte> moments;
  };

  zerospan::AdamW optimizer_;
  std::vector<State> states_;
  std::int64_t steps_ = 0;
};
