/// @file
/// ForwardingCommunicator: what decorators of communicators pass on as it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <utility>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// A base of decorators: all but the duplicates, and the optional abilities that `C` has.
template <TrainingCommunicator C>
class ForwardingCommunicator {
 public:
  Rank rank() const noexcept { return communicator_.rank(); }
  int size() const noexcept { return communicator_.size(); }
  void abort(const std::string& reason) noexcept { communicator_.abort(reason); }

  void all_gather(Collective what, std::span<const GatherPart> parts) { communicator_.all_gather(what, parts); }
  void reduce_scatter(Collective what, const Reduction& reduction) { communicator_.reduce_scatter(what, reduction); }
  void reduce(Collective what, const Reduction& reduction, Rank root) { communicator_.reduce(what, reduction, root); }
  void all_reduce(Collective what, const Reduction& reduction) { communicator_.all_reduce(what, reduction); }
  void all_reduce(Collective what, std::span<std::int64_t> integers) { communicator_.all_reduce(what, integers); }
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root) { communicator_.broadcast(what, bytes, root); }
  void barrier(Collective what) { communicator_.barrier(what); }

  void all_to_all(Collective what, const SliceExchange& exchange) requires ExchangesSlices<C> {
    communicator_.all_to_all(what, exchange);
  }
  int groups() const requires Grouped<C> { return communicator_.groups(); }
  void gather_across(Collective what, std::span<const GatherPart> parts) requires Grouped<C> {
    communicator_.gather_across(what, parts);
  }
  void gather_within(Collective what, std::span<const GatherPart> parts) requires Grouped<C> {
    communicator_.gather_within(what, parts);
  }
  int replicas() const requires Replicates<C> { return communicator_.replicas(); }
  int replica() const requires Replicates<C> { return communicator_.replica(); }
  void on_failure(std::function<void(std::exception_ptr)> told) requires ReportsFailures<C> {
    communicator_.on_failure(std::move(told));
  }
  void register_memory(std::byte* data, Bytes bytes) requires RegistersMemory<C> {
    communicator_.register_memory(data, bytes);
  }
  void verify() requires VerifiesCalls<C> { communicator_.verify(); }

 protected:
  explicit ForwardingCommunicator(C communicator) : communicator_{std::move(communicator)} {}

  C communicator_;
};

}  // namespace zerospan::inline v0::detail
