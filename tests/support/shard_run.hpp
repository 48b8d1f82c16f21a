/// @file
/// A sub-group of one parameter, as an engine would hold it, for the tests of optimizers; and what holds of every one.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/cpu.hpp>
#include <zerospan/optimizer/optimizer.hpp>

#include "support/instruction_sets.hpp"
#include "support/sample.hpp"

namespace zerospan_test {

using zerospan::block_elements;
using zerospan::ElementType;
using zerospan::InstructionSet;
using zerospan::ParameterGroup;
using zerospan::ShardUpdate;

inline constexpr std::array stored_types{ElementType::float32, ElementType::bfloat16, ElementType::float16};

/// A sub-group of one parameter with `n` elements, as an engine would hold it.
struct SubGroup {
  template <zerospan::Optimizer O>
  SubGroup(const O& optimizer, std::size_t elements, ElementType gradients, ElementType parameters)
      : n{elements},
        capacity{zerospan::round_up(elements, block_elements)},
        gradient_type{gradients},
        parameter_type{parameters},
        master(capacity),
        states(optimizer.state_bytes(capacity)),
        gradient(n * zerospan::element_bytes(gradients)),
        parameter(n * zerospan::element_bytes(parameters)) {}

  void fill_master(std::uint64_t seed) {
    std::mt19937_64 random{seed};
    std::normal_distribution<float> normal;
    std::generate_n(master.begin(), n, [&] { return normal(random); });
  }

  void fill_gradient(std::uint64_t seed) {
    std::mt19937_64 random{seed};
    std::normal_distribution<float> normal;
    std::vector<float> values(n);
    for (float& value : values) value = std::ldexp(normal(random), static_cast<int>(random() % 30) - 20);
    zerospan::from_float(values.data(), gradient_type, gradient.data(), n);
  }

  ShardUpdate run(std::size_t first, std::size_t elements, std::int64_t step, float scale, ParameterGroup group) {
    return {.master = master.data() + first,
            .states = states.data(),
            .capacity = capacity,
            .first = first,
            .elements = elements,
            .gradient = gradient.data() + first * zerospan::element_bytes(gradient_type),
            .gradient_type = gradient_type,
            .parameter = parameter.data() + first * zerospan::element_bytes(parameter_type),
            .parameter_type = parameter_type,
            .gradient_scale = scale,
            .step = step,
            .group = group};
  }

  float gradient_at(std::size_t i) const {
    float value = 0;
    const std::size_t bytes = zerospan::element_bytes(gradient_type);
    zerospan::to_float(gradient_type, gradient.data() + i * bytes, &value, 1);
    return value;
  }

  /// Element `i` of the fp32 state number `which`.
  float state(int which, std::size_t i) const {
    float value = 0;
    std::memcpy(&value, states.data() + 4 * (static_cast<std::size_t>(which) * capacity + i), sizeof value);
    return value;
  }

  std::size_t n;
  std::size_t capacity;
  ElementType gradient_type;
  ElementType parameter_type;
  std::vector<float> master;
  std::vector<std::byte> states;
  std::vector<std::byte> gradient;
  std::vector<std::byte> parameter;
};

inline void check_same_bits(const SubGroup& a, const SubGroup& b) {
  REQUIRE(a.master.size() == b.master.size());
  CHECK(std::memcmp(a.master.data(), b.master.data(), a.master.size() * sizeof(float)) == 0);
  CHECK(a.states == b.states);
  CHECK(a.parameter == b.parameter);
}

/// Every body gives the same bits, for all types and tails.
template <zerospan::Optimizer O>
void check_bodies_agree(const O& optimizer) {
  Sample sample{5};
  for (const ElementType gradient_type : stored_types) {
    for (const ElementType parameter_type : stored_types) {
      for (const std::size_t n : {1U, 3U, 7U, 8U, 9U, 15U, 1023U, 1024U, 1031U, 4096U, 5005U}) {
        if (!sample.takes()) continue;
        CAPTURE(n);
        SubGroup scalar{optimizer, n, gradient_type, parameter_type};
        scalar.fill_master(n);
        const SubGroup before = scalar;
        const auto update = [&](SubGroup& group, InstructionSet set) {
          for (std::int64_t step = 1; step <= 4; ++step) {
            group.fill_gradient(200 + static_cast<std::uint64_t>(step));
            optimizer.update(group.run(0, n, step, 0.125F, {}), set);
          }
        };
        update(scalar, InstructionSet::scalar);
        for (const InstructionSet set : instruction_sets()) {
          if (set == InstructionSet::scalar) continue;
          CAPTURE(zerospan::to_string(set));
          SubGroup vector = before;
          update(vector, set);
          check_same_bits(scalar, vector);
        }
      }
    }
  }
}

/// The cut into runs changes no bit.
template <zerospan::Optimizer O>
void check_cuts_do_not_matter(const O& optimizer) {
  constexpr std::size_t n = 23 * block_elements + 77;
  std::mt19937_64 random{9};
  for (const ElementType gradient_type : stored_types) {
    for (const ElementType parameter_type : stored_types) {
      SubGroup whole{optimizer, n, gradient_type, parameter_type};
      whole.fill_master(5);
      SubGroup cut = whole;
      for (std::int64_t step = 1; step <= 6; ++step) {
        whole.fill_gradient(300 + static_cast<std::uint64_t>(step));
        cut.gradient = whole.gradient;
        optimizer.update(whole.run(0, n, step, 1.0F, {}));
        std::vector<std::size_t> cuts{0, n};
        for (int i = 0; i < 5; ++i) cuts.push_back(random() % 23 * block_elements);
        std::ranges::sort(cuts);
        for (std::size_t i = cuts.size() - 1; i-- > 0;) {
          const InstructionSet set = instruction_sets()[i % instruction_sets().size()];
          optimizer.update(cut.run(cuts[i], cuts[i + 1] - cuts[i], step, 1.0F, {}), set);
        }
        check_same_bits(whole, cut);
      }
    }
  }
}

/// The written parameter is the master weight, rounded, whatever bits it has.
template <zerospan::Optimizer O>
void check_parameter_is_rounded_master(const O& optimizer) {
  constexpr std::size_t n = 1500;
  std::mt19937_64 random{10};
  for (const InstructionSet set : instruction_sets()) {
    for (const ElementType type : stored_types) {
      SubGroup shard{optimizer, n, ElementType::float32, type};
      shard.fill_master(8);
      const auto any_float = [&] { return std::bit_cast<float>(static_cast<std::uint32_t>(random())); };
      std::generate_n(shard.master.begin() + n / 2, n / 2, any_float);
      shard.fill_gradient(9);
      optimizer.update(shard.run(0, n, 1, 1.0F, {}), set);
      std::vector<std::byte> expected(shard.parameter.size());
      zerospan::from_float(shard.master.data(), type, expected.data(), n, InstructionSet::scalar);
      CHECK(shard.parameter == expected);
    }
  }
}

/// What lies beside a run stays as it is.
template <zerospan::Optimizer O>
void check_neighbours_are_left_alone(const O& optimizer) {
  constexpr std::size_t n = 4 * block_elements;
  SubGroup shard{optimizer, n, ElementType::bfloat16, ElementType::bfloat16};
  shard.fill_master(6);
  shard.fill_gradient(7);
  const SubGroup before = shard;
  optimizer.update(shard.run(block_elements, 2 * block_elements - 3, 1, 1.0F, {}));
  for (std::size_t i = 0; i < n; ++i) {
    const bool inside = i >= block_elements && i < 3 * block_elements - 3;
    REQUIRE((shard.master[i] != before.master[i]) == inside);
    for (int k = 0; k < static_cast<int>(optimizer.state_bytes(1) / sizeof(float)); ++k) {
      REQUIRE((shard.state(k, i) != 0) == inside);
    }
    const bool written = std::memcmp(&shard.parameter[2 * i], &before.parameter[2 * i], 2) != 0;
    REQUIRE(written == inside);
  }
}

/// `O` with these settings is refused, in the name of the setting.
template <zerospan::Optimizer O>
bool refuses(const O& optimizer, const std::string& setting) {
  try {
    optimizer.validate();
  } catch (const zerospan::ConfigurationError& error) {
    return std::string_view{error.what()}.find(": " + setting + " is ") != std::string_view::npos;
  }
  return false;
}

}  // namespace zerospan_test
