/// All headers, by any compiler, link with what nvcc has compiled of some: it is one and the same.
#include <cuda_headers.hpp>

#include "link.hpp"

int main() {
  auto* const volatile make = &zerospan::detail::make_engine<zerospan::CudaDevice>;
  Conversion* const volatile convert = &zerospan::widen;
  return make != nullptr && convert == conversion_with_kernels() ? 0 : 1;
}
