#include <cuda_headers.hpp>

const void* address_in_a() { return &zerospan::block_elements; }
