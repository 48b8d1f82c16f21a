/// @file
/// sim::Schedule: what happened in virtual time, and when.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/sim/detail/recording.hpp>

namespace zerospan::inline v0::sim {

/// One thing that happened, in virtual seconds.
struct Event {
  Rank rank;
  OperationKind kind;
  std::string_view track;  ///< `host`, `stream` or the name of a lane.
  std::string_view name;   ///< As long as the schedule lives.
  std::size_t bytes;
  double begin;  ///< A wait begins when whoever waits comes to it, anything else when nothing keeps it any more.
  double end;
};

/// All events of all simulated ranks, ordered by rank and posting. Copies are of the same names.
class Schedule {
 public:
  using Names = std::vector<std::shared_ptr<detail::Names>>;

  Schedule(std::vector<Event> events, Names names) : events_{std::move(events)}, names_{std::move(names)} {}

  auto begin() const noexcept { return events_.begin(); }
  auto end() const noexcept { return events_.end(); }
  std::size_t size() const noexcept { return events_.size(); }
  bool empty() const noexcept { return events_.empty(); }
  const Event& operator[](std::size_t index) const { return events_[index]; }
  const Event& back() const { return events_.back(); }

 private:
  std::vector<Event> events_;
  Names names_;
};

}  // namespace zerospan::inline v0::sim
