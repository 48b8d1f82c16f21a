/// @file
/// Ranks that are threads, and compute on the CPU.
#pragma once

#include <vector>

#include "job.hpp"
#include "result.hpp"

namespace gpt {

/// @return Of each rank.
std::vector<Result> run_on_cpu(const Job& job);

}  // namespace gpt
