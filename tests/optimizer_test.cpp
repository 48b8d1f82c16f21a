#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/detail/fingerprint.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/optimizer/adamw8bit.hpp>
#include <zerospan/optimizer/detail/any_optimizer.hpp>
#include <zerospan/optimizer/detail/optimizer_settings.hpp>
#include <zerospan/optimizer/lion.hpp>
#include <zerospan/optimizer/optimizer.hpp>
#include <zerospan/optimizer/setting.hpp>
#include <zerospan/optimizer/sgd.hpp>
#include <zerospan/optimizer/state_array.hpp>

#include "support/fake_gpu.hpp"
#include "support/fake_gpu_operations.hpp"
#include "support/fake_gpu_runtime.hpp"
#include "support/shard_run.hpp"

namespace {

using zerospan::AdamW;
using zerospan::block_elements;
using zerospan::ConfigurationError;
using zerospan::ElementType;
using zerospan::Lion;
using zerospan::NamedSetting;
using zerospan::SettingRange;
using zerospan::Sgd;
using zerospan::ShardUpdate;
using zerospan::StreamRef;
using zerospan::detail::difference;
using zerospan::detail::Fingerprint;
using zerospan::detail::OptimizerInterface;
using zerospan::detail::OptimizerModel;
using zerospan::detail::SettingsRecord;
using zerospan_test::FakeDevice;
using zerospan_test::FakeGpu;
using zerospan_test::FakeStream;
using zerospan_test::SubGroup;

/// The least that an optimizer is.
struct Descent {
  float rate = 0.5F;

  std::size_t state_bytes(std::size_t) const { return 0; }
  void update(const ShardUpdate& run) const {
    for (std::size_t i = 0; i < run.elements; ++i) {
      run.master[run.first + i] -= rate * run.gradient_scale * reinterpret_cast<const float*>(run.gradient)[i];
    }
  }
};

/// Computes on the CPU, wherever its states rest.
struct HostDescent : Descent {
  static constexpr bool updates_on_host = true;
};

struct DeniesTheHost : Descent {
  static constexpr bool updates_on_host = false;
};

/// Names settings, and has one that depends on another.
struct Warming {
  static constexpr std::string_view name = "Warming";
  float rate = 0.5F;
  std::int64_t warm_up = 10;
  std::int64_t cool_down = 100;

  std::array<NamedSetting, 3> settings() const {
    return {{{"rate", rate, SettingRange::not_negative},
             {"warm_up", static_cast<double>(warm_up)},
             {"cool_down", static_cast<double>(cool_down)}}};
  }
  void validate() const {
    if (warm_up > cool_down) zerospan::throw_configuration_error("Warming: it cools down before it is warm");
  }
  std::size_t state_bytes(std::size_t elements) const { return elements; }
  void update(const ShardUpdate&) const {}
};

template <class Members>
struct Of : Members {
  std::size_t state_bytes(std::size_t) const { return 0; }
  void update(const ShardUpdate&) const {}
};
struct Integers {
  std::int32_t a = 1;
  std::uint32_t b = 2;
};
struct Padded {
  std::int8_t a = 1;
  std::int32_t b = 2;
};

TEST_CASE("the host's optimizers say so, and devices know the others") {
  static_assert(zerospan::UpdatesOnHost<HostDescent>);
  static_assert(!zerospan::UpdatesOnHost<Descent> && !zerospan::UpdatesOnHost<DeniesTheHost>);
  static_assert(zerospan::UpdatesOn<Descent, FakeStream>);
  static_assert(zerospan::UpdatableOn<Descent, FakeDevice>);
  static_assert(zerospan::UpdatableOn<Descent, zerospan::HostDevice>);

  struct OtherStream {};
  struct OtherLanes {
    using stream_type = OtherStream;
  };
  struct OtherDevice {
    using lanes_type = OtherLanes;
  };
  static_assert(zerospan::UpdatableOn<HostDescent, OtherDevice>);
  static_assert(!zerospan::UpdatableOn<AdamW, OtherDevice>, "its update on such streams is not visible");
  static_assert(!zerospan::UpdatableOn<DeniesTheHost, OtherDevice>);
}

TEST_CASE("a stream that becomes one of the host's by itself is not taken for it") {
  struct Treacherous {
    operator StreamRef() const { return zerospan::calling_thread; }
  };
  static_assert(zerospan::UpdatesOn<AdamW, StreamRef>);
  static_assert(!zerospan::UpdatesOn<AdamW, Treacherous>);
}

TEST_CASE("the model of an optimizer is the optimizer") {
  OptimizerModel<AdamW, StreamRef> model{AdamW{.learning_rate = 0.25F}};
  OptimizerInterface<StreamRef>& any = model;
  CHECK(any.state_bytes(1024) == AdamW{}.state_bytes(1024));
  CHECK(!any.updates_on_device());
  CHECK_NOTHROW(any.validate());

  SubGroup expected{AdamW{}, 3000, ElementType::bfloat16, ElementType::bfloat16};
  expected.fill_master(1);
  expected.fill_gradient(2);
  SubGroup updated = expected;
  model.get().update(expected.run(0, 3000, 1, 0.5F, {}));
  const std::array runs{updated.run(0, 1024, 1, 0.5F, {}), updated.run(1024, 1976, 1, 0.5F, {})};
  any.update(std::span<const ShardUpdate>{runs});
  zerospan_test::check_same_bits(expected, updated);

  StreamRef stream = zerospan::calling_thread;
  CHECK_THROWS_WITH_AS(any.update(stream, runs), "the optimizer AdamW is run by the host alone", ConfigurationError);
}

TEST_CASE("a snapshot keeps the settings of its time") {
  OptimizerModel<Descent, StreamRef> model{Descent{}};
  const auto before = model.snapshot();
  model.get().rate = 2.0F;
  const auto after = model.snapshot();
  const auto updated_by = [](const OptimizerInterface<StreamRef>& optimizer) {
    SubGroup group{Descent{}, 1, ElementType::float32, ElementType::float32};
    group.fill_gradient(1);
    const std::array runs{group.run(0, 1, 1, 1 / group.gradient_at(0), {})};
    optimizer.update(std::span<const ShardUpdate>{runs});
    return group.master[0];
  };
  CHECK(updated_by(*before) == -0.5F);
  CHECK(updated_by(*after) == -2.0F);
  CHECK(before->settings().fingerprint != after->settings().fingerprint);
}

/// On memory that the host cannot touch. The optimizer may go as soon as the stream is done.
template <zerospan::Optimizer O>
void check_on_device(const O& optimizer) {
  constexpr std::size_t n = 5000;
  const auto gpu = std::make_shared<FakeGpu>();
  const zerospan_test::FakeStreamOwner owner{gpu};
  SubGroup expected{optimizer, n, ElementType::float32, ElementType::bfloat16};
  expected.fill_master(3);
  expected.fill_gradient(4);
  const auto on_device = [&]<class T>(const std::vector<T>& values) {
    auto memory = gpu->allocate(values.size() * sizeof(T) + 1);
    if (!values.empty()) std::memcpy(gpu->at(memory.get()), values.data(), values.size() * sizeof(T));
    return memory;
  };
  const auto master = on_device(expected.master);
  const auto states = on_device(expected.states);
  const auto gradient = on_device(expected.gradient);
  const auto parameter = on_device(expected.parameter);
  ShardUpdate run = expected.run(0, n, 1, 0.5F, {});
  optimizer.update(run);
  run.master = reinterpret_cast<float*>(master.get());
  run.states = states.get();
  run.gradient = gradient.get();
  run.parameter = parameter.get();

  const OptimizerModel<O, FakeStream> model{optimizer};
  const OptimizerInterface<FakeStream>& any = model;
  CHECK(any.updates_on_device());
  FakeStream stream = owner.ref();
  any.update(stream, {&run, 1});
  stream.synchronize();
  CHECK(std::memcmp(gpu->at(master.get()), expected.master.data(), n * sizeof(float)) == 0);
  CHECK(std::ranges::equal(std::span{gpu->at(states.get()), expected.states.size()}, expected.states));
  CHECK(std::memcmp(gpu->at(parameter.get()), expected.parameter.data(), expected.parameter.size()) == 0);
}

TEST_CASE("a device's streams run the optimizers that they know") {
  check_on_device(AdamW{});
  check_on_device(Sgd{.momentum = 0.5F});
  check_on_device(Descent{});
}

TEST_CASE("the host's optimizer is never enqueued on a device") {
  const zerospan_test::FakeStreamOwner owner{std::make_shared<FakeGpu>()};
  const OptimizerModel<HostDescent, FakeStream> model{HostDescent{}};
  FakeStream stream = owner.ref();
  CHECK(!model.updates_on_device());
  CHECK_THROWS_AS(model.update(stream, {}), ConfigurationError);
}

TEST_CASE("settings are validated as they are now") {
  OptimizerModel<Lion, StreamRef> lion{Lion{}};
  CHECK_NOTHROW(lion.validate());
  lion.get().learning_rate = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH_AS(lion.validate(), "Lion: learning_rate is nan, not finite and at least 0", ConfigurationError);
  lion.get().learning_rate = -1e-9F;
  CHECK_THROWS_WITH_AS(lion.validate(), "Lion: learning_rate is -1e-09, not finite and at least 0", ConfigurationError);
  lion.get() = {.beta2 = 1.0F};
  CHECK_THROWS_WITH_AS(lion.validate(), "Lion: beta2 is 1, not in [0, 1)", ConfigurationError);

  OptimizerModel<Sgd, StreamRef> sgd{Sgd{}};
  sgd.get().kind = zerospan::Momentum::nesterov;
  CHECK_THROWS_WITH_AS(sgd.validate(), "Sgd: momentum is 0, but nesterov needs some", ConfigurationError);

  OptimizerModel<Warming, StreamRef> warming{Warming{.rate = -1.0F}};
  CHECK_THROWS_WITH_AS(warming.validate(), "Warming: rate is -1, not finite and at least 0", ConfigurationError);
  warming.get() = {.warm_up = 200};
  CHECK_THROWS_WITH_AS(warming.validate(), "Warming: it cools down before it is warm", ConfigurationError);

  OptimizerModel<Descent, StreamRef> descent{Descent{.rate = -1}};
  CHECK_NOTHROW(descent.validate());
}

TEST_CASE("factors of a parameter without sense are refused by name") {
  CHECK_NOTHROW(zerospan::validate({.learning_rate_factor = 0, .weight_decay_factor = 3}, "w"));
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float value : {-1.0F, std::numeric_limits<float>::quiet_NaN(), infinity, -infinity}) {
    CHECK_THROWS_AS(zerospan::validate({.learning_rate_factor = value}, "w"), ConfigurationError);
    CHECK_THROWS_AS(zerospan::validate({.weight_decay_factor = value}, "w"), ConfigurationError);
  }
  CHECK_THROWS_WITH_AS(zerospan::validate({.learning_rate_factor = -0.5F}, "blocks.0.weight"),
                       "parameter blocks.0.weight: learning_rate_factor is -0.5, not finite and at least 0",
                       ConfigurationError);
  CHECK_THROWS_WITH_AS(zerospan::validate({.weight_decay_factor = infinity}, "w"),
                       "parameter w: weight_decay_factor is inf, not finite and at least 0", ConfigurationError);
}

template <class A, class B>
std::string difference_of(const A& a, const B& b) {
  return difference(std::array{SettingsRecord::of(a), SettingsRecord::of(a), SettingsRecord::of(b)});
}

TEST_CASE("ranks are told how their optimizers differ") {
  CHECK(difference_of(AdamW{}, AdamW{}).empty());
  CHECK(difference_of(AdamW{.learning_rate = 0.1F}, AdamW{.learning_rate = 0.5F}) ==
        "AdamW: learning_rate is 0.1 on rank 0 and 0.5 on rank 2");
  CHECK(difference_of(AdamW{}, AdamW{.weight_decay = 0}) == "AdamW: weight_decay is 0.01 on rank 0 and 0 on rank 2");
  CHECK(difference_of(Sgd{}, Sgd{.decay = zerospan::WeightDecay::decoupled}) ==
        "Sgd: decoupled_decay is 0 on rank 0 and 1 on rank 2");
  CHECK(difference_of(AdamW{}, Lion{}) == "the optimizer is AdamW on rank 0 and Lion on rank 2");
  CHECK(difference_of(Warming{}, Warming{.cool_down = 1000}) ==
        "Warming: cool_down is 100 on rank 0 and 1000 on rank 2");
}

TEST_CASE("settings that nobody names are compared where that is possible") {
  CHECK(difference_of(Descent{.rate = 1}, Descent{.rate = 1}).empty());
  CHECK(difference_of(Descent{.rate = 1}, Descent{.rate = 0.3F})
            .ends_with("Descent: member 1 is 1 on rank 0 and 0.3 on rank 2"));

  Of<Integers> counting;
  counting.b = 3;
  CHECK(difference_of(Of<Integers>{}, Of<Integers>{}).empty());
  CHECK(difference_of(Of<Integers>{}, counting).ends_with(" has other settings on rank 0 than on rank 2"));

  Of<Padded> padded;
  padded.b = 3;
  CHECK(difference_of(Of<Padded>{}, padded).empty());  // what is between its members is nobody's

  struct Two {
    float a;
    float b[2];
  };
  struct Mixed {
    float a;
    std::int32_t b;
  };
  struct Wide {
    float a;
    double b;
  };
  static_assert(zerospan::detail::is_made_of_floats<Two>());
  static_assert(!zerospan::detail::is_made_of_floats<Mixed>() && !zerospan::detail::is_made_of_floats<Wide>());
}

TEST_CASE("the size of the states is compared too") {
  struct Sized {
    std::size_t bytes = 4;
    std::string reason{};
    std::size_t state_bytes(std::size_t elements) const { return bytes * elements; }
    void update(const ShardUpdate&) const {}
  };
  CHECK(difference_of(Sized{}, Sized{}).empty());
  CHECK(!difference_of(Sized{}, Sized{.bytes = 8}).empty());
  CHECK(difference_of(Sized{}, Sized{.reason = "another"}).empty());
}

TEST_CASE("more settings than errors name are compared all the same") {
  struct Many {
    std::array<double, 40> values{};
    std::vector<NamedSetting> settings() const {
      std::vector<NamedSetting> named;
      for (const double value : values)
        named.push_back({"a setting with a name that is longer than errors have room", value});
      return named;
    }
    std::size_t state_bytes(std::size_t) const { return 0; }
    void update(const ShardUpdate&) const {}
  };
  Many other;
  other.values[39] = 1;
  CHECK(difference_of(Many{}, Many{}).empty());
  CHECK(difference_of(Many{}, other).ends_with(" has other settings on rank 0 than on rank 2"));
  other.values[2] = 1;
  CHECK(difference_of(Many{}, other).find(": a setting with a name t is 0 on rank 0 and 1") != std::string::npos);
}

TEST_CASE("sums over ranks tell every rank whether all fingerprints are equal") {
  const auto agree = [](std::span<const std::uint64_t> ranks) {
    Fingerprint::Summands sums{};
    std::vector<Fingerprint> prints;
    for (const std::uint64_t value : ranks) {
      prints.push_back(Fingerprint{}.add(value));
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += prints.back().summands()[i];
    }
    std::size_t agreeing = 0;
    for (const Fingerprint& print : prints) agreeing += print.agree(sums, static_cast<std::int64_t>(ranks.size()));
    return agreeing;
  };
  CHECK(agree(std::array<std::uint64_t, 4>{7, 7, 7, 7}) == 4);
  CHECK(agree(std::array<std::uint64_t, 4>{7, 7, 8, 7}) == 0);
  CHECK(agree(std::array<std::uint64_t, 3>{1, 2, 3}) == 0);  // rank 1 has the mean
  for (const std::int64_t summand : Fingerprint{}.add("largest").summands()) {
    CHECK(summand >= 0);
    CHECK(summand < std::int64_t{1} << 32);
  }
}

TEST_CASE("fingerprints are the same everywhere") {
  static_assert(Fingerprint{}.add("ab").add("c").value() != Fingerprint{}.add("a").add("bc").value());
  static_assert(Fingerprint{}.add(0.0).value() != Fingerprint{}.add(-0.0).value());
  static_assert(Fingerprint{}.add(std::uint64_t{1}).add(std::uint64_t{2}).value() !=
                Fingerprint{}.add(std::uint64_t{2}).add(std::uint64_t{1}).value());
}

}  // namespace

TEST_CASE("an optimizer that names its states names all of their bytes") {
  const auto bytes_of = [](const auto& optimizer) {
    std::size_t bytes = 0;
    for (const zerospan::StateArray& array : optimizer.state_arrays()) bytes += array.width().of(block_elements);
    return bytes;
  };
  CHECK(bytes_of(AdamW{}) == AdamW{}.state_bytes(block_elements));
  CHECK(bytes_of(zerospan::AdamW8bit{}) == zerospan::AdamW8bit{}.state_bytes(block_elements));
  CHECK(bytes_of(Lion{}) == Lion{}.state_bytes(block_elements));
  CHECK(bytes_of(Sgd{}) == Sgd{}.state_bytes(block_elements));
  CHECK(bytes_of(Sgd{.momentum = 0.9F}) == Sgd{.momentum = 0.9F}.state_bytes(block_elements));
}

TEST_CASE("elements of an array take whole bytes, also where several share them") {
  using zerospan::StateArray;
  using zerospan::StateForm;
  constexpr StateArray values{"values", ElementType::bfloat16};
  constexpr StateArray codes{"codes", ElementType::float32, StateForm::codes};
  constexpr StateArray scales{"scales", ElementType::float32, StateForm::scales};
  CHECK(values.width().of(1000) == 2000);
  CHECK(codes.width().of(1000) == 1000);
  for (const auto& [elements, bytes] : {std::pair{0U, 0U}, {1U, 4U}, {256U, 4U}, {257U, 8U}, {1024U, 16U}}) {
    CHECK(scales.width().of(elements) == bytes);
  }
  CHECK(values.width().elements_in(2000) == 1000);
  CHECK(scales.width().elements_in(16) == 1024);
}

TEST_CASE("states lie in the order in which they are named, each whole") {
  constexpr std::size_t capacity = 2048;
  std::vector<float> master(capacity);
  std::vector<float> states(2 * capacity);
  const std::vector<float> gradient(capacity, 2.0F);
  std::vector<float> parameter(capacity);
  AdamW{.beta1 = 0.5F, .beta2 = 0.75F}.update({.master = master.data(),
                                               .states = reinterpret_cast<std::byte*>(states.data()),
                                               .capacity = capacity,
                                               .first = 1024,
                                               .elements = 1024,
                                               .gradient = reinterpret_cast<const std::byte*>(gradient.data()),
                                               .gradient_type = ElementType::float32,
                                               .parameter = reinterpret_cast<std::byte*>(parameter.data()),
                                               .parameter_type = ElementType::float32,
                                               .gradient_scale = 1.0F,
                                               .step = 1,
                                               .group = {}});
  CHECK(AdamW{}.state_arrays()[0].name == "exp_avg");
  CHECK(AdamW{}.state_arrays()[1].name == "exp_avg_sq");
  CHECK(states[1023] == 0.0F);
  CHECK(states[1024] == 1.0F);             // (1 - beta1) g
  CHECK(states[capacity + 1024] == 1.0F);  // (1 - beta2) g^2
}

TEST_CASE("the model of an optimizer tells its states, or that they are not named") {
  const OptimizerModel<AdamW, StreamRef> adamw{AdamW{}};
  const OptimizerModel<Sgd, StreamRef> sgd{Sgd{}};
  const OptimizerModel<Descent, StreamRef> descent{Descent{}};
  static_assert(!zerospan::NamesStates<Descent>);
  REQUIRE(adamw.state_arrays());
  CHECK(*adamw.state_arrays() == std::vector<zerospan::StateArray>{{"exp_avg"}, {"exp_avg_sq"}});
  CHECK(sgd.state_arrays()->empty());
  CHECK(!descent.state_arrays());
}
