/// @file
/// SelfCommunicator: a world of one rank.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/detail/protocol/rank_context.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/kernels/rank_order_sum.hpp>

namespace zerospan::inline v0 {

/// The only rank of its world. Gathers, broadcasts and barriers have nothing to do; reductions are the sum of one
/// operand. Collectives are done when they return.
///
/// Serves one thread at a time; `abort` may be called from any thread meanwhile. A failed communicator and all its
/// duplicates throw RankFailedError from every later collective.
///
/// @throws RankFailedError after `abort`, ConfigurationError for operands that no collective has.
class SelfCommunicator {
 public:
  SelfCommunicator() : SelfCommunicator{std::make_shared<detail::RankContext>(1)} {}
  SelfCommunicator(SelfCommunicator&&) noexcept = default;
  SelfCommunicator& operator=(SelfCommunicator&&) noexcept = default;

  Rank rank() const noexcept { return Rank{0}; }
  int size() const noexcept { return 1; }

  SelfCommunicator duplicate() {
    begin({.kind = detail::CollectiveKind::duplicate});
    return SelfCommunicator{context_};
  }
  SelfCommunicator split(SplitPlace) {
    begin({.kind = detail::CollectiveKind::split});
    return SelfCommunicator{context_};
  }
  void abort(const std::string& reason) noexcept { context_->abort(rank(), reason); }

  void all_gather(Collective what, std::span<const GatherPart> parts) {
    begin({.kind = detail::CollectiveKind::all_gather, .name = what.name, .parts = parts});
  }
  void reduce_scatter(Collective what, const Reduction& reduction) {
    reduce(detail::reduce_scatter_call(what, reduction, rank(), size()));
  }
  void reduce(Collective what, const Reduction& reduction, Rank root) {
    reduce(detail::reduce_call(what, reduction, root, rank(), size()));
  }
  void all_reduce(Collective what, const Reduction& reduction) { reduce(detail::all_reduce_call(what, reduction)); }
  void all_reduce(Collective what, std::span<std::int64_t> integers) {
    begin({.kind = detail::CollectiveKind::all_reduce_integers, .name = what.name, .integers = integers});
  }
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root) {
    begin(detail::broadcast_call(what, bytes, root, size()));
  }
  void all_to_all(Collective what, const SliceExchange& exchange) {
    const detail::CollectiveCall call = detail::all_to_all_call(what, exchange, size());
    begin(call);
    std::copy_n(exchange.input, exchange.bytes, exchange.output);
  }
  void barrier(Collective what) { begin({.kind = detail::CollectiveKind::barrier, .name = what.name}); }

 private:
  explicit SelfCommunicator(std::shared_ptr<detail::RankContext> context) noexcept : context_{std::move(context)} {}

  void begin(const detail::CollectiveCall& call) {
    const std::scoped_lock lock{context_->mutex};
    if (context_->failure) {
      detail::throw_failure(*context_->failure, " before rank 0 called " + detail::describe(call, begun_));
    }
    ++begun_;
  }

  void reduce(const detail::CollectiveCall& call) {
    const Reduction& r = call.reduction;
    begin(call);
    rank_order_sum(std::array{r.input}, r.input_type, r.output, r.output_type, r.elements);
  }

  std::shared_ptr<detail::RankContext> context_;
  std::uint64_t begun_ = 0;
};

static_assert(TrainingCommunicator<SelfCommunicator> && ExchangesSlices<SelfCommunicator> && Splits<SelfCommunicator>);

}  // namespace zerospan::inline v0
