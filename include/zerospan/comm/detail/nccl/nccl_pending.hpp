/// @file
/// NcclPending: the collectives of one communicator that have not ended, and the events that tell.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>

namespace zerospan::inline v0::detail {

/// Not synchronized. They end in the order in which they began, as NCCL has it.
template <NcclLayer Api>
class NcclPending {
 public:
  using Clock = std::chrono::steady_clock;
  using Event = typename Api::Event;

  struct Call {
    std::string text;
    std::optional<std::uint64_t> number = {};     ///< Of a collective.
    std::optional<Event> begun = {};              ///< Its turn on the stream has come.
    std::optional<Event> ended = {};              ///< Once it is wholly enqueued.
    std::optional<Clock::time_point> since = {};  ///< When its turn came.
  };

  explicit NcclPending(Api api) : api_{std::move(api)} {}
  NcclPending(const NcclPending&) = delete;
  NcclPending& operator=(const NcclPending&) = delete;
  ~NcclPending() { clear(); }

  /// A collective begins, behind what is on the stream.
  void begin(std::string text, std::uint64_t number, StreamRef stream) {
    calls_.push_back({.text = std::move(text), .number = number, .begun = take()});
    api_.record(*calls_.back().begun, stream);
  }

  /// Something else begins now.
  void begin(std::string text) { calls_.push_back({.text = std::move(text), .since = Clock::now()}); }

  /// What was begun last is wholly enqueued.
  void end(StreamRef stream) {
    calls_.back().ended = take();
    api_.record(*calls_.back().ended, stream);
  }

  /// What was begun last, and is on no stream, has ended.
  void end() { calls_.pop_back(); }

  /// Forgets what has ended. Returns whether nothing is left.
  bool retire() {
    while (!calls_.empty() && calls_.front().ended && api_.is_done(*calls_.front().ended)) {
      give(calls_.front());
      calls_.pop_front();
    }
    return calls_.empty();
  }

  /// The first that has not ended; nullptr if there is none.
  const Call* first() {
    if (retire()) return nullptr;
    Call& call = calls_.front();
    if (!call.since && api_.is_done(*call.begun)) call.since = Clock::now();
    return &call;
  }

  /// What was begun last, in words.
  std::string last() const { return calls_.empty() ? std::string{"no collective"} : calls_.back().text; }

  void clear() noexcept {
    for (const Call& call : calls_) {
      if (call.begun) api_.destroy_event(*call.begun);
      if (call.ended) api_.destroy_event(*call.ended);
    }
    for (const Event event : free_) api_.destroy_event(event);
    calls_.clear();
    free_.clear();
  }

 private:
  Event take() {
    if (free_.empty()) return api_.make_event();
    const Event event = free_.back();
    free_.pop_back();
    return event;
  }

  void give(const Call& call) {
    if (call.begun) free_.push_back(*call.begun);
    if (call.ended) free_.push_back(*call.ended);
  }

  Api api_;
  std::deque<Call> calls_;
  std::vector<Event> free_;
};

}  // namespace zerospan::inline v0::detail
