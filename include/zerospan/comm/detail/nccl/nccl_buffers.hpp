/// @file
/// What a communicator owns on its device, and the current device of a thread.
#pragma once

#include <cstddef>
#include <utility>

#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// Makes a device the thread's current one, and the former one again at the end.
template <NcclLayer Api>
class DeviceScope {
 public:
  DeviceScope(Api& api, int device) : api_{api}, former_{api.device()} {
    if (former_ == device) return;
    api_.use_device(device);
    changed_ = true;
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  ~DeviceScope() {
    if (!changed_) return;
    try {
      api_.use_device(former_);
    } catch (...) {  // the device is lost: whatever is called next on it says so
    }
  }

 private:
  Api& api_;
  int former_;
  bool changed_ = false;
};

/// Device memory. Of no bytes there is none.
template <NcclLayer Api>
class DeviceBuffer {
 public:
  DeviceBuffer(Api api, std::size_t bytes)
      : api_{std::move(api)}, data_{bytes == 0 ? nullptr : api_.allocate_device(bytes)}, bytes_{bytes} {}
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() {
    if (data_ != nullptr) api_.free_device(data_);
  }

  std::byte* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  Api api_;
  std::byte* data_;
  std::size_t bytes_;
};

/// Pinned host memory.
template <NcclLayer Api>
class PinnedBuffer {
 public:
  PinnedBuffer(Api api, std::size_t bytes) : api_{std::move(api)}, data_{api_.allocate_pinned(bytes)} {}
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  ~PinnedBuffer() { api_.free_pinned(data_); }

  std::byte* data() const noexcept { return data_; }

 private:
  Api api_;
  std::byte* data_;
};

/// An event.
template <NcclLayer Api>
class OwnedEvent {
 public:
  explicit OwnedEvent(Api api) : api_{std::move(api)}, event_{api_.make_event()} {}
  OwnedEvent(const OwnedEvent&) = delete;
  OwnedEvent& operator=(const OwnedEvent&) = delete;
  ~OwnedEvent() { api_.destroy_event(event_); }

  typename Api::Event get() const noexcept { return event_; }

 private:
  Api api_;
  typename Api::Event event_;
};

}  // namespace zerospan::inline v0::detail
