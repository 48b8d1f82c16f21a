#include <cstdio>

#include <cuda_runtime_api.h>

#include <zerospan/device/cuda_runtime.hpp>
#include <zerospan/kernels/cuda_convert.hpp>

/// Somebody else's CUDA program: one kernel of zerospan's, where there is a GPU.
int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("there is no GPU: linked, and not run");
    return 0;
  }
  const zerospan::CudaRuntime runtime{0};
  const auto memory = runtime.allocate_device(zerospan::Bytes{8192});
  const auto owner = runtime.make_stream(zerospan::StreamPriority::normal);
  const zerospan::CudaStream stream = owner.ref();
  zerospan::fill_zero(stream, memory.get(), 4096);
  zerospan::widen(stream, zerospan::ElementType::bfloat16, memory.get(), reinterpret_cast<float*>(memory.get() + 4096),
                  1024);
  runtime.synchronize(zerospan::StreamRef{stream});
  return 0;
}
