/// @file
/// --device cuda: loads what only GPUs need, which is large, when it is asked for. GPT_CUDA_MODULE is its path.
#include <string>
#include <vector>

#include <dlfcn.h>

#include <zerospan/core/error.hpp>

#include "cuda_module.hpp"
#include "run_on_cuda.hpp"

std::vector<gpt::Result> gpt::run_on_cuda(const Job& job) {
  void* const module = ::dlopen(GPT_CUDA_MODULE, RTLD_NOW | RTLD_LOCAL);
  void* const entry = module ? ::dlsym(module, cuda_module_entry) : nullptr;
  if (!entry) zerospan::throw_configuration_error(std::string{"--device cuda cannot be loaded: "} + ::dlerror());
  std::vector<Result> results;
  reinterpret_cast<CudaModuleEntry*>(entry)(job, results);
  return results;
}
