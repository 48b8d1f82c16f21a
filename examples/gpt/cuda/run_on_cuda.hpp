/// @file
/// Ranks that are threads, and compute on GPUs: rank r on GPU r modulo their number.
#pragma once

#include <vector>

#include "../job.hpp"
#include "../result.hpp"

namespace gpt {

/// Defined in load_cuda.cpp; where CUDA was not found at build time, in without_cuda.cpp.
/// @return Of each rank.
/// @throws zerospan::ConfigurationError if the program was built without CUDA, or finds no GPU.
std::vector<Result> run_on_cuda(const Job& job);

}  // namespace gpt
