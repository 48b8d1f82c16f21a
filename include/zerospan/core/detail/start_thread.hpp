/// @file
/// Threads that the system may refuse.
#pragma once

#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0::detail {

/// A thread that runs `body`.
/// @param purpose Says whose it is: "thread 3 of 4 of a ThreadedIoEngine".
/// @throws ConfigurationError where the system refuses one.
template <class F>
std::thread start_thread(const std::string& purpose, F body) {
  try {
    return std::thread{std::move(body)};
  } catch (const std::system_error& error) {
    throw_configuration_error(purpose + " cannot be started: " + error.code().message() +
                              "; raise the limits of processes (ulimit -u, pids.max of the control group) and of "
                              "memory, or ask for fewer threads");
  }
}

}  // namespace zerospan::inline v0::detail
