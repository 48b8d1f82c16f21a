/// @file
/// MpiCommunicator: ranks that are processes, from a communicator that the host has.
#pragma once

#include <mpi.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/collective_call.hpp>
#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/mpi_add.hpp>
#include <zerospan/comm/mpi_channel.hpp>
#include <zerospan/comm/mpi_family.hpp>
#include <zerospan/comm/mpi_messages.hpp>
#include <zerospan/comm/mpi_options.hpp>
#include <zerospan/comm/mpi_scratch.hpp>
#include <zerospan/comm/mpi_slice_sum.hpp>
#include <zerospan/comm/mpi_sum_task.hpp>
#include <zerospan/comm/rank_order_sum.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// One rank of a group of processes. Collectives move and sum operands in host memory, on the calling thread, and are
/// done when they return (the stream plays no part). All reductions are sums in rank order: their bits are those of a
/// ThreadCommunicator.
///
/// The host starts and ends MPI, and outlives every MpiCommunicator with it. Under MPI_THREAD_MULTIPLE the host uses
/// MPI as it likes. Under MPI_THREAD_SERIALIZED there is one MpiCommunicator and its duplicates, and the host makes its
/// own calls of MPI inside `exclusive`, from when the communicator is made until the last duplicate is destroyed.
///
/// Each rank's communicator serves one thread at a time; `abort` and `exclusive` may be called from any thread
/// meanwhile. A communicator and all its duplicates stand and fall together: whatever goes wrong (a rank aborts,
/// diverges, stays away past the timeout, or has destroyed a communicator that others wait in) makes the current or
/// next collective of every rank throw. After such an error a process ends: operands of a collective in which it was
/// thrown may be MPI's until then, and MPI cannot be told otherwise (`run_mpi_rank` sees to it).
///
/// @note MPI kills no process that waits: it is the launcher (mpirun) that ends a job of which a process has died.
///
/// @throws RankFailedError, RankTimeoutError, DivergenceError from every collective, MpiError where MPI fails, and
///   ConfigurationError for operands that no collective has.
class MpiCommunicator {
 public:
  /// A collective: every rank of the host's communicator makes one, with the same options. The communicator is
  /// duplicated, and stays the host's, with whatever the host sends through it.
  /// @throws ConfigurationError if MPI is not initialized, or finalized, or serves fewer threads than it has to, or for
  ///   options that mean nothing; TimeoutError or RankTimeoutError if not all ranks come; DivergenceError for options
  ///   that differ.
  explicit MpiCommunicator(MPI_Comm host, const MpiOptions& options = {})
      : MpiCommunicator{std::make_shared<detail::MpiFamily>(host, options), 0} {
    const std::string name = "a new MpiCommunicator, up to " + std::to_string(options.largest_message.count) +
                             " bytes a message, " + std::to_string(options.scratch.count) + " bytes of scratch";
    channel_->begin({.kind = detail::CollectiveKind::barrier, .name = name}, Channel::nothing);
    channel_->restart_count();
  }
  MpiCommunicator(MpiCommunicator&&) noexcept = default;
  MpiCommunicator& operator=(MpiCommunicator&&) noexcept = default;

  Rank rank() const noexcept { return family_->rank(); }
  int size() const noexcept { return family_->size(); }

  MpiCommunicator duplicate();
  void abort(const std::string& reason) noexcept { family_->abort(reason); }

  void all_gather(Collective what, std::span<const GatherPart> parts);
  void reduce_scatter(Collective what, const Reduction& reduction);
  void reduce(Collective what, const Reduction& reduction, Rank root);
  void all_reduce(Collective what, const Reduction& reduction);
  void all_reduce(Collective what, std::span<std::int64_t> integers);
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root);
  void barrier(Collective what) {
    guard([&] { channel_->begin({.kind = detail::CollectiveKind::barrier, .name = what.name}, Channel::nothing); });
  }

  /// Calls `f`, and returns what it does, while no communicator of this family calls MPI, if MPI serves one thread at a
  /// time. `f` waits for nothing that another rank does only after a collective with this one.
  template <class F>
  requires std::invocable<F&>
  decltype(auto) exclusive(F&& f) {
    const std::lock_guard turn{family_->link().turn()};
    return std::invoke(f);
  }

 private:
  using Channel = detail::MpiChannel;

  MpiCommunicator(std::shared_ptr<detail::MpiFamily> family, std::uint64_t channel)
      : family_{std::move(family)}, channel_{std::make_unique<Channel>(family_, channel)} {}

  /// A rank that fails in its own way, within a collective, does not leave the others waiting.
  template <class F>
  void guard(F f) {
    try {
      f();
    } catch (const CommunicationError&) {
      throw;  // the others know
    } catch (const std::exception& error) {
      abort(error.what());
      throw;
    }
  }

  static std::byte* append(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
    if (bytes != 0) std::memcpy(to, from, bytes);
    return to + bytes;
  }

  void gather_by_call(const detail::CollectiveCall& call);
  void gather_by_messages(std::span<const GatherPart> parts);

  /// @param add `add(inputs, output, elements)` sums operands in rank order; the output may be one of them.
  template <class Add>
  void sum(const detail::CollectiveCall& call, const detail::MpiSumTask& task, Add add);
  template <class Add>
  void sum_by_call(const detail::CollectiveCall& call, const detail::MpiSumTask& task, Add add);

  /// The sums of all elements, for one rank or for every rank.
  void sum_all(const detail::CollectiveCall& call, detail::MpiSumTask::Audience audience);
  void spread(std::span<std::byte> bytes, Rank root);

  std::shared_ptr<detail::MpiFamily> family_;
  std::unique_ptr<Channel> channel_;
  detail::MpiScratch scratch_;
};

inline MpiCommunicator MpiCommunicator::duplicate() {
  std::uint64_t channel = 0;
  guard([&] {
    channel_->begin({.kind = detail::CollectiveKind::duplicate}, Channel::nothing, family_->offer_channel());
    channel = channel_->offer_of(Rank{0});
  });
  return {family_, channel};
}

inline void MpiCommunicator::all_gather(Collective what, std::span<const GatherPart> parts) {
  const detail::CollectiveCall call{.kind = detail::CollectiveKind::all_gather, .name = what.name, .parts = parts};
  std::size_t bytes = 0;
  for (const GatherPart& part : parts) bytes += part.shard_bytes;
  guard([&] {
    if (bytes <= Channel::longest_payload) return gather_by_call(call);
    channel_->begin(call, Channel::nothing);
    gather_by_messages(parts);
  });
}

inline void MpiCommunicator::gather_by_call(const detail::CollectiveCall& call) {
  const auto shard = [](const GatherPart& part, int of) {
    return part.buffer + static_cast<std::size_t>(of) * part.shard_bytes;
  };
  channel_->begin(call, [&](int, std::byte* to) {
    std::byte* end = to;
    for (const GatherPart& part : call.parts) end = append(end, shard(part, rank().value), part.shard_bytes);
    return static_cast<std::size_t>(end - to);
  });
  channel_->for_each_distance([&](int, int from) {
    const std::byte* bytes = channel_->payload(from);
    for (const GatherPart& part : call.parts) {
      append(shard(part, from), bytes, part.shard_bytes);
      bytes += part.shard_bytes;
    }
  });
}

inline void MpiCommunicator::gather_by_messages(std::span<const GatherPart> parts) {
  constexpr std::size_t most_at_once = 256;
  detail::MpiMessages& messages = channel_->transfer();
  channel_->for_each_distance([&](int to, int from) {
    for (const auto& [buffer, bytes] : parts) {
      messages.receive(from, channel_->operand_tag(), buffer + static_cast<std::size_t>(from) * bytes, bytes);
    }
    for (const auto& [buffer, bytes] : parts) {
      messages.send(to, channel_->operand_tag(), buffer + static_cast<std::size_t>(rank().value) * bytes, bytes);
    }
    if (messages.size() >= most_at_once) channel_->finish(messages);
  });
  channel_->finish(messages);
}

inline void MpiCommunicator::reduce_scatter(Collective what, const Reduction& reduction) {
  const detail::CollectiveCall call{
      .kind = detail::CollectiveKind::reduce_scatter, .name = what.name, .reduction = reduction};
  const std::size_t width = element_bytes(reduction.input_type);
  const auto ranks = static_cast<std::size_t>(size());
  detail::require_valid(call, ranks * reduction.elements,
                        reduction.input + static_cast<std::size_t>(rank().value) * reduction.elements * width);
  detail::MpiSumTask task{.audience = detail::MpiSumTask::Audience::slices,
                          .root = {},
                          .slices = {},
                          .input = reduction.input,
                          .input_width = width,
                          .output = reduction.output,
                          .output_width = element_bytes(reduction.output_type)};
  for (std::size_t i = 0; i < ranks; ++i) task.slices.push_back({i * reduction.elements, reduction.elements});
  sum(call, task, detail::RankOrderSum{reduction.input_type, reduction.output_type});
}

inline void MpiCommunicator::reduce(Collective what, const Reduction& reduction, Rank root) {
  detail::CollectiveCall call{
      .kind = detail::CollectiveKind::reduce, .name = what.name, .reduction = reduction, .root = root};
  if (rank() != root) call.reduction.output = nullptr;
  detail::require_valid_root(call, size());
  sum_all(call, detail::MpiSumTask::Audience::root);
}

inline void MpiCommunicator::all_reduce(Collective what, const Reduction& reduction) {
  sum_all({.kind = detail::CollectiveKind::all_reduce, .name = what.name, .reduction = reduction},
          detail::MpiSumTask::Audience::everybody);
}

inline void MpiCommunicator::sum_all(const detail::CollectiveCall& call, detail::MpiSumTask::Audience audience) {
  const Reduction& reduction = call.reduction;
  detail::require_valid(call, reduction.elements, reduction.input);
  sum(call,
      {.audience = audience,
       .root = call.root,
       .slices = detail::even_slices(reduction.elements, size()),
       .input = reduction.input,
       .input_width = element_bytes(reduction.input_type),
       .output = reduction.output,
       .output_width = element_bytes(reduction.output_type)},
      detail::RankOrderSum{reduction.input_type, reduction.output_type});
}

inline void MpiCommunicator::all_reduce(Collective what, std::span<std::int64_t> integers) {
  const auto bytes = std::as_writable_bytes(integers);
  sum({.kind = detail::CollectiveKind::all_reduce_integers, .name = what.name, .integers = integers},
      {.audience = detail::MpiSumTask::Audience::everybody,
       .root = {},
       .slices = detail::even_slices(integers.size(), size()),
       .input = bytes.data(),
       .input_width = sizeof(std::int64_t),
       .output = bytes.data(),
       .output_width = sizeof(std::int64_t)},
      detail::IntegerSum{});
}

template <class Add>
void MpiCommunicator::sum(const detail::CollectiveCall& call, const detail::MpiSumTask& task, Add add) {
  if (task.largest_operand() <= Channel::longest_payload) return guard([&] { sum_by_call(call, task, add); });
  detail::MpiSliceSum by_messages{*channel_, scratch_, task, add};
  guard([&] {
    channel_->begin(call, Channel::nothing);
    by_messages.run();
  });
}

template <class Add>
void MpiCommunicator::sum_by_call(const detail::CollectiveCall& call, const detail::MpiSumTask& task, Add add) {
  const auto summands_of = [&](int of) {
    const auto [first, elements] = task.summands_of(of);
    return std::span{task.input + first * task.input_width, elements * task.input_width};
  };
  channel_->begin(call, [&](int peer, std::byte* to) {
    const std::span summands = summands_of(peer);
    append(to, summands.data(), summands.size());
    return summands.size();
  });
  std::vector<const std::byte*> operands;
  for (int i = 0; i < size(); ++i) {
    operands.push_back(i == rank().value ? summands_of(i).data() : channel_->payload(i));
  }
  const std::size_t elements = task.summands_of(rank().value).elements;
  if (elements > 0) add(operands, task.output, elements);
}

inline void MpiCommunicator::broadcast(Collective what, std::span<std::byte> bytes, Rank root) {
  const detail::CollectiveCall call{
      .kind = detail::CollectiveKind::broadcast, .name = what.name, .bytes = bytes, .root = root};
  detail::require_valid_root(call, size());
  guard([&] {
    if (bytes.size() > Channel::longest_payload) {
      channel_->begin(call, Channel::nothing);
      return spread(bytes, root);
    }
    channel_->begin(call, [&](int, std::byte* to) {
      if (rank() == root) append(to, bytes.data(), bytes.size());
      return rank() == root ? bytes.size() : 0;
    });
    if (rank() != root) append(bytes.data(), channel_->payload(root.value), bytes.size());
  });
}

/// The root gives every rank a slice, which that rank gives to the others.
inline void MpiCommunicator::spread(std::span<std::byte> bytes, Rank root) {
  const std::vector<detail::MpiSlice> slices = detail::even_slices(bytes.size(), size());
  const auto slice = [&](int of) {
    const auto [first, count] = slices[static_cast<std::size_t>(of)];
    return bytes.subspan(first, count);
  };
  const std::span own = slice(rank().value);
  detail::MpiMessages& messages = channel_->transfer();
  if (rank() != root) {
    messages.receive(root.value, channel_->operand_tag(), own.data(), own.size());
    channel_->finish(messages);
  }
  channel_->for_each_distance([&](int to, int from) {
    if (rank() == root) messages.send(to, channel_->operand_tag(), slice(to).data(), slice(to).size());
    if (rank() != root) messages.receive(from, channel_->result_tag(), slice(from).data(), slice(from).size());
    if (to != root.value) messages.send(to, channel_->result_tag(), own.data(), own.size());
  });
  channel_->finish(messages);
}

static_assert(TrainingCommunicator<MpiCommunicator>);

}  // namespace zerospan::inline v0
