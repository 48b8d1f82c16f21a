/// @file
/// A rank of the toy model on a fake GPU, alone.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include <zerospan/zerospan.hpp>

#include "fake_gpu_run.hpp"
#include "toy_rank.hpp"
#include "training_run.hpp"

namespace zerospan_test {

/// Calls `f(rank)` with a ToyRank on a device that has memory and streams of its own.
template <class F, zerospan::Optimizer O = zerospan::AdamW>
void on_fake_toy_rank(const Configuration& c, F f, const O& optimizer) {
  const auto gpu = std::make_shared<FakeGpu>();
  zerospan::run_ranks(1, [&](zerospan::ThreadCommunicator threads) {
    zerospan::ThreadedIoEngine io;
    Memory<zerospan::ThreadedIoEngine, FakeDevice> rig{io, [&] {
      const zerospan::Bytes budget{std::size_t{16} << 20};
      return FakeDevice{FakeRuntime{gpu}, zerospan::StreamDeviceOptions{budget, budget}};
    }};
    FakeCommunicator communicator{std::move(threads), rig.device};
    const FakeCompute compute{gpu};
    ToyRank<FakeDevice, FakeCommunicator> rank{io, rig, communicator, c, compute, optimizer};
    f(rank);
    return 0;
  });
}

}  // namespace zerospan_test
