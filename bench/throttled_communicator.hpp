/// @file
/// ThrottledCommunicator: any communicator behind links of known bandwidth and latency.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <thread>
#include <utility>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/protocol/forwarding_communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/units.hpp>

namespace bench {

struct LinkSpeed {
  double bytes_per_second;
  std::chrono::nanoseconds latency{0};
};

/// Passes every collective on to another communicator, and returns no earlier than links would allow: the latency, and
/// the bytes that each rank receives, counted from the moment when the last rank has arrived. The calling thread sleeps
/// meanwhile: it takes no core. For communicators whose collectives are done when they return. Each begins with a
/// barrier, which is what errors of ranks that have failed name.
///
/// What a rank receives is what CountedCommunicator counts, and simulated links carry: slices, sent to their ranks
/// directly.
template <zerospan::TrainingCommunicator C>
class ThrottledCommunicator : public zerospan::detail::ForwardingCommunicator<C> {
  using Base = zerospan::detail::ForwardingCommunicator<C>;

 public:
  ThrottledCommunicator(C communicator, LinkSpeed link) : Base{std::move(communicator)}, link_{link} {}

  /// Behind links of its own.
  ThrottledCommunicator duplicate() { return {this->communicator_.duplicate(), link_}; }

  void all_gather(zerospan::Collective what, std::span<const zerospan::GatherPart> parts) {
    std::size_t shards = 0;
    for (const auto& part : parts) shards += part.shard_bytes;
    pass(what, others() * shards, [&] { Base::all_gather(what, parts); });
  }
  void reduce_scatter(zerospan::Collective what, const zerospan::Reduction& reduction) {
    pass(what, others() * input_bytes(reduction), [&] { Base::reduce_scatter(what, reduction); });
  }
  void reduce(zerospan::Collective what, const zerospan::Reduction& reduction, zerospan::Rank root) {
    pass(what, others() * input_bytes(reduction), [&] { Base::reduce(what, reduction, root); });
  }
  /// A reduce-scatter and an all-gather of even slices.
  void all_reduce(zerospan::Collective what, const zerospan::Reduction& reduction) {
    const std::size_t widths =
        zerospan::element_bytes(reduction.input_type) + zerospan::element_bytes(reduction.output_type);
    pass(what, others() * slice(reduction.elements) * widths, [&] { Base::all_reduce(what, reduction); });
  }
  void all_reduce(zerospan::Collective what, std::span<std::int64_t> integers) {
    pass(what, others() * slice(integers.size()) * 2 * sizeof(std::int64_t),
         [&] { Base::all_reduce(what, integers); });
  }
  void broadcast(zerospan::Collective what, std::span<std::byte> bytes, zerospan::Rank root) {
    pass(what, bytes.size(), [&] { Base::broadcast(what, bytes, root); });
  }
  void barrier(zerospan::Collective what) {
    pass(what, 0, [] {});
  }

 private:
  std::size_t others() const noexcept { return static_cast<std::size_t>(this->size()) - 1; }
  std::size_t slice(std::size_t elements) const noexcept { return (elements + others()) / (others() + 1); }

  static std::size_t input_bytes(const zerospan::Reduction& reduction) noexcept {
    return reduction.elements * zerospan::element_bytes(reduction.input_type);
  }

  template <class Act>
  void pass(zerospan::Collective what, std::size_t bytes, Act act) {
    Base::barrier(what);
    const std::chrono::duration<double> sending{static_cast<double>(bytes) / link_.bytes_per_second};
    const auto end = std::chrono::steady_clock::now() + link_.latency +
                     std::chrono::duration_cast<std::chrono::nanoseconds>(sending);
    act();
    std::this_thread::sleep_until(end);
  }

  LinkSpeed link_;
};

}  // namespace bench
