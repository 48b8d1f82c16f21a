/// @file
/// sim::Device: a device in virtual time. Its memory has addresses and budgets, but no bytes.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/device/lane_options.hpp>
#include <zerospan/sim/cluster.hpp>

namespace zerospan::inline v0::sim {

class Lanes;

struct DeviceOptions {
  Bytes device_budget;
  Bytes host_budget;
  Rates rates;
};

/// One rank's device. Touching its memory ends the program: nothing but posted work may, and posted work is not run.
class Device {
 public:
  using lanes_type = Lanes;

  /// @param cluster Outlives the device.
  Device(Cluster& cluster, Rank rank, const DeviceOptions& options)
      : cluster_{cluster},
        rank_{rank},
        rates_{options.rates},
        memory_{"device memory", addresses(options.device_budget), options.device_budget},
        host_memory_{"host memory", addresses(options.host_budget), options.host_budget} {}

  Arena& memory() noexcept { return memory_; }
  Arena& host_memory() noexcept { return host_memory_; }

  /// Tells the speed of the link to a tier; done by the tier.
  void connect(const void* tier, const Link& link) { links_[tier] = link; }

  /// The host's compute between two calls into the library.
  void compute(std::string_view name, double flops) {
    cluster_.record(rank_, Cluster::host, {OperationKind::compute, name}, flops / rates_.flops_per_second, {});
  }

 private:
  friend class Lanes;

  static std::shared_ptr<std::byte> addresses(Bytes budget) {
    const std::size_t bytes = round_up(budget.count + 1, Arena::alignment);
    void* range = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) throw_configuration_error("no address space for a simulated budget");
    return {static_cast<std::byte*>(range), [bytes](std::byte* begin) { ::munmap(begin, bytes); }};
  }

  double seconds(const Operation& operation) const {
    switch (operation.kind) {
      case OperationKind::read:
      case OperationKind::write:
        return links_.at(operation.resource).seconds(operation.bytes);
      case OperationKind::copy:
        return rates_.copy.seconds(operation.bytes);
      case OperationKind::fill:
      case OperationKind::accumulate:
      case OperationKind::update:
        return rates_.update.seconds(operation.bytes);
      case OperationKind::all_gather:
      case OperationKind::reduce_scatter:
      case OperationKind::reduce:
      case OperationKind::all_reduce:
      case OperationKind::broadcast:
      case OperationKind::barrier:
        return rates_.network.seconds(operation.bytes);
      case OperationKind::compute:
      case OperationKind::wait:
        return 0;
    }
    return 0;
  }

  Cluster& cluster_;
  Rank rank_;
  Rates rates_;
  std::map<const void*, Link> links_;
  Arena memory_;
  Arena host_memory_;
};

/// Lanes that record. What is posted is described, priced and never run.
class Lanes {
 public:
  using stream_type = StreamRef;

  static constexpr bool is_unified = true;

  Lanes(Device& device, const LaneOptions&) : device_{device} {}

  Completion post(Lane lane, const std::vector<Completion>& after, const Operation& operation,
                  const std::function<Completion(StreamRef&)>&) {
    OperationCounter& counter = counters_[operation.kind];
    ++counter.count;
    counter.bytes += operation.bytes;
    return device_.cluster_.record(device_.rank_, static_cast<std::size_t>(lane), operation, device_.seconds(operation),
                                   after);
  }

  Completion post_host(Lane lane, const std::vector<Completion>& after, const Operation& operation,
                       const std::function<Completion()>&) {
    return post(lane, after, operation, {});
  }

  void wait(StreamRef, const Completion& completion, const Operation& operation) {
    if (completion.ticket() == 0) return;
    device_.cluster_.record(device_.rank_, Cluster::host, {OperationKind::wait, operation.name}, 0, {completion});
  }

  Completion record(StreamRef) const noexcept { return {}; }
  void check() const {
    if (error_) std::rethrow_exception(error_);
  }
  void fail(const std::exception_ptr& error) {
    if (!error_) error_ = error;
  }
  void enter() const noexcept {}
  void leave() const noexcept {}
  LaneCounters counters() const { return counters_; }
  bool drain() noexcept { return true; }

 private:
  Device& device_;
  LaneCounters counters_;
  std::exception_ptr error_;
};

static_assert(DeviceLanes<Lanes>);
static_assert(zerospan::Device<Device>);

}  // namespace zerospan::inline v0::sim
