/// @file
/// FakeGpu: streams, events and device memory on the CPU, for all that is above a runtime of streams. Device memory has
/// addresses that no thread can touch, its bytes are elsewhere: whoever takes it for the host's ends the program.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/stream_device.hpp>
#include <zerospan/device/stream_runtime.hpp>

namespace zerospan_test {

struct FakeGpuError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What all of its streams share. Where its bytes are depends on nothing but the address.
class FakeGpu {
 public:
  /// Device memory: addresses that cannot be used, and bytes at a fixed distance from them.
  std::shared_ptr<std::byte> allocate(std::size_t bytes) {
    const std::size_t rounded = zerospan::round_up(bytes + 1, 4096);
    void* const both =
        ::mmap(nullptr, 2 * rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (both == MAP_FAILED) throw FakeGpuError{"no address space"};
    auto* const address = static_cast<std::byte*>(both);
    ::mprotect(both, rounded, PROT_NONE);
    const std::scoped_lock lock{mutex_};
    ranges_.push_back({address, rounded});
    return {address, [rounded](std::byte* begin) { ::munmap(begin, 2 * rounded); }};
  }

  /// Where the bytes of an address are; of the host's memory, there.
  template <class T>
  T* at(T* pointer) const {
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    const std::scoped_lock lock{mutex_};
    for (const Range& range : ranges_) {
      const auto begin = reinterpret_cast<std::uintptr_t>(range.begin);
      if (address >= begin && address < begin + range.bytes) return reinterpret_cast<T*>(address + range.bytes);
    }
    return pointer;
  }

  /// From the `nth` call of `count_call` on (counted from 1), calls fail; 0: none.
  void fail_from(std::uint64_t nth) {
    const std::scoped_lock lock{mutex_};
    fails_from_ = nth;
  }
  void count_call(const char* what) {
    const std::scoped_lock lock{mutex_};
    ++calls_;
    if (fails_from_ > 0 && calls_ >= fails_from_) throw FakeGpuError{std::string{"the fake GPU failed in "} + what};
  }
  /// From now on every event tells that the device has failed.
  void break_down() {
    const std::scoped_lock lock{mutex_};
    is_broken_ = true;
  }
  void check_sound() const {
    const std::scoped_lock lock{mutex_};
    if (is_broken_) throw FakeGpuError{"the fake GPU has broken down"};
  }

  std::uint64_t calls() const {
    const std::scoped_lock lock{mutex_};
    return calls_;
  }

 private:
  struct Range {
    std::byte* begin;
    std::size_t bytes;
  };

  mutable std::mutex mutex_;
  std::vector<Range> ranges_;
  std::uint64_t calls_ = 0;
  std::uint64_t fails_from_ = 0;
  bool is_broken_ = false;
};

/// Runs what is enqueued, in order, on a thread of its own.
class FakeQueue {
 public:
  explicit FakeQueue(std::shared_ptr<FakeGpu> gpu) : gpu_{std::move(gpu)}, thread_{[this] { run(); }} {}
  FakeQueue(const FakeQueue&) = delete;
  FakeQueue& operator=(const FakeQueue&) = delete;
  ~FakeQueue() {
    {
      const std::scoped_lock lock{mutex_};
      stopping_ = true;
    }
    changed_.notify_all();
  }

  FakeGpu& gpu() const { return *gpu_; }

  void enqueue(std::function<void()> operation) {
    {
      const std::scoped_lock lock{mutex_};
      operations_.push_back(std::move(operation));
    }
    changed_.notify_all();
  }

  void synchronize() {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return operations_.empty() && !running_; });
  }

 private:
  void run() {
    std::unique_lock lock{mutex_};
    while (true) {
      changed_.wait(lock, [&] { return stopping_ || !operations_.empty(); });
      if (operations_.empty()) return;
      const std::function<void()> operation = std::move(operations_.front());
      operations_.pop_front();
      running_ = true;
      lock.unlock();
      operation();
      lock.lock();
      running_ = false;
      changed_.notify_all();
    }
  }

  std::shared_ptr<FakeGpu> gpu_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> operations_;
  bool running_ = false;
  bool stopping_ = false;
  std::jthread thread_;
};

class FakeStream {
 public:
  explicit FakeStream(FakeQueue& queue) : queue_{&queue} {}
  explicit FakeStream(zerospan::StreamRef reference) : queue_{static_cast<FakeQueue*>(reference.native_handle())} {
    if (!queue_) throw FakeGpuError{"a fake stream is needed"};
  }
  explicit operator zerospan::StreamRef() const { return zerospan::StreamRef{static_cast<void*>(queue_)}; }

  FakeGpu& gpu() const { return queue_->gpu(); }
  void enqueue(std::function<void()> operation) const { queue_->enqueue(std::move(operation)); }
  void synchronize() const { queue_->synchronize(); }

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
  using Clock = std::chrono::steady_clock;

  /// One recording.
  class Mark {
   public:
    void pass() {
      {
        const std::scoped_lock lock{mutex_};
        time_ = Clock::now();
        passed_ = true;
      }
      changed_.notify_all();
    }
    void wait() {
      std::unique_lock lock{mutex_};
      changed_.wait(lock, [&] { return passed_; });
    }
    bool passed() {
      const std::scoped_lock lock{mutex_};
      return passed_;
    }
    Clock::time_point time() {
      const std::scoped_lock lock{mutex_};
      return time_;
    }

   private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool passed_ = false;
    Clock::time_point time_;
  };

  FakeEvent() : mutex_{std::make_unique<std::mutex>()} {}

  std::shared_ptr<Mark> renew() {
    const std::scoped_lock lock{*mutex_};
    return mark_ = std::make_shared<Mark>();
  }
  std::shared_ptr<Mark> mark() const {
    const std::scoped_lock lock{*mutex_};
    return mark_;
  }

 private:
  std::unique_ptr<std::mutex> mutex_;
  std::shared_ptr<Mark> mark_;
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
    FakeStream{stream}.enqueue([mark = event.renew()] { mark->pass(); });
  }
  void wait(zerospan::StreamRef stream, FakeEvent& event) {
    gpu_->count_call("wait");
    if (const auto mark = event.mark()) FakeStream{stream}.enqueue([mark] { mark->wait(); });
  }
  bool is_done(FakeEvent& event) {
    gpu_->check_sound();
    const auto mark = event.mark();
    return !mark || mark->passed();
  }
  double seconds(FakeEvent& begin, FakeEvent& end) {
    return std::chrono::duration<double>(end.mark()->time() - begin.mark()->time()).count();
  }
  void synchronize(zerospan::StreamRef stream) { FakeStream{stream}.synchronize(); }
  std::string range(const std::string& name) const { return name; }

 private:
  std::shared_ptr<FakeGpu> gpu_;
};

static_assert(zerospan::StreamRuntime<FakeRuntime>);

using FakeDevice = zerospan::StreamDevice<FakeRuntime>;

}  // namespace zerospan_test
