/// @file
/// What the library adds up over ranks that are GPUs: sums in rank order, sums of integers; and the exchange of slices.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/comm/detail/nccl/nccl_link.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/kernels/stream_operations.hpp>

namespace zerospan::inline v0::detail {

/// Reductions in rank order. Every rank sums one range of the elements: a chunk of it at a time, each other rank's
/// operand is received into scratch memory, all are summed by one kernel, and the sum is sent to whoever is to have it.
template <NcclLayer Api>
class RankOrderSums {
 public:
  /// @throws ConfigurationError for scratch memory that does not hold the least chunk.
  RankOrderSums(Api api, Rank rank, int size, Bytes scratch)
      : api_{std::move(api)},
        rank_{rank},
        size_{size},
        scratch_bytes_{size > 1 ? scratch.count : 0},
        free_{api_.runtime().make_event()},
        inputs_(ranks()) {
    const std::size_t least = ranks() * least_chunk * sizeof(float);
    if (size > 1 && scratch.count < least) {
      throw_configuration_error("sums over " + std::to_string(size) + " ranks need scratch memory of " +
                                std::to_string(least) + " bytes at least, not " + std::to_string(scratch.count));
    }
    if (scratch_bytes_ > 0) scratch_ = api_.runtime().allocate_device(Bytes{scratch_bytes_});
  }

  void reduce_scatter(NcclLink<Api>& link, const Reduction& reduction, StreamRef stream) {
    run(link, {reduction, stream, Receivers::none, rank_}, [n = reduction.elements](int rank) {
      return ElementRange{static_cast<std::size_t>(rank) * n, n};
    });
  }

  void reduce(NcclLink<Api>& link, const Reduction& reduction, Rank root, StreamRef stream) {
    run(link, {reduction, stream, Receivers::root, root}, slices(reduction));
  }

  void all_reduce(NcclLink<Api>& link, const Reduction& reduction, StreamRef stream) {
    run(link, {reduction, stream, Receivers::all, rank_}, slices(reduction));
  }

 private:
  static constexpr std::size_t least_chunk = 64;

  enum class Receivers : std::uint8_t { none, root, all };

  struct Task {
    const Reduction& reduction;
    StreamRef stream;
    Receivers receivers;
    Rank root;

    std::size_t input_bytes() const { return element_bytes(reduction.input_type); }
    std::size_t output_bytes() const { return element_bytes(reduction.output_type); }
    bool receives(int rank) const {
      return receivers == Receivers::all || (receivers == Receivers::root && root.value == rank);
    }
  };

  std::size_t ranks() const noexcept { return static_cast<std::size_t>(size_); }

  /// Which elements each rank sums.
  auto slices(const Reduction& reduction) const {
    return [total = reduction.elements, ranks = size_](int rank) { return even_slice(total, ranks, rank); };
  }

  template <class RangeOf>
  void run(NcclLink<Api>& link, const Task& task, RangeOf range_of) {
    const std::size_t slot = (ranks() - 1) * task.input_bytes() + task.output_bytes();
    const std::size_t chunk = size_ == 1 ? range_of(0).elements : scratch_bytes_ / slot / least_chunk * least_chunk;
    api_.runtime().wait(task.stream, free_);
    for (std::size_t first = 0; first < range_of(0).elements; first += chunk) {
      const auto part = [&](int rank) {
        const ElementRange whole = range_of(rank);
        const std::size_t skipped = std::min(first, whole.elements);
        return ElementRange{whole.first + skipped, std::min(chunk, whole.elements - skipped)};
      };
      if (size_ > 1) collect(link, task, chunk, part);
      std::byte* const sum = target(task, chunk, first, part(rank_.value).first);
      typename Api::Runtime::stream_type stream{task.stream};
      rank_order_sum(stream, inputs_of(task, chunk, part(rank_.value).first), task.reduction.input_type, sum,
                     task.reduction.output_type, part(rank_.value).elements);
      if (size_ > 1 && task.receivers != Receivers::none) deliver(link, task, sum, part);
    }
    api_.runtime().record(free_, task.stream);
  }

  /// Where another rank's operand is received: the other ranks' slots are in rank order.
  std::byte* slot_of(const Task& task, std::size_t chunk, int peer) const {
    const auto slot = static_cast<std::size_t>(peer < rank_.value ? peer : peer - 1);
    return scratch_.get() + slot * chunk * task.input_bytes();
  }

  /// Where this rank's sum goes: to the output, or behind the slots if the output is not this rank's.
  std::byte* target(const Task& task, std::size_t chunk, std::size_t first, std::size_t element) const {
    if (task.receivers == Receivers::none) return task.reduction.output + first * task.output_bytes();
    if (task.receives(rank_.value)) return task.reduction.output + element * task.output_bytes();
    return scratch_.get() + (ranks() - 1) * chunk * task.input_bytes();
  }

  std::span<const std::byte* const> inputs_of(const Task& task, std::size_t chunk, std::size_t own_element) {
    for (int rank = 0; rank < size_; ++rank) {
      inputs_[static_cast<std::size_t>(rank)] =
          rank == rank_.value ? task.reduction.input + own_element * task.input_bytes() : slot_of(task, chunk, rank);
    }
    return inputs_;
  }

  /// Sends every rank the operands of its part, and receives those of this rank's.
  template <class PartOf>
  void collect(NcclLink<Api>& link, const Task& task, std::size_t chunk, PartOf part) {
    const std::size_t bytes = task.input_bytes();
    link.launch("ncclSend and ncclRecv", [&](auto& handle) {
      return for_each_peer([&](int peer) {
        const auto [first, elements] = part(peer);
        const NcclResult sent = elements == 0 ? NcclResult::success
                                              : api_.send(handle, task.reduction.input + first * bytes,
                                                          elements * bytes, Rank{peer}, task.stream);
        const std::size_t own = part(rank_.value).elements;
        if (own == 0 || !is_good(sent)) return sent;
        return api_.receive(handle, slot_of(task, chunk, peer), own * bytes, Rank{peer}, task.stream);
      });
    });
  }

  /// Sends this rank's sum to the receivers, and receives the others' if it is one.
  template <class PartOf>
  void deliver(NcclLink<Api>& link, const Task& task, const std::byte* sum, PartOf part) {
    const std::size_t bytes = task.output_bytes();
    link.launch("ncclSend and ncclRecv", [&](auto& handle) {
      return for_each_peer([&](int peer) {
        const std::size_t own = part(rank_.value).elements;
        const NcclResult sent = own == 0 || !task.receives(peer)
                                    ? NcclResult::success
                                    : api_.send(handle, sum, own * bytes, Rank{peer}, task.stream);
        const auto [first, elements] = part(peer);
        if (elements == 0 || !task.receives(rank_.value) || !is_good(sent)) return sent;
        return api_.receive(handle, task.reduction.output + first * bytes, elements * bytes, Rank{peer}, task.stream);
      });
    });
  }

  /// Calls `call(peer)` for every other rank, each rank beginning with another one, until one goes wrong.
  template <class Call>
  NcclResult for_each_peer(Call call) const {
    for (int i = 1; i < size_; ++i) {
      const NcclResult result = call((rank_.value + i) % size_);
      if (!is_good(result)) return result;
    }
    return NcclResult::success;
  }

  Api api_;
  Rank rank_;
  int size_;
  std::size_t scratch_bytes_;
  std::shared_ptr<std::byte> scratch_;
  typename Api::Runtime::event_type free_;  // what used the scratch memory last
  std::vector<const std::byte*> inputs_;
};

/// Exact sums of integers, through a small buffer of the host's and one of the device. They are done on return.
template <NcclLayer Api>
class IntegerSums {
 public:
  explicit IntegerSums(Api api)
      : api_{std::move(api)},
        pinned_{api_.runtime().allocate_host(Bytes{most * sizeof(std::int64_t)})},
        device_{api_.runtime().allocate_device(Bytes{most * sizeof(std::int64_t)})},
        done_{api_.runtime().make_event()} {}

  void sum(NcclLink<Api>& link, std::span<std::int64_t> integers, StreamRef reference) {
    typename Api::Runtime::stream_type stream{reference};
    while (!integers.empty()) {
      const auto chunk = integers.first(std::min(integers.size(), most));
      std::memcpy(pinned_.get(), chunk.data(), chunk.size_bytes());
      copy_bytes(stream, device_.get(), pinned_.get(), chunk.size_bytes());
      link.launch("ncclAllReduce", [&](auto& handle) {
        return api_.all_reduce(handle, reinterpret_cast<std::int64_t*>(device_.get()), chunk.size(), reference);
      });
      copy_bytes(stream, pinned_.get(), device_.get(), chunk.size_bytes());
      api_.runtime().record(done_, reference);
      link.await(done_);
      std::memcpy(chunk.data(), pinned_.get(), chunk.size_bytes());
      integers = integers.subspan(chunk.size());
    }
  }

 private:
  static constexpr std::size_t most = 4096;

  Api api_;
  std::shared_ptr<std::byte> pinned_;
  std::shared_ptr<std::byte> device_;
  typename Api::Runtime::event_type done_;
};

/// An all-to-all: a copy of the rank's own slice, and one group of NCCL's sends and receives.
template <NcclLayer Api>
void exchange_slices(Api& api, NcclLink<Api>& link, Rank rank, int size, const SliceExchange& exchange,
                     StreamRef reference) {
  const std::size_t bytes = exchange.bytes;
  if (bytes == 0) return;
  const auto offset = [bytes](Rank slice) { return static_cast<std::size_t>(slice.value) * bytes; };
  typename Api::Runtime::stream_type stream{reference};
  copy_bytes(stream, exchange.output + offset(rank), exchange.input + offset(rank), bytes);
  if (size == 1) return;
  link.launch("ncclSend and ncclRecv", [&](auto& handle) {
    NcclResult result = NcclResult::success;
    for (int i = 1; i < size && is_good(result); ++i) {
      const Rank peer{(rank.value + i) % size};
      result = api.send(handle, exchange.input + offset(peer), bytes, peer, reference);
      if (is_good(result)) result = api.receive(handle, exchange.output + offset(peer), bytes, peer, reference);
    }
    return result;
  });
}

}  // namespace zerospan::inline v0::detail
