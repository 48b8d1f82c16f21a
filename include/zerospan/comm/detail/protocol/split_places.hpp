/// @file
/// How ranks that are split find those of their group.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0::detail {

/// The ranks that a split puts into the group of `me`, in the order of their places.
/// @param places Of every rank of the communicator that is split.
/// @throws ConfigurationError if two ranks have the same place in any group, so that all ranks throw alike.
inline std::vector<std::size_t> ranks_beside(std::span<const SplitPlace> places, std::size_t me) {
  std::vector<std::size_t> ranks(places.size());
  std::iota(ranks.begin(), ranks.end(), std::size_t{0});
  const auto place = [&](std::size_t rank) { return std::pair{places[rank].group, places[rank].place}; };
  std::ranges::stable_sort(ranks, {}, place);
  const auto twin = std::ranges::adjacent_find(ranks, {}, place);
  if (twin != ranks.end()) {
    throw_configuration_error("a split puts two ranks at place " + std::to_string(places[*twin].place) + " of group " +
                              std::to_string(places[*twin].group));
  }
  std::erase_if(ranks, [&](std::size_t rank) { return places[rank].group != places[me].group; });
  return ranks;
}

}  // namespace zerospan::inline v0::detail
