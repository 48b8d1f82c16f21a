// Ten steps of ZeRO-3 on two ranks, with parameters and optimizer states on disk.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <filesystem>

#include <zerospan/zerospan.hpp>

namespace my {  // the host framework: a tensor that knows nothing of zerospan

struct Tensor {
  std::size_t elements;
  float* data;
};

}  // namespace my

template <>
struct zerospan::TensorTraits<my::Tensor> {  // the whole of the adaptation
  using element_type = float;
  static my::Tensor unbound(const Shape& shape) { return {shape.elements(), nullptr}; }
  static void bind(my::Tensor& tensor, float* data) { tensor.data = data; }
  static float* data(const my::Tensor& tensor) { return tensor.data; }
};

namespace {

using namespace zerospan::literals;

// Regression of every element on noisy observations of it; each rank makes its own.
float observe(std::size_t i, int rank, int step) {
  const float noise = (rank + step) % 2 == 0 ? 0.1F : -0.1F;
  return std::sin(static_cast<float>(i)) + noise;
}

void train(zerospan::ThreadCommunicator communicator) {
  zerospan::HostDevice device{{.device_budget = 8_MiB, .host_budget = 8_MiB}};
  zerospan::ThreadedIoEngine io;
  zerospan::HostTier host{device};
  zerospan::NvmeTier nvme{io, {.directory = std::filesystem::temp_directory_path().string()}};

  zerospan::ZeroEngine engine{zerospan::Stage3{}, communicator, device,
                              zerospan::Placement{.parameters = nvme, .gradients = host, .optimizer = nvme},
                              zerospan::AdamW{.learning_rate = 0.1F, .weight_decay = 0.0F}};
  const zerospan::PartitionedParameter<my::Tensor> weight{engine, "weight", {10'000}, zerospan::init::normal(1.0F)};

  for (int step = 0; step < 10; ++step) {
    const int rank = communicator.rank().value;
    float loss = 0.0F;
    {
      const auto full = weight.gather(zerospan::calling_thread);  // a read lease: whole until the scope ends
      auto gradient = weight.gradient(zerospan::calling_thread);  // a gradient lease: write into it ...
      for (std::size_t i = 0; i < full->elements; ++i) {
        const float error = full->data[i] - observe(i, rank, step);
        gradient->data[i] = error;
        loss += 0.5F * error * error / static_cast<float>(full->elements);
      }
      gradient.commit();  // ... and hand it over: reduced over ranks, accumulated, offloaded
    }
    const zerospan::StepOutcome outcome = engine.step();
    if (rank == 0) {
      std::printf("step %d: loss %.4f, gradient norm %.3f\n", step, static_cast<double>(loss), outcome.gradient_norm);
    }
  }
}

}  // namespace

int main() { zerospan::run_ranks(2, train); }
