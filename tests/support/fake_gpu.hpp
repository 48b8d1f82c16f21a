/// @file
/// FakeGpu: device memory and in-order execution on the CPU, for all that is above streams. Device memory has addresses
/// that no thread can touch, its bytes are elsewhere: whoever takes it for the host's ends the program.
#pragma once

#include <sys/mman.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/core/units.hpp>

namespace zerospan_test {

struct FakeGpuError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A place in a stream, and when it was passed.
class FakeMark {
 public:
  using Clock = std::chrono::steady_clock;

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

/// Runs what is enqueued, in order, on a thread of its own. Ends when all of it has been run.
class FakeWorker {
 public:
  FakeWorker() : thread_{[this] { run(); }} {}
  FakeWorker(const FakeWorker&) = delete;
  FakeWorker& operator=(const FakeWorker&) = delete;
  ~FakeWorker() {
    {
      const std::scoped_lock lock{mutex_};
      stopping_ = true;
    }
    changed_.notify_all();
  }

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

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> operations_;
  bool running_ = false;
  bool stopping_ = false;
  std::jthread thread_;
};

/// What all of its streams share. Where its bytes are depends on nothing but the address. Lives in a shared_ptr.
class FakeGpu : public std::enable_shared_from_this<FakeGpu> {
 public:
  /// Device memory: addresses that cannot be used, and bytes at a fixed distance from them.
  std::shared_ptr<std::byte> allocate(std::size_t bytes) {
    const std::size_t rounded = zerospan::round_up(bytes + 1, 4096);
    void* const both =
        ::mmap(nullptr, 2 * rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (both == MAP_FAILED) throw FakeGpuError{"no address space"};
    ::mprotect(both, rounded, PROT_NONE);
    const std::scoped_lock lock{mutex_};
    ranges_.emplace(reinterpret_cast<std::uintptr_t>(both), rounded);
    return {static_cast<std::byte*>(both), [gpu = shared_from_this()](std::byte* begin) { gpu->free(begin); }};
  }

  /// Where the bytes of an address are; of the host's memory, there.
  template <class T>
  T* at(T* pointer) const {
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    const std::scoped_lock lock{mutex_};
    auto range = ranges_.upper_bound(address);
    if (range == ranges_.begin()) return pointer;
    --range;
    return address < range->first + range->second ? reinterpret_cast<T*>(address + range->second) : pointer;
  }

  void add(FakeWorker& worker) {
    const std::scoped_lock lock{workers_mutex_};
    workers_.insert(&worker);
  }
  void remove(FakeWorker& worker) {
    const std::scoped_lock lock{workers_mutex_};
    workers_.erase(&worker);
  }

  /// Waits for all that has been enqueued on any stream.
  void synchronize() {
    std::vector<std::shared_ptr<FakeMark>> marks;
    {
      const std::scoped_lock lock{workers_mutex_};
      for (FakeWorker* const worker : workers_) {
        worker->enqueue([mark = marks.emplace_back(std::make_shared<FakeMark>())] { mark->pass(); });
      }
    }
    for (const auto& mark : marks) mark->wait();
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
  void free(std::byte* begin) {
    std::size_t bytes = 0;
    {
      const std::scoped_lock lock{mutex_};
      const auto range = ranges_.find(reinterpret_cast<std::uintptr_t>(begin));
      bytes = 2 * range->second;
      ranges_.erase(range);
    }
    ::munmap(begin, bytes);
  }

  mutable std::mutex mutex_;
  std::map<std::uintptr_t, std::size_t> ranges_;  // of addresses, by their begin
  std::uint64_t calls_ = 0;
  std::uint64_t fails_from_ = 0;
  bool is_broken_ = false;

  std::mutex workers_mutex_;
  std::set<FakeWorker*> workers_;
};

}  // namespace zerospan_test
