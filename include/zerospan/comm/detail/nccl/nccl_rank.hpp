/// @file
/// NcclRank: a rank's part of one communicator: how it is made, what it has, how it ends.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <source_location>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/nccl/nccl_context.hpp>
#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/comm/detail/nccl/nccl_link.hpp>
#include <zerospan/comm/detail/nccl/nccl_sums.hpp>
#include <zerospan/comm/detail/protocol/any_exchange.hpp>
#include <zerospan/comm/detail/protocol/call_sequence.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/detail/protocol/failure.hpp>
#include <zerospan/comm/detail/protocol/first_failure.hpp>
#include <zerospan/comm/nccl_error.hpp>
#include <zerospan/comm/nccl_options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
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

/// Memory that is registered with NCCL.
struct MemoryRange {
  std::byte* data;
  Bytes bytes;

  friend bool operator==(const MemoryRange&, const MemoryRange&) = default;
};

/// The memory registered with one communicator. Versions of NCCL that cannot register have none.
template <NcclLayer Api>
class NcclMemory {
 public:
  const std::vector<MemoryRange>& ranges() const noexcept { return ranges_; }
  bool has(const MemoryRange& range) const { return std::ranges::find(ranges_, range) != ranges_.end(); }

  /// @throws NcclError; what NcclLink::make throws.
  void add([[maybe_unused]] Api& api, [[maybe_unused]] NcclLink<Api>& link, [[maybe_unused]] const MemoryRange& range) {
    if constexpr (Api::registers) {
      void* handle = nullptr;
      link.make("ncclCommRegister",
                [&](auto& own) { return api.register_memory(own, range.data, range.bytes.count, handle); });
      handles_.push_back(handle);
      ranges_.push_back(range);
    }
  }

  /// Before the communicator ends.
  void give_back(Api& api, typename Api::Communicator communicator) {
    for (void* const handle : handles_) api.deregister_memory(communicator, handle);
  }

 private:
  std::vector<MemoryRange> ranges_;
  std::vector<void*> handles_;
};

/// A communicator's part of its context: the link, the exchange, and the buffers of sums.
template <NcclLayer Api>
class NcclRank {
 public:
  using Handle = typename Api::Communicator;

  /// From a unique id.
  static std::unique_ptr<NcclRank> make(Api api, AnyExchange exchange, const NcclOptions& options) {
    auto rank = prepare(api, std::move(exchange), options);
    rank->create();
    return rank;
  }

  /// From a communicator of the host.
  static std::unique_ptr<NcclRank> make_from(Api api, Handle host, AnyExchange exchange, const NcclOptions& options) {
    Rank place;
    int size = 0;
    const NcclResult result = api.place(host, place, size);
    auto rank = prepare(api, std::move(exchange), options);
    if (result != NcclResult::success) rank->link_->throw_error("ncclCommCount", result);
    if (place != rank->rank() || size != rank->size()) {
      throw_configuration_error("the exchange of bytes has " + describe(rank->rank()) + " of " +
                                std::to_string(rank->size()) + " where the NCCL communicator has " + describe(place) +
                                " of " + std::to_string(size));
    }
    if constexpr (Api::splits) {
      rank->split_off(
          *rank->link_, [&](Handle&, Handle& child) { return api.split(host, 0, place, child); }, &host);
    } else {
      rank->create();
    }
    return rank;
  }

  /// @param exchange Of the members, in that order.
  /// @param members Their ranks in the context.
  NcclRank(Api api, std::shared_ptr<NcclContext<Api>> context, AnyExchange exchange, std::vector<Rank> members,
           std::uint64_t id)
      : api_{std::move(api)},
        context_{std::move(context)},
        exchange_{std::move(exchange)},
        rank_{exchange_.rank()},
        size_{exchange_.size()},
        in_rank_order_{api_, rank_, size_, options().scratch},
        integers_{api_},
        link_{std::make_shared<NcclLink<Api>>(api_, context_->rank(), std::move(members), id, context_->failure())} {
    context_->add(link_);
  }
  NcclRank(const NcclRank&) = delete;
  NcclRank& operator=(const NcclRank&) = delete;
  ~NcclRank() {
    if (context_->home().was_left()) {  // what waits for the thread that watches, or calls the device, would hang
      static_cast<void>(new (std::nothrow) std::shared_ptr{context_});
      return;
    }
    on_failure({});
    try {
      const typename Api::CurrentDevice current{context_->device()};
      close();
    } catch (...) {  // the device is lost
      close();
    }
  }

  Rank rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  const NcclOptions& options() const noexcept { return context_->options(); }
  Api& api() noexcept { return api_; }
  NcclLink<Api>& link() noexcept { return *link_; }
  RankOrderSums<Api>& in_rank_order() noexcept { return in_rank_order_; }
  IntegerSums<Api>& integers() noexcept { return integers_; }

  std::unique_ptr<NcclRank> duplicate() {
    require_home();
    const typename Api::CurrentDevice current{context_->device()};
    begin_child(CollectiveKind::duplicate);
    return make_child(0, link_->members(), [this] { return exchange_.duplicate(); });
  }

  /// @throws ConfigurationError, on every rank, where the exchange cannot be split, or if two have the same color and
  /// key.
  std::unique_ptr<NcclRank> split(SplitPlace place) {
    require_home();
    if (!exchange_.can_split()) static_cast<void>(exchange_.split(place));
    const typename Api::CurrentDevice current{context_->device()};
    begin_child(CollectiveKind::split);
    const auto beside = ranks_beside(gather_places(place), static_cast<std::size_t>(rank_.value));
    std::vector<Rank> members;
    for (const std::size_t rank : beside) members.push_back(link_->members()[rank]);
    return make_child(static_cast<int>(beside.front()), std::move(members), [&] { return exchange_.split(place); });
  }

  void abort(const std::string& reason) noexcept {
    if (context_->home().was_left()) return;
    Failure failure{Failure::Kind::rank_failed, context_->rank(), {}};
    try {
      failure.text = describe(context_->rank()) + " failed (" + reason + ")";
    } catch (...) {  // no memory for the reason
    }
    context_->failure()->keep(std::move(failure));
  }

  void on_failure(FirstFailure::Listener f) {
    require_home();
    context_->failure()->listen(this, std::move(f));
  }

  void verify() {
    require_home();
    context_->failure()->check();
    try {
      const std::vector<SequenceRecord> all = gather(exchange_, link_->record());
      std::vector<const SequenceRecord*> ranks;
      for (const SequenceRecord& record : all) ranks.push_back(&record);
      const auto divergence = find_divergence(ranks, link_->members(), agree_so_far);
      if (divergence) context_->failure()->keep(*divergence);
    } catch (...) {
      failed();
    }
    context_->failure()->check();
  }

  void register_memory(const MemoryRange& range) {
    require_home();
    if (memory_.has(range)) return;
    const typename Api::CurrentDevice current{context_->device()};
    memory_.add(api_, *link_, range);
  }

  /// Runs a collective: `work()` enqueues it.
  /// @throws ConfigurationError for a stream that is no device's; what NcclLink::run throws.
  template <class Work>
  void run(const CollectiveCall& call, StreamRef stream, Work work) {
    require_home();
    if (stream.is_calling_thread()) {
      throw_configuration_error("the collective '" + std::string{call.name} +
                                "' is to run on the calling thread: NCCL's run on streams of the device");
    }
    const typename Api::CurrentDevice current{context_->device()};
    CollectiveCall named = call;
    named.root = link_->members()[static_cast<std::size_t>(call.root.value)];
    link_->run(named, stream, work);
  }

  /// A group of calls of NCCL, `calls(api, handle)`, within a collective.
  template <class Calls>
  void launch(const char* operation, Calls calls) {
    link_->launch(operation, [&](Handle& handle) { return calls(api_, handle); });
  }

 private:
  /// @throws RankFailedError in a forked process.
  void require_home() const { context_->home().require(context_->rank()); }

  static std::unique_ptr<NcclRank> prepare(Api& api, AnyExchange exchange, const NcclOptions& options) {
    require_valid(options, exchange.size());
    require_equal(exchange, options);
    AnyExchange own = exchange.duplicate();
    std::vector<Rank> members = ranks_of(own);
    return std::make_unique<NcclRank>(api, std::make_shared<NcclContext<Api>>(api, std::move(exchange), options),
                                      std::move(own), std::move(members), std::uint64_t{0});
  }

  void begin_child(CollectiveKind kind) {
    context_->failure()->check();
    try {
      link_->count({.kind = kind});
      link_->wait_idle();
    } catch (...) {
      failed();
    }
  }

  std::vector<SplitPlace> gather_places(SplitPlace place) {
    try {
      return gather(exchange_, place);
    } catch (...) {
      failed();
    }
  }

  /// @param color The same on all members alone, of those that make children now.
  /// @param make_exchange Of the members.
  template <class MakeExchange>
  std::unique_ptr<NcclRank> make_child(int color, std::vector<Rank> members, MakeExchange make_exchange) {
    try {
      const std::uint64_t turn = CallSequence::name_of_duplicate(link_->id(), children_++);
      const std::uint64_t id = CallSequence::name_of_duplicate(turn, static_cast<std::uint64_t>(color));
      auto child = std::make_unique<NcclRank>(api_, context_, make_exchange(), std::move(members), id);
      if constexpr (Api::splits) {
        const Rank key = child->rank();
        child->split_off(*link_, [&](Handle& own, Handle& made) { return api_.split(own, color, key, made); });
      } else {
        child->create();
      }
      for (const MemoryRange& range : memory_.ranges()) child->register_memory(range);
      return child;
    } catch (...) {
      failed();
    }
  }

  /// Handles the exception of an exchange by throwing the context's first failure. Where the exchange was aborted,
  /// another rank has posted the reason, which the next check of the watching thread reads.
  [[noreturn]] void failed() {
    context_->failure()->await_check();
    link_->failed();
  }

  typename Api::UniqueId agree_on_id() {
    try {
      return exchange_unique_id(api_, exchange_);
    } catch (...) {
      failed();
    }
  }

  void create() {
    const auto id = agree_on_id();
    link_->make("ncclCommInitRankConfig", [&](Handle& own) { return api_.create(own, size_, id, rank()); });
  }

  /// Takes what `start(handle, child)` splits off the parent, while `parent` waits.
  template <class Start>
  void split_off(NcclLink<Api>& parent, Start start, const Handle* watched = nullptr) {
    auto child = std::make_unique<Handle>();
    try {
      parent.make(
          "ncclCommSplit", [&](Handle& own) { return start(own, *child); }, watched);
    } catch (...) {
      if (watched) {
        static_cast<void>(child.release());  // the host's communicator, which may yet write to it, outlives all else
      } else {
        parent.keep(std::move(child));
      }
      throw;
    }
    try {
      link_->make("ncclCommSplit", [&](Handle& own) {
        own = std::exchange(*child, Handle{});
        return NcclResult::in_progress;
      });
    } catch (...) {
      if (*child != Handle{}) api_.abort(*child);
      throw;
    }
  }

  void close() noexcept {
    link_->close([this](Handle& own) { memory_.give_back(api_, own); });
  }

  Api api_;
  std::shared_ptr<NcclContext<Api>> context_;
  AnyExchange exchange_;
  Rank rank_;
  int size_;
  RankOrderSums<Api> in_rank_order_;
  IntegerSums<Api> integers_;
  std::shared_ptr<NcclLink<Api>> link_;
  NcclMemory<Api> memory_;
  std::uint64_t children_ = 0;  // made
};

}  // namespace zerospan::inline v0::detail
