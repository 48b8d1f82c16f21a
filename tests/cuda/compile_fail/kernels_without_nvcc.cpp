// Expected: zerospan's kernels take nvcc, .*; or link zerospan::compiled_cuda
#if defined(FIXED)
#define ZEROSPAN_COMPILED_CUDA  // as the target zerospan::compiled_cuda does
#endif
#include <zerospan/kernels/cuda_convert.hpp>

void widen(const zerospan::CudaStream& stream, const std::byte* from, float* to, std::size_t elements) {
  zerospan::widen(stream, zerospan::ElementType::bfloat16, from, to, elements);
}
