#include <zerospan/zerospan.hpp>

const void* address_in_a() { return &zerospan::block_elements; }
