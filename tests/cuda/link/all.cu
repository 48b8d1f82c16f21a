/// All headers, of which nvcc compiles the kernels too.
#include <cuda_headers.hpp>

#include "link.hpp"

Conversion* conversion_with_kernels() { return &zerospan::widen; }
