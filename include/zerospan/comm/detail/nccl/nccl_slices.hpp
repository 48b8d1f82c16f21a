/// @file
/// How ranks that are GPUs exchange slices.
#pragma once

#include <cstddef>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/comm/detail/nccl/nccl_link.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// An all-to-all: a copy of the rank's own slice, and one group of NCCL's sends and receives.
template <NcclLayer Api>
void exchange_slices(Api& api, NcclLink<Api>& link, Rank rank, int size, const SliceExchange& exchange,
                     StreamRef stream) {
  const std::size_t bytes = exchange.bytes;
  if (bytes == 0) return;
  const auto offset = [bytes](Rank slice) { return static_cast<std::size_t>(slice.value) * bytes; };
  api.copy(stream, exchange.output + offset(rank), exchange.input + offset(rank), bytes);
  if (size == 1) return;
  link.launch("ncclSend and ncclRecv", [&](auto& handle) {
    NcclResult result = NcclResult::success;
    const auto is_well = [&] { return result == NcclResult::success || result == NcclResult::in_progress; };
    for (int i = 1; i < size && is_well(); ++i) {
      const Rank peer{(rank.value + i) % size};
      result = api.send(handle, exchange.input + offset(peer), bytes, peer, stream);
      if (is_well()) result = api.receive(handle, exchange.output + offset(peer), bytes, peer, stream);
    }
    return result;
  });
}

}  // namespace zerospan::inline v0::detail
