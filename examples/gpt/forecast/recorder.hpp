/// @file
/// Recorder: what ranks post and compute, and what it costs, before anybody knows when it happens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/operation.hpp>

#include "../../machine/rates.hpp"

namespace gpt::forecast {

/// What a piece of work asks of the machine.
struct Cost {
  machine::WorkKind kind = machine::WorkKind::copy;
  double core_seconds = 0;  ///< Of one core, alone.
  double latency = 0;       ///< Seconds before anything of it begins, in which it takes nothing.
  double read = 0;          ///< Bytes from disk.
  double written = 0;       ///< Bytes to disk.
  double io_core_time = 0;  ///< Core-seconds that each of these bytes takes from what computes.
  bool meets = false;       ///< It begins when every rank has come to it.

  double busy_latency = 0;       ///< Seconds that `latency` is longer while all cores compute.
  double link = 0;               ///< Seconds of the rank's link to others, while no core computes.
  double busy_link = 0;          ///< As many, while all cores compute.
  double link_core_seconds = 0;  ///< Of these, what it takes from what computes.
};

/// A piece of work of one rank.
struct Item {
  static constexpr std::size_t host = 0;  ///< The track of the host's thread; lanes have the others.

  std::size_t track = host;
  zerospan::OperationKind kind{};
  std::string name{};
  std::size_t bytes = 0;
  Cost cost{};
  std::vector<std::size_t> after{};  ///< Earlier items of the rank.
};

/// One rank's items in the order of its program.
class Recorder {
 public:
  /// Tracks of a set of lanes. @return The first.
  std::size_t add_lanes() {
    const std::size_t first = tracks_;
    tracks_ += zerospan::lane_count;
    return first;
  }
  std::size_t tracks() const { return tracks_; }
  const std::deque<Item>& items() const { return items_; }

  /// Work of the host's thread, by its time on a core. What follows on work of the same kind is one with it.
  void compute(machine::WorkKind kind, double core_seconds) {
    if (core_seconds <= 0) return;
    if (!items_.empty()) {
      Item& last = items_.back();
      const bool is_same = last.track == Item::host && last.kind == zerospan::OperationKind::compute;
      if (is_same && last.name.empty() && last.cost.kind == kind) {
        last.cost.core_seconds += core_seconds;
        return;
      }
    }
    items_.push_back({.kind = zerospan::OperationKind::compute, .cost = {.kind = kind, .core_seconds = core_seconds}});
  }

  /// A name for this moment of the host's program. @return Its item.
  std::size_t mark(std::string_view name) {
    items_.push_back({.kind = zerospan::OperationKind::compute, .name = std::string{name}});
    return items_.size() - 1;
  }

  /// The host meets all others.
  void meet(std::string_view name, const Cost& rendezvous) {
    items_.push_back({.kind = zerospan::OperationKind::all_reduce, .name = std::string{name}, .cost = rendezvous});
    items_.back().cost.meets = true;
  }

  void wait(std::string_view name, const zerospan::Completion& completion) {
    if (completion.ticket() == 0) return;
    items_.push_back(
        {.kind = zerospan::OperationKind::wait, .name = std::string{name}, .after = indices({completion})});
  }

  zerospan::Completion post(std::size_t track, const zerospan::Operation& operation, const Cost& cost,
                            const std::vector<zerospan::Completion>& after) {
    items_.push_back({.track = track,
                      .kind = operation.kind,
                      .name = std::string{operation.name},
                      .bytes = operation.bytes,
                      .cost = cost,
                      .after = indices(after)});
    ends_.push_back(std::make_shared<zerospan::Promise>(items_.back().name, items_.size()));
    return ends_.back()->completion();
  }

 private:
  static std::vector<std::size_t> indices(const std::vector<zerospan::Completion>& after) {
    std::vector<std::size_t> numbers;
    for (const zerospan::Completion& completion : after) {
      if (completion.ticket() > 0) numbers.push_back(static_cast<std::size_t>(completion.ticket() - 1));
    }
    return numbers;
  }

  std::size_t tracks_ = 1;
  std::deque<Item> items_;
  std::vector<std::shared_ptr<zerospan::Promise>> ends_;  // kept, so that completions stay undone
};

}  // namespace gpt::forecast
