/// @file
/// sim::Schedule: what happened in virtual time, and when.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
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

/// A link of the topology that simulated ranks have used. Equals that share it are counted, simulated or not.
struct LinkLoad {
  std::string name;         ///< "disk reads of ranks 0 to 15"
  double bytes_per_second;  ///< What it is able to do.
  double bytes;             ///< That have gone over it.
  double busy;              ///< Seconds in which any have.
};

/// All events of all simulated ranks, ordered by rank and posting.
class Schedule {
 public:
  using Names = std::vector<std::shared_ptr<detail::Names>>;

  Schedule(std::vector<Event> events, Names names, std::vector<LinkLoad> links)
      : events_{std::move(events)}, names_{std::move(names)}, links_{std::move(links)} {}

  const std::vector<LinkLoad>& links() const noexcept { return links_; }

  auto begin() const noexcept { return events_.begin(); }
  auto end() const noexcept { return events_.end(); }
  std::size_t size() const noexcept { return events_.size(); }
  bool empty() const noexcept { return events_.empty(); }
  const Event& operator[](std::size_t index) const { return events_[index]; }
  const Event& back() const { return events_.back(); }

 private:
  std::vector<Event> events_;
  Names names_;
  std::vector<LinkLoad> links_;
};

}  // namespace zerospan::inline v0::sim
