/// All headers, CUDA's too, link with the engine that was compiled of some of them.
#include <cuda_headers.hpp>

int main() {
  auto* const volatile make = &zerospan::detail::make_engine<zerospan::CudaDevice>;
  return make != nullptr ? 0 : 1;
}
