#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <cuda_runtime_api.h>

#include <zerospan/cuda.hpp>

#include "cuda/quarter.hpp"
#include "support/toy_model.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::check_cuda;
using zerospan::StreamRef;
using zerospan_test::Array;

using Parameter = zerospan::PartitionedParameter<Array<float>>;

/// What a host records once and launches again and again: other threads go on calling CUDA meanwhile.
cudaGraphExec_t capture(cudaStream_t stream, const Array<float>& weight, const Array<float>& gradient) {
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "beginning a capture");
  zerospan_test::quarter(stream, weight.data, gradient.data, weight.size);
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(stream, &graph), "ending a capture");
  cudaGraphExec_t executable = nullptr;
  check_cuda(cudaGraphInstantiate(&executable, graph, 0), "instantiating a graph");
  check_cuda(cudaGraphDestroy(graph), "destroying a graph");
  return executable;
}

std::vector<float> masters_of(auto& engine) {
  std::vector<float> masters;
  engine.for_each_master([&](std::string_view, std::uint64_t, std::span<const float> values) {
    masters.insert(masters.end(), values.begin(), values.end());
  });
  return masters;
}

/// Trains on a device whose parameters rest in host memory. @param captures Whether the model's work is a graph.
std::vector<float> train(bool captures) {
  constexpr std::size_t elements = 300'001;
  zerospan::CudaDevice device{zerospan::CudaRuntime{0}, {.device_budget = 64_MiB, .host_budget = 64_MiB}};
  zerospan::HostTier host{device};
  zerospan::SelfCommunicator self;
  zerospan::ZeroEngine engine{zerospan::Stage3{}, self, device, zerospan::Placement{host, host, host},
                              zerospan::AdamW{}};
  const Parameter first{engine, "first", {elements}, zerospan::init::normal(1.0F)};
  const Parameter second{engine, "second", {elements}, zerospan::init::normal(1.0F)};
  const zerospan::CudaStreamOwner owner = zerospan::CudaStreamOwner::make(0);
  const cudaStream_t stream = owner.ref().handle;
  const StreamRef reference{owner.ref()};

  cudaGraphExec_t graph = nullptr;
  const float* captured_weight = nullptr;
  for (int step = 0; step < 8; ++step) {
    for (const Parameter* parameter : std::vector{&first, &second}) {
      const auto weight = parameter->gather(reference);
      auto gradient = parameter->gradient(reference);
      if (captures && parameter == &first && step >= 4) {
        if (!graph) {
          graph = capture(stream, *weight, *gradient);
          captured_weight = weight->data;
        }
        CHECK(weight->data == captured_weight);  // a known path has known addresses
        check_cuda(cudaGraphLaunch(graph, stream), "launching a graph");
      } else {
        zerospan_test::quarter(stream, weight->data, gradient->data, elements);
      }
      gradient.commit();
    }
    engine.step();
  }
  if (graph) check_cuda(cudaGraphExecDestroy(graph), "destroying a graph");
  return masters_of(engine);
}

TEST_CASE("what happens between leases can be captured in a graph, whose addresses stay right") {
  const std::vector<float> plain = train(false);
  CHECK(plain.size() == 600'002);
  CHECK(train(true) == plain);
}

}  // namespace
