#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <zerospan/activation/activation_checkpoints.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/host_device.hpp>

#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::ActivationCheckpoints;
using zerospan::calling_thread;
using zerospan_test::Memory;
using zerospan_test::Place;

using Tensor = zerospan_test::Array<float>;

/// A chain of layers y[i] = tanh(w x[i] + x[i + 1]), each with one weight: a model whose backward pass needs every
/// layer's input.
constexpr std::size_t layers = 24;
constexpr std::size_t width = 3000;

float weight(std::size_t layer) { return 0.5F + 0.03F * static_cast<float>(layer); }

void forward(std::size_t layer, Tensor x, Tensor y) {
  for (std::size_t i = 0; i < width; ++i) y.data[i] = std::tanh(weight(layer) * x.data[i] + x.data[(i + 1) % width]);
}

/// Takes `dy` to the gradient of the layer's input. @return The gradient of its weight.
float backward(std::size_t layer, Tensor x, std::vector<float>& dy) {
  std::vector<float> dx(width);
  float dw = 0;
  for (std::size_t i = 0; i < width; ++i) {
    const float y = std::tanh(weight(layer) * x.data[i] + x.data[(i + 1) % width]);
    const float dz = dy[i] * (1 - y * y);
    dw += dz * x.data[i];
    dx[i] += weight(layer) * dz;
    dx[(i + 1) % width] += dz;
  }
  dy = std::move(dx);
  return dw;
}

void embed(Tensor x, int step) {
  for (std::size_t i = 0; i < width; ++i) x.data[i] = std::sin(static_cast<float>(i) + static_cast<float>(step));
}

using Gradients = std::array<float, layers>;

Gradients keep_everything(int step) {
  std::vector<std::vector<float>> inputs(layers + 1, std::vector<float>(width));
  const auto input = [&](std::size_t layer) { return Tensor{inputs[layer].data(), width}; };
  embed(input(0), step);
  for (std::size_t layer = 0; layer < layers; ++layer) forward(layer, input(layer), input(layer + 1));
  std::vector<float> dy = inputs[layers];
  Gradients gradients{};
  for (std::size_t layer = layers; layer-- > 0;) gradients[layer] = backward(layer, input(layer), dy);
  return gradients;
}

/// Keeps the input of every `interval`-th layer, and recomputes what lies between.
Gradients recompute(ActivationCheckpoints& checkpoints, std::size_t interval, int step) {
  std::vector<float> output(width);
  {
    auto x = checkpoints.push<Tensor>(calling_thread, {width});
    embed(*x, step);
    std::vector<float> current(x->data, x->data + width);
    x.commit();
    for (std::size_t layer = 0; layer < layers; ++layer) {
      forward(layer, {current.data(), width}, {output.data(), width});
      current.swap(output);
      if ((layer + 1) % interval != 0 || layer + 1 == layers) continue;
      auto saved = checkpoints.push<Tensor>(calling_thread, {width});
      std::copy(current.begin(), current.end(), saved->data);
      saved.commit();
    }
    output.swap(current);
  }
  Gradients gradients{};
  for (std::size_t first = (layers - 1) / interval * interval;; first -= interval) {
    const std::size_t end = std::min(first + interval, layers);
    {
      const auto x = checkpoints.pop<Tensor>(calling_thread);
      // The inputs of the segment's layers go onto the same stack.
      auto input = checkpoints.push<Tensor>(calling_thread, {width});
      std::copy(x->data, x->data + width, input->data);
      for (std::size_t layer = first; layer + 1 < end; ++layer) {
        auto next = checkpoints.push<Tensor>(calling_thread, {width});
        forward(layer, *input, *next);
        input.commit();
        input = std::move(next);
      }
      input.commit();
    }
    for (std::size_t layer = end; layer-- > first;) {
      gradients[layer] = backward(layer, *checkpoints.pop<Tensor>(calling_thread), output);
    }
    if (first == 0) return gradients;
  }
}

TEST_CASE("checkpointing, recomputing and offloading change no bit of any gradient") {
  for (const Place place : {Place::device, Place::host, Place::nvme}) {
    for (const std::size_t interval : {1U, 4U, 5U, 24U}) {
      CAPTURE(zerospan_test::to_string(place));
      CAPTURE(interval);
      zerospan::ThreadedIoEngine io;
      Memory<zerospan::ThreadedIoEngine> memory{io, 1_MiB, 1_MiB};
      ActivationCheckpoints checkpoints{
          memory.device, memory.tier(place), {.bytes = 400_KiB, .device_bytes = 50_KiB, .staging = 64_KiB}};
      for (int step = 0; step < 3; ++step) {
        const Gradients gradients = recompute(checkpoints, interval, step);
        const Gradients expected = keep_everything(step);
        for (std::size_t layer = 0; layer < layers; ++layer) {
          CHECK(std::bit_cast<std::uint32_t>(gradients[layer]) == std::bit_cast<std::uint32_t>(expected[layer]));
        }
      }
      CHECK(checkpoints.size() == 0);
      CHECK((checkpoints.counters().bytes_fetched > 0) == (place != Place::device));
    }
  }
}

}  // namespace
