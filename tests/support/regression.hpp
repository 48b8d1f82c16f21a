/// @file
/// A small training with tensors of any type: linear regression, element by element.
#pragma once

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <zerospan/zerospan.hpp>

namespace zerospan_test {

inline constexpr std::size_t regression_rows = 37;
inline constexpr std::size_t regression_columns = 61;

/// One pass forward and backward. @return The loss.
template <zerospan::Element E, class Matrix, class Vector, class At>
float learn(At at, const zerospan::PartitionedParameter<Matrix>& weight,
            const zerospan::PartitionedParameter<Vector>& bias, int step) {
  constexpr std::size_t columns = regression_columns;
  const auto [w, b] = gather(zerospan::calling_thread, weight, bias);
  auto dw = weight.gradient(zerospan::calling_thread);
  auto db = bias.gradient(zerospan::calling_thread);
  const auto x = [&](std::size_t j) { return std::sin(static_cast<float>(j) + static_cast<float>(step % 3)); };
  float loss = 0;
  for (std::size_t i = 0; i < regression_rows; ++i) {
    float y = static_cast<float>(at(*b, i));
    for (std::size_t j = 0; j < columns; ++j) y += static_cast<float>(at(*w, i * columns + j)) * x(j);
    const float error = y - std::cos(static_cast<float>(i));
    loss += 0.5F * error * error;
    for (std::size_t j = 0; j < columns; ++j) at(*dw, i * columns + j) = E(error * x(j));
    at(*db, i) = E(error);
  }
  dw.commit();
  db.commit();
  return loss;
}

/// Learns y = W x + b with W [rows x columns] by ten steps of AdamW.
/// @param at `at(tensor, i)` is a reference to element i of a tensor, row-major.
/// @return The loss of each step, then what was learnt.
template <zerospan::Element E, zerospan::HostTensor Matrix, zerospan::HostTensor Vector, class At>
std::vector<float> train_regression(At at) {
  constexpr std::size_t rows = regression_rows;
  constexpr std::size_t columns = regression_columns;
  zerospan::HostDevice device{
      {.device_budget = zerospan::Bytes{std::size_t{4} << 20}, .host_budget = zerospan::Bytes{std::size_t{4} << 20}}};
  zerospan::HostTier host{device};
  zerospan::SelfCommunicator self;
  zerospan::ZeroEngine engine{
      zerospan::Stage3{},
      self,
      device,
      zerospan::Placement{.parameters = host, .gradients = host, .optimizer = host},
      zerospan::AdamW{.learning_rate = 0.05F},
      zerospan::EngineOptions{.persistence_threshold = zerospan::Bytes{0}, .staging = zerospan::Bytes{1 << 20}}};
  const auto declare = [&]<class T>(const char* name, zerospan::Shape shape) {
    if constexpr (zerospan::TypedTensor<T>) {
      return zerospan::PartitionedParameter<T>{engine, name, shape, zerospan::init::normal(1.0F)};
    } else {
      return zerospan::PartitionedParameter<T>{engine, name, shape, zerospan::ElementTraits<E>::type,
                                               zerospan::init::normal(1.0F)};
    }
  };
  const auto weight = declare.template operator()<Matrix>("weight", {rows, columns});
  const auto bias = declare.template operator()<Vector>("bias", {rows});

  std::vector<float> result;
  for (int step = 0; step < 10; ++step) {
    result.push_back(learn<E>(at, weight, bias, step));
    engine.step();
  }
  const auto [w, b] = gather(zerospan::calling_thread, weight, bias);
  for (std::size_t i = 0; i < rows * columns; ++i) result.push_back(static_cast<float>(at(*w, i)));
  for (std::size_t i = 0; i < rows; ++i) result.push_back(static_cast<float>(at(*b, i)));
  return result;
}

}  // namespace zerospan_test
