/// The main program of the tests that need a GPU. Without one they are skipped, which ctest is told by exit code 77.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <cstdio>

int main(int argc, char** argv) {
  constexpr int skipped = 77;
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::printf("skipped, for there is no GPU: %s\n", cudaGetErrorString(error));
    return skipped;
  }
  return doctest::Context{argc, argv}.run();
}
