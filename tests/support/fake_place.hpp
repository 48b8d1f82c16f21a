/// @file
/// Memory and a stream of a FakeGpu, where a run of every collective takes place.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include <zerospan/core/stream.hpp>

#include "collective_exercise.hpp"
#include "fake_gpu.hpp"

namespace zerospan_test {

/// Device memory: nobody but the device can touch `data()`.
class FakeMemory {
 public:
  FakeMemory(FakeGpu& gpu, std::size_t bytes) : data_{gpu.allocate(bytes)}, bytes_{gpu.at(data_.get()), bytes} {}

  std::byte* data() const { return data_.get(); }
  std::size_t size() const { return bytes_.size(); }
  /// Its bytes, where the test finds them.
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::shared_ptr<std::byte> data_;
  std::span<std::byte> bytes_;
};

/// A GPU with a stream.
struct StreamPlace {
  using Memory = FakeMemory;

  zerospan::StreamRef stream() const { return zerospan::StreamRef{stream_.ref()}; }
  Memory memory(const exercise::Buffer& bytes) const {
    Memory made{*gpu_, bytes.size()};
    std::ranges::copy(bytes, made.bytes().begin());
    return made;
  }
  exercise::Buffer read(const Memory& memory) const {
    synchronize();
    return {memory.bytes().begin(), memory.bytes().end()};
  }
  void enqueue(std::function<void()> work) const { stream_.ref().enqueue(std::move(work)); }
  void synchronize() const { stream_.ref().synchronize(); }

  /// Memory that lives until nothing on the stream uses it.
  Memory& buffer(std::size_t bytes = 4096) { return buffers_.emplace_back(*gpu_, bytes); }

  std::shared_ptr<FakeGpu> gpu_ = std::make_shared<FakeGpu>();
  std::deque<Memory> buffers_{};
  FakeStreamOwner stream_{gpu_};
};

}  // namespace zerospan_test
