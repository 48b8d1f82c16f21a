#include <doctest/doctest.h>

#include <cstddef>
#include <utility>
#include <vector>

#include <zerospan/cuda.hpp>

#include "support/collective_exercise.hpp"
#include "support/cuda_place.hpp"

namespace {

using namespace zerospan::literals;
using exercise::Outcome;
using zerospan::CudaThreadCommunicator;
using zerospan::ThreadCommunicator;
using zerospan_test::CudaPlace;

static_assert(zerospan::TrainingCommunicator<CudaThreadCommunicator>);

TEST_CASE("every collective among ranks on one GPU gives the bits of the same one on threads") {
  for (const int ranks : std::vector{1, 2, 3, 4}) {
    CAPTURE(ranks);
    const auto expected = zerospan::run_ranks(ranks, [](ThreadCommunicator communicator) {
      exercise::HostPlace place;
      return exercise::Exercise<ThreadCommunicator, exercise::HostPlace>{communicator, place}.run();
    });
    const auto outcomes = zerospan::run_ranks(ranks, [](ThreadCommunicator threads) {
      zerospan::CudaDevice device{zerospan::CudaRuntime{0}, {.device_budget = 1_MiB, .host_budget = 1_MiB}};
      CudaPlace place{0};
      CudaThreadCommunicator communicator{std::move(threads), device};
      return exercise::Exercise<CudaThreadCommunicator, CudaPlace>{communicator, place}.run();
    });
    for (std::size_t r = 0; r < expected.size(); ++r) {
      CHECK(outcomes[r].results == expected[r].results);
      CHECK(outcomes[r].integers == expected[r].integers);
    }
  }
}

}  // namespace
