/// @file
/// HomeProcess: by which a communicator notices that it is used in a forked process.
#pragma once

#include <unistd.h>

#include <source_location>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// The process that a communicator was made in. A fork copies its memory, but no thread that it waits for, and perhaps
/// a mutex that is locked for ever.
class HomeProcess {
 public:
  bool was_left() const noexcept { return ::getpid() != id_; }

  /// @throws RankFailedError in a process that was forked from this one.
  void require(Rank rank) const {
    if (!was_left()) return;
    throw RankFailedError{"rank " + std::to_string(rank.value) +
                              " uses a communicator after a fork: it stays with the process that made it",
                          rank, std::source_location::current()};
  }

 private:
  ::pid_t id_ = ::getpid();
};

}  // namespace zerospan::inline v0::detail
