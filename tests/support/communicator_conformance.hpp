/// @file
/// What every communicator does: cases for `Worlds`, whose `all()` are worlds: each has a `size`, and its `run(f)`
/// gives what `f(communicator)` returns on each rank.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/philox.hpp>

#include "support/reduction_oracle.hpp"

namespace zerospan_test {

using zerospan::bfloat16;
using zerospan::calling_thread;
using zerospan::Collective;
using zerospan::element_bytes;
using zerospan::ElementType;
using zerospan::float16;
using zerospan::GatherPart;
using zerospan::Rank;
using zerospan::Reduction;

constexpr Collective named(const char* name) { return {calling_thread, name}; }

inline constexpr std::array<std::size_t, 7> element_counts{1, 7, 64, 1000, 1024, 4099, 0};

inline constexpr std::array<Types, 5> reduction_types{{{ElementType::float32, ElementType::float32},
                                                       {ElementType::bfloat16, ElementType::bfloat16},
                                                       {ElementType::bfloat16, ElementType::float32},
                                                       {ElementType::float16, ElementType::float16},
                                                       {ElementType::float16, ElementType::float32}}};
inline constexpr std::array element_types{ElementType::float32, ElementType::bfloat16, ElementType::float16};

inline std::size_t as_size(int n) { return static_cast<std::size_t>(n); }

/// What a collective of a failed group throws.
template <class F>
std::string rank_failed_message(F call) {
  try {
    call();
  } catch (const zerospan::RankFailedError& error) {
    return "rank " + std::to_string(error.culprit().value) + " is at fault: " + error.what();
  }
  return "no error";
}

TEST_CASE_TEMPLATE_DEFINE("every rank knows its place", Worlds, places) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    const auto ranks = world.run([&](auto communicator) {
      auto child = communicator.duplicate();
      return std::array{communicator.rank().value, communicator.size(), child.rank().value, child.size()};
    });
    REQUIRE(ranks.size() == as_size(world.size));
    for (int rank = 0; rank < world.size; ++rank) {
      CHECK(ranks[as_size(rank)] == std::array{rank, world.size, rank, world.size});
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("all_gather gives every rank every shard of every part", Worlds, gathers) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    const auto shard_byte = [](int rank, std::size_t part, std::size_t i) {
      return static_cast<std::byte>(zerospan::philox(part, as_size(rank), i)[0]);
    };
    const auto fill = [&](std::vector<Buffer>& buffers, auto holds) {
      for (std::size_t part = 0; part < element_counts.size(); ++part) {
        const std::size_t bytes = element_counts[part];
        buffers.emplace_back(bytes * as_size(world.size) + 16, std::byte{0xee});  // 16 bytes that nobody may touch
        for (int rank = 0; rank < world.size; ++rank) {
          if (!holds(rank)) continue;
          for (std::size_t i = 0; i < bytes; ++i) {
            buffers.back()[as_size(rank) * bytes + i] = shard_byte(rank, part, i);
          }
        }
      }
    };
    std::vector<Buffer> expected;
    fill(expected, [](int) { return true; });

    const auto gathered = world.run([&](auto communicator) {
      std::vector<Buffer> buffers;
      fill(buffers, [&](int rank) { return rank == communicator.rank().value; });
      std::vector<GatherPart> parts;
      for (std::size_t i = 0; i < buffers.size(); ++i) parts.push_back({buffers[i].data(), element_counts[i]});
      communicator.all_gather(named("parts"), parts);
      communicator.all_gather(named("nothing"), {});
      return buffers;
    });
    for (const auto& buffers : gathered) CHECK(buffers == expected);
  }
}

TEST_CASE_TEMPLATE_DEFINE("reduce_scatter gives each rank its shard of the sum", Worlds, scatters) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    for (const std::size_t elements : element_counts) {
      for (const Types types : reduction_types) {
        CAPTURE(elements);
        CAPTURE(to_string(types.input));
        CAPTURE(to_string(types.output));
        const auto outputs = world.run([&](auto communicator) {
          Buffer input = input_of(communicator.rank().value, as_size(world.size) * elements, types.input);
          const Buffer before = input;
          Buffer output(elements * element_bytes(types.output));
          communicator.reduce_scatter(named("gradient"),
                                      {types.input, input.data(), types.output, output.data(), elements});
          return std::pair{output, input == before};
        });
        for (int rank = 0; rank < world.size; ++rank) {
          CHECK(outputs[as_size(rank)].first == oracle(world.size, as_size(rank) * elements, elements, types));
          CHECK(outputs[as_size(rank)].second);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("reduce_scatter may write to the rank's own shard", Worlds, scatters_in_place) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    for (const std::size_t elements : element_counts) {
      for (const ElementType type : element_types) {
        const std::size_t bytes = elements * element_bytes(type);
        const auto buffers = world.run([&](auto communicator) {
          Buffer buffer = input_of(communicator.rank().value, as_size(world.size) * elements, type);
          std::byte* const own = buffer.data() + as_size(communicator.rank().value) * bytes;
          communicator.reduce_scatter(named("gradient"), {type, buffer.data(), type, own, elements});
          return buffer;
        });
        for (int rank = 0; rank < world.size; ++rank) {
          Buffer expected = input_of(rank, as_size(world.size) * elements, type);
          const Buffer sum = oracle(world.size, as_size(rank) * elements, elements, {type, type});
          std::ranges::copy(sum, expected.begin() + static_cast<std::ptrdiff_t>(as_size(rank) * bytes));
          CHECK(buffers[as_size(rank)] == expected);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("reduce gives the root the sum, and leaves the others' outputs alone", Worlds,
                          reduces_to_root) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    for (int root = 0; root < world.size; ++root) {
      for (const std::size_t elements : element_counts) {
        for (const Types types : reduction_types) {
          CAPTURE(root);
          CAPTURE(elements);
          const auto outputs = world.run([&](auto communicator) {
            Buffer input = input_of(communicator.rank().value, elements, types.input);
            const Buffer before = input;
            Buffer output(elements * element_bytes(types.output), std::byte{0xee});
            communicator.reduce(named("gradient"), {types.input, input.data(), types.output, output.data(), elements},
                                Rank{root});
            return std::pair{output, input == before};
          });
          for (int rank = 0; rank < world.size; ++rank) {
            const auto& [output, input_is_unchanged] = outputs[as_size(rank)];
            const Buffer untouched(output.size(), std::byte{0xee});
            CHECK(output == (rank == root ? oracle(world.size, 0, elements, types) : untouched));
            CHECK(input_is_unchanged);
          }
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("reduce may be in place at the root", Worlds, reduces_to_root_in_place) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    for (const std::size_t elements : element_counts) {
      for (const ElementType type : {ElementType::float32, ElementType::bfloat16}) {
        const int root = world.size - 1;
        const auto buffers = world.run([&](auto communicator) {
          Buffer buffer = input_of(communicator.rank().value, elements, type);
          std::byte* const output = communicator.rank().value == root ? buffer.data() : nullptr;
          communicator.reduce(named("gradient"), {type, buffer.data(), type, output, elements}, Rank{root});
          return buffer;
        });
        for (int rank = 0; rank < world.size; ++rank) {
          const Buffer expected =
              rank == root ? oracle(world.size, 0, elements, {type, type}) : input_of(rank, elements, type);
          CHECK(buffers[as_size(rank)] == expected);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("all_reduce gives every rank the sum", Worlds, reduces) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    for (const std::size_t elements : element_counts) {
      for (const Types types : reduction_types) {
        CAPTURE(elements);
        const auto outputs = world.run([&](auto communicator) {
          Buffer input = input_of(communicator.rank().value, elements, types.input);
          const Buffer before = input;
          Buffer output(elements * element_bytes(types.output));
          communicator.all_reduce(named("gradient"),
                                  {types.input, input.data(), types.output, output.data(), elements});
          return std::pair{output, input == before};
        });
        for (const auto& [output, input_is_unchanged] : outputs) {
          CHECK(output == oracle(world.size, 0, elements, types));
          CHECK(input_is_unchanged);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("all_reduce may be in place, on some ranks or on all", Worlds, reduces_in_place) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    for (const std::size_t elements : element_counts) {
      for (const ElementType type : element_types) {
        for (const int ranks_in_place : {1, world.size}) {
          const auto outputs = world.run([&](auto communicator) {
            Buffer input = input_of(communicator.rank().value, elements, type);
            Buffer output(input.size());
            const bool in_place = communicator.rank().value < ranks_in_place;
            Buffer& target = in_place ? input : output;
            communicator.all_reduce(named("gradient"), {type, input.data(), type, target.data(), elements});
            return target;
          });
          for (const Buffer& output : outputs) CHECK(output == oracle(world.size, 0, elements, {type, type}));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("all_reduce sums integers exactly", Worlds, reduces_integers) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    for (const std::size_t count : element_counts) {
      const auto term = [](int rank, std::size_t i) {
        return (std::int64_t{1} << 53) + 1 - 3 * static_cast<std::int64_t>(i) * (rank + 1);
      };
      const auto sums = world.run([&](auto communicator) {
        std::vector<std::int64_t> integers;
        for (std::size_t i = 0; i < count; ++i) integers.push_back(term(communicator.rank().value, i));
        communicator.all_reduce(named("counts"), integers);
        return integers;
      });
      std::vector<std::int64_t> expected(count, 0);
      for (std::size_t i = 0; i < count; ++i) {
        for (int rank = 0; rank < world.size; ++rank) expected[i] += term(rank, i);
      }
      for (const auto& sum : sums) CHECK(sum == expected);
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("sums of integers that follow one another do not meet, few or many", Worlds,
                          reduces_integers_in_a_row) {
  constexpr std::int64_t rounds = 300;
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    const auto wrong = world.run([&](auto communicator) {
      std::int64_t differing = 0;
      for (std::int64_t round = 0; round < rounds; ++round) {
        std::vector<std::int64_t> integers(round % 50 == 49 ? 1000 : 3, round * (communicator.rank().value + 1));
        communicator.all_reduce(named("counts"), integers);
        const std::int64_t expected = round * world.size * (world.size + 1) / 2;
        differing += std::ranges::count_if(integers, [&](std::int64_t sum) { return sum != expected; });
      }
      return differing;
    });
    for (const std::int64_t count : wrong) CHECK(count == 0);
  }
}

TEST_CASE_TEMPLATE_DEFINE("broadcast gives every rank the root's bytes", Worlds, broadcasts) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    for (int root = 0; root < world.size; ++root) {
      for (const std::size_t bytes : element_counts) {
        const auto copies = world.run([&](auto communicator) {
          Buffer buffer(bytes, static_cast<std::byte>(communicator.rank().value + 1));
          communicator.broadcast(named("step"), buffer, Rank{root});
          return buffer;
        });
        for (const Buffer& copy : copies) CHECK(copy == Buffer(bytes, static_cast<std::byte>(root + 1)));
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("no rank leaves a barrier before all have entered", Worlds, barriers) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    constexpr int rounds = 200;
    std::array<std::atomic<int>, rounds> entered{};
    const auto all_were_in = world.run([&](auto communicator) {
      int complete = 0;
      for (auto& round : entered) {
        ++round;
        communicator.barrier(named("round"));
        complete += round == world.size ? 1 : 0;
      }
      return complete;
    });
    for (const int complete : all_were_in) CHECK(complete == rounds);
  }
}

TEST_CASE_TEMPLATE_DEFINE("a duplicate is independent of its origin", Worlds, duplicates) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    constexpr int rounds = 100;
    const auto sums = world.run([&](auto communicator) {
      auto child = communicator.duplicate();
      auto grandchild = child.duplicate();
      const auto sum_up = [](auto& c, std::int64_t step) {
        std::vector<std::int64_t> total(1, 0);
        for (int i = 0; i < rounds; ++i) {
          std::vector<std::int64_t> term(1, step * i);
          c.all_reduce(named("term"), term);
          total[0] += term[0];
        }
        return total[0];
      };
      std::array<std::int64_t, 3> totals{};
      {
        const std::jthread other{[&] { totals[1] = sum_up(child, 1000); }};
        totals[0] = sum_up(communicator, 1);
      }
      totals[2] = sum_up(grandchild, 1'000'000);
      return totals;
    });
    const std::int64_t one = std::int64_t{world.size} * rounds * (rounds - 1) / 2;
    for (const auto& totals : sums) CHECK(totals == std::array<std::int64_t, 3>{one, 1000 * one, 1'000'000 * one});
  }
}

TEST_CASE_TEMPLATE_DEFINE("a duplicate outlives its origin", Worlds, outlives) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    const auto sums = world.run([&](auto communicator) {
      auto child = communicator.duplicate();
      { [[maybe_unused]] const auto gone = std::move(communicator); }
      std::vector<std::int64_t> ones(1, 1);
      child.all_reduce(named("ranks"), ones);
      return ones[0];
    });
    for (const std::int64_t sum : sums) CHECK(sum == world.size);
  }
}

TEST_CASE_TEMPLATE_DEFINE("an aborted communicator and its duplicates refuse everything", Worlds, refuses) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    const auto messages = world.run([&](auto communicator) {
      auto child = communicator.duplicate();
      child.barrier(named("all are here"));
      child.abort("out of cheese");
      std::vector<std::string> caught;
      Buffer bytes(16);
      const GatherPart part{bytes.data(), bytes.size() / as_size(world.size)};
      const Reduction reduction{ElementType::float32, bytes.data(), ElementType::float32, bytes.data(), 0};
      std::vector<std::int64_t> integers(1);
      caught.push_back(rank_failed_message([&] { communicator.all_gather(named("a"), std::span{&part, 1}); }));
      caught.push_back(rank_failed_message([&] { communicator.reduce_scatter(named("b"), reduction); }));
      caught.push_back(rank_failed_message([&] { communicator.all_reduce(named("c"), reduction); }));
      caught.push_back(rank_failed_message([&] { communicator.all_reduce(named("d"), integers); }));
      caught.push_back(rank_failed_message([&] { communicator.broadcast(named("e"), bytes, Rank{0}); }));
      caught.push_back(rank_failed_message([&] { communicator.barrier(named("f")); }));
      caught.push_back(rank_failed_message([&] { communicator.reduce(named("r"), reduction, Rank{0}); }));
      caught.push_back(rank_failed_message([&] { communicator.duplicate(); }));
      caught.push_back(rank_failed_message([&] { child.barrier(named("g")); }));
      return caught;
    });
    const std::string part_bytes = std::to_string(16 / world.size);
    const std::array<std::string, 9> calls{"all-gather 'a' of " + part_bytes + " bytes a rank (#1)",
                                           "reduce-scatter 'b' of 0 float32 elements a rank (#1)",
                                           "all-reduce 'c' of 0 float32 elements (#1)",
                                           "all-reduce 'd' of 1 integers (#1)",
                                           "broadcast 'e' of 16 bytes from rank 0 (#1)",
                                           "barrier 'f' (#1)",
                                           "reduce 'r' of 0 float32 elements to rank 0 (#1)",
                                           "duplicate (#1)",
                                           "barrier 'g' (#1)"};
    const std::string culprit = messages[0][0].substr(0, 6);  // whichever rank was first to abort
    for (int rank = 0; rank < world.size; ++rank) {
      for (std::size_t i = 0; i < calls.size(); ++i) {
        CHECK(messages[as_size(rank)][i] == culprit + " is at fault: " + culprit +
                                                " failed (out of cheese) before rank " + std::to_string(rank) +
                                                " called " + calls[i]);
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("operands that no collective has are refused, and harm nothing", Worlds, validates) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    const auto refusals = world.run([&](auto communicator) {
      Buffer bytes(1024);
      const std::size_t shard = bytes.size() / as_size(world.size) / 4;
      const auto refused = [](auto call) {
        try {
          call();
        } catch (const zerospan::ConfigurationError&) {
          return 1;
        }
        return 0;
      };
      const Reduction narrowing{ElementType::float32, bytes.data(), ElementType::bfloat16, bytes.data(), 1};
      const Reduction askew{ElementType::float32, bytes.data(), ElementType::float32, bytes.data() + 4, shard};
      const Reduction widening{ElementType::bfloat16, bytes.data(), ElementType::float32, bytes.data(), shard};
      int count = 0;
      for (const Reduction& reduction : {narrowing, askew, widening}) {
        count += refused([&] { communicator.reduce_scatter(named("r"), reduction); });
        count += refused([&] { communicator.all_reduce(named("r"), reduction); });
        count += refused([&] { communicator.reduce(named("r"), reduction, communicator.rank()); });
      }
      const Reduction none{ElementType::float32, bytes.data(), ElementType::float32, bytes.data(), 0};
      count += refused([&] { communicator.reduce(named("r"), none, Rank{world.size}); });
      count += refused([&] { communicator.reduce(named("r"), none, Rank{-1}); });
      count += refused([&] { communicator.broadcast(named("b"), bytes, Rank{world.size}); });
      count += refused([&] { communicator.broadcast(named("b"), bytes, Rank{-1}); });
      communicator.barrier(named("in good health"));
      return count;
    });
    for (const int count : refusals) CHECK(count == 13);
  }
}

}  // namespace zerospan_test
