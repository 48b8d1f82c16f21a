/// @file
/// What a train_gpt without CUDA says to --device cuda.
#include <vector>

#include <zerospan/core/error.hpp>

#include "run_on_cuda.hpp"

std::vector<gpt::Result> gpt::run_on_cuda(const Job&) {
  zerospan::throw_configuration_error(
      "this train_gpt was built without CUDA: --device cpu is what it has; configure with -DZEROSPAN_WITH_CUDA=ON for "
      "--device cuda");
}
