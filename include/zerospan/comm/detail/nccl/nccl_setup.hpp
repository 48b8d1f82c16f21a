/// @file
/// How the ranks of a new NCCL communicator agree on what it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/comm/detail/protocol/any_exchange.hpp>
#include <zerospan/comm/detail/protocol/rank_family.hpp>
#include <zerospan/comm/nccl_error.hpp>
#include <zerospan/comm/nccl_options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// @throws ConfigurationError
inline void require_valid(const NcclOptions& options, int size) {
  if (options.timeout <= options.timeout.zero() || options.poll <= options.poll.zero()) {
    throw_configuration_error("the timeout and the poll of an NCCL communicator must be positive");
  }
  if (size < 1) throw_configuration_error("a communicator has at least one rank, not " + std::to_string(size));
}

/// Gathers a trivially copyable value of every rank.
template <class T>
std::vector<T> gather(AnyExchange& exchange, const T& mine) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::vector<T> all(static_cast<std::size_t>(exchange.size()));
  exchange.all_gather(std::as_bytes(std::span{&mine, 1}), std::as_writable_bytes(std::span{all}));
  return all;
}

/// @throws ConfigurationError on every rank, if they were not given the same options.
inline void require_equal(AnyExchange& exchange, const NcclOptions& options) {
  struct Told {
    std::uint64_t reductions;
    std::uint64_t scratch;
  };
  const auto all = gather(exchange, Told{static_cast<std::uint64_t>(options.reductions), options.scratch.count});
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank].reductions == all[0].reductions && all[rank].scratch == all[0].scratch) continue;
    throw_configuration_error("rank " + std::to_string(rank) +
                              " was given other NCCL options than rank 0: reductions and scratch are the same on every "
                              "rank");
  }
}

/// The ranks of an exchange.
inline std::vector<Rank> ranks_of(const AnyExchange& exchange) {
  std::vector<Rank> ranks;
  for (int rank = 0; rank < exchange.size(); ++rank) ranks.push_back(Rank{rank});
  return ranks;
}

/// The id that rank 0 makes, on every rank.
/// @throws NcclError on rank 0 and RankFailedError on the others, if it could not.
template <NcclLayer Api>
typename Api::UniqueId exchange_unique_id(Api& api, AnyExchange& exchange) {
  struct Told {
    NcclResult result;
    typename Api::UniqueId id;
  };
  Told mine{};
  if (exchange.rank() == Rank{0}) mine.result = api.make_unique_id(mine.id);
  const Told told = gather(exchange, mine).front();
  if (told.result == NcclResult::success) return told.id;
  const std::string text = "ncclGetUniqueId on rank 0: " + api.describe(told.result, typename Api::Communicator{});
  if (exchange.rank() == Rank{0}) throw NcclError{text, static_cast<int>(told.result), std::source_location::current()};
  throw RankFailedError{text, Rank{0}, std::source_location::current()};
}

}  // namespace zerospan::inline v0::detail
