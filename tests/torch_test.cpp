// The headers of libtorch come before doctest: glog's macros have doctest's names.
#include <zerospan/adapters/torch_module.hpp>

#include <torch/nn.h>
#undef CHECK
#undef CHECK_EQ
#include <doctest/doctest.h>

#include <sys/wait.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/regression.hpp"
#include "support/toy_model.hpp"

namespace {

using zerospan::ElementType;
using Traits = zerospan::TensorTraits<at::Tensor>;

static_assert(zerospan::RuntimeTypedTensor<at::Tensor> && !zerospan::TypedTensor<at::Tensor>);
static_assert(!zerospan::HostTensor<c10::Storage>);

TEST_CASE("an unbound tensor keeps shape and type, and is bound and unbound in place") {
  for (const ElementType type : {ElementType::float32, ElementType::bfloat16}) {
    at::Tensor tensor = Traits::unbound({2, 3}, type);
    CHECK(tensor.sizes() == at::IntArrayRef{2, 3});
    CHECK((tensor.scalar_type() == zerospan::torch_type(type)));
    CHECK(tensor.storage().nbytes() == 0);
    CHECK(Traits::data(tensor) == nullptr);

    alignas(8) std::array<std::byte, 24> memory{};
    const c10::TensorImpl* const object = tensor.unsafeGetTensorImpl();
    const std::uint32_t version = object->version_counter().current_version();
    Traits::bind(tensor, memory.data());
    CHECK(tensor.is_cpu());
    CHECK(tensor.is_contiguous());
    CHECK(Traits::data(tensor) == memory.data());
    CHECK(tensor.storage().nbytes() == 6 * zerospan::element_bytes(type));
    CHECK(object->version_counter().current_version() == version);
    tensor.fill_(2);
    CHECK(tensor.sum().item<float>() == 12);
    CHECK_FALSE(tensor.storage().resizable());

    Traits::bind(tensor, nullptr);
    CHECK(tensor.unsafeGetTensorImpl() == object);
    CHECK(Traits::data(tensor) == nullptr);
    CHECK(tensor.sizes() == at::IntArrayRef{2, 3});
  }
  CHECK(Traits::unbound({}, ElementType::float32).numel() == 1);
}

TEST_CASE("a tensor that is bound gives up the memory that it owned") {
  static int freed = 0;
  at::Tensor tensor = at::from_blob(new float[4], {4}, [](void* data) {
    ++freed;
    delete[] static_cast<float*>(data);
  });
  Traits::bind(tensor, nullptr);
  CHECK(freed == 1);
  std::array<float, 4> memory{1, 2, 3, 4};
  Traits::bind(tensor, reinterpret_cast<std::byte*>(memory.data()));
  CHECK(tensor.sum().item<float>() == 10);
  tensor.reset();
  CHECK(freed == 1);
  CHECK(memory[3] == 4);
}

/// An engine with one parameter of 4 x 4 ones.
struct Model {
  zerospan::HostDevice device{{.device_budget = zerospan::Bytes{1 << 20}, .host_budget = zerospan::Bytes{1 << 20}}};
  zerospan::HostTier host{device};
  zerospan::SelfCommunicator self;
  zerospan::ZeroEngine<zerospan::Stage3, zerospan::SelfCommunicator, zerospan::HostDevice, zerospan::AdamW> engine{
      zerospan::Stage3{},
      self,
      device,
      zerospan::Placement{.parameters = host, .gradients = host, .optimizer = host},
      zerospan::AdamW{},
      zerospan::EngineOptions{.persistence_threshold = zerospan::Bytes{0}, .staging = zerospan::Bytes{1 << 18}}};
  zerospan::PartitionedParameter<at::Tensor> weight{
      engine, "weight", {4, 4}, ElementType::float32, zerospan::init::ones()};
};

TEST_CASE("a tensor kept past its lease holds nothing, and using it throws") {
  Model model;
  auto lease = model.weight.gather(zerospan::calling_thread);
  const at::Tensor kept = *lease;
  const at::Tensor view = kept.t();
  const at::Tensor x = at::ones({4, 4});
  CHECK(kept.sum().item<float>() == 16);
  lease.release();

  CHECK(kept.storage().nbytes() == 0);
  CHECK(kept.storage().data() == nullptr);
  CHECK(view.storage().data() == nullptr);
  CHECK_THROWS_AS(static_cast<void>(x + kept), c10::Error);
  CHECK_THROWS_AS(static_cast<void>(at::linear(x, kept, at::ones({4}))), c10::Error);
  CHECK_THROWS_AS(static_cast<void>(x.matmul(kept).sum().item<float>()), c10::Error);
  CHECK_THROWS_AS(static_cast<void>(x.matmul(view)), c10::Error);
  CHECK_THROWS_AS(static_cast<void>(kept.sum().item<float>()), c10::Error);
  CHECK_THROWS_AS(static_cast<void>(kept.data_ptr<float>()), c10::Error);
  CHECK_THROWS_AS(static_cast<void>(kept.cpu()), c10::Error);
}

TEST_CASE("a leaf of an autograd graph is filled and emptied without autograd noticing") {
  Model model;
  at::Tensor leaf = Traits::unbound({4, 4}, ElementType::float32).requires_grad_(true);
  const at::Tensor x = at::ones({2, 4});
  at::Tensor y;
  const auto with_weight = [&](auto use) {
    const auto lease = model.weight.gather(zerospan::calling_thread);
    Traits::bind(leaf, Traits::data(*lease));
    use();
    Traits::bind(leaf, nullptr);
  };
  with_weight([&] { y = (x.matmul(leaf) * leaf.sum()).sum(); });  // saves leaf for backward, while it is bound
  CHECK(y.item<float>() == 32 * 16);
  with_weight([&] { y.backward(); });
  CHECK(leaf.is_leaf());
  CHECK(leaf.grad().equal(at::full({4, 4}, 2 * 16 + 32)));
}

TEST_CASE("a gradient that was put elsewhere is not committed") {
  Model model;
  auto gradient = model.weight.gradient(zerospan::calling_thread);
  gradient->copy_(at::ones({4, 4}));
  *gradient = at::zeros({4, 4});
  CHECK_THROWS_AS(gradient.commit(), zerospan::LeaseError);
}

TEST_CASE_TEMPLATE("training through at::Tensor gives the bits of plain pointers", E, float, zerospan::bfloat16) {
  using Array = zerospan_test::Array<E>;
  const auto plain = zerospan_test::train_regression<E, Array, Array>(
      [](const Array& array, std::size_t i) -> E& { return array.data[i]; });
  const auto wrapped = zerospan_test::train_regression<E, at::Tensor, at::Tensor>(
      [](const at::Tensor& tensor, std::size_t i) -> E& { return static_cast<E*>(tensor.data_ptr())[i]; });
  CHECK(plain.back() != 0);
  CHECK(wrapped == plain);
}

/// Two layers and what is between them.
struct NetworkImpl : torch::nn::Module {
  NetworkImpl()
      : up{register_module("up", torch::nn::Linear{4, 8})}, down{register_module("down", torch::nn::Linear{8, 2})} {}

  at::Tensor forward(at::Tensor x) { return down(at::tanh(up(x))); }

  torch::nn::Linear up;
  torch::nn::Linear down;
};
TORCH_MODULE(Network);

/// An engine without parameters of its own.
struct Empty {
  zerospan::HostDevice device{{.device_budget = zerospan::Bytes{1 << 20}, .host_budget = zerospan::Bytes{1 << 20}}};
  zerospan::HostTier host{device};
  zerospan::SelfCommunicator self;
  zerospan::ZeroEngine<zerospan::Stage3, zerospan::SelfCommunicator, zerospan::HostDevice, zerospan::Sgd> engine{
      zerospan::Stage3{},
      self,
      device,
      zerospan::Placement{.parameters = host, .gradients = host, .optimizer = host},
      zerospan::Sgd{.learning_rate = 0.5F},
      zerospan::EngineOptions{.persistence_threshold = zerospan::Bytes{0}, .staging = zerospan::Bytes{1 << 18}}};
};

const at::Tensor& input() {
  static const at::Tensor x = at::arange(12, at::kFloat).reshape({3, 4}).div(12);
  return x;
}

TEST_CASE("a wrapped module computes and learns what the plain one does") {
  torch::manual_seed(3);
  Network plain;
  Empty own;
  torch::manual_seed(3);
  const Network handed_over;
  const auto wrapped = zerospan::wrap(own.engine, "network", handed_over);
  CHECK(wrapped->partitioned().size() == 4);
  CHECK(wrapped->partitioned()[0].name() == "network.up.weight");
  CHECK(handed_over->up->weight.storage().nbytes() == 0);

  for (int step = 0; step < 3; ++step) {
    const at::Tensor y = plain->forward(input());
    const at::Tensor z = wrapped->forward(input());
    CHECK(y.equal(z));
    CHECK(handed_over->up->weight.storage().nbytes() == 0);
    y.square().sum().backward();
    z.square().sum().backward();
    own.engine.step();
    const at::NoGradGuard no_graph;
    for (auto& parameter : plain->parameters()) {
      parameter.sub_(0.5F * parameter.grad());
      parameter.grad().zero_();
    }
    CHECK(at::allclose(plain->forward(input()), wrapped->forward(input()), 1e-5, 1e-6));
    for (std::size_t i = 0; i < 4; ++i) {  // the same bits from here on
      auto write = wrapped->partitioned()[i].write(zerospan::calling_thread, zerospan::WriteContent::undefined);
      write->copy_(plain->parameters()[i]);
      write.commit();
    }
  }
}

TEST_CASE("the gradient of a wrapped module's input is the plain one's") {
  torch::manual_seed(3);
  Network plain;
  Empty own;
  torch::manual_seed(3);
  const auto wrapped = zerospan::wrap(own.engine, "network", Network{});
  const at::Tensor x = input().clone().requires_grad_(true);
  const at::Tensor z = input().clone().requires_grad_(true);
  plain->forward(x).sum().backward();
  wrapped->forward(z).sum().backward();
  CHECK(x.grad().equal(z.grad()));
}

TEST_CASE("parameters that require no gradient are declared frozen, and a module may have none that does") {
  Empty own;
  Network network;
  network->up->bias.requires_grad_(false);
  const auto part = zerospan::wrap(own.engine, "part", network);
  CHECK(part->partitioned()[0].trains());
  CHECK_FALSE(part->partitioned()[1].trains());
  Network still;
  for (auto& parameter : still->parameters()) parameter.requires_grad_(false);
  const auto frozen = zerospan::wrap(own.engine, "still", still);

  part->forward(input()).sum().backward();
  frozen->forward(input()).sum().backward();
  CHECK(own.engine.step().gradient_norm > 0);
}

TEST_CASE("a parameter that is frozen between steps is left out of backward") {
  Empty own;
  const auto wrapped = zerospan::wrap(own.engine, "network", Network{});
  static_cast<void>(wrapped->forward(input()));
  for (const auto& parameter : wrapped->partitioned()) parameter.freeze();
  wrapped->forward(input()).sum().backward();
  CHECK(own.engine.step().gradient_norm == 0);
  wrapped->partitioned()[3].unfreeze();
  wrapped->forward(input()).sum().backward();
  CHECK(own.engine.step().gradient_norm == doctest::Approx(std::sqrt(2 * 9.0)));
}

TEST_CASE("modules whose parameters cannot be handed over are refused by name") {
  Empty own;
  Network network;
  static_cast<void>(zerospan::wrap(own.engine, "network", network));
  CHECK_THROWS_WITH_AS(zerospan::wrap(own.engine, "again", network),
                       "again.up.weight cannot be partitioned: it shares its memory, or has none any more",
                       zerospan::ConfigurationError);
  Network tied;
  tied->down->weight.set_data(tied->up->weight.view({2, 16}));
  CHECK_THROWS_WITH_AS(zerospan::wrap(own.engine, "tied", tied), doctest::Contains("shares its memory"),
                       zerospan::ConfigurationError);
  Network wide;
  wide->to(at::kDouble);
  CHECK_THROWS_WITH_AS(zerospan::wrap(own.engine, "wide", wide), doctest::Contains("its elements are Double"),
                       zerospan::ConfigurationError);
}

TEST_CASE("a module that throws leaves no lease behind") {
  struct ThrowsImpl : torch::nn::Module {
    torch::nn::Linear linear{register_module("linear", torch::nn::Linear{4, 4})};
    at::Tensor forward(at::Tensor) { throw std::runtime_error{"no"}; }
  };
  Empty own;
  const torch::nn::ModuleHolder<ThrowsImpl> module{std::make_shared<ThrowsImpl>()};
  const auto wrapped = zerospan::wrap(own.engine, "throws", module);
  CHECK_THROWS_AS(wrapped->forward(input()), std::runtime_error);
  CHECK(module->linear->weight.storage().nbytes() == 0);
  CHECK(own.engine.step().step == 1);
}

/// One run of the example.
struct Run {
  int exit_code;
  std::string output;  // errors too
  std::vector<double> losses;
};

Run train_torch(const std::string& arguments) {
  Run run{};
  std::FILE* const pipe = ::popen((TRAIN_TORCH " " + arguments + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  for (std::array<char, 4096> line; std::fgets(line.data(), line.size(), pipe) != nullptr;) {
    run.output += line.data();
    double loss = 0;
    if (std::sscanf(line.data(), "step %*u: loss %lf", &loss) == 1) run.losses.push_back(loss);
  }
  const int status = ::pclose(pipe);
  run.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return run;
}

TEST_CASE("a model of wrapped modules trains as the plain one does") {
  const std::string model = "--steps 20 --layers 3 --width 64 ";
  const Run wrapped = train_torch(model + "--wrapped");
  INFO(wrapped.output);
  REQUIRE(wrapped.exit_code == 0);
  REQUIRE(wrapped.losses.size() == 20);
  CHECK(wrapped.losses.back() < wrapped.losses.front() - 1);

  // With one and the same update, wrapping changes no bit, wherever states rest.
  CHECK(train_torch(model + "--plain --update zerospan").losses == wrapped.losses);
  CHECK(train_torch(model + "--parameters device --gradients device --optimizer device").losses == wrapped.losses);
  CHECK(train_torch(model + "--parameters host --optimizer host --prefetch-bytes 0").losses == wrapped.losses);

  // torch's own AdamW computes the same formula with other roundings.
  const Run plain = train_torch(model + "--plain");
  REQUIRE(plain.losses.size() == 20);
  for (std::size_t i = 0; i < 20; ++i) CHECK(std::abs(plain.losses[i] - wrapped.losses[i]) < 1e-4);
  CHECK(plain.losses != wrapped.losses);
}

TEST_CASE("ranks are threads, each with a model of its own") {
  const Run run = train_torch("--ranks 2 --steps 10 --layers 2 --width 64");
  INFO(run.output);
  REQUIRE(run.exit_code == 0);
  CHECK(run.losses.back() < run.losses.front() - 0.5);
}

TEST_CASE("under a cap on memory the plain program dies, and the wrapped one trains") {
  const std::string model = "--layers 8 --width 512 --heads 8 --batch 1 --steps 2 --memory-cap 288MiB ";
  const Run plain = train_torch(model + "--plain");
  CHECK(plain.exit_code == 1);
  CHECK(plain.output.find("memory") != std::string::npos);
  CHECK(plain.losses.size() < 2);

  const Run wrapped = train_torch(model + "--wrapped");
  INFO(wrapped.output);
  CHECK(wrapped.exit_code == 0);
  CHECK(wrapped.losses.size() == 2);
}

}  // namespace
