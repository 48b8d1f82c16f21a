/// @file
/// CountedCommunicator: the bytes that a rank receives over a communicator.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/protocol/forwarding_communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// Counts what any algorithm that sends slices to their ranks directly has each rank receive: all of the others' shards
/// in a gather, all of the others' addends of the own shard in a reduction.
template <TrainingCommunicator C>
class CountedCommunicator : public detail::ForwardingCommunicator<C> {
  using Base = detail::ForwardingCommunicator<C>;

 public:
  explicit CountedCommunicator(C communicator) : Base{std::move(communicator)} {}

  /// Duplicates count together.
  CountedCommunicator duplicate() { return {this->communicator_.duplicate(), received_}; }

  /// By this rank, over this communicator and its duplicates; operands alone.
  Bytes received() const noexcept { return Bytes{*received_}; }

  void all_gather(Collective what, std::span<const GatherPart> parts) {
    count(parts, others());
    Base::all_gather(what, parts);
  }
  void gather_across(Collective what, std::span<const GatherPart> parts) requires Grouped<C> {
    count(parts, static_cast<std::size_t>(this->groups() - 1));
    Base::gather_across(what, parts);
  }
  void gather_within(Collective what, std::span<const GatherPart> parts) requires Grouped<C> {
    count(parts, static_cast<std::size_t>(this->size() - this->groups()));
    Base::gather_within(what, parts);
  }
  void reduce_scatter(Collective what, const Reduction& reduction) {
    count(others() * reduction.elements * element_bytes(reduction.input_type));
    Base::reduce_scatter(what, reduction);
  }
  void reduce(Collective what, const Reduction& reduction, Rank root) {
    if (this->rank() == root) count(others() * reduction.elements * element_bytes(reduction.input_type));
    Base::reduce(what, reduction, root);
  }
  /// A reduce-scatter and an all-gather of even slices.
  void all_reduce(Collective what, const Reduction& reduction) {
    const std::size_t slice = (reduction.elements + others()) / (others() + 1);
    count(others() * slice * (element_bytes(reduction.input_type) + element_bytes(reduction.output_type)));
    Base::all_reduce(what, reduction);
  }
  void all_reduce(Collective what, std::span<std::int64_t> integers) { Base::all_reduce(what, integers); }
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root) {
    if (this->rank() != root) count(bytes.size());
    Base::broadcast(what, bytes, root);
  }
  void all_to_all(Collective what, const SliceExchange& exchange) requires ExchangesSlices<C> {
    count(others() * exchange.bytes);
    Base::all_to_all(what, exchange);
  }

 private:
  using Counter = std::atomic<std::size_t>;

  CountedCommunicator(C communicator, std::shared_ptr<Counter> received)
      : Base{std::move(communicator)}, received_{std::move(received)} {}

  std::size_t others() const noexcept { return static_cast<std::size_t>(this->size() - 1); }
  void count(std::size_t bytes) noexcept { *received_ += bytes; }
  void count(std::span<const GatherPart> parts, std::size_t shards) noexcept {
    for (const GatherPart& part : parts) count(shards * part.shard_bytes);
  }

  std::shared_ptr<Counter> received_ = std::make_shared<Counter>(0);
};

}  // namespace zerospan::inline v0
