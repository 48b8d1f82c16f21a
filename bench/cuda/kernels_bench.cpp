/// Every kernel beside the runtime's own copy of as many bytes: its speed is a share of the memory's.
/// Bytes count once for each element read and once for each written. Medians; kernel and copy take turns.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <random>
#include <span>
#include <vector>

#include <cuda_runtime_api.h>

#include <zerospan/core/element.hpp>
#include <zerospan/device/cuda_error.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/cuda_convert.hpp>
#include <zerospan/kernels/cuda_gradient_operations.hpp>
#include <zerospan/kernels/cuda_rank_order_sum.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/optimizer/cuda_adamw.hpp>

namespace {

using zerospan::check_cuda;
using zerospan::CudaStream;
using zerospan::element_bytes;
using zerospan::ElementType;
using zerospan::ShardUpdate;

constexpr std::size_t elements = std::size_t{64} << 20;  // arrays of 128 MiB at least: beyond the second-level cache
constexpr int repetitions = 31;

/// Device memory full of positive numbers of moderate size.
class Array {
 public:
  Array(ElementType type, std::size_t n) {
    check_cuda(cudaMalloc(&memory_, n * element_bytes(type)), "device memory");
    constexpr std::size_t pattern = std::size_t{1} << 20;
    std::mt19937_64 random{1};
    std::uniform_real_distribution<float> uniform{0.5F, 1.5F};
    std::vector<float> values(pattern);
    for (float& value : values) value = uniform(random);
    std::vector<std::byte> bits(pattern * element_bytes(type));
    zerospan::from_float(values.data(), type, bits.data(), pattern);
    for (std::size_t first = 0; first < n; first += pattern) {
      const std::size_t bytes = std::min(pattern, n - first) * element_bytes(type);
      check_cuda(cudaMemcpy(data() + first * element_bytes(type), bits.data(), bytes, cudaMemcpyHostToDevice),
                 "a copy");
    }
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { static_cast<void>(cudaFree(memory_)); }

  std::byte* data() const { return static_cast<std::byte*>(memory_); }
  float* floats() const { return static_cast<float*>(memory_); }

 private:
  void* memory_ = nullptr;
};

class Clock {
 public:
  Clock() {
    check_cuda(cudaEventCreate(&begin_), "an event");
    check_cuda(cudaEventCreate(&end_), "an event");
  }
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;
  ~Clock() {
    static_cast<void>(cudaEventDestroy(begin_));
    static_cast<void>(cudaEventDestroy(end_));
  }

  /// Seconds that the work which `enqueue` enqueues takes on the device.
  template <class F>
  double seconds(const CudaStream& stream, F enqueue) {
    check_cuda(cudaEventRecord(begin_, stream.handle), "an event");
    enqueue();
    check_cuda(cudaEventRecord(end_, stream.handle), "an event");
    check_cuda(cudaEventSynchronize(end_), "the measured work");
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, begin_, end_), "the time");
    return 1e-3 * double{milliseconds};
  }

 private:
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

/// Measures kernels beside copies, a line each.
class Table {
 public:
  Table() : from_{ElementType::float32, most_copied / 4}, to_{ElementType::float32, most_copied / 4} {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
    std::puts("name | ours GB/s | raw GB/s | ratio");
  }
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;
  ~Table() { static_cast<void>(cudaStreamDestroy(stream_)); }

  CudaStream stream() const { return CudaStream{stream_}; }

  /// @param bytes Read and written. @param enqueue Enqueues the kernel on `stream()`.
  template <class F>
  void line(const char* name, std::size_t bytes, F enqueue) {
    const std::size_t copied = std::min(bytes / 2, most_copied);
    const auto copy = [&] { copy_bytes(stream(), to_.data(), from_.data(), copied); };
    std::vector<double> ours;
    std::vector<double> raw;
    for (int i = -3; i < repetitions; ++i) {
      const double kernel_seconds = clock_.seconds(stream(), enqueue);
      const double copy_seconds = clock_.seconds(stream(), copy);
      if (i < 0) continue;
      ours.push_back(1e-9 * static_cast<double>(bytes) / kernel_seconds);
      raw.push_back(1e-9 * static_cast<double>(2 * copied) / copy_seconds);
    }
    std::printf("%s | %.1f | %.1f | %.3f\n", name, median(ours), median(raw), median(ours) / median(raw));
    std::fflush(stdout);
  }

 private:
  static constexpr std::size_t most_copied = std::size_t{1} << 30;

  Array from_;
  Array to_;
  Clock clock_;
  cudaStream_t stream_ = nullptr;
};

/// @param runs Into how many runs of equal length the elements are cut.
void adamw(Table& table, const char* name, ElementType type, std::size_t runs) {
  const Array master{ElementType::float32, elements};
  const Array states{ElementType::float32, 2 * elements};
  const Array gradient{type, elements};
  const Array parameter{type, elements};
  std::vector<ShardUpdate> updates;
  for (std::size_t run = 0; run < runs; ++run) {
    const std::size_t first = run * (elements / runs);
    updates.push_back({.master = master.floats(),
                       .states = states.data(),
                       .capacity = elements,
                       .first = first,
                       .elements = elements / runs,
                       .gradient = gradient.data() + first * element_bytes(type),
                       .gradient_type = type,
                       .parameter = parameter.data() + first * element_bytes(type),
                       .parameter_type = type,
                       .gradient_scale = 0.5F,
                       .step = 10,
                       .group = {}});
  }
  const zerospan::AdamW optimizer{};
  table.line(name, elements * (24 + 2 * element_bytes(type)),
             [&] { update(table.stream(), optimizer, std::span<const ShardUpdate>{updates}); });
}

void addition(Table& table, const char* name, ElementType type, ElementType source_type, zerospan::Addition kind) {
  const Array target{type, elements};
  const Array source{source_type, elements};
  const Array limbs{ElementType::float32, 2 * zerospan::detail::ExactSum::limb_count};
  fill_zero(table.stream(), limbs.data(), zerospan::detail::ExactSum::limb_count * sizeof(std::int64_t));
  const std::size_t passes_of_target = kind == zerospan::Addition::add ? 2 : 1;
  const std::size_t bytes = elements * (passes_of_target * element_bytes(type) + element_bytes(source_type));
  table.line(name, bytes, [&] {
    add_gradient(table.stream(), {.type = type,
                                  .target = target.data(),
                                  .source_type = source_type,
                                  .source = source.data(),
                                  .elements = elements,
                                  .addition = kind,
                                  .norm_begin = 0,
                                  .norm_end = elements,
                                  .limbs = reinterpret_cast<std::int64_t*>(limbs.data())});
  });
}

void conversions(Table& table, const char* widening, const char* narrowing, ElementType type) {
  const Array narrow_array{type, elements};
  const Array wide{ElementType::float32, elements};
  const std::size_t bytes = elements * (element_bytes(type) + sizeof(float));
  table.line(widening, bytes, [&] { widen(table.stream(), type, narrow_array.data(), wide.floats(), elements); });
  table.line(narrowing, bytes, [&] { narrow(table.stream(), wide.floats(), type, narrow_array.data(), elements); });
}

template <std::size_t Ranks>
void sum(Table& table, const char* name, ElementType type) {
  const Array all{type, (Ranks + 1) * elements};
  std::array<const std::byte*, Ranks> inputs;
  for (std::size_t rank = 0; rank < Ranks; ++rank) {
    inputs[rank] = all.data() + (rank + 1) * elements * element_bytes(type);
  }
  table.line(name, (Ranks + 1) * elements * element_bytes(type),
             [&] { rank_order_sum(table.stream(), inputs, type, all.data(), type, elements); });
}

}  // namespace

int main() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::printf("skipped, for there is no GPU: %s\n", cudaGetErrorString(error));
    return 77;
  }
  using enum ElementType;
  using zerospan::Addition;
  Table table;
  adamw(table, "AdamW, bfloat16", bfloat16, 1);
  adamw(table, "AdamW, float16", float16, 1);
  adamw(table, "AdamW, float32", float32, 1);
  adamw(table, "AdamW, bfloat16, 1024 runs", bfloat16, 1024);
  addition(table, "replace with norm, bfloat16", bfloat16, bfloat16, Addition::replace);
  addition(table, "replace with norm, float32", float32, float32, Addition::replace);
  addition(table, "replace with norm, bfloat16 to float32", float32, bfloat16, Addition::replace);
  addition(table, "add with norm, bfloat16", bfloat16, bfloat16, Addition::add);
  addition(table, "add with norm, bfloat16 to float32", float32, bfloat16, Addition::add);
  conversions(table, "widen, bfloat16", "narrow, bfloat16", bfloat16);
  conversions(table, "widen, float16", "narrow, float16", float16);
  sum<2>(table, "rank-order sum of 2, bfloat16", bfloat16);
  sum<8>(table, "rank-order sum of 8, bfloat16", bfloat16);
  sum<2>(table, "rank-order sum of 2, float32", float32);
}
