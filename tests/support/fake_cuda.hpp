/// @file
/// fake::Runtime: a FakeRuntime that counts, for a whole world of ranks, what it has given and not got back.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <utility>

#include "support/fake_gpu.hpp"
#include "support/fake_gpu_operations.hpp"
#include "support/fake_gpu_runtime.hpp"
#include "support/fake_nccl_clique.hpp"

#include <zerospan/core/units.hpp>
#include <zerospan/device/stream_runtime.hpp>

namespace fake {

using zerospan_test::FakeEvent;
using zerospan_test::FakeGpu;
using zerospan_test::FakeRuntime;

/// Of one rank's FakeGpu. Memory is freed, as CUDA does it, when nothing on the device uses it any more.
class Runtime : public FakeRuntime {
 public:
  /// Counted while it lives.
  class event_type : public FakeEvent {
   public:
    explicit event_type(std::shared_ptr<World> world) : world_{std::move(world)} { ++world_->events; }
    event_type(event_type&&) noexcept = default;
    event_type& operator=(event_type&& other) noexcept {
      std::swap(static_cast<FakeEvent&>(*this), static_cast<FakeEvent&>(other));
      std::swap(world_, other.world_);
      return *this;
    }
    ~event_type() {
      if (world_) --world_->events;
    }

   private:
    std::shared_ptr<World> world_;
  };

  Runtime(std::shared_ptr<World> world, std::shared_ptr<FakeGpu> gpu)
      : FakeRuntime{std::move(gpu)}, world_{std::move(world)} {}

  World& world() const { return *world_; }

  event_type make_event() {
    gpu().count_call("make_event");
    return event_type{world_};
  }
  std::shared_ptr<std::byte> allocate_device(zerospan::Bytes bytes) {
    gpu().count_call("allocate_device");
    return counted(FakeRuntime::allocate_device(bytes), world_->device_allocations);
  }
  std::shared_ptr<std::byte> allocate_host(zerospan::Bytes bytes) {
    gpu().count_call("allocate_host");
    return counted(FakeRuntime::allocate_host(bytes), world_->pinned_allocations);
  }

 private:
  std::shared_ptr<std::byte> counted(std::shared_ptr<std::byte> memory, std::atomic<int>& count) {
    ++count;
    std::byte* const data = memory.get();
    return {data,
            [memory = std::move(memory), &count, world = world_, runtime = FakeRuntime{*this}](std::byte*) mutable {
              runtime.gpu().synchronize();
              memory.reset();
              --count;
            }};
  }

  std::shared_ptr<World> world_;
};

static_assert(zerospan::StreamRuntime<Runtime>);

}  // namespace fake
