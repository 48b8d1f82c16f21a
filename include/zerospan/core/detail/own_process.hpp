/// @file
/// Which process an object belongs to.
#pragma once

#include <unistd.h>

#include <string>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0::detail {

/// The process that made an object. After `fork`, the child has a copy of the object, but none of the threads that work
/// for it; mutexes that those threads held stay locked, and waiting for them never ends.
class OwnProcess {
 public:
  /// False in a child that was forked from the process since.
  bool is_this() const noexcept { return ::getpid() == id_; }

  /// @param what Names the object: "a ThreadedIoEngine".
  /// @throws ConfigurationError in such a child.
  void check(std::string_view what) const {
    if (is_this()) return;
    throw_configuration_error(std::string{what} + " belongs to process " + std::to_string(id_) + ", not to its child " +
                              std::to_string(::getpid()) + ": a child process makes engines and tiers of its own");
  }

 private:
  ::pid_t id_ = ::getpid();
};

}  // namespace zerospan::inline v0::detail
