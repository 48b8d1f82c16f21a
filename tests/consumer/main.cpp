#include <cstddef>
#include <vector>

#include <zerospan/zerospan.hpp>

namespace my {

struct Tensor {
  zerospan::Shape shape;
  float* data = nullptr;
};

}  // namespace my

template <>
struct zerospan::TensorTraits<my::Tensor> {
  using element_type = float;
  static my::Tensor unbound(const Shape& shape) { return {shape, nullptr}; }
  static void bind(my::Tensor& tensor, float* data) { tensor.data = data; }
  static float* data(const my::Tensor& tensor) { return tensor.data; }
};

static_assert(zerospan::HostTensor<my::Tensor>);

int main() {
  using Traits = zerospan::TensorTraits<my::Tensor>;
  auto tensor = Traits::unbound({2, 3});
  std::vector<float> storage(tensor.shape.elements(), 1.5F);
  Traits::bind(tensor, storage.data());
  const zerospan::bfloat16 element{Traits::data(tensor)[5]};
  return static_cast<float>(element) == 1.5F ? 0 : 1;
}
