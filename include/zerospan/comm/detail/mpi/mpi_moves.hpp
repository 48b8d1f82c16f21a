/// @file
/// Gathers, broadcasts and exchanges over processes: few bytes travel with the header of the call, more go in messages
/// straight from buffer to buffer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/mpi/mpi_channel.hpp>
#include <zerospan/comm/detail/mpi/mpi_messages.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// Copies bytes, if there are any. @return The end of the copy.
inline std::byte* append(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
  if (bytes != 0) std::memcpy(to, from, bytes);
  return to + bytes;
}

/// Where a rank's slice is, of the operands of an all-to-all.
template <class Byte>
Byte* slice_of(Byte* operand, const SliceExchange& exchange, int rank) noexcept {
  return operand + static_cast<std::size_t>(rank) * exchange.bytes;
}

inline std::byte* shard_of(const GatherPart& part, int rank) noexcept {
  return part.buffer + static_cast<std::size_t>(rank) * part.shard_bytes;
}

/// An all-gather whose shards travel with the header.
inline void gather_by_call(MpiChannel& channel, const CollectiveCall& call) {
  channel.begin(call, [&](int, std::byte* to) {
    std::byte* end = to;
    for (const GatherPart& part : call.parts) end = append(end, shard_of(part, channel.rank().value), part.shard_bytes);
    return static_cast<std::size_t>(end - to);
  });
  channel.for_each_distance([&](int, int from) {
    const std::byte* bytes = channel.payload(from);
    for (const GatherPart& part : call.parts) {
      append(shard_of(part, from), bytes, part.shard_bytes);
      bytes += part.shard_bytes;
    }
  });
}

/// An all-gather straight from buffer to buffer.
inline void gather_by_messages(MpiChannel& channel, const CollectiveCall& call) {
  constexpr std::size_t most_at_once = 256;
  const int distances = static_cast<int>(std::max(most_at_once / (2 * call.parts.size()), std::size_t{1}));
  channel.begin(call, MpiChannel::nothing);
  MpiMessages& messages = channel.transfer();
  const auto send = [&](int to) {
    for (const GatherPart& part : call.parts) {
      messages.send(to, channel.tags().operands, shard_of(part, channel.rank().value), part.shard_bytes);
    }
  };
  const auto receive = [&](int from) {
    for (const GatherPart& part : call.parts) {
      messages.receive(from, channel.tags().operands, shard_of(part, from), part.shard_bytes);
    }
  };
  for (int first = 1; first < channel.size(); first += distances) {
    channel.group()->exchange(send, receive, first, first + distances - 1);
    channel.finish(messages);
  }
}

inline void gather(MpiChannel& channel, const CollectiveCall& call) {
  std::size_t bytes = 0;
  for (const GatherPart& part : call.parts) bytes += part.shard_bytes;
  if (bytes <= MpiChannel::longest_payload) return gather_by_call(channel, call);
  gather_by_messages(channel, call);
}

/// A broadcast whose bytes travel with the root's header.
inline void broadcast_by_call(MpiChannel& channel, const CollectiveCall& call) {
  const bool is_root = channel.rank() == call.root;
  channel.begin(call, [&](int, std::byte* to) {
    if (!is_root) return std::size_t{0};
    append(to, call.bytes.data(), call.bytes.size());
    return call.bytes.size();
  });
  if (!is_root) append(call.bytes.data(), channel.payload(call.root.value), call.bytes.size());
}

/// A broadcast in which the root sends every rank a slice, which that rank sends to the others.
inline void broadcast_by_messages(MpiChannel& channel, const CollectiveCall& call) {
  const bool is_root = channel.rank() == call.root;
  const auto slice = [&](int rank) {
    const auto [first, bytes] = even_slice(call.bytes.size(), channel.size(), rank);
    return call.bytes.subspan(first, bytes);
  };
  const std::span<std::byte> own = slice(channel.rank().value);
  channel.begin(call, MpiChannel::nothing);
  MpiMessages& messages = channel.transfer();
  if (!is_root) {
    messages.receive(call.root.value, channel.tags().operands, own.data(), own.size());
    channel.finish(messages);
  }
  channel.for_each_distance([&](int to, int) {
    if (is_root) messages.send(to, channel.tags().operands, slice(to).data(), slice(to).size());
  });
  channel.group()->exchange(
      [&](int to) {
        if (to != call.root.value) messages.send(to, channel.tags().results, own.data(), own.size());
      },
      [&](int from) {
        if (!is_root) messages.receive(from, channel.tags().results, slice(from).data(), slice(from).size());
      });
  channel.finish(messages);
}

inline void broadcast(MpiChannel& channel, const CollectiveCall& call) {
  if (call.bytes.size() <= MpiChannel::longest_payload) return broadcast_by_call(channel, call);
  broadcast_by_messages(channel, call);
}

/// Slices travel with the header if they are small, and else straight to their places.
inline void exchange_slices(MpiChannel& channel, const CollectiveCall& call) {
  const SliceExchange& e = call.exchange;
  const bool by_call = e.bytes <= MpiChannel::longest_payload;
  channel.begin(call, [&](int peer, std::byte* to) {
    if (!by_call) return std::size_t{0};
    append(to, slice_of(e.input, e, peer), e.bytes);
    return e.bytes;
  });
  const int me = channel.rank().value;
  append(slice_of(e.output, e, me), slice_of(e.input, e, me), e.bytes);
  if (by_call) {
    channel.for_each_distance(
        [&](int, int from) { append(slice_of(e.output, e, from), channel.payload(from), e.bytes); });
    return;
  }
  MpiMessages& messages = channel.transfer();
  channel.group()->exchange(
      [&](int to) { messages.send(to, channel.tags().operands, slice_of(e.input, e, to), e.bytes); },
      [&](int from) { messages.receive(from, channel.tags().operands, slice_of(e.output, e, from), e.bytes); });
  channel.finish(messages);
}

}  // namespace zerospan::inline v0::detail
