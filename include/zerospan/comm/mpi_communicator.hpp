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

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/mpi/mpi_channel.hpp>
#include <zerospan/comm/detail/mpi/mpi_context.hpp>
#include <zerospan/comm/detail/mpi/mpi_messages.hpp>
#include <zerospan/comm/detail/mpi/mpi_moves.hpp>
#include <zerospan/comm/detail/mpi/mpi_sums.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/mpi_options.hpp>
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
/// thrown may be MPI's until then, and MPI cannot be told otherwise (`run_mpi_rank` sees to it). In a process forked
/// from its own, a communicator throws RankFailedError, and its end tells nobody.
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
      : MpiCommunicator{std::make_shared<detail::MpiContext>(host, options)} {
    const std::string name = "a new MpiCommunicator, up to " + std::to_string(options.largest_message.count) +
                             " bytes a message, " + std::to_string(options.scratch.count) + " bytes of scratch";
    channel_->begin({.kind = detail::CollectiveKind::barrier, .name = name}, Channel::nothing);
    channel_->count_from_here();
  }
  MpiCommunicator(MpiCommunicator&&) noexcept = default;
  MpiCommunicator& operator=(MpiCommunicator&&) noexcept = default;

  Rank rank() const noexcept { return channel_->rank(); }
  int size() const noexcept { return channel_->size(); }

  MpiCommunicator duplicate();
  /// @throws ConfigurationError, on every rank, if two have the same color and key.
  MpiCommunicator split(SplitPlace place);
  void abort(const std::string& reason) noexcept { context_->abort(reason); }

  void all_gather(Collective what, std::span<const GatherPart> parts);
  void reduce_scatter(Collective what, const Reduction& reduction);
  void reduce(Collective what, const Reduction& reduction, Rank root);
  void all_reduce(Collective what, const Reduction& reduction);
  void all_reduce(Collective what, std::span<std::int64_t> integers);
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root);
  void all_to_all(Collective what, const SliceExchange& exchange);
  void barrier(Collective what) {
    guard([&] { channel_->begin({.kind = detail::CollectiveKind::barrier, .name = what.name}, Channel::nothing); });
  }

  /// Calls `f`, and returns what it does, while neither this communicator nor a duplicate or a group of it calls MPI,
  /// if MPI serves one thread at a time. `f` waits for nothing that another rank does only after a collective with this
  /// one.
  template <class F>
  requires std::invocable<F&>
  decltype(auto) exclusive(F&& f) {
    const std::lock_guard lock{context_->link().mutex()};
    return std::invoke(f);
  }

 private:
  using Channel = detail::MpiChannel;

  explicit MpiCommunicator(const std::shared_ptr<detail::MpiContext>& context)
      : MpiCommunicator{context, context->all(), 0} {}
  MpiCommunicator(std::shared_ptr<detail::MpiContext> context, std::shared_ptr<const detail::MpiGroup> group,
                  std::uint64_t channel)
      : context_{std::move(context)}, channel_{std::make_unique<Channel>(context_, std::move(group), channel)} {}

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

  template <class Add>
  void sum(const detail::CollectiveCall& call, const detail::MpiSumTask& task, Add add) {
    guard([&] { detail::sum(*channel_, scratch_, call, task, add); });
  }

  /// The sums of all elements, for one rank or for every rank.
  void sum_all(const detail::CollectiveCall& call, detail::MpiSumTask::Audience audience);

  std::shared_ptr<detail::MpiContext> context_;
  std::unique_ptr<Channel> channel_;
  detail::MpiScratch scratch_;
};

inline MpiCommunicator MpiCommunicator::duplicate() {
  std::uint64_t channel = 0;
  guard([&] {
    channel_->begin({.kind = detail::CollectiveKind::duplicate}, Channel::nothing, context_->offer_channel());
    channel = channel_->offer_of(Rank{0});
  });
  return {context_, channel_->group(), channel};
}

inline MpiCommunicator MpiCommunicator::split(SplitPlace place) {
  std::vector<SplitPlace> places(static_cast<std::size_t>(size()), place);
  const auto copy_place = [](void* to, const void* from) { std::memcpy(to, from, sizeof(SplitPlace)); };
  guard([&] {
    const auto tell = [&](int, std::byte* to) {
      copy_place(to, &place);
      return sizeof place;
    };
    channel_->begin({.kind = detail::CollectiveKind::split}, tell, context_->offer_channel());
    channel_->for_each_distance(
        [&](int, int from) { copy_place(&places[static_cast<std::size_t>(from)], channel_->payload(from)); });
  });
  const auto members = detail::ranks_beside(places, static_cast<std::size_t>(rank().value));
  std::vector<int> ranks;
  for (const std::size_t member : members) ranks.push_back(channel_->group()->in_link(static_cast<int>(member)));
  const std::uint64_t channel = channel_->offer_of(Rank{static_cast<int>(members.front())});
  return {context_, std::make_shared<detail::MpiGroup>(context_->link(), std::move(ranks)), channel};
}

inline void MpiCommunicator::all_gather(Collective what, std::span<const GatherPart> parts) {
  const detail::CollectiveCall call{.kind = detail::CollectiveKind::all_gather, .name = what.name, .parts = parts};
  guard([&] { detail::gather(*channel_, call); });
}

inline void MpiCommunicator::reduce_scatter(Collective what, const Reduction& reduction) {
  const auto call = detail::reduce_scatter_call(what, reduction, rank(), size());
  detail::MpiSumTask task{.audience = detail::MpiSumTask::Audience::slices,
                          .root = {},
                          .slices = {},
                          .input = reduction.input,
                          .input_width = element_bytes(reduction.input_type),
                          .output = reduction.output,
                          .output_width = element_bytes(reduction.output_type)};
  for (std::size_t rank = 0; rank < static_cast<std::size_t>(size()); ++rank) {
    task.slices.push_back({rank * reduction.elements, reduction.elements});
  }
  sum(call, task, detail::RankOrderSum{reduction.input_type, reduction.output_type});
}

inline void MpiCommunicator::reduce(Collective what, const Reduction& reduction, Rank root) {
  sum_all(detail::reduce_call(what, reduction, root, rank(), size()), detail::MpiSumTask::Audience::root);
}

inline void MpiCommunicator::all_reduce(Collective what, const Reduction& reduction) {
  sum_all(detail::all_reduce_call(what, reduction), detail::MpiSumTask::Audience::everybody);
}

inline void MpiCommunicator::sum_all(const detail::CollectiveCall& call, detail::MpiSumTask::Audience audience) {
  const Reduction& reduction = call.reduction;
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

inline void MpiCommunicator::broadcast(Collective what, std::span<std::byte> bytes, Rank root) {
  const auto call = detail::broadcast_call(what, bytes, root, size());
  guard([&] { detail::broadcast(*channel_, call); });
}

inline void MpiCommunicator::all_to_all(Collective what, const SliceExchange& exchange) {
  const auto call = detail::all_to_all_call(what, exchange, size());
  guard([&] { detail::exchange_slices(*channel_, call); });
}

static_assert(TrainingCommunicator<MpiCommunicator> && ExchangesSlices<MpiCommunicator> && Splits<MpiCommunicator>);

}  // namespace zerospan::inline v0
