#include <doctest/doctest.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/adapters/dlpack.hpp>
#include <zerospan/zerospan.hpp>

#include "support/regression.hpp"
#include "support/toy_model.hpp"

namespace {

using zerospan::DlpackTensor;
using zerospan::ElementType;
using Traits = zerospan::TensorTraits<DlpackTensor>;

static_assert(zerospan::RuntimeTypedTensor<DlpackTensor> && !zerospan::TypedTensor<DlpackTensor>);
static_assert(!std::copyable<DlpackTensor>, "a copy's extents would be the original's");
static_assert(!zerospan::HostTensor<DLTensor>, "does not own its extents");

std::vector<std::int64_t> shape_of(const DLTensor& tensor) { return {tensor.shape, tensor.shape + tensor.ndim}; }
std::vector<std::int64_t> strides_of(const DLTensor& tensor) { return {tensor.strides, tensor.strides + tensor.ndim}; }

TEST_CASE("a DLTensor is contiguous, in CPU memory, and of the type it was declared with") {
  DlpackTensor tensor = Traits::unbound({2, 3, 5}, ElementType::float32);
  const DLTensor& view = tensor.view();
  CHECK(view.device.device_type == kDLCPU);
  CHECK(view.device.device_id == 0);
  CHECK(shape_of(view) == std::vector<std::int64_t>{2, 3, 5});
  CHECK(strides_of(view) == std::vector<std::int64_t>{15, 5, 1});
  CHECK(view.byte_offset == 0);
  CHECK(view.dtype.code == kDLFloat);
  CHECK(view.dtype.bits == 32);
  CHECK(view.dtype.lanes == 1);
  CHECK(view.data == nullptr);

  std::vector<std::byte> memory(120);
  Traits::bind(tensor, memory.data());
  CHECK(view.data == memory.data());
  CHECK(Traits::data(tensor) == memory.data());
  Traits::bind(tensor, nullptr);
  CHECK(Traits::data(tensor) == nullptr);

  const DlpackTensor narrow = Traits::unbound({4}, ElementType::bfloat16);
  CHECK(narrow.view().dtype.code == kDLBfloat);
  CHECK(narrow.view().dtype.bits == 16);
  CHECK(Traits::unbound({}, ElementType::float32).view().ndim == 0);
}

TEST_CASE("its extents move with it") {
  std::vector<DlpackTensor> tensors;
  for (std::size_t i = 1; i <= 40; ++i) tensors.push_back(Traits::unbound({i, 2}, ElementType::float32));
  DlpackTensor last = std::move(tensors.back());
  tensors.front() = std::move(tensors[1]);
  CHECK(shape_of(last.view()) == std::vector<std::int64_t>{40, 2});
  CHECK(shape_of(tensors.front().view()) == std::vector<std::int64_t>{2, 2});
  CHECK(strides_of(tensors.front().view()) == std::vector<std::int64_t>{2, 1});
}

TEST_CASE_TEMPLATE("training through DLTensors gives the bits of plain pointers", E, float, zerospan::bfloat16) {
  using Array = zerospan_test::Array<E>;
  const auto plain = zerospan_test::train_regression<E, Array, Array>(
      [](const Array& array, std::size_t i) -> E& { return array.data[i]; });
  const auto exchanged = zerospan_test::train_regression<E, DlpackTensor, DlpackTensor>(
      [](const DlpackTensor& tensor, std::size_t i) -> E& { return static_cast<E*>(tensor.view().data)[i]; });
  CHECK(plain.back() != 0);
  CHECK(plain[9] < plain[0] / 2);
  CHECK(exchanged == plain);
}

}  // namespace
