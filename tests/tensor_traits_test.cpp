#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/training_run.hpp"

namespace {

/// A tensor in the manner of llmq's: a field for the element type, five extents, a byte pointer, a device number.
struct Tensor {
  enum class DType : std::uint8_t { fp32, bf16 };

  DType dtype = DType::fp32;
  std::array<long, 5> sizes{1, 1, 1, 1, 1};
  int rank = 0;
  std::byte* data = nullptr;
  int device = -1;
};

struct Unadapted {
  float* data;
};

struct BindsNothing {};

struct TypedInPart {
  float* data = nullptr;
};

}  // namespace

template <>
struct zerospan::TensorTraits<Tensor> {
  static Tensor unbound(const Shape& shape, ElementType type) {
    Tensor tensor;
    tensor.dtype = type == ElementType::bfloat16 ? Tensor::DType::bf16 : Tensor::DType::fp32;
    tensor.rank = static_cast<int>(shape.rank());
    for (std::size_t i = 0; i < shape.rank(); ++i) tensor.sizes[i] = static_cast<long>(shape[i]);
    return tensor;
  }
  static void bind(Tensor& tensor, std::byte* data) { tensor.data = data; }
  static std::byte* data(const Tensor& tensor) { return tensor.data; }
};

template <>
struct zerospan::TensorTraits<BindsNothing> {
  static BindsNothing unbound(const Shape&, ElementType) { return {}; }
  static std::byte* data(const BindsNothing&) { return nullptr; }
};

template <>
struct zerospan::TensorTraits<TypedInPart> {  // says that its elements are floats, and takes bytes
  using element_type = float;
  static TypedInPart unbound(const Shape&, ElementType) { return {}; }
  static void bind(TypedInPart&, std::byte*) {}
  static std::byte* data(const TypedInPart&) { return nullptr; }
};

namespace {

using zerospan::ElementType;
using zerospan::Shape;
using zerospan_test::Array;

static_assert(zerospan::TypedTensor<Array<float>> && !zerospan::RuntimeTypedTensor<Array<float>>);
static_assert(zerospan::RuntimeTypedTensor<Tensor> && !zerospan::TypedTensor<Tensor>);
static_assert(zerospan::HostTensor<Array<zerospan::bfloat16>> && zerospan::HostTensor<Tensor>);
static_assert(!zerospan::HostTensor<Unadapted> && !zerospan::HostTensor<BindsNothing>);
static_assert(!zerospan::HostTensor<TypedInPart>);

using Parameter = zerospan::PartitionedParameter<Tensor>;
using TypedParameter = zerospan::PartitionedParameter<Array<float>>;

template <class P, class... Arguments>
concept Declares = requires(Arguments... arguments) { P{arguments...}; };

struct Host {
  std::shared_ptr<zerospan::ParameterStore> store();
};

static_assert(Declares<TypedParameter, Host&, std::string, Shape, zerospan::Initializer>);
static_assert(!Declares<TypedParameter, Host&, std::string, Shape, ElementType, zerospan::Initializer>);
static_assert(Declares<Parameter, Host&, std::string, Shape, ElementType, zerospan::Initializer>);
static_assert(!Declares<Parameter, Host&, std::string, Shape, zerospan::Initializer>);

/// The elements of a leased tensor, as floats.
std::vector<float> values_of(const Tensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.sizes[0] * tensor.sizes[1]));
  zerospan::to_float(tensor.dtype == Tensor::DType::bf16 ? ElementType::bfloat16 : ElementType::float32, tensor.data,
                     values.data(), values.size());
  return values;
}

template <class Rank>
void run_alone(Rank rank) {
  zerospan::ThreadedIoEngine io;
  zerospan_test::Memory memory{io, zerospan::Bytes{8 << 20}, zerospan::Bytes{8 << 20}};
  zerospan::SelfCommunicator self;
  using zerospan_test::Place;
  zerospan::ZeroEngine engine{zerospan::Stage3{}, self,
                              memory.device,      memory.placement(Place::nvme, Place::host, Place::nvme),
                              zerospan::AdamW{},  zerospan::EngineOptions{.persistence_threshold = zerospan::Bytes{0}}};
  rank(engine);
}

TEST_CASE("tensors with a type field are bound as what they were declared") {
  run_alone([](auto& engine) {
    const Parameter narrow{engine, "narrow", {30, 50}, ElementType::bfloat16, zerospan::init::constant(1.5F)};
    const Parameter wide{engine, "wide", {7, 11}, ElementType::float32, zerospan::init::constant(2.5F)};
    const Parameter tied = narrow.tie("tied");
    CHECK(narrow.element_type() == ElementType::bfloat16);
    CHECK(tied.element_type() == ElementType::bfloat16);

    const auto [n, w, t] = gather(zerospan::calling_thread, narrow, wide, tied);
    CHECK(n->dtype == Tensor::DType::bf16);
    CHECK(n->sizes == std::array<long, 5>{30, 50, 1, 1, 1});
    CHECK(values_of(*n) == std::vector<float>(1500, 1.5F));
    CHECK(w->dtype == Tensor::DType::fp32);
    CHECK(values_of(*w) == std::vector<float>(77, 2.5F));
    CHECK(t->dtype == Tensor::DType::bf16);
    CHECK(t->data == n->data);
    CHECK(narrow.gradient(zerospan::calling_thread)->dtype == Tensor::DType::bf16);
  });
}

TEST_CASE("a lease that ends unbinds the tensor, and one that was bound elsewhere is not committed") {
  run_alone([](auto& engine) {
    const Parameter weight{engine, "weight", {9}, ElementType::float32, zerospan::init::zeros()};
    auto full = weight.gather(zerospan::calling_thread);
    CHECK(full->data != nullptr);
    full.release();
    CHECK(full->data == nullptr);

    auto gradient = weight.gradient(zerospan::calling_thread);
    std::array<float, 9> elsewhere{};
    gradient->data = reinterpret_cast<std::byte*>(elsewhere.data());
    CHECK_THROWS_AS(gradient.commit(), zerospan::LeaseError);
  });
}

}  // namespace
