/// @file
/// Ranks that are threads, and compute on GPUs: rank r on GPU r modulo their number.
#pragma once

#include <vector>

#include "../run.hpp"

namespace gpt {

/// Defined in run_on_cuda.cu; where CUDA was not found at build time, in without_cuda.cpp.
/// @return Of each rank.
/// @throws zerospan::ConfigurationError if the program was built without CUDA, or finds no GPU.
std::vector<Result> run_on_cuda(const Job& job);

/// The same, through NCCL. Defined in run_on_nccl.cu; where NCCL was not found at build time, in without_nccl.cpp.
/// @param gpus How many there are.
/// @throws zerospan::ConfigurationError if the program was built without NCCL, or there are more ranks than GPUs.
std::vector<Result> run_on_nccl(const Job& job, int gpus);

}  // namespace gpt
