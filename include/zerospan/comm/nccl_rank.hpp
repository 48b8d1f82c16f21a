/// @file
/// NcclRank: what one rank has of one NCCL communicator.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/any_exchange.hpp>
#include <zerospan/comm/call_sequence.hpp>
#include <zerospan/comm/collective_call.hpp>
#include <zerospan/comm/kept_failure.hpp>
#include <zerospan/comm/nccl_buffers.hpp>
#include <zerospan/comm/nccl_family.hpp>
#include <zerospan/comm/nccl_integers.hpp>
#include <zerospan/comm/nccl_layer.hpp>
#include <zerospan/comm/nccl_link.hpp>
#include <zerospan/comm/nccl_options.hpp>
#include <zerospan/comm/nccl_rank_order.hpp>
#include <zerospan/comm/nccl_setup.hpp>
#include <zerospan/comm/rank_family.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// Memory that is registered with NCCL.
struct MemoryRange {
  std::byte* data;
  Bytes bytes;

  friend bool operator==(const MemoryRange&, const MemoryRange&) = default;
};

/// A communicator's part of its family: the link, the exchange, and the buffers of sums.
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
      rank->split(
          *rank->link_, [&](Handle&, Handle& child) { return api.split(host, place, child); }, &host);
    } else {
      rank->create();
    }
    return rank;
  }

  NcclRank(Api api, std::shared_ptr<NcclFamily<Api>> family, AnyExchange exchange, std::uint64_t id)
      : api_{std::move(api)},
        family_{std::move(family)},
        exchange_{std::move(exchange)},
        size_{exchange_.size()},
        in_rank_order_{api_, family_->rank(), size_, options().scratch},
        integers_{api_},
        link_{std::make_shared<NcclLink<Api>>(api_, family_->rank(), id, family_->failure())} {
    family_->add(link_);
  }
  NcclRank(const NcclRank&) = delete;
  NcclRank& operator=(const NcclRank&) = delete;
  ~NcclRank() {
    on_failure({});
    try {
      const DeviceScope scope{api_, family_->device()};
      close();
    } catch (...) {  // the device is lost
      close();
    }
  }

  Rank rank() const noexcept { return family_->rank(); }
  int size() const noexcept { return size_; }
  const NcclOptions& options() const noexcept { return family_->options(); }
  NcclLink<Api>& link() noexcept { return *link_; }
  RankOrderSums<Api>& in_rank_order() noexcept { return in_rank_order_; }
  IntegerSums<Api>& integers() noexcept { return integers_; }

  std::unique_ptr<NcclRank> duplicate() {
    family_->failure()->check();
    const DeviceScope scope{api_, family_->device()};
    try {
      link_->count({.kind = CollectiveKind::duplicate});
      link_->wait_idle();
      auto twin = std::make_unique<NcclRank>(api_, family_, exchange_.duplicate(),
                                             CallSequence::name_of_duplicate(link_->id(), duplicates_++));
      if constexpr (Api::splits) {
        twin->split(*link_, [this](Handle& own, Handle& child) { return api_.split(own, rank(), child); });
      } else {
        twin->create();
      }
      for (const MemoryRange& range : registered_) twin->register_memory(range);
      return twin;
    } catch (...) {
      failed();
    }
  }

  void abort(const std::string& reason) noexcept {
    Failure failure{Failure::Kind::rank_failed, rank(), {}};
    try {
      failure.text = describe(rank()) + " failed (" + reason + ")";
    } catch (...) {  // no memory for the reason
    }
    family_->failure()->keep(std::move(failure));
  }

  void on_failure(KeptFailure::Listener f) { family_->failure()->listen(this, std::move(f)); }

  void verify() {
    family_->failure()->check();
    try {
      const std::vector<SequenceRecord> all = gather(exchange_, link_->record());
      std::vector<const SequenceRecord*> ranks;
      for (const SequenceRecord& record : all) ranks.push_back(&record);
      if (const auto divergence = find_divergence(ranks, at_one_place)) family_->failure()->keep(*divergence);
    } catch (...) {
      failed();
    }
    family_->failure()->check();
  }

  void register_memory(const MemoryRange& range) {
    if constexpr (Api::registers) {
      if (std::ranges::find(registered_, range) != registered_.end()) return;
      const DeviceScope scope{api_, family_->device()};
      void* handle = nullptr;
      link_->make("ncclCommRegister",
                  [&](Handle& own) { return api_.register_memory(own, range.data, range.bytes.count, handle); });
      registrations_.push_back(handle);
      registered_.push_back(range);
    }
  }

  /// Runs a collective: `work()` enqueues it.
  /// @throws ConfigurationError for a stream that is no device's; what NcclLink::run throws.
  template <class Work>
  void run(const CollectiveCall& call, StreamRef stream, Work work) {
    if (stream.is_calling_thread()) {
      throw_configuration_error("the collective '" + std::string{call.name} +
                                "' is to run on the calling thread: NCCL's run on streams of the device");
    }
    const DeviceScope scope{api_, family_->device()};
    link_->run(call, stream, work);
  }

  /// A group of calls of NCCL, `calls(api, handle)`, within a collective.
  template <class Calls>
  void launch(const char* operation, Calls calls) {
    link_->launch(operation, [&](Handle& handle) { return calls(api_, handle); });
  }

 private:
  static std::unique_ptr<NcclRank> prepare(Api& api, AnyExchange exchange, const NcclOptions& options) {
    require_valid(options, exchange.size());
    require_equal(exchange, options);
    AnyExchange own = exchange.duplicate();
    return std::make_unique<NcclRank>(api, std::make_shared<NcclFamily<Api>>(api, std::move(exchange), options),
                                      std::move(own), std::uint64_t{0});
  }

  /// Throws, for the exception being handled, this family's first failure: of an exchange that was aborted, the board
  /// tells why.
  [[noreturn]] void failed() {
    family_->failure()->look_again();
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
  void split(NcclLink<Api>& parent, Start start, const Handle* watched = nullptr) {
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
    link_->close([this](Handle& own) {
      for (void* const handle : registrations_) api_.deregister_memory(own, handle);
    });
  }

  Api api_;
  std::shared_ptr<NcclFamily<Api>> family_;
  AnyExchange exchange_;
  int size_;
  RankOrderSums<Api> in_rank_order_;
  IntegerSums<Api> integers_;
  std::shared_ptr<NcclLink<Api>> link_;
  std::vector<MemoryRange> registered_;
  std::vector<void*> registrations_;
  std::uint64_t duplicates_ = 0;
};

}  // namespace zerospan::inline v0::detail
