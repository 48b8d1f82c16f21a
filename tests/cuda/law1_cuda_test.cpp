#include <doctest/doctest.h>

#include <zerospan/cuda.hpp>

#include "support/cuda_run.hpp"
#include "support/training_matrix.hpp"
#include "support/training_run.hpp"

namespace {

using zerospan_test::Configuration;
using zerospan_test::Place;
using zerospan_test::TrainingResult;

TEST_CASE("on a GPU, every pair of choices trains to the bits of the CPU's oracle") {
  zerospan_test::compare_all(zerospan_test::pairwise_matrix(20250311),
                             [](const Configuration& c) { return zerospan_test::train_on_cuda(c); });
}

TEST_CASE("repetitions on a GPU give the same bits") {
  Configuration c;
  c.parameters = c.gradients = Place::host;
  c.optimizer = Place::device;
  c.type = zerospan::ElementType::bfloat16;
  c.training.ranks = 2;
  const TrainingResult first = zerospan_test::train_on_cuda(c);
  for (int i = 0; i < 5; ++i) CHECK(zerospan_test::train_on_cuda(c) == first);
}

TEST_CASE("budgets beyond the device's memory, and devices that are not there, are refused by name") {
  CHECK_THROWS_AS(zerospan::CudaRuntime{1 << 20}, zerospan::ConfigurationError);
  CHECK_THROWS_AS(zerospan::CudaRuntime{-1}, zerospan::ConfigurationError);
  const zerospan::Bytes terabytes{std::size_t{4} << 40};
  CHECK_THROWS_AS((zerospan::CudaDevice{zerospan::CudaRuntime{0}, {.device_budget = terabytes}}),
                  zerospan::BudgetError);
}

}  // namespace
