/// @file
/// What communicators that are made of others pass on to them as it is.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// The one list of the abilities that whatever is made of communicators passes on to each of its parts that has them:
/// what any part is able to do, the whole is. Abilities that say how ranks stand are not among them.
/// @tparam Whole Derives from this; its `for_each_part(act)` calls `act(part)` for each of the `Parts`.
template <class Whole, class... Parts>
class PassedOnAbilities {
 public:
  static constexpr bool duplicates_take_memory = (DuplicatesTakeMemory<Parts> || ...);

  /// Tells once, whichever part finds the failure.
  void on_failure(std::function<void(std::exception_ptr)> told) requires(ReportsFailures<Parts> || ...) {
    std::function<void(std::exception_ptr)> tell_once;
    if (told) {
      tell_once = [told = std::move(told),
                   has_told = std::make_shared<std::atomic<bool>>(false)](const std::exception_ptr& error) {
        if (!has_told->exchange(true)) told(error);
      };
    }
    whole().for_each_part([&]<class C>(C& part) {
      if constexpr (ReportsFailures<C>) part.on_failure(tell_once);
    });
  }
  void register_memory(std::byte* data, Bytes bytes) requires(RegistersMemory<Parts> || ...) {
    whole().for_each_part([&]<class C>(C& part) {
      if constexpr (RegistersMemory<C>) part.register_memory(data, bytes);
    });
  }
  void verify() requires(VerifiesCalls<Parts> || ...) {
    whole().for_each_part([]<class C>(C& part) {
      if constexpr (VerifiesCalls<C>) part.verify();
    });
  }

 private:
  Whole& whole() noexcept { return static_cast<Whole&>(*this); }
};

/// A base of decorators: all but the duplicates, and the optional abilities that `C` has.
template <TrainingCommunicator C>
class ForwardingCommunicator : public PassedOnAbilities<ForwardingCommunicator<C>, C> {
  friend class PassedOnAbilities<ForwardingCommunicator<C>, C>;

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

 protected:
  explicit ForwardingCommunicator(C communicator) : communicator_{std::move(communicator)} {}

  template <class Act>
  void for_each_part(Act act) {
    act(communicator_);
  }

  C communicator_;
};

}  // namespace zerospan::inline v0::detail
