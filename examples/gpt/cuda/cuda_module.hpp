/// @file
/// What train_gpt calls in the module that it loads for GPUs.
#pragma once

#include <vector>

#include "../job.hpp"
#include "../result.hpp"

namespace gpt {

/// @param results Of each rank. @throws zerospan::ConfigurationError if there is no GPU.
using CudaModuleEntry = void(const Job& job, std::vector<Result>& results);

inline constexpr const char* cuda_module_entry = "train_gpt_on_cuda";

}  // namespace gpt

extern "C" gpt::CudaModuleEntry train_gpt_on_cuda;
