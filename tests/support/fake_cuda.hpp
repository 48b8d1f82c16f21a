/// @file
/// CudaCalls: what an NcclLayer needs of CUDA, on one rank's FakeGpu.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "support/fake_gpu.hpp"
#include "support/fake_gpu_operations.hpp"
#include "support/fake_gpu_runtime.hpp"
#include "support/fake_nccl_clique.hpp"

#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>

namespace fake {

using zerospan::StreamRef;
using zerospan_test::FakeEvent;
using zerospan_test::FakeGpu;
using zerospan_test::FakeStream;

/// Copies are alike.
class CudaCalls {
 public:
  using Event = FakeEvent*;

  CudaCalls(std::shared_ptr<World> world, std::shared_ptr<FakeGpu> gpu)
      : world_{std::move(world)}, gpu_{std::move(gpu)} {}

  int device() { return current_device(); }
  void use_device(int ordinal) {
    gpu_->count_call("use_device");
    current_device() = ordinal;
  }

  Event make_event() {
    gpu_->count_call("make_event");
    ++world_->events;
    return new FakeEvent;
  }
  void destroy_event(Event event) noexcept {
    --world_->events;
    delete event;
  }
  void record(Event event, StreamRef stream) {
    gpu_->count_call("record");
    event->record(FakeStream{stream});
  }
  bool is_done(Event event) {
    gpu_->check_sound();
    return event->is_done();
  }
  void wait(StreamRef stream, Event event) {
    gpu_->count_call("wait");
    event->hold(FakeStream{stream});
  }

  std::byte* allocate_device(std::size_t bytes) {
    gpu_->count_call("allocate_device");
    auto memory = gpu_->allocate(bytes);
    std::byte* const data = memory.get();
    const std::scoped_lock lock{allocations_->mutex};
    allocations_->of_device.emplace(data, std::move(memory));
    ++world_->device_allocations;
    return data;
  }
  void free_device(std::byte* data) noexcept {
    gpu_->synchronize();
    --world_->device_allocations;
    const std::scoped_lock lock{allocations_->mutex};
    allocations_->of_device.erase(data);
  }
  std::byte* allocate_pinned(std::size_t bytes) {
    gpu_->count_call("allocate_pinned");
    ++world_->pinned_allocations;
    return static_cast<std::byte*>(std::malloc(bytes));
  }
  void free_pinned(std::byte* data) noexcept {
    gpu_->synchronize();
    --world_->pinned_allocations;
    std::free(data);
  }

  void copy(StreamRef stream, std::byte* target, const std::byte* source, std::size_t bytes) {
    FakeStream on{stream};
    copy_bytes(on, target, source, bytes);
  }
  void sum_in_rank_order(StreamRef stream, std::span<const std::byte* const> inputs, zerospan::ElementType input_type,
                         std::byte* output, zerospan::ElementType output_type, std::size_t elements) {
    FakeStream on{stream};
    rank_order_sum(on, inputs, input_type, output, output_type, elements);
  }

 protected:
  World& world() const { return *world_; }

 private:
  struct Allocations {
    std::mutex mutex;
    std::map<std::byte*, std::shared_ptr<std::byte>> of_device;
  };

  static int& current_device() {
    thread_local int ordinal = 0;
    return ordinal;
  }

  std::shared_ptr<World> world_;
  std::shared_ptr<FakeGpu> gpu_;
  std::shared_ptr<Allocations> allocations_ = std::make_shared<Allocations>();
};

}  // namespace fake
