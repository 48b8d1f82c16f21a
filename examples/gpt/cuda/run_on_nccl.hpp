/// @file
/// Ranks that are threads, each with a GPU of its own, connected by NCCL.
#pragma once

#include <vector>

#include "../job.hpp"
#include "../result.hpp"

namespace gpt {

/// Defined in run_on_nccl.cpp; where NCCL was not found at build time, in without_nccl.cpp.
/// @param gpus How many there are.
/// @return Of each rank.
/// @throws zerospan::ConfigurationError if the program was built without NCCL, or there are more ranks than GPUs.
std::vector<Result> run_on_nccl(const Job& job, int gpus);

}  // namespace gpt
