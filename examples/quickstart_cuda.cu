// Ten steps of ZeRO-3 on a GPU: parameters rest in pinned host memory, optimizer states in device memory.
#include <cstddef>
#include <cstdio>
#include <exception>

#include <cuda_runtime_api.h>

#include <zerospan/cuda.hpp>

namespace my {  // the host framework: a tensor, a kernel, and a stream of its own

struct Tensor {
  std::size_t elements;
  float* data;
};

__global__ void regress(const float* weight, float* gradient, std::size_t elements) {
  const std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x;
  if (i < elements) gradient[i] = weight[i] - static_cast<float>(i % 7);
}

void launch(cudaStream_t stream, const Tensor& weight, const Tensor& gradient) {
  const auto blocks = static_cast<unsigned>((weight.elements + 255) / 256);
  regress<<<blocks, 256, 0, stream>>>(weight.data, gradient.data, weight.elements);
}

}  // namespace my

template <>
struct zerospan::TensorTraits<my::Tensor> {
  using element_type = float;
  static my::Tensor unbound(const Shape& shape) { return {shape.elements(), nullptr}; }
  static void bind(my::Tensor& tensor, float* data) { tensor.data = data; }
  static float* data(const my::Tensor& tensor) { return tensor.data; }
};

namespace {

using namespace zerospan::literals;

void train() {
  zerospan::CudaDevice device{zerospan::CudaRuntime{0}, {.device_budget = 64_MiB, .host_budget = 64_MiB}};
  zerospan::HostTier host{device};
  zerospan::DeviceTier on_device{device};
  zerospan::SelfCommunicator communicator;  // or CudaThreadCommunicator, or NcclCommunicator

  zerospan::ZeroEngine engine{zerospan::Stage3{}, communicator, device,
                              zerospan::Placement{.parameters = host, .gradients = on_device, .optimizer = on_device},
                              zerospan::AdamW{.learning_rate = 0.1F, .weight_decay = 0.0F}};
  const zerospan::PartitionedParameter<my::Tensor> weight{engine, "weight", {1'000'000}, zerospan::init::normal(1.0F)};

  const auto stream = zerospan::CudaStreamOwner::make(0);  // any stream of yours
  const zerospan::StreamRef reference{stream.ref()};
  for (int step = 0; step < 10; ++step) {
    {
      const auto full = weight.gather(reference);  // the stream waits for the prefetch; the host does not
      auto gradient = weight.gradient(reference);
      my::launch(stream.ref().handle, *full, *gradient);
      gradient.commit();
    }
    std::printf("step %d: gradient norm %.3f\n", step, engine.step().gradient_norm);
  }
}

}  // namespace

int main() {
  try {
    train();
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
}
