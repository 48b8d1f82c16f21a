/// @file
/// What every communicator does that exchanges slices and can be split: cases for Worlds of 4 ranks, as in
/// communicator_conformance.hpp.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/philox.hpp>

#include "support/communicator_conformance.hpp"

namespace zerospan_test {

using zerospan::SplitPlace;

/// How 4 ranks become two groups of 2.
struct Grouping {
  std::array<SplitPlace, 4> places;
  std::array<std::array<int, 2>, 2> groups;  ///< Their ranks, in the order of their places.

  SplitPlace place(Rank rank) const { return places[as_size(rank.value)]; }
  const std::array<int, 2>& group_of(int rank) const { return groups[as_size(places[as_size(rank)].color)]; }
};

inline constexpr Grouping consecutive{{{{0, 0}, {0, 1}, {1, 0}, {1, 1}}}, {{{0, 1}, {2, 3}}}};
inline constexpr Grouping strided{{{{0, 0}, {1, 0}, {0, 1}, {1, 1}}}, {{{0, 2}, {1, 3}}}};
inline constexpr Grouping backward{{{{0, 9}, {1, 5}, {1, -5}, {0, 7}}}, {{{3, 0}, {2, 1}}}};
inline constexpr std::array groupings{consecutive, strided, backward};

/// The sum of one integer of every rank.
template <class C>
std::int64_t sum_over(C& communicator, std::int64_t term) {
  std::array<std::int64_t, 1> integers{term};
  communicator.all_reduce(named("term"), std::span<std::int64_t>{integers});
  return integers[0];
}

/// How a rank ended: what it threw, and whom that names.
inline std::string end_of(const std::function<void()>& f) {
  const auto words = [](const char* kind, const auto& error) {
    return std::string{kind} + " of rank " + std::to_string(error.culprit().value) + ": " + error.what();
  };
  try {
    f();
    return "well";
  } catch (const zerospan::RankTimeoutError& error) {
    return words("timeout", error);
  } catch (const zerospan::DivergenceError& error) {
    return words("divergence", error);
  } catch (const zerospan::RankFailedError& error) {
    return words("failure", error);
  } catch (const std::exception& error) {
    return error.what();
  }
}

inline bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// What everybody gets to hear of one failure, who waits in or calls whatever.
inline void check_told(const std::vector<std::string>& ends, const std::string& begin, const std::string& reason) {
  for (std::size_t rank = 0; rank < ends.size(); ++rank) {
    const std::string& end = ends[rank];
    const std::string me = "rank " + std::to_string(rank);
    CAPTURE(end);
    CHECK(holds(end, begin + ": "));
    CHECK(holds(end, reason));
    CHECK((holds(end, " while " + me + " waits in ") || holds(end, " before " + me + " called ")));
  }
}

inline constexpr std::array<std::size_t, 8> slice_sizes{0, 1, 7, 1000, 1024, 1025, 5000, 70001};

TEST_CASE_TEMPLATE_DEFINE("all_to_all brings every slice to its rank", Worlds, exchanges) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    const auto slice_byte = [](int from, int to, std::size_t i) {
      return static_cast<std::byte>(zerospan::philox(as_size(to), as_size(from), i)[0]);
    };
    for (const std::size_t bytes : slice_sizes) {
      CAPTURE(bytes);
      const auto outputs = world.run([&](auto communicator) {
        const int me = communicator.rank().value;
        Buffer input;
        for (int to = 0; to < world.size; ++to) {
          for (std::size_t i = 0; i < bytes; ++i) input.push_back(slice_byte(me, to, i));
        }
        const Buffer before = input;
        Buffer output(input.size() + 16, std::byte{0xee});  // 16 bytes that nobody may touch
        communicator.all_to_all(named("slices"), {input.data(), output.data(), bytes});
        return std::pair{output, input == before};
      });
      for (int me = 0; me < world.size; ++me) {
        Buffer expected;
        for (int from = 0; from < world.size; ++from) {
          for (std::size_t i = 0; i < bytes; ++i) expected.push_back(slice_byte(from, me, i));
        }
        expected.resize(expected.size() + 16, std::byte{0xee});
        CHECK(outputs[as_size(me)].first == expected);
        CHECK(outputs[as_size(me)].second);
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("all_to_all refuses an output that overlaps its input, and harms nothing", Worlds,
                          refuses_overlap) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    const auto refused = world.run([&](auto communicator) {
      Buffer bytes(256);
      int count = 0;
      for (const std::size_t first : {std::size_t{0}, std::size_t{1}, as_size(8 * world.size - 1)}) {
        try {
          communicator.all_to_all(named("slices"), {bytes.data(), bytes.data() + first, 8});
        } catch (const zerospan::ConfigurationError&) {
          ++count;
        }
      }
      communicator.all_to_all(named("apart"), {bytes.data(), bytes.data() + 8 * world.size, 8});
      return count;
    });
    for (const int count : refused) CHECK(count == 3);
  }
}

TEST_CASE_TEMPLATE_DEFINE("a rank of a split has its place in its group, and keeps it in the whole", Worlds,
                          splits_places) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    for (const Grouping& grouping : groupings) {
      const auto seen = world.run([&](auto communicator) {
        auto part = communicator.split(grouping.place(communicator.rank()));
        auto alone = part.split({part.rank().value, 0});
        auto again = communicator.split({7, -communicator.rank().value});
        return std::array{communicator.rank().value, communicator.size(), part.rank().value,  part.size(),
                          alone.rank().value,        alone.size(),        again.rank().value, again.size()};
      });
      for (int rank = 0; rank < 4; ++rank) {
        const int place = grouping.group_of(rank)[0] == rank ? 0 : 1;
        CHECK(seen[as_size(rank)] == std::array{rank, 4, place, 2, 0, 1, 3 - rank, 4});
      }
    }
  }
}

/// Every collective of a group of two, in which `mine` has the bytes of this rank.
template <class C>
std::vector<Buffer> collectives_of_two(C& part, Buffer mine) {
  const std::size_t bytes = mine.size();
  const std::size_t floats = bytes / 4;
  const int me = part.rank().value;
  std::vector<Buffer> results;
  const auto place = [&](Buffer& buffer) { return buffer.begin() + static_cast<std::ptrdiff_t>(as_size(me) * bytes); };

  Buffer all(2 * bytes);
  std::ranges::copy(mine, place(all));
  const GatherPart gathered{all.data(), bytes};
  part.all_gather(named("gather"), std::span{&gathered, 1});
  results.push_back(all);

  Buffer told = mine;
  part.broadcast(named("broadcast"), told, Rank{1});
  results.push_back(told);

  Buffer sums(bytes);
  const Reduction whole{ElementType::float32, mine.data(), ElementType::float32, sums.data(), floats};
  part.all_reduce(named("all"), whole);
  results.push_back(sums);
  part.reduce(named("root"), whole, Rank{1});
  results.push_back(me == 1 ? sums : Buffer{});

  Buffer slice(bytes / 2);
  part.reduce_scatter(named("scatter"),
                      {ElementType::float32, mine.data(), ElementType::float32, slice.data(), floats / 2});
  results.push_back(slice);

  Buffer exchanged(bytes);
  part.all_to_all(named("exchange"), {mine.data(), exchanged.data(), bytes / 2});
  results.push_back(exchanged);
  part.barrier(named("done"));
  return results;
}

/// What `collectives_of_two` gives the rank at a place.
inline std::vector<Buffer> expected_of_two(const std::array<Buffer, 2>& operands, int place) {
  const auto joined = [](Buffer a, const Buffer& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  const auto half = [](const Buffer& buffer, int which) {
    const auto middle = buffer.begin() + static_cast<std::ptrdiff_t>(buffer.size() / 2);
    return which == 0 ? Buffer(buffer.begin(), middle) : Buffer(middle, buffer.end());
  };
  Buffer sums;
  for (std::size_t i = 0; i < operands[0].size(); i += 4) {
    float a = 0;
    float b = 0;
    std::memcpy(&a, operands[0].data() + i, 4);
    std::memcpy(&b, operands[1].data() + i, 4);
    append(sums, a + b, ElementType::float32);
  }
  return {
      joined(operands[0], operands[1]), operands[1],       sums,
      place == 1 ? sums : Buffer{},     half(sums, place), joined(half(operands[0], place), half(operands[1], place))};
}

TEST_CASE_TEMPLATE_DEFINE("the groups of a split work at once, each for itself", Worlds, splits_collect) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    for (const Grouping& grouping : groupings) {
      for (const std::size_t elements : {std::size_t{10}, std::size_t{256}, std::size_t{9000}}) {
        CAPTURE(elements);
        const auto results = world.run([&](auto communicator) {
          auto part = communicator.split(grouping.place(communicator.rank()));
          const int rank = communicator.rank().value;
          std::vector<Buffer> all;
          const int rounds = 1 + 2 * grouping.place(Rank{rank}).color;  // the groups get out of step
          for (int round = 0; round < rounds; ++round) {
            all = collectives_of_two(part, input_of(rank, elements, ElementType::float32));
          }
          return all;
        });
        for (int rank = 0; rank < 4; ++rank) {
          const auto& group = grouping.group_of(rank);
          const std::array operands{input_of(group[0], elements, ElementType::float32),
                                    input_of(group[1], elements, ElementType::float32)};
          CHECK(results[as_size(rank)] == expected_of_two(operands, group[0] == rank ? 0 : 1));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("two splits of the same ranks, and the whole, do not meet each other's collectives", Worlds,
                          splits_cross) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    constexpr int rounds = 50;
    const auto sums = world.run([](auto communicator) {
      const std::int64_t mine = std::int64_t{1} << (10 * communicator.rank().value);
      auto along = communicator.split(consecutive.place(communicator.rank()));
      auto across = communicator.split(strided.place(communicator.rank()));
      std::array<std::int64_t, 3> totals{};
      {
        const std::jthread other{[&] {
          for (int i = 0; i < rounds; ++i) totals[1] += sum_over(across, mine);
        }};
        for (int i = 0; i < rounds; ++i) totals[0] += sum_over(along, mine);
      }
      totals[2] = sum_over(communicator, mine);
      return totals;
    });
    const auto sum_of = [](const std::array<int, 2>& group) {
      return (std::int64_t{1} << (10 * group[0])) + (std::int64_t{1} << (10 * group[1]));
    };
    for (int rank = 0; rank < 4; ++rank) {
      CHECK(sums[as_size(rank)] == std::array{rounds * sum_of(consecutive.group_of(rank)),
                                              rounds * sum_of(strided.group_of(rank)),
                                              sum_of({0, 1}) + sum_of({2, 3})});
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("duplicates of groups and of the whole are all independent, however many each has", Worlds,
                          splits_duplicate) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    constexpr int rounds = 20;
    const auto sums = world.run([](auto communicator) {
      const Grouping& grouping = strided;
      const SplitPlace place = grouping.place(communicator.rank());
      auto part = communicator.split(place);
      auto first = part.duplicate();
      for (int i = 0; i < 5 * place.color; ++i) first = part.duplicate();  // one group makes more than the other
      auto whole = communicator.duplicate();
      auto second = part.duplicate();
      std::array<std::int64_t, 3> totals{};
      {
        const std::jthread one{[&] {
          for (int i = 0; i < rounds; ++i) totals[0] += sum_over(first, 1);
        }};
        const std::jthread two{[&] {
          for (int i = 0; i < rounds; ++i) totals[1] += sum_over(second, 1000);
        }};
        for (int i = 0; i < rounds; ++i) totals[2] += sum_over(whole, 1'000'000);
      }
      return totals;
    });
    for (const auto& totals : sums) CHECK(totals == std::array<std::int64_t, 3>{40, 40'000, 80'000'000});
  }
}

TEST_CASE_TEMPLATE_DEFINE("a group outlives the communicator that was split", Worlds, splits_outlive) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    const auto sums = world.run([](auto communicator) {
      auto part = communicator.split(consecutive.place(communicator.rank()));
      { [[maybe_unused]] const auto gone = std::move(communicator); }
      auto child = part.duplicate();
      { [[maybe_unused]] const auto gone = std::move(part); }
      return sum_over(child, 1);
    });
    for (const std::int64_t sum : sums) CHECK(sum == 2);
  }
}

TEST_CASE_TEMPLATE_DEFINE("two ranks at one place of a group are refused on all ranks, and harm nothing", Worlds,
                          splits_refuse) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    const auto refusals = world.run([](auto communicator) {
      std::string text = "no error";
      try {
        communicator.split({communicator.rank().value % 2, communicator.rank().value == 0 ? 0 : 6});
      } catch (const zerospan::ConfigurationError& error) {
        text = error.what();
      }
      if (sum_over(communicator, 1) != 4) text += ", and harm";
      return text;
    });
    for (const std::string& text : refusals) CHECK(text == "a split gives two ranks key 6 of color 1");
  }
}

TEST_CASE_TEMPLATE_DEFINE("one rank that aborts in a group ends every group and the whole", Worlds, splits_abort) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    for (const Grouping& grouping : groupings) {
      const int culprit = grouping.groups[1][1];
      for (const bool others_wait_in_whole : {false, true}) {
        const auto ends = world.run([&](auto communicator) {
          auto part = communicator.split(grouping.place(communicator.rank()));
          auto child = part.duplicate();
          communicator.barrier(named("all are here"));
          const bool is_beside = grouping.place(communicator.rank()).color == 1;
          if (communicator.rank().value == culprit) child.abort("out of cheese");
          std::string end = end_of([&] {
            if (is_beside || !others_wait_in_whole) part.barrier(named("of the group"));
            communicator.barrier(named("of all"));
          });
          const std::string later = end_of([&] { child.barrier(named("later")); });
          if (!holds(later, "out of cheese")) end = "forgotten";
          return end;
        });
        const std::string name = "rank " + std::to_string(culprit);
        check_told(ends, "failure of " + name, name + " failed (out of cheese)");
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("ranks that diverge in one group are named, to all, as the whole names them", Worlds,
                          splits_diverge) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    for (const Grouping& grouping : {consecutive, strided}) {
      const auto ends = world.run([&](auto communicator) {
        const int rank = communicator.rank().value;
        auto part = communicator.split(grouping.place(communicator.rank()));
        return end_of([&] {
          part.barrier(named(rank == grouping.groups[1][1] ? "mine" : "ours"));
          communicator.barrier(named("of all"));
        });
      });
      const auto [first, second] = grouping.groups[1];
      const std::string text = "ranks diverge: rank " + std::to_string(first) + ": barrier 'ours' (#0); rank " +
                               std::to_string(second) + ": barrier 'mine' (#0)";
      for (const std::string& end : ends) {
        CAPTURE(end);
        CHECK(holds(end, "divergence of rank " + std::to_string(second) + ": " + text));
      }
    }
  }
}

TEST_CASE_TEMPLATE_DEFINE("a rank that ends while another of its group waits is named as the whole names it", Worlds,
                          splits_end) {
  for (const auto& world : Worlds::all()) {
    CAPTURE(world.size);
    for (const Grouping& grouping : {consecutive, strided}) {
      const int culprit = grouping.groups[1][1];
      const auto ends = world.run([&](auto communicator) {
        auto part = communicator.split(grouping.place(communicator.rank()));
        const int rank = communicator.rank().value;
        if (rank == culprit) return std::string{};
        return end_of([&] {
          part.barrier(named("of the group"));
          communicator.barrier(named("of all"));
        });
      });
      const std::string name = "rank " + std::to_string(culprit);
      for (int rank = 0; rank < 4; ++rank) {
        const std::string& end = ends[as_size(rank)];
        CAPTURE(end);
        if (rank != culprit) CHECK(holds(end, "failure of " + name + ": " + name + " returned "));
      }
    }
  }
}

}  // namespace zerospan_test
