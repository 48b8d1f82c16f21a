/// @file
/// The tags by which messages of one communicator are told apart.
#pragma once

#include <cstdint>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0::detail {

/// Of failures, whatever communicator they were found in.
inline constexpr int mpi_announcement_tag = 0;

/// Of one channel: of calls, and of what moves within a collective, operands and then results.
struct MpiTags {
  int calls;
  int operands;
  int results;

  /// @throws ConfigurationError for more channels than MPI has tags for.
  static MpiTags of_channel(std::uint64_t channel, int largest_tag) {
    const std::uint64_t channels = static_cast<std::uint64_t>(largest_tag) / 3;
    if (channel >= channels) {
      throw_configuration_error("this MPI has tags for " + std::to_string(channels) +
                                " duplicates and groups of an MpiCommunicator, each rank of it an equal share");
    }
    const int first = mpi_announcement_tag + 1 + static_cast<int>(3 * channel);
    return {first, first + 1, first + 2};
  }
};

}  // namespace zerospan::inline v0::detail
