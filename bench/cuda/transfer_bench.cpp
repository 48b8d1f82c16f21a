/// Copies through the lanes of a CudaDevice beside a plain loop of cudaMemcpyAsync, and what a gather of a prefetched
/// parameter costs the host. Each line: name | ours | raw | ratio | wanted.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>

#include <zerospan/cuda.hpp>
#include <zerospan/zerospan.hpp>

namespace {

using namespace zerospan::literals;
using zerospan::Bytes;
using zerospan::Completion;
using zerospan::CudaDevice;
using zerospan::CudaRuntime;
using zerospan::CudaStream;
using zerospan::Lane;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

double median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
  return values[values.size() / 2];
}

/// Which ways bytes go.
struct Ways {
  const char* name;
  bool to_device;
  bool to_host;
};

/// Memory for one transfer under way each way; it is copied over and over.
class Copies {
 public:
  static constexpr std::size_t total = std::size_t{1} << 30;  // each way
  static constexpr std::size_t largest = std::size_t{64} << 20;

  double through_lanes(const Ways& ways, std::size_t chunk) {
    const auto begin = Clock::now();
    std::vector<Completion> last(2);
    for (std::size_t done = 0; done < total; done += chunk) {
      if (ways.to_device) last[0] = post(Lane::copy, on_device_.data(), on_host_.data(), chunk);
      if (ways.to_host) last[1] = post(Lane::write, on_host_.data() + largest, on_device_.data() + largest, chunk);
    }
    for (const Completion& completion : last) completion.wait();
    return seconds_since(begin);
  }

  double through_streams(const Ways& ways, std::size_t chunk) {
    const auto begin = Clock::now();
    for (std::size_t done = 0; done < total; done += chunk) {
      if (ways.to_device) copy(streams_[0], on_device_.data(), on_host_.data(), chunk);
      if (ways.to_host) copy(streams_[1], on_host_.data() + largest, on_device_.data() + largest, chunk);
    }
    for (const auto& stream : streams_) zerospan::check_cuda(cudaStreamSynchronize(stream.ref().handle), "waiting");
    return seconds_since(begin);
  }

 private:
  Completion post(Lane lane, std::byte* target, const std::byte* source, std::size_t bytes) {
    return lanes_.post(lane, {}, {zerospan::OperationKind::copy, "copy", bytes}, [=](CudaStream& stream) {
      zerospan::copy_bytes(stream, target, source, bytes);
      return Completion{};
    });
  }

  static void copy(const zerospan::CudaStreamOwner& stream, std::byte* target, const std::byte* source,
                   std::size_t bytes) {
    zerospan::check_cuda(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream.ref().handle), "a copy");
  }

  CudaDevice device_{CudaRuntime{0}, {.device_budget = Bytes{2 * largest}, .host_budget = Bytes{2 * largest}}};
  zerospan::Allocation on_device_ = device_.memory().allocate(Bytes{2 * largest}, "copies");
  zerospan::Allocation on_host_ = device_.host_memory().allocate(Bytes{2 * largest}, "copies");
  CudaDevice::lanes_type lanes_{device_, {}};
  std::array<zerospan::CudaStreamOwner, 2> streams_{device_.runtime().make_stream(zerospan::StreamPriority::normal),
                                                    device_.runtime().make_stream(zerospan::StreamPriority::normal)};
};

void compare_copies() {
  constexpr std::size_t rounds = 9;
  Copies copies;
  const Ways all_ways[]{
      {"to the device", true, false}, {"to the host", false, true}, {"both ways at once", true, true}};
  const std::size_t chunks[]{std::size_t{1} << 20, std::size_t{16} << 20, Copies::largest};
  for (const Ways& ways : all_ways) {
    for (const std::size_t chunk : chunks) {
      std::vector<double> ours;
      std::vector<double> raw;
      for (std::size_t round = 0; round <= rounds; ++round) {
        const double through_lanes = copies.through_lanes(ways, chunk);
        const double through_streams = copies.through_streams(ways, chunk);
        if (round == 0) continue;  // warms up
        ours.push_back(through_lanes);
        raw.push_back(through_streams);
      }
      const double gigabytes = static_cast<double>(Copies::total) * (ways.to_device && ways.to_host ? 2e-9 : 1e-9);
      const bool is_large = chunk >= std::size_t{16} << 20;
      std::printf("pinned copies of %zu MiB %s, GB/s | %.2f | %.2f | %.3f | %s\n", chunk >> 20, ways.name,
                  gigabytes / median(ours), gigabytes / median(raw), median(raw) / median(ours),
                  is_large ? ">= 0.95" : "");
    }
  }
}

struct Tensor {
  std::size_t elements;
  float* data;
};

}  // namespace

template <>
struct zerospan::TensorTraits<Tensor> {
  using element_type = float;
  static Tensor unbound(const Shape& shape) { return {shape.elements(), nullptr}; }
  static void bind(Tensor& tensor, float* data) { tensor.data = data; }
  static float* data(const Tensor& tensor) { return tensor.data; }
};

namespace {

/// The host's time in gathers of parameters that rest in host memory and have been prefetched by then.
std::vector<double> time_gathers() {
  constexpr std::size_t layers = 16;
  constexpr std::size_t elements = std::size_t{1} << 20;
  constexpr std::size_t passes = 24;
  CudaDevice device{CudaRuntime{0}, {.device_budget = 256_MiB, .host_budget = 2_GiB}};
  zerospan::HostTier host{device};
  zerospan::SelfCommunicator communicator;
  zerospan::ZeroEngine engine{zerospan::Stage3{},
                              communicator,
                              device,
                              zerospan::Placement{host, host, host},
                              zerospan::Sgd{},
                              zerospan::EngineOptions{.prefetch = 64_MiB}};
  std::vector<zerospan::PartitionedParameter<Tensor>> weights;
  weights.reserve(layers);
  for (std::size_t i = 0; i < layers; ++i) {
    weights.emplace_back(engine, "weight " + std::to_string(i), zerospan::Shape{elements},
                         zerospan::init::normal(1.0F));
  }
  const auto owner = device.runtime().make_stream(zerospan::StreamPriority::normal);
  const zerospan::StreamRef stream{owner.ref()};
  std::vector<double> times;
  for (std::size_t pass = 0; pass < passes; ++pass) {
    engine.begin(zerospan::Pass::evaluation);
    for (const auto& weight : weights) {
      const auto begin_of_compute = Clock::now();
      while (seconds_since(begin_of_compute) < 1e-3) {  // the host's compute, in which the next is fetched
      }
      const auto begin = Clock::now();
      const auto full = weight.gather(stream);
      if (pass >= 4) times.push_back(seconds_since(begin));
    }
  }
  return times;
}

void report_gathers() {
  std::vector<double> times = time_gathers();
  std::ranges::sort(times);
  const double half = times[times.size() / 2] * 1e6;
  const double most = times[times.size() * 99 / 100] * 1e6;
  std::printf("gather of a prefetched parameter, median, us | %.2f | - | - | <= 10\n", half);
  std::printf("gather of a prefetched parameter, 99 in 100, us | %.2f | - | - |\n", most);
}

}  // namespace

int main() {
  try {
    compare_copies();
    report_gathers();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "transfer_bench: %s\n", error.what());
    return 1;
  }
}
