/// @file
/// HostItem: work that a lane's own thread does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/device/detail/lane_monitor.hpp>
#include <zerospan/device/operation.hpp>

namespace zerospan::inline v0::detail {

struct HostItem {
  std::vector<Completion> after;
  Operation operation;
  std::string name;
  std::function<Completion()> work;
  std::shared_ptr<Promise> promise;

  /// @param ticket Of its completion.
  static HostItem make(std::vector<Completion> after, const Operation& operation, std::function<Completion()> work,
                       std::uint64_t ticket = 0) {
    std::string label = std::string{to_string(operation.kind)} + " of " + std::string{operation.name};
    return {std::move(after), operation, std::string{operation.name}, std::move(work),
            std::make_shared<Promise>(std::move(label), ticket)};
  }

  /// Waits for what it comes after, does the work, and ends when what that has started does. Never throws.
  void execute(const std::shared_ptr<LaneMonitor>& monitor, Lane lane) {
    std::exception_ptr error = predecessors(*monitor);
    const auto begin = LaneMonitor::Clock::now();
    Completion started;
    if (!error) {
      try {
        started = work();
      } catch (...) {
        error = std::current_exception();
      }
    }
    work = nullptr;
    const std::uint64_t transfer = started.done() ? 0 : monitor->transfer_begins(promise->completion().label());
    const auto finish = [monitor, end = promise, kind = operation.kind, bytes = operation.bytes, of = std::move(name),
                         lane, begin, transfer](const std::exception_ptr& failure) {
      monitor->transfer_ended(transfer);
      monitor->finish_item(*end, lane_names[static_cast<std::size_t>(lane)], {kind, of, bytes}, begin,
                           LaneMonitor::Clock::now(), failure);
    };
    if (error) {
      finish(error);
    } else {
      started.then(finish);
    }
  }

 private:
  /// Waits; the error for which the work must not be done, if any.
  std::exception_ptr predecessors(LaneMonitor& monitor) const {
    for (const Completion& completion : after) {
      monitor.await(completion);
      if (const auto error = completion.error()) return error;
    }
    return monitor.error();
  }
};

}  // namespace zerospan::inline v0::detail
