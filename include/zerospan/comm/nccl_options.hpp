/// @file
/// How an NcclCommunicator waits and sums.
#pragma once

#include <chrono>
#include <cstdint>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// Who sums.
enum class NcclReductions : std::uint8_t {
  nccl,       ///< NCCL, where input and output have one type: in its own order, 16-bit types rounded at each addition.
  rank_order  ///< The library: in fp32, in rank order, rounded once; the bits of every other communicator.
};

/// The same on every rank.
struct NcclOptions {
  /// How long a collective may take from when its turn on the stream comes; also the creation and the end.
  std::chrono::milliseconds timeout = std::chrono::minutes{5};
  std::chrono::milliseconds poll = std::chrono::milliseconds{10};  ///< How often a thread looks for errors.
  NcclReductions reductions = NcclReductions::rank_order;
  Bytes scratch =
      Bytes{std::size_t{32} << 20};  ///< Device memory that sums in rank order pass through; allocated once.
};

}  // namespace zerospan::inline v0
