/// @file
/// Training runs of the toy model on a GPU, whose engine zerospan::compiled_cuda has.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

#include <zerospan/cuda.hpp>

#include "training_run.hpp"

namespace zerospan_test {

/// Computes on a stream of its own, by host functions on copies in pinned memory.
class CudaCompute : public Compute {
 public:
  CudaCompute() : state_{std::make_shared<State>()} {}

  zerospan::StreamRef stream() const override { return zerospan::StreamRef{state_->owner.ref()}; }

  void run(std::function<void()> f) const override {
    state_->functions.push_back(std::move(f));
    const auto call = [](void* function) { (*static_cast<std::function<void()>*>(function))(); };
    zerospan::check_cuda(cudaLaunchHostFunc(native(), call, &state_->functions.back()), "launching a host function");
    for (const Written& written : std::exchange(state_->written, {})) move(written.target, written.copy, written.bytes);
  }

  void finish() const override {
    zerospan::check_cuda(cudaStreamSynchronize(native()), "waiting for the model");
    state_->functions.clear();
    state_->copies.clear();
  }

 private:
  struct Written {
    void* target;
    const void* copy;
    std::size_t bytes;
  };

  struct State {
    zerospan::CudaStreamOwner owner = zerospan::CudaStreamOwner::make(0);
    std::deque<std::function<void()>> functions;
    std::vector<std::shared_ptr<void>> copies;
    std::vector<Written> written;
  };

  cudaStream_t native() const { return state_->owner.ref().handle; }

  void move(void* to, const void* from, std::size_t bytes) const {
    zerospan::check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, native()), "copying for the model");
  }

  const std::byte* readable(const std::byte* data, std::size_t bytes) const override {
    std::byte* const copy = take(bytes);
    move(copy, data, bytes);
    return copy;
  }

  std::byte* writable(std::byte* data, std::size_t bytes) const override {
    std::byte* const copy = take(bytes);
    state_->written.push_back({data, copy, bytes});
    return copy;
  }

  std::byte* take(std::size_t bytes) const {
    void* memory = nullptr;
    zerospan::check_cuda(cudaMallocHost(&memory, bytes), "allocating for the model");
    state_->copies.emplace_back(memory, [](void* pinned) { static_cast<void>(cudaFreeHost(pinned)); });
    return static_cast<std::byte*>(memory);
  }

  std::shared_ptr<State> state_;
};

/// One rank of a training run, on the memory of device 0. @throws if a peak passes a budget.
/// @param make_communicator Called as `make_communicator(threads, device)`.
template <class MakeCommunicator>
TrainingResult train_on_cuda(zerospan::ThreadCommunicator threads, const Configuration& c,
                             MakeCommunicator make_communicator) {
  zerospan::ThreadedIoEngine io;
  const zerospan::Bytes roomy{std::size_t{64} << 20};
  Memory<zerospan::ThreadedIoEngine, zerospan::CudaDevice> memory{
      io, [&] {
        return zerospan::CudaDevice{zerospan::CudaRuntime{0}, {.device_budget = roomy, .host_budget = roomy}};
      }};
  auto communicator = make_communicator(std::move(threads), memory.device);
  return train_on(io, memory, communicator, c, CudaCompute{});
}

/// A training run on threads, which share a GPU.
inline TrainingResult train_on_cuda(const Configuration& c) {
  return join_results(zerospan::run_ranks(c.training.ranks,
                                          [&](zerospan::ThreadCommunicator threads) {
                                            return train_on_cuda(
                                                std::move(threads), c,
                                                [](zerospan::ThreadCommunicator host, zerospan::CudaDevice& device) {
                                                  return zerospan::CudaThreadCommunicator{std::move(host), device};
                                                });
                                          },
                                          {.timeout = std::chrono::seconds{60}}));
}

}  // namespace zerospan_test
