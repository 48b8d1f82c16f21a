/// @file
/// HostLinks: what the collectives of ranks that are processes take, by MPI and over the links between their hosts.
#pragma once

#include <array>
#include <map>
#include <string>
#include <string_view>

#include <zerospan/core/error.hpp>

#include "work_rate.hpp"

namespace machine {

/// A collective, by the bytes of the whole tensor: as many of them a second, while all ranks of the job make it.
struct LinkRate {
  WorkRate alone;  ///< From the rendezvous to the end, while no core computes.
  WorkRate busy;   ///< Likewise, while all cores compute.
  WorkRate cores;  ///< A core-second that each rank takes from what computes meanwhile: it polls, and copies.
};

/// Ranks that make collectives together.
struct LinkLevel {
  int ranks = 0;
  double rendezvous = 0;       ///< Seconds that they take to meet.
  double busy_rendezvous = 0;  ///< Likewise, while all cores compute.
  std::map<std::string, LinkRate> collectives;

  /// @throws zerospan::ConfigurationError if it was not measured.
  const LinkRate& rate(const std::string& name) const {
    const auto found = collectives.find(name);
    if (found == collectives.end()) {
      zerospan::throw_configuration_error(
          "the rates have no collective '" + name +
          "' between hosts: measure_rates --add-links --types measures those of a type");
    }
    return found->second;
  }
};

/// Of one number of ranks, as the launcher has put them on hosts. Ranks of one host share its link: what was measured
/// has that in it.
struct HostLinks {
  int machines = 1;  ///< With cores of their own: hosts that one machine makes up are one.
  int ranks = 0;
  int ranks_per_group = 0;  ///< 0: no groups.
  std::map<std::string, LinkLevel> levels;

  const LinkLevel& level(const std::string& name) const {
    const auto found = levels.find(name);
    if (found == levels.end()) zerospan::throw_configuration_error("the rates have no links of '" + name + "' ranks");
    return found->second;
  }
};

/// All ranks; those of one group; those at one place of all groups.
inline constexpr std::array<std::string_view, 3> link_levels{"all", "within", "across"};

}  // namespace machine
