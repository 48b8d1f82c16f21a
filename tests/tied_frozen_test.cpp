#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::calling_thread;
using zerospan::Shape;
using zerospan::ThreadCommunicator;
using zerospan::ThreadedIoEngine;
using zerospan_test::Array;
using zerospan_test::frozen;
using zerospan_test::Memory;
using zerospan_test::Place;

template <zerospan::Element E>
using Parameter = zerospan::PartitionedParameter<Array<E>>;

struct Case {
  int stage;
  Place place;  ///< Of gradients and optimizer states, and of parameters in stage 3.
  int ranks;
};

constexpr std::array cases{Case{0, Place::host, 1}, Case{0, Place::device, 3}, Case{1, Place::host, 2},
                           Case{2, Place::nvme, 4}, Case{3, Place::device, 3}, Case{3, Place::nvme, 1},
                           Case{3, Place::nvme, 4}};

/// Runs `f(engine, rank)` on every rank of a case.
template <class F>
void on_each_rank(const Case& c, const zerospan::EngineOptions& options, F f) {
  CAPTURE(c.stage);
  CAPTURE(c.ranks);
  zerospan::run_ranks(c.ranks, [&](ThreadCommunicator communicator) {
    ThreadedIoEngine io;
    Memory<ThreadedIoEngine> memory{io, 4_MiB, 4_MiB};
    zerospan_test::AnyEngine engine{c.stage,
                                    communicator,
                                    memory.device,
                                    memory.placement(c.stage == 3 ? c.place : Place::device, c.place, c.place),
                                    zerospan::AdamW{.learning_rate = 0.5F},
                                    options};
    f(engine, communicator.rank().value);
  });
}

template <class Lease, class E>
void fill(Lease& lease, E value) {
  std::fill_n(lease->data, lease->size, value);
}

template <zerospan::Element E>
void commit(const Parameter<E>& parameter, float value) {
  auto gradient = parameter.gradient(calling_thread);
  fill(gradient, E{value});
  gradient.commit();
}

TEST_CASE_TEMPLATE("tied uses have one value and one gradient, which counts once in the norm", E, float,
                   zerospan::bfloat16, zerospan::float16) {
  for (const Case& c : cases) {
    on_each_rank(c, {.persistence_threshold = 0_KiB}, [&](auto& engine, int) {
      const Parameter<E> weight{engine, "weight", {5000}, zerospan::init::constant(1)};
      const Parameter<E> other{engine, "other", {100}, zerospan::init::constant(1)};
      const Parameter<E> tied = weight.tie("tied");
      const Parameter<E> again = tied.tie("again");
      CHECK(engine.statistics().parameters == 5100);
      for (int step = 1; step <= 4; ++step) {
        // Whichever uses have a gradient in a step, in whatever order they come: the sum is 6.
        if (step != 2) commit(again, step == 3 ? 6.0F : 1.0F);
        if (step != 3) commit(tied, step == 2 ? 6.0F : 2.0F);
        if (step == 1 || step == 4) commit(weight, 3.0F);
        CHECK(engine.step().gradient_norm ==
              std::sqrt(5000.0 * 36 * c.ranks * c.ranks) * (1.0 / static_cast<double>(c.ranks)));
        const auto [a, b, d] = gather(calling_thread, weight, tied, again);
        CHECK(a->data == b->data);
        CHECK(a->data == d->data);
        CHECK(static_cast<float>(a->data[4999]) < 1);
        CHECK(static_cast<float>(other.gather(calling_thread)->data[99]) == 1);
      }
    });
  }
}

TEST_CASE("gradients of tied uses are added in declaration order, however they are committed") {
  // In fp32, (1e8 + 1) - 1e8 is 0, (1e8 - 1e8) + 1 is 1.
  for (const Case& c : cases) {
    for (const bool reversed : {false, true}) {
      on_each_rank(c, {.persistence_threshold = 0_KiB}, [&](auto& engine, int rank) {
        const Parameter<float> first{engine, "first", {2000}, zerospan::init::zeros()};
        const Parameter<float> second = first.tie("second");
        const Parameter<float> third = first.tie("third");
        const float one = rank == 0 ? 1.0F : 0.0F;
        const float big = rank == 0 ? 1e8F : 0.0F;
        const std::array order{std::pair{&first, big}, std::pair{&second, one}, std::pair{&third, -big}};
        for (std::size_t i = 0; i < 3; ++i) {
          const auto& [parameter, value] = order[reversed ? 2 - i : i];
          commit(*parameter, value);
        }
        CHECK(engine.step().gradient_norm == 0);
      });
    }
  }
}

TEST_CASE_TEMPLATE("a frozen parameter keeps its values, and has no states", E, float, zerospan::bfloat16,
                   zerospan::float16) {
  for (const Case& c : cases) {
    for (const zerospan::Bytes threshold : {0_KiB, 32_KiB}) {
      on_each_rank(c, {.persistence_threshold = threshold}, [&](auto& engine, int) {
        const Parameter<E> ice{engine, "ice", {7001}, zerospan::init::normal(1), frozen};
        const Parameter<E> fire{engine, "fire", {3001}, zerospan::init::normal(1)};
        const Parameter<E> tied = ice.tie("tied ice");
        std::vector<E> before;
        {
          const auto full = ice.gather(calling_thread);
          before.assign(full->data, full->data + full->size);
        }
        for (int step = 0; step < 3; ++step) {
          commit(fire, 1.0F);
          engine.step();
        }
        const auto full = tied.gather(calling_thread);
        CHECK(std::equal(before.begin(), before.end(), full->data,
                         [](E a, E b) { return static_cast<float>(a) == static_cast<float>(b); }));
        std::map<std::string, std::size_t> seen;
        bool is_same = true;
        engine.for_each_master([&](std::string_view name, std::uint64_t first, std::span<const float> values) {
          seen[std::string{name}] += values.size();
          if (name != "ice") return;
          for (std::size_t k = 0; k < values.size(); ++k) is_same &= values[k] == static_cast<float>(before[first + k]);
        });
        CHECK(is_same);
        CHECK(seen == std::map<std::string, std::size_t>{{"fire", 3001}, {"ice", 7001}});
      });
    }
  }
}

TEST_CASE("a model that is frozen altogether steps without effect") {
  for (const Case& c : cases) {
    on_each_rank(c, {.persistence_threshold = 0_KiB}, [&](auto& engine, int) {
      const Parameter<float> ice{engine, "ice", {3000}, zerospan::init::constant(2), frozen};
      for (int step = 1; step <= 2; ++step) {
        CHECK(ice.gather(calling_thread)->data[2999] == 2);
        const zerospan::StepOutcome outcome = engine.step();
        CHECK(outcome.step == step);
        CHECK(outcome.gradient_norm == 0);
        CHECK_FALSE(outcome.skipped);
      }
    });
  }
}

TEST_CASE("groups that share parameters see the same values") {
  for (const Case& c : cases) {
    on_each_rank(c, {.persistence_threshold = 0_KiB}, [&](auto& engine, int) {
      const Parameter<float> a{engine, "a", {1500}, zerospan::init::constant(1)};
      const Parameter<float> b{engine, "b", {2500}, zerospan::init::constant(2)};
      const Parameter<float> d{engine, "d", {1}, zerospan::init::constant(3)};
      for (int pass = 0; pass < 4; ++pass) {
        auto first = gather(calling_thread, a, b);
        auto second = gather(calling_thread, b, d, b);
        auto third = gather(calling_thread, d, a);
        CHECK(std::get<0>(second)->data == std::get<1>(first)->data);
        CHECK(std::get<1>(third)->data == std::get<0>(first)->data);
        std::get<0>(first).release();
        std::get<1>(first).release();
        CHECK(std::get<2>(second)->data[2499] == 2);
        CHECK(std::get<1>(third)->data[1499] == 1);
        CHECK(std::get<0>(third)->data[0] == 3);
        std::get<1>(third).release();
        std::get<0>(second).release();
        std::get<2>(second).release();
        const auto again = gather(calling_thread, b, a);
        CHECK(std::get<0>(again)->data[0] == 2);
        CHECK(std::get<1>(again)->data[0] == 1);
      }
      engine.step();
      CHECK(a.gather(calling_thread)->data[0] == 1);
    });
  }
}

}  // namespace
