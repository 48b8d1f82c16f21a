/// @file
/// The options of an MpiCommunicator.
#pragma once

#include <chrono>
#include <climits>
#include <cstddef>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// Every rank passes the same.
struct MpiOptions {
  /// How long a rank waits for the others at the beginning of a collective, and for the next message of its transfer.
  std::chrono::milliseconds timeout = std::chrono::minutes{5};
  /// What holds the peers' summands during a reduction: so much for each communicator that ever reduces, or a few KiB a
  /// rank where that is more.
  Bytes scratch{std::size_t{4} << 20};
  /// What is larger goes in several messages. MPI counts to 2^31 - 1.
  Bytes largest_message{std::size_t{1} << 30};
};

/// @throws ConfigurationError for options that mean nothing.
inline void require_valid(const MpiOptions& options) {
  if (options.timeout <= options.timeout.zero()) {
    throw_configuration_error("the timeout of an MpiCommunicator must be positive");
  }
  constexpr std::size_t smallest = 4096;
  if (options.largest_message.count < smallest || options.largest_message.count > std::size_t{INT_MAX}) {
    throw_configuration_error("the largest message of an MpiCommunicator has between 4096 and 2^31 - 1 bytes, not " +
                              std::to_string(options.largest_message.count));
  }
}

}  // namespace zerospan::inline v0
