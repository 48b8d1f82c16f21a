#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <zerospan/core/error.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/tensor_traits.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>

namespace {

/// A tensor whose constness is shallow, and what stands for it where it is read.
struct View {
  std::size_t size;
  float* data;
};
struct ConstView {
  std::size_t size;
  const float* data;
};

/// A tensor whose trait names nothing for reading.
struct Bare {
  float* data;
};

}  // namespace

template <>
struct zerospan::TensorTraits<View> {
  using element_type = float;
  static View unbound(const Shape& shape) { return {shape.elements(), nullptr}; }
  static void bind(View& view, float* data) { view.data = data; }
  static float* data(const View& view) { return view.data; }
  static ConstView constant(const View& view) { return {view.size, view.data}; }
};

template <>
struct zerospan::TensorTraits<Bare> {
  using element_type = float;
  static Bare unbound(const Shape&) { return {nullptr}; }
  static void bind(Bare& bare, float* data) { bare.data = data; }
  static float* data(const Bare& bare) { return bare.data; }
};

namespace {

using zerospan::calling_thread;
using zerospan::GradientContent;
using zerospan::LeaseError;
using zerospan::LeaseId;
using zerospan::ParameterId;
using zerospan::StreamRef;
using zerospan::Training;
using zerospan::WriteContent;

using Calls = std::vector<std::string>;

/// A store in memory that keeps a list of what it was told.
class FakeStore : public zerospan::ParameterStore {
 public:
  ParameterId declare(zerospan::ParameterDeclaration declaration) override {
    parameters_.push_back(
        {std::move(declaration.name), std::vector<float>(declaration.shape.elements()), declaration.options.training});
    declaration.initializer({}, 0, parameters_.back().values);
    return ParameterId{static_cast<std::uint32_t>(parameters_.size() - 1)};
  }
  ParameterId tie(ParameterId parameter, std::string name) override {
    parameters_.push_back({std::move(name), at(parameter).values, at(parameter).training});
    return ParameterId{static_cast<std::uint32_t>(parameters_.size() - 1)};
  }
  void gather(StreamRef, std::span<const ParameterId> ids, std::span<std::byte*> data,
              std::span<LeaseId> leases) override {
    lease("gather", ids, data, leases);
  }
  LeaseId gather_for_write(StreamRef, ParameterId id, WriteContent content, std::byte*& data) override {
    LeaseId lease_id{};
    lease(content == WriteContent::current ? "write" : "write undefined", {&id, 1}, {&data, 1}, {&lease_id, 1});
    return lease_id;
  }
  void publish(LeaseId lease, zerospan::Rank source) override {
    if (source.value > 0) zerospan::throw_configuration_error("there is one rank");
    end("publish", lease);
  }
  void gradients(StreamRef, std::span<const ParameterId> ids, GradientContent content, std::span<std::byte*> data,
                 std::span<LeaseId> leases) override {
    lease(content == GradientContent::zeros ? "zeroed gradients" : "gradients", ids, data, leases);
  }
  void commit(LeaseId lease) override {
    if (refuses_commit) zerospan::throw_lease_error("no");
    end("commit", lease);
  }
  void discard(LeaseId lease) override { end("discard", lease); }
  void release(LeaseId lease) noexcept override { end("release", lease); }
  void skip(ParameterId parameter) override { calls.push_back("skip " + at(parameter).name); }
  void set_training(ParameterId parameter, Training training) override { at(parameter).training = training; }
  Training training(ParameterId parameter) const override {
    return parameters_[static_cast<std::size_t>(parameter)].training;
  }

  Calls calls;
  bool refuses_commit = false;

 private:
  struct Parameter {
    std::string name;
    std::vector<float> values;
    Training training;
  };

  Parameter& at(ParameterId id) { return parameters_[static_cast<std::size_t>(id)]; }

  void lease(std::string call, std::span<const ParameterId> ids, std::span<std::byte*> data,
             std::span<LeaseId> leases) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      call += " " + at(ids[i]).name;
      data[i] = reinterpret_cast<std::byte*>(at(ids[i]).values.data());
      leases[i] = LeaseId{static_cast<std::uint32_t>(leased_.size())};
      leased_.push_back(at(ids[i]).name);
    }
    calls.push_back(call);
  }
  void end(const std::string& call, LeaseId id) { calls.push_back(call + " " + leased_[static_cast<std::size_t>(id)]); }

  std::deque<Parameter> parameters_;
  std::vector<std::string> leased_;
};

struct Engine {
  std::shared_ptr<FakeStore> fake = std::make_shared<FakeStore>();
  std::shared_ptr<zerospan::ParameterStore> store() { return fake; }
  Calls told() { return std::exchange(fake->calls, {}); }
};

using Parameter = zerospan::PartitionedParameter<View>;

struct Rig {
  Engine engine;
  Parameter a{engine, "a", {2, 3}, zerospan::init::constant(1)};
  Parameter b{engine, "b", {4}, zerospan::init::constant(2)};
};

TEST_CASE("a gradient lease ends by commit or discard, and told so once") {
  Rig rig;
  auto gradient = rig.a.gradient(calling_thread);
  CHECK(gradient->data != nullptr);
  gradient.commit();
  CHECK(gradient->data == nullptr);
  CHECK_THROWS_WITH_AS(gradient.commit(), "the lease was released already", LeaseError);
  CHECK_THROWS_WITH_AS(gradient.discard(), "the lease was released already", LeaseError);
  {
    auto other = rig.b.gradient(calling_thread, GradientContent::zeros);
    other.discard();
    CHECK(other->data == nullptr);
  }
  CHECK(rig.engine.told() == Calls{"gradients a", "commit a", "zeroed gradients b", "discard b"});
}

TEST_CASE("the store is told of a gradient that was forgotten") {
  Rig rig;
  {
    const auto forgotten = rig.a.gradient(calling_thread);
  }
  CHECK(rig.engine.told() == Calls{"gradients a", "release a"});
}

template <class L>
concept Releasable = requires(L& lease) { lease.release(); };
static_assert(!Releasable<zerospan::GradientLease<View>>);
static_assert(Releasable<zerospan::ReadLease<View>> && Releasable<zerospan::WriteLease<View>>);

TEST_CASE("a commit that fails leaves the lease held") {
  Rig rig;
  rig.engine.fake->refuses_commit = true;
  auto gradient = rig.a.gradient(calling_thread);
  CHECK_THROWS_AS(gradient.commit(), LeaseError);
  CHECK(gradient->data != nullptr);
  gradient.discard();

  auto write = rig.b.write(calling_thread);
  CHECK_THROWS_AS(write.commit(zerospan::Rank{1}), zerospan::ConfigurationError);
  CHECK(write->data != nullptr);
  write.commit();
  CHECK(write->data == nullptr);
  CHECK(rig.engine.told() == Calls{"gradients a", "discard a", "write b", "publish b"});
}

TEST_CASE("a write need not read") {
  Rig rig;
  auto write = rig.a.write(calling_thread, WriteContent::undefined);
  write.release();
  CHECK(rig.engine.told() == Calls{"write undefined a", "release a"});
}

TEST_CASE("a gradient that is bound elsewhere can be discarded, not committed") {
  Rig rig;
  auto gradient = rig.a.gradient(calling_thread);
  std::array<float, 6> elsewhere{};
  gradient->data = elsewhere.data();
  CHECK_THROWS_WITH_AS(gradient.commit(), doctest::Contains("bound to other storage"), LeaseError);
  gradient.discard();
  CHECK(rig.engine.told() == Calls{"gradients a", "discard a"});
}

TEST_CASE("a lease that is assigned over ends") {
  Rig rig;
  auto a = rig.a.gather(calling_thread);
  auto b = rig.b.gather(calling_thread);
  a = std::move(b);
  CHECK(rig.engine.told() == Calls{"gather a", "gather b", "release a"});
  CHECK(a->size == 4);
  CHECK(a->data[3] == 2);
  a.release();
  CHECK(a->data == nullptr);
  a.release();
  CHECK(rig.engine.told() == Calls{"release b"});
}

TEST_CASE("parameters are leased as a group: a pack") {
  Rig rig;
  {
    const auto [a, b] = gather(calling_thread, rig.a, rig.b);
    CHECK(a->data[5] == 1);
    CHECK(b->data[3] == 2);
    auto [ga, gb] = gradients(calling_thread, rig.a, rig.b);
    ga.discard();
    gb.discard();
    auto [zeroed] = gradients(calling_thread, GradientContent::zeros, rig.b);
    zeroed.commit();
  }
  const Calls told = rig.engine.told();
  CHECK(told[0] == "gather a b");
  CHECK(told[1] == "gradients a b");
  CHECK(told[4] == "zeroed gradients b");
  CHECK(told.size() == 8);
}

TEST_CASE("parameters are leased as a group: a range") {
  Rig rig;
  const std::vector<Parameter> values{rig.a, rig.b, rig.a};
  const auto leases = gather(calling_thread, values);
  static_assert(std::is_same_v<decltype(leases), const std::vector<zerospan::ReadLease<View>>>);
  REQUIRE(leases.size() == 3);
  CHECK(leases[1]->size == 4);
  CHECK(leases[2]->data == leases[0]->data);

  const std::array<const Parameter*, 2> pointers{&rig.b, &rig.a};
  auto written = gradients(calling_thread, pointers);
  for (auto& gradient : written) gradient.commit();
  CHECK(rig.engine.told() == Calls{"gather a b a", "gradients b a", "commit b", "commit a"});

  const std::array references{std::ref(rig.a), std::ref(rig.b)};
  CHECK(gather(calling_thread, references).size() == 2);
  const std::array owners{std::make_unique<Parameter>(rig.b)};
  CHECK(gather(calling_thread, std::span{values}.first(1)).size() == 1);
  for (auto& gradient : gradients(calling_thread, GradientContent::zeros, owners)) gradient.discard();
  CHECK(rig.engine.told() ==
        Calls{"gather a b", "release a", "release b", "gather a", "release a", "zeroed gradients b", "discard b"});
}

TEST_CASE("a group of none asks nobody") {
  Rig rig;
  CHECK(gather(calling_thread, std::vector<Parameter>{}).empty());
  CHECK(gradients(calling_thread, std::span<const Parameter* const>{}).empty());
  CHECK(rig.engine.told().empty());
}

/// Makes parameters, instead of referring to them.
struct Copies {
  struct Iterator {
    Parameter operator*() const;
    bool operator!=(const Iterator&) const;
  };
  Iterator begin() const;
  Iterator end() const;
};
static_assert(zerospan::ParameterRange<std::vector<Parameter>&> &&
              zerospan::ParameterRange<std::span<const Parameter>>);
static_assert(!zerospan::ParameterRange<Copies>);
static_assert(!zerospan::ParameterRange<Parameter> && !zerospan::ParameterRange<std::vector<float>&>);

TEST_CASE("parameters of different engines are not leased together") {
  Rig first;
  Rig second;
  const auto refused = "parameters of different engines cannot be leased as one group";
  CHECK_THROWS_WITH_AS(static_cast<void>(gather(calling_thread, first.a, second.a)), refused, LeaseError);
  CHECK_THROWS_WITH_AS(static_cast<void>(gradients(calling_thread, first.a, second.a)), refused, LeaseError);
  const std::array both{first.a, second.a};
  CHECK_THROWS_WITH_AS(static_cast<void>(gather(calling_thread, both)), refused, LeaseError);
  CHECK_THROWS_WITH_AS(static_cast<void>(gradients(calling_thread, both)), refused, LeaseError);
  CHECK(first.engine.told().empty());
  CHECK(second.engine.told().empty());
}

TEST_CASE("a parameter can stand in a struct before it is declared") {
  struct Layer {
    Parameter weight;
    Parameter bias;
  };
  std::vector<Layer> layers(2);
  Rig rig;
  layers[0].weight = Parameter{rig.engine, "late", {5}, zerospan::init::zeros()};
  CHECK(layers[0].weight.declared());
  CHECK(layers[0].weight.name() == "late");

  const Parameter& none = layers[1].bias;
  CHECK_FALSE(none.declared());
  const auto refused = "this parameter was never declared: it was default-constructed, or moved from";
  const auto refuses = [&](auto call) { CHECK_THROWS_WITH_AS(static_cast<void>(call()), refused, LeaseError); };
  refuses([&] { return none.name(); });
  refuses([&] { return none.shape(); });
  refuses([&] { return none.element_type(); });
  refuses([&] { return none.tie("more"); });
  refuses([&] { return none.gather(calling_thread); });
  refuses([&] { return none.gradient(calling_thread); });
  refuses([&] { return none.write(calling_thread); });
  refuses([&] { return none.trains(); });
  refuses([&] { return gather(calling_thread, rig.a, none); });
  refuses([&] { return gather(calling_thread, none, rig.a); });
  refuses([&] { return gradients(calling_thread, std::array{rig.a, none}); });
  CHECK_THROWS_AS(none.skip(), LeaseError);
  CHECK_THROWS_AS(none.freeze(), LeaseError);
  CHECK_THROWS_AS(none.unfreeze(), LeaseError);

  const Parameter moved = std::move(layers[0].weight);
  CHECK(moved.shape().elements() == 5);
  refuses([&] { return layers[0].weight.gather(calling_thread); });  // NOLINT(bugprone-use-after-move)
}

TEST_CASE("a parameter knows its name, and whether it trains") {
  Rig rig;
  const Parameter frozen{rig.engine, "frozen", {7}, zerospan::init::zeros(), {.training = Training::frozen}};
  CHECK(rig.a.name() == "a");
  CHECK(rig.a.tie("tied").name() == "tied");
  CHECK(rig.a.trains());
  CHECK_FALSE(frozen.trains());
  rig.a.freeze();
  CHECK_FALSE(rig.a.trains());
  rig.a.unfreeze();
  CHECK(rig.a.trains());
}

TEST_CASE("a read lease lends what the trait names for reading") {
  Rig rig;
  auto read = rig.a.gather(calling_thread);
  static_assert(std::is_same_v<decltype(*read), const ConstView&>);
  static_assert(std::is_same_v<decltype(read->data), const float*>);
  CHECK(read->size == 6);
  CHECK(read->data[0] == 1);
  auto moved = std::move(read);
  CHECK(moved->data[5] == 1);
  read.release();  // NOLINT(bugprone-use-after-move)
  CHECK(moved->data[5] == 1);
  moved.release();
  CHECK(moved->data == nullptr);
  CHECK(moved->size == 6);

  const zerospan::PartitionedParameter<Bare> bare{rig.engine, "bare", {3}, zerospan::init::ones()};
  const auto plain = bare.gather(calling_thread);
  static_assert(std::is_same_v<decltype(*plain), const Bare&>);
  CHECK(plain->data[2] == 1);
}

TEST_CASE("a stream is said, and a null handle is a device's default one") {
  static_assert(!std::is_default_constructible_v<StreamRef>);
  static_assert(!std::is_constructible_v<StreamRef, std::nullptr_t> && !std::is_constructible_v<StreamRef, int>);
  static_assert(!std::is_constructible_v<StreamRef, long> && !std::is_convertible_v<void*, StreamRef>);
  CHECK(calling_thread.is_calling_thread());
  void* const handle = nullptr;
  CHECK_FALSE(StreamRef{handle}.is_calling_thread());
  CHECK(StreamRef{handle}.native_handle() == nullptr);
}

}  // namespace
