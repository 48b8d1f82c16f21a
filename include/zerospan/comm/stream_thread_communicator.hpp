/// @file
/// StreamThreadCommunicator: ranks that are threads, with device memory of their own on one device or several.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <utility>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/thread/thread_phases.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/device/stream_device.hpp>
#include <zerospan/device/stream_runtime.hpp>

namespace zerospan::inline v0 {

/// Collectives are enqueued; fences are events. Copies with events of its own.
template <StreamRuntime R>
class StreamExecution {
 public:
  static constexpr bool is_done_at_return = false;

  explicit StreamExecution(R& runtime) : runtime_{&runtime} {
    for (auto& event : fences_) event = std::make_unique<Event>(runtime.make_event());
  }
  StreamExecution(const StreamExecution& other) : StreamExecution{*other.runtime_} {}
  StreamExecution(StreamExecution&&) noexcept = default;
  StreamExecution& operator=(StreamExecution&&) noexcept = default;

  /// @throws ConfigurationError for the calling thread.
  typename R::stream_type stream(StreamRef reference) const {
    if (reference.is_calling_thread()) {
      throw_configuration_error(
          "collectives on device memory are enqueued on a stream of the device, not run on a thread");
    }
    return typename R::stream_type{reference};
  }

  const void* fence(StreamRef reference) {
    Event& event = *fences_[next_++ % fences_.size()];
    runtime_->record(event, StreamRef{stream(reference)});
    return &event;
  }

  void wait(StreamRef reference, const void* fence) {
    runtime_->wait(reference, *static_cast<Event*>(const_cast<void*>(fence)));
  }

  void synchronize(StreamRef reference) { runtime_->synchronize(reference); }

 private:
  using Event = typename R::event_type;

  R* runtime_;
  std::array<std::unique_ptr<Event>, 4> fences_;
  std::size_t next_ = 0;
};

/// A rank whose operands are device memory that the peers' devices can address.
/// @code
/// zerospan::StreamThreadCommunicator communicator{thread_communicator.duplicate(), device};
/// @endcode
template <StreamRuntime R>
class StreamThreadCommunicator : public BasicThreadCommunicator<StreamExecution<R>> {
  using Base = BasicThreadCommunicator<StreamExecution<R>>;

 public:
  /// @param host Of no use any more. @param device This rank's own; outlives the communicator.
  StreamThreadCommunicator(ThreadCommunicator host, StreamDevice<R>& device)
      : Base{std::move(host), StreamExecution<R>{device.runtime()}} {}

  StreamThreadCommunicator duplicate() { return StreamThreadCommunicator{Base::duplicate()}; }
  StreamThreadCommunicator split(SplitPlace place) { return StreamThreadCommunicator{Base::split(place)}; }

 private:
  explicit StreamThreadCommunicator(Base base) : Base{std::move(base)} {}
};

}  // namespace zerospan::inline v0
