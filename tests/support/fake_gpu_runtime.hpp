/// @file
/// FakeRuntime: a StreamRuntime of FakeGpu's streams, events and memory.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/stream_device.hpp>
#include <zerospan/device/stream_runtime.hpp>

#include "fake_gpu.hpp"

namespace zerospan_test {

/// What a handle of a stream points to.
class FakeQueue {
 public:
  explicit FakeQueue(std::shared_ptr<FakeGpu> gpu) : gpu_{std::move(gpu)} { gpu_->add(worker_); }
  FakeQueue(const FakeQueue&) = delete;
  FakeQueue& operator=(const FakeQueue&) = delete;
  ~FakeQueue() { gpu_->remove(worker_); }

  FakeGpu& gpu() const { return *gpu_; }
  FakeWorker& worker() { return worker_; }

 private:
  std::shared_ptr<FakeGpu> gpu_;
  FakeWorker worker_;
};

class FakeStream {
 public:
  explicit FakeStream(FakeQueue& queue) : queue_{&queue} {}
  explicit FakeStream(zerospan::StreamRef reference) : queue_{static_cast<FakeQueue*>(reference.native_handle())} {
    if (!queue_) throw FakeGpuError{"a fake stream is needed"};
  }
  explicit operator zerospan::StreamRef() const { return zerospan::StreamRef{static_cast<void*>(queue_)}; }

  FakeGpu& gpu() const { return queue_->gpu(); }
  void enqueue(std::function<void()> operation) const { queue_->worker().enqueue(std::move(operation)); }
  void synchronize() const { queue_->worker().synchronize(); }

 private:
  FakeQueue* queue_;
};

/// A stream of its own, to which others refer.
class FakeStreamOwner {
 public:
  explicit FakeStreamOwner(std::shared_ptr<FakeGpu> gpu) : queue_{std::make_unique<FakeQueue>(std::move(gpu))} {}
  FakeStream ref() const { return FakeStream{*queue_}; }

 private:
  std::unique_ptr<FakeQueue> queue_;
};

/// Holds what was recorded last, as events of GPUs do.
class FakeEvent {
 public:
  FakeEvent() : mutex_{std::make_unique<std::mutex>()} {}

  void record(FakeStream stream) {
    const auto mark = std::make_shared<FakeMark>();
    {
      const std::scoped_lock lock{*mutex_};
      mark_ = mark;
    }
    stream.enqueue([mark] { mark->pass(); });
  }

  /// Makes the stream wait; not at all for an event that was never recorded.
  void hold(FakeStream stream) const {
    if (const auto last = mark()) stream.enqueue([last] { last->wait(); });
  }

  bool is_done() const {
    const auto last = mark();
    return !last || last->passed();
  }

  FakeMark::Clock::time_point time() const { return mark()->time(); }

 private:
  std::shared_ptr<FakeMark> mark() const {
    const std::scoped_lock lock{*mutex_};
    return mark_;
  }

  std::unique_ptr<std::mutex> mutex_;
  std::shared_ptr<FakeMark> mark_;
};

class FakeRuntime {
 public:
  using stream_type = FakeStream;
  using stream_owner = FakeStreamOwner;
  using event_type = FakeEvent;

  explicit FakeRuntime(std::shared_ptr<FakeGpu> gpu = std::make_shared<FakeGpu>()) : gpu_{std::move(gpu)} {}

  FakeGpu& gpu() const { return *gpu_; }

  void attach() const { gpu_->count_call("attach"); }
  std::shared_ptr<std::byte> allocate_device(zerospan::Bytes bytes) { return gpu_->allocate(bytes.count); }
  std::shared_ptr<std::byte> allocate_host(zerospan::Bytes bytes) {
    const std::size_t rounded = zerospan::round_up(bytes.count + 1, 4096);
    auto* const memory = static_cast<std::byte*>(std::aligned_alloc(4096, rounded));
    return {memory, [](std::byte* begin) { std::free(begin); }};
  }
  FakeStreamOwner make_stream(zerospan::StreamPriority) { return FakeStreamOwner{gpu_}; }
  FakeEvent make_event() {
    gpu_->count_call("make_event");
    return {};
  }
  void record(FakeEvent& event, zerospan::StreamRef stream) {
    gpu_->count_call("record");
    event.record(FakeStream{stream});
  }
  void wait(zerospan::StreamRef stream, FakeEvent& event) {
    gpu_->count_call("wait");
    event.hold(FakeStream{stream});
  }
  bool is_done(FakeEvent& event) {
    gpu_->check_sound();
    return event.is_done();
  }
  double seconds(FakeEvent& begin, FakeEvent& end) {
    return std::chrono::duration<double>(end.time() - begin.time()).count();
  }
  void synchronize(zerospan::StreamRef stream) { FakeStream{stream}.synchronize(); }
  std::string range(const std::string& name) const { return name; }

 private:
  std::shared_ptr<FakeGpu> gpu_;
};

static_assert(zerospan::StreamRuntime<FakeRuntime>);

using FakeDevice = zerospan::StreamDevice<FakeRuntime>;

}  // namespace zerospan_test
