/// Situations in which something was wrong in silence: each is refused in words, or right.

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <latch>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/protocol/forwarding_communicator.hpp>
#include <zerospan/engine/detail/engine.hpp>
#include <zerospan/engine/detail/engine_of.hpp>
#include <zerospan/zerospan.hpp>

#include "support/any_engine.hpp"
#include "support/deferred_tier.hpp"
#include "support/toy_model.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::AdamW;
using zerospan::Bytes;
using zerospan::calling_thread;
using zerospan::ConfigurationError;
using zerospan::DeviceTier;
using zerospan::EngineOptions;
using zerospan::HostDevice;
using zerospan::HostTier;
using zerospan::LeaseError;
using zerospan::ParameterOptions;
using zerospan::Placement;
using zerospan::SelfCommunicator;
using zerospan::Sgd;
using zerospan::Shape;
using zerospan::Stage3;
using zerospan::ThreadCommunicator;
using zerospan::ZeroEngine;
using zerospan_test::AnyEngine;
using zerospan_test::Array;

using Parameter = zerospan::PartitionedParameter<Array<float>>;

/// Memory of a rank, large enough for everything here.
struct Memory {
  HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  DeviceTier on_device{device};
  HostTier on_host{device};
  Placement on_the_host{on_host, on_host, on_host};
};

void commit(const Parameter& parameter, float value) {
  auto gradient = parameter.gradient(calling_thread);
  for (std::size_t i = 0; i < gradient->size; ++i) gradient->data[i] = value;
  gradient.commit();
}

/// Every element, which are all equal.
float value_of(const Parameter& parameter) {
  const auto full = parameter.gather(calling_thread);
  for (std::size_t i = 0; i < full->size; ++i) CHECK(full->data[i] == full->data[0]);
  return full->data[0];
}

/// What `f` throws of that type, in words.
template <class Error, class F>
std::string words_of(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Ranks that are told different things.

/// What a rank declares and sets, before its first gather.
struct Told {
  AdamW optimizer{.learning_rate = 0.1F};
  EngineOptions options{.persistence_threshold = Bytes{0}};
  std::string name = "w";
  Shape shape{5000};
  ParameterOptions parameter{};
  bool has_another = false;
};

/// What each of two ranks ends with, if rank 1 is told something else.
std::vector<std::string> ends_of(int stage, const std::function<void(Told&)>& change) {
  return zerospan::run_ranks(2, [&](ThreadCommunicator ranks) {
    Memory memory;
    Told told;
    if (ranks.rank().value == 1) change(told);
    return words_of<ConfigurationError>([&] {
      AnyEngine engine{stage,          ranks,
                       memory.device,  Placement{memory.on_device, memory.on_host, memory.on_host},
                       told.optimizer, told.options};
      const Parameter weight{engine, told.name, told.shape, zerospan::init::zeros(), told.parameter};
      std::optional<Parameter> another;
      if (told.has_another) another.emplace(engine, "another", Shape{10}, zerospan::init::zeros());
      static_cast<void>(weight.gather(calling_thread));
    });
  });
}

TEST_CASE("ranks that are told different things are told so, with the name of what differs and of both ranks") {
  struct Difference {
    std::string_view name;
    std::function<void(Told&)> change;
  };
  const std::vector<Difference> differences{
      {"learning_rate", [](Told& t) { t.optimizer.learning_rate = 0.5F; }},
      {"beta2", [](Told& t) { t.optimizer.beta2 = 0.9F; }},
      {"weight_decay", [](Told& t) { t.optimizer.weight_decay = 0.5F; }},
      {"seed", [](Told& t) { t.options.seed = 1; }},
      {"micro_batches", [](Told& t) { t.options.micro_batches = 2; }},
      {"max_gradient_norm", [](Told& t) { t.options.max_gradient_norm = 1; }},
      {"loss scale", [](Told& t) { t.options.loss_scale.emplace(); }},
      {"parameter 0 is w", [](Told& t) { t.name = "v"; }},
      {"5001", [](Told& t) { t.shape = {5001}; }},
      {"[50, 100]",
       [](Told& t) {
         t.shape = {50, 100};
       }},
      {"learning rate factor 0.5", [](Told& t) { t.parameter.group.learning_rate_factor = 0.5F; }},
      {"frozen", [](Told& t) { t.parameter.training = zerospan::Training::frozen; }},
      {"another", [](Told& t) { t.has_another = true; }}};
  for (const int stage : {0, 3}) {
    for (const auto& [name, change] : differences) {
      for (const std::string& end : ends_of(stage, change)) {
        CAPTURE(stage);
        CAPTURE(end);
        CHECK(end.find(name) != std::string::npos);
        CHECK(end.find("rank 0") != std::string::npos);
        CHECK(end.find("rank 1") != std::string::npos);
      }
    }
    for (const std::string& end : ends_of(stage, [](Told&) {})) CHECK(end == "no error");
  }
}

TEST_CASE("ranks that change the optimizer differently between steps are told so, and nothing has changed") {
  zerospan::run_ranks(2, [](ThreadCommunicator ranks) {
    Memory memory;
    ZeroEngine engine{Stage3{}, ranks, memory.device, memory.on_the_host, Sgd{.learning_rate = 1.0F}};
    const Parameter weight{engine, "w", {5000}, zerospan::init::zeros()};
    commit(weight, 1.0F);
    engine.step();
    if (ranks.rank().value == 1) engine.optimizer().learning_rate = 0.5F;
    commit(weight, 1.0F);
    const std::string end = words_of<ConfigurationError>([&] { engine.step(); });
    CAPTURE(end);
    CHECK(end.find("learning_rate is 1 on rank 0, and 0.5 on rank 1") != std::string::npos);
    engine.optimizer().learning_rate = 1.0F;
    engine.step();
    CHECK(value_of(weight) == -2.0F);
  });
}

/// Sums of integers of this name wait until the test says so, and then write what they were told to. The engine has no
/// second communicator: they are on its lane, where a wait for them can fail.
class HeldSums : public zerospan::detail::ForwardingCommunicator<ThreadCommunicator> {
  using Base = zerospan::detail::ForwardingCommunicator<ThreadCommunicator>;

 public:
  static constexpr bool duplicates_take_memory = true;

  HeldSums(ThreadCommunicator ranks, std::latch& go) : Base{std::move(ranks)}, go_{&go} {}

  HeldSums duplicate() { return {communicator_.duplicate(), *go_}; }

  using Base::all_reduce;
  void all_reduce(zerospan::Collective what, std::span<std::int64_t> integers) {
    if (what.name != "held") return Base::all_reduce(what, integers);
    go_->wait();
    std::ranges::fill(integers, 77);
  }

 private:
  std::latch* go_;
};

TEST_CASE("a sum over ranks that is still under way when its wait fails does not write to the caller's integers") {
  zerospan::run_ranks(2, [](ThreadCommunicator ranks) {
    const bool sums = ranks.rank().value == 0;
    Memory memory;
    zerospan_test::DeferredTier gradients{memory.on_host};
    std::latch go{1};
    std::array<std::int64_t, 2> own{1, 2};
    HeldSums communicator{std::move(ranks), go};
    {
      ZeroEngine engine{Stage3{},
                        communicator,
                        memory.device,
                        Placement{memory.on_host, gradients, memory.on_host},
                        Sgd{},
                        EngineOptions{.persistence_threshold = Bytes{0}, .timeout = std::chrono::milliseconds{1}}};
      const Parameter weight{engine, "w", {5000}, zerospan::init::zeros()};
      static_cast<void>(weight.gather(calling_thread));
      if (sums) gradients.hold();
      commit(weight, 1.0F);
      const std::shared_ptr<zerospan::ParameterStore> store = engine.store();
      if (sums) {
        CHECK_THROWS_AS(zerospan::detail::engine_of(*store, "a test").sum_over_ranks(own, "held"),
                        zerospan::TimeoutError);
        go.count_down();
        gradients.release();
      }
    }
    CHECK(own == std::array<std::int64_t, 2>{1, 2});
  });
}

// Settings without sense.

TEST_CASE("a ruinous setting is refused before anything has changed, whenever it is used") {
  for (const float rate : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -1.0F}) {
    CAPTURE(rate);
    Memory memory;
    SelfCommunicator self;
    ZeroEngine engine{Stage3{}, self, memory.device, memory.on_the_host, AdamW{.weight_decay = 0.0F}};
    const Parameter weight{engine, "w", {4}, zerospan::init::ones()};
    commit(weight, 1.0F);
    engine.optimizer().learning_rate = rate;
    CHECK_THROWS_WITH_AS(engine.step(), doctest::Contains("learning_rate"), ConfigurationError);
    CHECK(value_of(weight) == 1.0F);
    engine.optimizer().learning_rate = 0.5F;
    CHECK(engine.step().step == 1);
    CHECK(value_of(weight) == doctest::Approx(0.5));
  }
}

TEST_CASE("a step that is refused leaves the uses of a tied parameter as they were committed") {
  Memory memory;
  SelfCommunicator self;
  ZeroEngine engine{Stage3{}, self, memory.device, memory.on_the_host, Sgd{.learning_rate = 1.0F}};
  const Parameter weight{engine, "w", {4}, zerospan::init::zeros()};
  const Parameter tied = weight.tie("tied");
  const auto step_in_vain = [&] {
    engine.optimizer().learning_rate = -1.0F;
    CHECK_THROWS_WITH_AS(engine.step(), doctest::Contains("learning_rate"), ConfigurationError);
    engine.optimizer().learning_rate = 1.0F;
  };
  commit(weight, 1.0F);
  commit(tied, 2.0F);
  step_in_vain();
  for (const Parameter* use : {&weight, &tied}) {
    CHECK_THROWS_WITH_AS(static_cast<void>(use->gradient(calling_thread)), doctest::Contains("was committed 1 times"),
                         LeaseError);
  }
  engine.step();
  CHECK(value_of(weight) == -3.0F);

  commit(tied, 2.0F);
  step_in_vain();
  commit(weight, 1.0F);  // it has not been
  engine.step();
  CHECK(value_of(weight) == -6.0F);
}

TEST_CASE("a parameter's ruinous factor is refused where it is declared") {
  for (const float factor : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -1.0F}) {
    CAPTURE(factor);
    Memory memory;
    SelfCommunicator self;
    ZeroEngine engine{Stage3{}, self, memory.device, memory.on_the_host, AdamW{}};
    CHECK_THROWS_AS((Parameter{engine, "w", {4}, zerospan::init::ones(), {.group = {.learning_rate_factor = factor}}}),
                    ConfigurationError);
    CHECK_THROWS_AS((Parameter{engine, "w", {4}, zerospan::init::ones(), {.group = {.weight_decay_factor = factor}}}),
                    ConfigurationError);
    const Parameter weight{engine, "w", {4}, zerospan::init::ones()};
    commit(weight, 1.0F);
    CHECK(engine.step().step == 1);
  }
}

// A batch that fails halfway.

/// Two layers, whose backward may fail in the last one.
struct Model {
  explicit Model(AnyEngine& engine)
      : layers{Parameter{engine, "a", {4}, zerospan::init::zeros()},
               Parameter{engine, "b", {4}, zerospan::init::zeros()}} {}

  void backward(float value, bool fails = false) const {
    for (const std::size_t layer : {1U, 0U}) {
      auto gradient = layers[layer].gradient(calling_thread);
      for (std::size_t i = 0; i < gradient->size; ++i) gradient->data[i] = value;
      if (fails && layer == 0) throw std::bad_alloc{};
      gradient.commit();
    }
  }

  std::array<Parameter, 2> layers;
};

TEST_CASE("a batch that fails in backward is refused by the step, and can be given up") {
  for (const std::size_t micro_batches : {1U, 2U}) {
    for (const int ranks : {1, 2}) {
      CAPTURE(micro_batches);
      CAPTURE(ranks);
      zerospan::run_ranks(ranks, [&](ThreadCommunicator communicator) {
        Memory memory;
        AnyEngine engine{3,
                         communicator,
                         memory.device,
                         memory.on_the_host,
                         Sgd{.learning_rate = 1.0F},
                         EngineOptions{.micro_batches = micro_batches}};
        const Model model{engine};
        for (int batch = 1; batch <= 2; ++batch) {
          CHECK_THROWS_AS(model.backward(1000.0F, true), std::bad_alloc);
          CHECK_THROWS_WITH_AS(engine.step(), doctest::Contains("without commit() or discard()"), LeaseError);
          engine.abandon();
          for (std::size_t micro = 0; micro < micro_batches; ++micro) model.backward(1.0F);
          engine.step();
          for (const Parameter& layer : model.layers) CHECK(value_of(layer) == -static_cast<float>(batch));
        }
      });
    }
  }
}

TEST_CASE("a batch can be given up whatever is leased: the leases end, and may still be released") {
  Memory memory;
  SelfCommunicator self;
  AnyEngine engine{3, self, memory.device, memory.on_the_host, Sgd{.learning_rate = 1.0F}};
  const Model model{engine};
  {
    const auto read = model.layers[0].gather(calling_thread);
    auto gradient = model.layers[1].gradient(calling_thread);
    engine.abandon();
    CHECK_THROWS_AS(gradient.commit(), LeaseError);
  }
  model.backward(1.0F);
  engine.step();
  for (const Parameter& layer : model.layers) CHECK(value_of(layer) == -1.0F);
  engine.abandon();  // nothing
  model.backward(1.0F);
  engine.step();
  for (const Parameter& layer : model.layers) CHECK(value_of(layer) == -2.0F);
}

TEST_CASE("a rank that gives a batch up alone is told so, and so are the others") {
  const auto ends = zerospan::run_ranks(2, [](ThreadCommunicator ranks) {
    Memory memory;
    AnyEngine engine{3, ranks, memory.device, memory.on_the_host, Sgd{.learning_rate = 1.0F}};
    const Model model{engine};
    model.backward(1.0F);
    if (ranks.rank().value == 1) engine.abandon();
    return words_of<ConfigurationError>([&] { engine.step(); });
  });
  for (const std::string& end : ends) {
    CAPTURE(end);
    CHECK(end.find("abandoned so far is 0 on rank 0, and 1 on rank 1") != std::string::npos);
  }
}

TEST_CASE("a gradient that is discarded is as if it had not been leased") {
  Memory memory;
  SelfCommunicator self;
  AnyEngine engine{3, self, memory.device, memory.on_the_host, Sgd{.learning_rate = 1.0F}};
  const Model model{engine};
  model.layers[0].gradient(calling_thread).discard();
  commit(model.layers[1], 1.0F);
  engine.step();
  CHECK(value_of(model.layers[0]) == 0.0F);
  CHECK(value_of(model.layers[1]) == -1.0F);
}

TEST_CASE("a last batch of fewer micro-batches is the mean of those that there are") {
  Memory memory;
  SelfCommunicator self;
  AnyEngine engine{
      3, self, memory.device, memory.on_the_host, Sgd{.learning_rate = 1.0F}, EngineOptions{.micro_batches = 3}};
  const Model model{engine};
  for (int micro = 0; micro < 2; ++micro) model.backward(1.0F);
  for (const std::size_t none : {0U, 4U}) CHECK_THROWS_AS(engine.step({.micro_batches = none}), ConfigurationError);
  engine.step({.micro_batches = 2});
  for (const Parameter& layer : model.layers) CHECK(value_of(layer) == -1.0F);
}

// Small parameters.

TEST_CASE("a scalar costs less than 4 KiB a rank, however many ranks there are") {
  constexpr std::size_t count = 100;
  const auto used = zerospan::run_ranks(64, [](ThreadCommunicator ranks) {
    Memory memory;
    AnyEngine engine{3, ranks, memory.device, memory.on_the_host, Sgd{.learning_rate = 1.0F}};
    std::vector<Parameter> scalars;
    for (std::size_t i = 0; i < count; ++i) {
      scalars.emplace_back(engine, "scale " + std::to_string(i), Shape{1}, zerospan::init::ones());
    }
    const std::size_t declared = memory.device.memory().used().count + memory.device.host_memory().used().count;
    commit(scalars[0], 1.0F);
    engine.step();
    CHECK(value_of(scalars[0]) == 0.0F);
    CHECK(value_of(scalars[count - 1]) == 1.0F);
    return declared;
  });
  for (const std::size_t bytes : used) CHECK(bytes < count * 4096);
}

// Calls from within a callback.

TEST_CASE("a visitor of the master weights that calls the engine is refused there, and its values are what they were") {
  Memory memory;
  SelfCommunicator self;
  AnyEngine engine{3, self, memory.device, memory.on_the_host, Sgd{.learning_rate = 1.0F}};
  const Parameter a{engine, "a", {10}, zerospan::init::constant(1.0F)};
  const Parameter b{engine, "b", {10}, zerospan::init::constant(2.0F)};
  std::vector<std::pair<std::string, float>> seen;
  engine.for_each_master([&](std::string_view name, std::uint64_t, std::span<const float> values) {
    const float before = values[0];
    CHECK_THROWS_AS(engine.for_each_master([](std::string_view, std::uint64_t, std::span<const float>) {}), LeaseError);
    CHECK_THROWS_AS(static_cast<void>(b.gather(calling_thread)), LeaseError);
    CHECK(values[0] == before);
    seen.emplace_back(name, values[0]);
  });
  CHECK(seen == std::vector<std::pair<std::string, float>>{{"a", 1.0F}, {"b", 2.0F}});
  commit(a, 1.0F);
  engine.step();
  CHECK(value_of(a) == 0.0F);
}

}  // namespace
