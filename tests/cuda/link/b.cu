/// Two translation units that include the whole library, its CUDA headers too, link, and share its one inline entity.
#include <cuda_headers.hpp>

const void* address_in_a();

int main() { return address_in_a() == &zerospan::block_elements ? 0 : 1; }
