/// @file
/// What a train_gpt without NCCL says to --comm nccl.
#include <vector>

#include <zerospan/core/error.hpp>

#include "run_on_cuda.hpp"

std::vector<gpt::Result> gpt::run_on_nccl(const Job&, int) {
  zerospan::throw_configuration_error(
      "this train_gpt was built without NCCL: --comm thread is what it has; configure with -DZEROSPAN_WITH_NCCL=ON for "
      "--comm nccl");
}
