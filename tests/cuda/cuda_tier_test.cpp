#include <doctest/doctest.h>

#include <zerospan/cuda.hpp>

#include "support/tier_conformance.hpp"

namespace zerospan_test {

/// The pinned memory beside a GPU.
struct PinnedRig {
  static constexpr Transfers transfers = Transfers::not_counted;
  zerospan::CudaDevice device{zerospan::CudaRuntime{0}, {.device_budget = capacity, .host_budget = capacity}};
  HostTier tier{device};
};

}  // namespace zerospan_test

ZEROSPAN_TEST_TIERS(zerospan_test::PinnedRig);
