/// @file
/// BasicNcclCommunicator: ranks that are GPUs, over a layer that calls NCCL.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/byte_exchange.hpp>
#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/comm/detail/nccl/nccl_rank.hpp>
#include <zerospan/comm/detail/nccl/nccl_sums.hpp>
#include <zerospan/comm/detail/protocol/any_exchange.hpp>
#include <zerospan/comm/detail/protocol/call_sequence.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/nccl_options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// One rank of a group of GPUs. Collectives enqueue on the stream that they are given, which is one of the device, and
/// return; sums of integers and barriers are done when they return. Operands are device memory, or host memory that
/// the device addresses.
///
/// Each rank's communicator serves one thread at a time; `abort` may be called from any thread meanwhile. A
/// communicator, its duplicates and the groups that it is split into stand and fall together, and one thread of the
/// rank watches over them: an error that NCCL finds, a collective that does not end in time, and, where the exchange
/// has a board, a rank that failed, ended or called something else make every later collective throw. `on_failure`
/// tells of it at once; then everything is aborted. A culprit that is not known is Rank{-1}. In a process forked from
/// its own, a communicator throws RankFailedError, and its end tells nobody.
///
/// Sums in rank order have the bits of every other communicator. They take the way of NcclReductions::rank_order; also
/// with NcclReductions::nccl where the type of the output differs from the input's.
///
/// @throws NcclError for what NCCL says of this rank; BudgetError for buffers that device memory has no room for;
///   RankFailedError, RankTimeoutError, DivergenceError from every
///   collective; ConfigurationError for operands that no collective has, and for a stream that is no device's.
template <NcclLayer Api>
class BasicNcclCommunicator {
 public:
  using Handle = typename Api::Communicator;

  /// A collective of the ranks of the exchange, each on its thread's current device. The exchange stays with the
  /// communicator.
  /// @throws ConfigurationError for options that differ between ranks or make no sense; what the exchange throws.
  template <ByteExchange E>
  BasicNcclCommunicator(E exchange, const NcclOptions& options, Api api = {})
      : BasicNcclCommunicator{NcclRank<Api>::make(api, AnyExchange::of(std::move(exchange)), options)} {}

  /// A collective: a communicator of the same ranks as the host's own one, on which nothing is under way. That one is
  /// read and stays the host's. If it is blocking, NCCL blocks in this call, whatever the timeout.
  /// @param exchange Of the same ranks in the same order.
  template <ByteExchange E>
  static BasicNcclCommunicator duplicate_of(Handle host, E exchange, const NcclOptions& options = {}, Api api = {}) {
    return BasicNcclCommunicator{NcclRank<Api>::make_from(api, host, AnyExchange::of(std::move(exchange)), options)};
  }

  Rank rank() const noexcept { return rank_->rank(); }
  int size() const noexcept { return rank_->size(); }

  /// It has scratch memory of its own, and the registered memory of this one.
  BasicNcclCommunicator duplicate() { return BasicNcclCommunicator{rank_->duplicate()}; }

  /// Each has scratch memory of its own, and the registered memory of this one. Takes an exchange that can be split.
  /// @throws ConfigurationError, on every rank, where it cannot, or if two ranks have the same color and key.
  BasicNcclCommunicator split(SplitPlace place) { return BasicNcclCommunicator{rank_->split(place)}; }

  void abort(const std::string& reason) noexcept { rank_->abort(reason); }

  /// Tells of a failure once, on another thread, before anything is aborted; also of one that is there already. An
  /// empty function ends it; when this returns, no former one is running. Not to be called by `f`.
  void on_failure(std::function<void(std::exception_ptr)> f) { rank_->on_failure(std::move(f)); }

  /// A collective on the host: compares what the ranks have called so far.
  /// @throws DivergenceError on every rank, if they differ.
  void verify() { rank_->verify(); }

  /// Registers memory that collectives will use often, where NCCL can, until the communicator ends. Duplicates made
  /// later register it too. The memory outlives them all.
  /// @throws NcclError
  void register_memory(std::byte* data, Bytes bytes) { rank_->register_memory({data, bytes}); }

  void all_gather(Collective what, std::span<const GatherPart> parts) {
    rank_->run({.kind = CollectiveKind::all_gather, .name = what.name, .parts = parts}, what.stream, [&] {
      const auto is_empty = [](const GatherPart& part) { return part.shard_bytes == 0; };
      if (size() == 1 || std::ranges::all_of(parts, is_empty)) return;
      rank_->launch("ncclAllGather", [&](Api& api, auto& handle) {
        NcclResult result = NcclResult::success;
        for (const GatherPart& part : parts) {
          if (is_empty(part)) continue;
          result = api.all_gather(handle, part.buffer, part.shard_bytes, rank(), what.stream);
          if (!is_good(result)) break;
        }
        return result;
      });
    });
  }

  void reduce_scatter(Collective what, const Reduction& reduction) {
    const CollectiveCall call = reduce_scatter_call(what, reduction, rank(), size());
    rank_->run(call, what.stream, [&] {
      if (!is_for_nccl(reduction)) return rank_->in_rank_order().reduce_scatter(rank_->link(), reduction, what.stream);
      rank_->launch("ncclReduceScatter",
                    [&](Api& api, auto& handle) { return api.reduce_scatter(handle, reduction, what.stream); });
    });
  }

  void reduce(Collective what, const Reduction& reduction, Rank root) {
    const CollectiveCall own = reduce_call(what, reduction, root, rank(), size());
    rank_->run(own, what.stream, [&] {
      if (!is_for_nccl(reduction)) return rank_->in_rank_order().reduce(rank_->link(), reduction, root, what.stream);
      rank_->launch("ncclReduce",
                    [&](Api& api, auto& handle) { return api.reduce(handle, own.reduction, root, what.stream); });
    });
  }

  void all_reduce(Collective what, const Reduction& reduction) {
    const CollectiveCall own = all_reduce_call(what, reduction);
    rank_->run(own, what.stream, [&] {
      if (!is_for_nccl(reduction)) return rank_->in_rank_order().all_reduce(rank_->link(), reduction, what.stream);
      rank_->launch("ncclAllReduce",
                    [&](Api& api, auto& handle) { return api.all_reduce(handle, reduction, what.stream); });
    });
  }

  /// @note Done when it returns.
  void all_reduce(Collective what, std::span<std::int64_t> integers) {
    rank_->run({.kind = CollectiveKind::all_reduce_integers, .name = what.name, .integers = integers}, what.stream,
               [&] {
                 if (size() > 1) rank_->integers().sum(rank_->link(), integers, what.stream);
               });
  }

  void broadcast(Collective what, std::span<std::byte> bytes, Rank root) {
    const CollectiveCall own = broadcast_call(what, bytes, root, size());
    rank_->run(own, what.stream, [&] {
      if (size() == 1 || bytes.empty()) return;
      rank_->launch("ncclBroadcast", [&](Api& api, auto& handle) {
        return api.broadcast(handle, bytes.data(), bytes.size(), root, what.stream);
      });
    });
  }

  void all_to_all(Collective what, const SliceExchange& exchange) {
    const CollectiveCall own = all_to_all_call(what, exchange, size());
    rank_->run(own, what.stream,
               [&] { exchange_slices(rank_->api(), rank_->link(), rank(), size(), exchange, what.stream); });
  }

  /// @note Done when it returns; and so is what was on the stream.
  void barrier(Collective what) {
    rank_->run({.kind = CollectiveKind::barrier, .name = what.name}, what.stream, [&] {
      std::int64_t nothing = 0;
      if (size() > 1) rank_->integers().sum(rank_->link(), std::span{&nothing, 1}, what.stream);
    });
  }

 private:
  explicit BasicNcclCommunicator(std::unique_ptr<NcclRank<Api>> rank) noexcept : rank_{std::move(rank)} {}

  bool is_for_nccl(const Reduction& reduction) const noexcept {
    return size() > 1 && reduction.elements > 0 && reduction.input_type == reduction.output_type &&
           rank_->options().reductions == NcclReductions::nccl;
  }

  std::unique_ptr<NcclRank<Api>> rank_;
};

}  // namespace zerospan::inline v0::detail
