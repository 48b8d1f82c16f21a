/// Every kernel does what the CPU does, bit for bit, on device memory and on pinned memory.
#include <array>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <vector>

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <zerospan/core/units.hpp>
#include <zerospan/device/cuda_error.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/kernels/cuda_block_quantization.hpp>
#include <zerospan/kernels/cuda_convert.hpp>
#include <zerospan/kernels/cuda_gradient_operations.hpp>
#include <zerospan/kernels/cuda_rank_order_sum.hpp>
#include <zerospan/optimizer/cuda_adamw.hpp>
#include <zerospan/optimizer/cuda_lion.hpp>
#include <zerospan/optimizer/cuda_sgd.hpp>

#include "kernel_checks.hpp"
#include "quantization_checks.hpp"

namespace zerospan_test {

using zerospan::check_cuda;
using zerospan::CudaStream;

enum class Memory { on_device, pinned };

/// A stream of the GPU, and some memory. What it does is done when it is read.
class Gpu {
 public:
  explicit Gpu(Memory kind) : kind_{kind} {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
    void* memory = nullptr;
    check_cuda(kind == Memory::on_device ? cudaMalloc(&memory, capacity) : cudaMallocHost(&memory, capacity), "memory");
    memory_ = static_cast<std::byte*>(memory);
  }
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;
  ~Gpu() {
    static_cast<void>(kind_ == Memory::on_device ? cudaFree(memory_) : cudaFreeHost(memory_));
    static_cast<void>(cudaStreamDestroy(stream_));
  }

  CudaStream stream() const { return CudaStream{stream_}; }

  std::byte* allocate(std::size_t bytes) {
    std::byte* const result = memory_ + used_;
    used_ += zerospan::round_up(bytes, 256);
    if (used_ > capacity) throw std::runtime_error{"the test needs more memory"};
    return result;
  }
  void release() { used_ = 0; }

  void write(std::byte* to, const Bits& bits) {
    copy_bytes(stream(), to, bits.data(), bits.size());
    wait();
  }
  Bits read(const std::byte* from, std::size_t bytes) {
    Bits bits(bytes);
    copy_bytes(stream(), bits.data(), from, bytes);
    wait();
    return bits;
  }

  void widen(ElementType type, const std::byte* from, float* to, std::size_t n) {
    zerospan::widen(stream(), type, from, to, n);
  }
  void narrow(const float* from, ElementType type, std::byte* to, std::size_t n) {
    zerospan::narrow(stream(), from, type, to, n);
  }
  void rank_order_sum(std::span<const std::byte* const> inputs, ElementType input, std::byte* output,
                      ElementType output_type, std::size_t n) {
    zerospan::rank_order_sum(stream(), inputs, input, output, output_type, n);
  }
  void encode_blocks(ElementType element, const std::byte* from, QuantizedType type, std::byte* to, std::size_t n) {
    zerospan::encode_blocks(stream(), element, from, type, to, n);
  }
  void sum_blocks(std::span<const std::byte* const> inputs, QuantizedType type, ElementType element, std::byte* to,
                  std::size_t n) {
    zerospan::sum_blocks(stream(), inputs, type, element, to, n);
  }
  template <class O>
  void update(const O& optimizer, std::span<const ShardUpdate> shards) {
    zerospan::update(stream(), optimizer, shards);
  }
  void add_gradient(const GradientAddition& what) { zerospan::add_gradient(stream(), what); }

 private:
  static constexpr std::size_t capacity = std::size_t{256} << 20;

  void wait() { check_cuda(cudaStreamSynchronize(stream_), "the kernels"); }

  Memory kind_;
  cudaStream_t stream_ = nullptr;
  std::byte* memory_ = nullptr;
  std::size_t used_ = 0;
};

constexpr std::array memories{Memory::on_device, Memory::pinned};

TEST_CASE("copies and fills") {
  for (const Memory memory : memories) {
    Gpu gpu{memory};
    const Bits bits = elements(ElementType::float32, 1000, Values::any, 1);
    const Array<Gpu> source{gpu, ElementType::float32, bits, 0};
    const Array<Gpu> target{gpu, ElementType::float32, Bits(bits.size()), 1};
    copy_bytes(gpu.stream(), target.data(), source.data(), bits.size());
    CHECK(target.read() == bits);
    fill_zero(gpu.stream(), target.data(), bits.size());
    CHECK(target.read() == Bits(bits.size()));
    copy_bytes(gpu.stream(), nullptr, nullptr, 0);
    fill_zero(gpu.stream(), nullptr, 0);
  }
}

TEST_CASE("conversions") {
  for (const Memory memory : memories) {
    Gpu gpu{memory};
    check_conversions(gpu);
  }
}

TEST_CASE("sums in rank order") {
  for (const Memory memory : memories) {
    Gpu gpu{memory};
    check_sums(gpu);
  }
}

TEST_CASE("a sum of more ranks than a kernel can have is refused") {
  Gpu gpu{Memory::on_device};
  std::byte* const data = gpu.allocate(4);
  const std::vector<const std::byte*> inputs(257, data);
  CHECK_THROWS_AS(gpu.rank_order_sum(inputs, ElementType::float32, data, ElementType::float32, 1),
                  zerospan::ConfigurationError);
}

TEST_CASE("block quantization") {
  for (const Memory memory : memories) {
    Gpu gpu{memory};
    check_quantization(gpu);
  }
}

TEST_CASE("updates") {
  for (const Memory memory : memories) {
    Gpu gpu{memory};
    check_updates(gpu, zerospan::AdamW{.learning_rate = 0.01F});
    check_updates(gpu, zerospan::Lion{.weight_decay = 0.1F});
    check_updates(gpu, zerospan::Sgd{.weight_decay = 0.1F});
    check_updates(gpu, zerospan::Sgd{.momentum = 0.9F, .kind = zerospan::Momentum::nesterov});
  }
}

TEST_CASE("updates of many runs") {
  Gpu gpu{Memory::on_device};
  check_many_updates(gpu, zerospan::AdamW{});
  check_many_updates(gpu, zerospan::Sgd{});
}

TEST_CASE("an update before the first step is refused") {
  Gpu gpu{Memory::on_device};
  const ShardUpdate update{};
  CHECK_THROWS_AS(gpu.update(zerospan::AdamW{}, std::span{&update, 1}), zerospan::ConfigurationError);
}

TEST_CASE("additions of gradients, with the norm") {
  for (const Memory memory : memories) {
    Gpu gpu{memory};
    check_additions(gpu);
  }
}

/// More tiles than the GPU runs at once: each block of threads takes several.
TEST_CASE("long arrays") {
  Gpu gpu{Memory::on_device};
  constexpr std::size_t n = 9'000'001;
  constexpr std::pair<std::size_t, std::size_t> aligned{0, 0};
  check_addition(gpu,
                 {.type = ElementType::float32,
                  .target = nullptr,
                  .source_type = ElementType::bfloat16,
                  .source = nullptr,
                  .elements = n,
                  .addition = Addition::add,
                  .norm_begin = 0,
                  .norm_end = n,
                  .limbs = nullptr},
                 aligned, Values::moderate);
  check_sum(gpu, ElementType::bfloat16, ElementType::bfloat16, n, 2, aligned, Values::moderate);
  Shard<Gpu> shard{gpu, 2, ElementType::bfloat16, ElementType::bfloat16, n, aligned, Values::moderate, 1};
  gpu.update(zerospan::AdamW{}, std::span{&shard.update, 1});
  shard.check(zerospan::AdamW{});
}

}  // namespace zerospan_test
