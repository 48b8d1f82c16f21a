/// @file
/// Training runs of the toy model on a fake GPU.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

#include <zerospan/comm/stream_thread_communicator.hpp>
#include <zerospan/zerospan.hpp>

#include "fake_gpu.hpp"
#include "fake_gpu_operations.hpp"
#include "training_run.hpp"

namespace zerospan_test {

using FakeCommunicator = zerospan::StreamThreadCommunicator<FakeRuntime>;
static_assert(zerospan::TrainingCommunicator<FakeCommunicator>);

/// Computes on a stream of its own.
class FakeCompute {
 public:
  explicit FakeCompute(const std::shared_ptr<FakeGpu>& gpu) : owner_{std::make_shared<FakeStreamOwner>(gpu)} {}

  zerospan::StreamRef stream() const { return zerospan::StreamRef{owner_->ref()}; }

  template <class E>
  const E* read(const E* pointer, std::size_t) const {
    return owner_->ref().gpu().at(pointer);
  }
  template <class E>
  E* write(E* pointer, std::size_t) const {
    return owner_->ref().gpu().at(pointer);
  }
  void run(std::function<void()> f) const { owner_->ref().enqueue(std::move(f)); }
  void finish() const { owner_->ref().synchronize(); }

 private:
  std::shared_ptr<FakeStreamOwner> owner_;
};

/// Beside what the host needs: what work of the host on device memory passes through, and little things.
inline constexpr std::size_t staged_on_host = std::size_t{512} << 10;
inline constexpr std::size_t staged_on_device = std::size_t{32} << 10;

/// One rank of a training run, on a device of its own. @throws if a peak passes a budget.
inline TrainingResult train_on_fake_gpu(const std::shared_ptr<FakeGpu>& gpu, zerospan::ThreadCommunicator threads,
                                        const Configuration& c) {
  zerospan::ThreadedIoEngine io;
  const Needs needs{c, threads.rank()};
  const bool is_tight = c.budget == Budget::tight;
  const zerospan::Bytes roomy{std::size_t{64} << 20};
  Memory<zerospan::ThreadedIoEngine, FakeDevice> memory{
      io, [&] {
        return FakeDevice{FakeRuntime{gpu},
                          {.device_budget = is_tight ? needs.device() + zerospan::Bytes{staged_on_device} : roomy,
                           .host_budget = is_tight ? needs.host() + zerospan::Bytes{staged_on_host} : roomy}};
      }};
  FakeCommunicator communicator{std::move(threads), memory.device};
  return train_on(io, memory, communicator, c, FakeCompute{gpu});
}

/// A training run on threads, which share a GPU.
inline TrainingResult train_on_fake_gpu(const Configuration& c) {
  const auto gpu = std::make_shared<FakeGpu>();
  return join_results(zerospan::run_ranks(
      c.training.ranks,
      [&](zerospan::ThreadCommunicator threads) { return train_on_fake_gpu(gpu, std::move(threads), c); },
      {.timeout = std::chrono::seconds{30}}));
}

}  // namespace zerospan_test
