/// @file
/// What every kernel has to do, whatever machine runs it: what the CPU does, bit for bit.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/kernels/gradient_operations.hpp>
#include <zerospan/kernels/rank_order_sum.hpp>
#include <zerospan/optimizer/optimizer.hpp>

#include "kernel_arrays.hpp"

namespace zerospan_test {

using zerospan::Addition;
using zerospan::block_elements;
using zerospan::GradientAddition;
using zerospan::ShardUpdate;
using zerospan::detail::ExactSum;

constexpr std::array all_types{ElementType::float32, ElementType::bfloat16, ElementType::float16};
constexpr std::array all_values{Values::moderate, Values::any};
constexpr std::array<std::size_t, 14> lengths{0, 1, 3, 4, 7, 8, 9, 31, 1000, 1023, 1024, 4096, 5003, 33333};
/// How far the first operand and the others are from a vector boundary, in elements.
constexpr std::array<std::pair<std::size_t, std::size_t>, 4> shifts{{{0, 0}, {3, 3}, {1, 0}, {0, 5}}};

template <class Machine>
void check_conversions(Machine& machine) {
  for (const ElementType type : all_types) {
    for (const Values values : all_values) {
      for (const std::size_t n : lengths) {
        for (const auto& [first, second] : shifts) {
          CAPTURE(zerospan::to_string(type));
          CAPTURE(n);
          CAPTURE(first);
          CAPTURE(second);
          const Bits narrow = elements(type, n, values, n);
          const Bits wide = elements(ElementType::float32, n, values, n + 1);
          Bits widened(wide.size());
          zerospan::to_float(type, narrow.data(), reinterpret_cast<float*>(widened.data()), n);
          Bits narrowed(narrow.size());
          zerospan::from_float(reinterpret_cast<const float*>(wide.data()), type, narrowed.data(), n);
          const Array source{machine, type, narrow, first};
          const Array<Machine> floats{machine, ElementType::float32, wide, second};
          const Array<Machine> target{machine, type, narrow, first};
          machine.narrow(floats.floats(), type, target.data(), n);
          CHECK(target.read() == narrowed);
          machine.widen(type, source.data(), floats.floats(), n);
          CHECK(floats.read() == widened);
          machine.release();
        }
      }
    }
  }
}

template <class Machine>
void check_sum(Machine& machine, ElementType input, ElementType output, std::size_t n, std::size_t ranks,
               std::pair<std::size_t, std::size_t> shift, Values values) {
  std::vector<Bits> inputs;
  std::vector<const std::byte*> pointers;
  std::vector<Array<Machine>> arrays;
  std::vector<const std::byte*> device_pointers;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    inputs.push_back(elements(input, n, values, 100 * n + rank));
    arrays.emplace_back(machine, input, inputs.back(), rank == 0 ? shift.first : shift.second);
    device_pointers.push_back(arrays.back().data());
  }
  for (const Bits& bits : inputs) pointers.push_back(bits.data());
  Bits expected(n * element_bytes(output));
  zerospan::rank_order_sum(pointers, input, expected.data(), output, n);
  const Array<Machine> sum{machine, output, Bits(expected.size()), shift.first};
  machine.rank_order_sum(device_pointers, input, sum.data(), output, n);
  CHECK(same_elements(output, sum.read(), expected));
  if (input == output) {
    machine.rank_order_sum(device_pointers, input, arrays.back().data(), output, n);
    CHECK(same_elements(output, arrays.back().read(), expected));
  }
  machine.release();
}

template <class Machine>
void check_sums(Machine& machine) {
  for (const ElementType input : all_types) {
    for (const std::size_t ranks : {1U, 2U, 3U, 7U, 256U}) {
      for (const std::size_t n : lengths) {
        if (ranks > 7 && n > 5003) continue;
        for (const auto& shift : shifts) {
          for (const Values values : all_values) {
            CAPTURE(zerospan::to_string(input));
            CAPTURE(ranks);
            CAPTURE(n);
            CAPTURE(shift.first);
            CAPTURE(shift.second);
            check_sum(machine, input, input, n, ranks, shift, values);
            if (input != ElementType::float32) {
              check_sum(machine, input, ElementType::float32, n, ranks, shift, values);
            }
          }
        }
      }
    }
  }
}

/// A sub-group of one run, on the host and on a machine.
template <class Machine>
class Shard {
 public:
  Shard(Machine& machine, std::size_t states, ElementType gradient_type, ElementType parameter_type, std::size_t n,
        std::pair<std::size_t, std::size_t> shift, Values values, std::uint64_t seed)
      : first{2 * block_elements},
        capacity{zerospan::round_up(first + n, block_elements)},
        host_master(elements(ElementType::float32, capacity, Values::moderate, seed)),
        host_states(elements(ElementType::float32, states * capacity, Values::moderate, seed + 1)),
        host_gradient(elements(gradient_type, n, values, seed + 2)),
        host_parameter(n * element_bytes(parameter_type)),
        master{machine, ElementType::float32, host_master, shift.first},
        state{machine, ElementType::float32, host_states, shift.first},
        gradient{machine, gradient_type, host_gradient, shift.second},
        parameter{machine, parameter_type, host_parameter, shift.first},
        update{.master = master.floats() + first,
               .states = states == 0 ? nullptr : state.data(),
               .capacity = capacity,
               .first = first,
               .elements = n,
               .gradient = gradient.data(),
               .gradient_type = gradient_type,
               .parameter = parameter.data(),
               .parameter_type = parameter_type,
               .gradient_scale = 0.37F,
               .step = 3,
               .group = {.learning_rate_factor = 0.5F, .weight_decay_factor = 2.0F}} {
    make_second_moments_positive(states);
  }

  /// What the CPU makes of it is what the machine made of it.
  template <class O>
  void check(const O& optimizer) {
    ShardUpdate on_host = update;
    on_host.master = reinterpret_cast<float*>(host_master.data()) + first;
    on_host.states = host_states.data();
    on_host.gradient = host_gradient.data();
    on_host.parameter = host_parameter.data();
    optimizer.update(on_host);
    CHECK(same_elements(ElementType::float32, master.read(), host_master));
    CHECK(same_elements(ElementType::float32, state.read(), host_states));
    CHECK(gradient.read() == host_gradient);
    CHECK(same_elements(update.parameter_type, parameter.read(), host_parameter));
  }

 private:
  /// Only their square roots are numbers.
  void make_second_moments_positive(std::size_t states) {
    if (states < 2) return;
    for (std::size_t i = capacity; i < 2 * capacity; ++i) host_states[4 * i + 3] &= std::byte{0x7f};
    state.write(host_states);
  }

  std::size_t first;
  std::size_t capacity;
  Bits host_master;
  Bits host_states;
  Bits host_gradient;
  Bits host_parameter;
  Array<Machine> master;
  Array<Machine> state;
  Array<Machine> gradient;
  Array<Machine> parameter;

 public:
  ShardUpdate update;
};

/// Updates of single runs, of all types.
template <class Machine, class O>
void check_updates(Machine& machine, const O& optimizer) {
  const std::size_t states = optimizer.state_bytes(1) / sizeof(float);
  for (const ElementType gradient : all_types) {
    for (const ElementType parameter : all_types) {
      for (const std::size_t n : lengths) {
        for (const auto& shift : shifts) {
          for (const Values values : all_values) {
            CAPTURE(zerospan::to_string(gradient));
            CAPTURE(zerospan::to_string(parameter));
            CAPTURE(n);
            CAPTURE(shift.first);
            CAPTURE(shift.second);
            Shard<Machine> shard{machine, states, gradient, parameter, n, shift, values, n};
            machine.update(optimizer, std::span{&shard.update, 1});
            shard.check(optimizer);
            machine.release();
          }
        }
      }
    }
  }
}

/// Updates of many runs, of types, lengths and alignments that are mixed, in few launches.
template <class Machine, class O>
void check_many_updates(Machine& machine, const O& optimizer) {
  const std::size_t states = optimizer.state_bytes(1) / sizeof(float);
  std::vector<Shard<Machine>> shards;
  std::vector<ShardUpdate> updates;
  for (std::size_t i = 0; i < 100; ++i) {
    const ElementType gradient = all_types[i % 5 % 2];
    const ElementType parameter = all_types[i % 7 % 3];
    shards.emplace_back(machine, states, gradient, parameter, lengths[i % lengths.size()], shifts[i % shifts.size()],
                        Values::moderate, i);
    updates.push_back(shards.back().update);
  }
  machine.update(optimizer, std::span<const ShardUpdate>{updates});
  for (Shard<Machine>& shard : shards) shard.check(optimizer);
  machine.release();
}

using Limbs = std::array<std::int64_t, ExactSum::limb_count>;

/// The sum that limbs represent has one representation alone.
inline Limbs carried(const Bits& raw) {
  ExactSum sum;
  const auto limbs = sum.limbs();
  std::copy(raw.begin(), raw.end(), reinterpret_cast<std::byte*>(limbs.data()));
  Limbs result{};
  std::ranges::copy(sum.limbs(), result.begin());
  return result;
}

template <class Machine>
void check_addition(Machine& machine, GradientAddition what, std::pair<std::size_t, std::size_t> shift, Values values) {
  const std::size_t n = what.elements;
  Bits target = elements(what.type, n, values, n);
  const Bits source = elements(what.source_type, n, values, n + 1);
  Bits limbs(sizeof(Limbs));
  for (std::size_t k = 0; k < ExactSum::limb_count - 1; ++k) limbs[k * sizeof(std::int64_t)] = std::byte{5};
  const Array<Machine> on_target{machine, what.type, target, shift.first};
  const Array<Machine> on_source{machine, what.source_type, source, shift.second};
  const Array<Machine> on_limbs{machine, ElementType::float32, limbs, 0};

  what.target = target.data();
  what.source = source.data();
  what.limbs = reinterpret_cast<std::int64_t*>(limbs.data());
  add_gradient(zerospan::calling_thread, what);
  what.target = on_target.data();
  what.source = on_source.data();
  what.limbs = reinterpret_cast<std::int64_t*>(on_limbs.data());
  machine.add_gradient(what);

  const bool is_copied = what.addition == Addition::replace && what.type == what.source_type;
  CHECK((is_copied ? on_target.read() == target : same_elements(what.type, on_target.read(), target)));
  CHECK(on_source.read() == source);
  CHECK(carried(on_limbs.read()) == carried(limbs));
  machine.release();
}

template <class Machine>
void check_additions(Machine& machine) {
  constexpr std::array<std::size_t, 16> sizes{0,    1,    5,    15,   17,   256,  1023, 1024,
                                              1030, 2047, 2048, 2049, 3072, 4096, 8200, 40001};
  constexpr std::array<std::pair<std::size_t, std::size_t>, 3> few_shifts{{{0, 0}, {1, 1}, {0, 3}}};
  for (const ElementType source : all_types) {
    for (const ElementType type : {ElementType::float32, source}) {
      for (const std::size_t n : sizes) {
        for (const auto& shift : few_shifts) {
          for (const Addition addition : {Addition::replace, Addition::add}) {
            for (const Values values : all_values) {
              const std::array<std::pair<std::size_t, std::size_t>, 4> norms{
                  {{0, n}, {0, 0}, {block_elements, n}, {2 * block_elements, n - n / 3}}};
              for (const auto& [begin, end] : norms) {
                CAPTURE(zerospan::to_string(type));
                CAPTURE(zerospan::to_string(source));
                CAPTURE(n);
                CAPTURE(shift.first);
                CAPTURE(shift.second);
                CAPTURE(begin);
                CAPTURE(end);
                check_addition(machine,
                               {.type = type,
                                .target = nullptr,
                                .source_type = source,
                                .source = nullptr,
                                .elements = n,
                                .addition = addition,
                                .norm_begin = begin,
                                .norm_end = end,
                                .limbs = nullptr},
                               shift, values);
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace zerospan_test
