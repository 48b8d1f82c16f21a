#include <doctest/doctest.h>

#include <cstddef>
#include <type_traits>
#include <vector>

#include <zerospan/adapters/eigen.hpp>
#include <zerospan/zerospan.hpp>

#include "support/regression.hpp"
#include "support/toy_model.hpp"

namespace {

template <class E>
using Matrix = Eigen::Map<Eigen::Matrix<E, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
template <class E>
using Vector = Eigen::Map<Eigen::Matrix<E, Eigen::Dynamic, 1>>;
using RowVector = Eigen::Map<Eigen::RowVectorXf>;
using TwoByThree = Eigen::Map<Eigen::Matrix<float, 2, 3, Eigen::RowMajor>>;

static_assert(zerospan::TypedTensor<Matrix<float>> && zerospan::TypedTensor<Matrix<Eigen::bfloat16>>);
static_assert(zerospan::TypedTensor<Vector<float>> && zerospan::TypedTensor<Vector<Eigen::bfloat16>>);
static_assert(zerospan::TypedTensor<RowVector> && zerospan::TypedTensor<TwoByThree>);
static_assert(zerospan::Element<Eigen::bfloat16>);

static_assert(!zerospan::HostTensor<Eigen::Map<Eigen::MatrixXf>>, "column-major");
static_assert(!zerospan::HostTensor<Matrix<double>>, "no storage format");
static_assert(!zerospan::HostTensor<Eigen::MatrixXf>, "owns its storage");
static_assert(!zerospan::HostTensor<Eigen::Map<const Eigen::VectorXf>>, "not to be written");
static_assert(!zerospan::HostTensor<Eigen::Map<Eigen::VectorXf, Eigen::Unaligned, Eigen::InnerStride<2>>>, "strided");
static_assert(!zerospan::HostTensor<Eigen::Map<Eigen::VectorXf, Eigen::Aligned64>>, "promises too much");

static_assert(zerospan::ReadOnlyTensor<Matrix<Eigen::bfloat16>> && zerospan::ReadOnlyTensor<TwoByThree>);
static_assert(std::is_same_v<zerospan::constant_tensor<RowVector>, Eigen::Map<const Eigen::RowVectorXf>>);

template <class Map>
using Traits = zerospan::TensorTraits<Map>;

TEST_CASE("a map takes its extents from the shape, and its elements from the memory it is bound to") {
  std::vector<float> memory{0, 1, 2, 3, 4, 5};
  auto matrix = Traits<Matrix<float>>::unbound({2, 3});
  CHECK(matrix.data() == nullptr);
  CHECK(matrix.rows() == 2);
  CHECK(matrix.cols() == 3);
  Traits<Matrix<float>>::bind(matrix, memory.data());
  CHECK(matrix(1, 0) == 3);
  CHECK(Traits<Matrix<float>>::data(matrix) == memory.data());
  Traits<Matrix<float>>::bind(matrix, nullptr);
  CHECK(matrix.data() == nullptr);
  CHECK(matrix.cols() == 3);

  CHECK(Traits<Matrix<float>>::unbound({2, 3, 5}).rows() == 6);
  CHECK(Traits<Matrix<float>>::unbound({7}).rows() == 1);
  CHECK(Traits<Matrix<float>>::unbound({}).cols() == 1);
  CHECK(Traits<Vector<float>>::unbound({2, 3}).rows() == 6);
  CHECK(Traits<RowVector>::unbound({2, 3}).cols() == 6);
}

TEST_CASE("extents fixed at compile time are those of the shape, or it is refused") {
  CHECK(Traits<TwoByThree>::unbound({2, 3}).data() == nullptr);
  CHECK_THROWS_AS(Traits<TwoByThree>::unbound({3, 2}), zerospan::ConfigurationError);
  CHECK_THROWS_AS(Traits<TwoByThree>::unbound({2, 4}), zerospan::ConfigurationError);
  CHECK_THROWS_AS(Traits<Eigen::Map<Eigen::Vector4f>>::unbound({5}), zerospan::ConfigurationError);
}

TEST_CASE("a lease that is assigned takes over the map, not its elements") {
  zerospan::HostDevice device{{.device_budget = zerospan::Bytes{1 << 20}, .host_budget = zerospan::Bytes{1 << 20}}};
  zerospan::HostTier host{device};
  zerospan::SelfCommunicator self;
  zerospan::ZeroEngine engine{
      zerospan::Stage3{},
      self,
      device,
      zerospan::Placement{.parameters = host, .gradients = host, .optimizer = host},
      zerospan::AdamW{},
      zerospan::EngineOptions{.persistence_threshold = zerospan::Bytes{0}, .staging = zerospan::Bytes{1 << 18}}};
  using Parameter = zerospan::PartitionedParameter<Vector<float>>;
  const Parameter ones{engine, "ones", {40}, zerospan::init::ones()};
  const Parameter zeros{engine, "zeros", {50}, zerospan::init::zeros()};

  auto lease = zeros.gather(zerospan::calling_thread);
  auto other = ones.gather(zerospan::calling_thread);
  static_assert(std::is_same_v<decltype(other->data()), const float*>);
  const float* const data = other->data();
  lease = std::move(other);
  CHECK(lease->data() == data);
  CHECK(lease->size() == 40);
  CHECK(lease->sum() == 40);
  CHECK(zeros.gather(zerospan::calling_thread)->sum() == 0);
}

TEST_CASE_TEMPLATE("training through Eigen's maps gives the bits of plain pointers", E, float, Eigen::bfloat16) {
  using Plain = std::conditional_t<std::is_same_v<E, float>, float, zerospan::bfloat16>;
  using Array = zerospan_test::Array<Plain>;
  const auto plain = zerospan_test::train_regression<Plain, Array, Array>(
      [](const Array& array, std::size_t i) -> Plain& { return array.data[i]; });
  const auto mapped =
      zerospan_test::train_regression<E, Matrix<E>, Vector<E>>([]<class M>(M& map, std::size_t i) -> decltype(auto) {
        const auto index = static_cast<Eigen::Index>(i);
        return map.coeffRef(index / map.cols(), index % map.cols());
      });
  CHECK(plain.back() != 0);
  CHECK(plain[9] < plain[0] / 2);
  CHECK(mapped == plain);
}

}  // namespace
