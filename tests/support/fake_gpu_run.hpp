/// @file
/// Training runs of the toy model on a fake GPU, whose engine is compiled once, in fake_gpu_run.cpp.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

#include <zerospan/comm/stream_thread_communicator.hpp>
#include <zerospan/zerospan.hpp>

#include "fake_gpu.hpp"
#include "fake_gpu_operations.hpp"
#include "fake_gpu_runtime.hpp"
#include "training_run.hpp"

namespace zerospan_test {

using FakeCommunicator = zerospan::StreamThreadCommunicator<FakeRuntime>;
static_assert(zerospan::TrainingCommunicator<FakeCommunicator>);

/// Computes on a stream of its own.
class FakeCompute : public Compute {
 public:
  explicit FakeCompute(const std::shared_ptr<FakeGpu>& gpu) : owner_{std::make_shared<FakeStreamOwner>(gpu)} {}

  zerospan::StreamRef stream() const override { return zerospan::StreamRef{owner_->ref()}; }
  void run(std::function<void()> f) const override { owner_->ref().enqueue(std::move(f)); }
  void finish() const override { owner_->ref().synchronize(); }

 private:
  const std::byte* readable(const std::byte* data, std::size_t) const override { return owner_->ref().gpu().at(data); }
  std::byte* writable(std::byte* data, std::size_t) const override { return owner_->ref().gpu().at(data); }

  std::shared_ptr<FakeStreamOwner> owner_;
};

/// Beside what the host needs: what work of the host on device memory passes through, and little things.
inline constexpr std::size_t staged_on_host = std::size_t{512} << 10;
inline constexpr std::size_t staged_on_device = std::size_t{32} << 10;

zerospan::StreamDeviceOptions tight_budgets(const Needs& needs);

/// One rank of a training run, on a device of its own. @throws if a peak passes a budget.
TrainingResult train_on_fake_gpu(const std::shared_ptr<FakeGpu>& gpu, zerospan::ThreadCommunicator threads,
                                 const Configuration& c);

/// A training run on threads, which share a GPU.
TrainingResult train_on_fake_gpu(const Configuration& c);

}  // namespace zerospan_test
