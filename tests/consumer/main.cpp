#include <algorithm>
#include <cmath>

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

/// One step of one parameter: with a gradient of ones, AdamW's first step is the learning rate.
int main() {
  zerospan::HostDevice device;
  zerospan::HostTier host{device};
  zerospan::SelfCommunicator communicator;
  zerospan::ZeroEngine engine{zerospan::Stage3{}, communicator, device,
                              zerospan::Placement{.parameters = host, .gradients = host, .optimizer = host},
                              zerospan::AdamW{.learning_rate = 0.5F, .epsilon = 1e-20F, .weight_decay = 0.0F}};
  const zerospan::PartitionedParameter<my::Tensor> weight{engine, "weight", {100, 100}, zerospan::init::ones()};
  {
    auto gradient = weight.gradient(zerospan::calling_thread);
    std::fill_n(gradient->data, gradient->shape.elements(), 1.0F);
    gradient.commit();
  }
  engine.step();
  const auto full = weight.gather(zerospan::calling_thread);
  return std::abs(full->data[9999] - 0.5F) < 1e-6F ? 0 : 1;
}
