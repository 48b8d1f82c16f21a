/// @file
/// sim::Device and sim::HostDevice: devices in virtual time. Their memory has addresses and budgets, but no bytes.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
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
#include <zerospan/kernels/stream_kernels.hpp>
#include <zerospan/sim/cluster.hpp>
#include <zerospan/sim/compute.hpp>
#include <zerospan/sim/detail/device_prices.hpp>
#include <zerospan/sim/detail/recording.hpp>
#include <zerospan/sim/stream.hpp>
#include <zerospan/sim/topology.hpp>
#include <zerospan/sim/transfer_meter.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::sim {

struct DeviceOptions {
  Bytes device_budget;
  Bytes host_budget;
  ComputeSpeed compute{};  ///< Empty: the topology's `flops_per_second`.
};

template <DeviceMemory Where>
class Lanes;

/// One rank's device. Writing to its memory ends the program: nothing but posted work may, and posted work is described
/// and not done. The host may read host memory beside a device of its own: zeros.
template <DeviceMemory Where>
class BasicDevice {
 public:
  using lanes_type = Lanes<Where>;

  static constexpr bool is_unified = Where == DeviceMemory::unified;

  /// @param cluster Outlives the device.
  BasicDevice(Cluster& cluster, Rank rank, const DeviceOptions& options)
      : cluster_{cluster},
        rank_{rank},
        compute_{options.compute},
        slower_{cluster.slower(rank, &Slower::compute)},
        memory_{"device memory", addresses(options.device_budget, PROT_NONE), options.device_budget},
        host_memory_{"host memory", addresses(options.host_budget, is_unified ? PROT_NONE : PROT_READ),
                     options.host_budget},
        prices_{cluster, rank, Where},
        stream_{*this} {}
  BasicDevice(const BasicDevice&) = delete;
  BasicDevice& operator=(const BasicDevice&) = delete;

  Arena& memory() noexcept { return memory_; }
  Arena& host_memory() noexcept { return host_memory_; }

  /// Where the host's compute is posted, and leases are to be taken: a stream of the device's own, on which the host's
  /// thread runs ahead; on a unified device the thread itself.
  StreamRef stream() noexcept {
    if constexpr (is_unified) return calling_thread;
    return StreamRef{Stream{stream_}};
  }

  /// From now on transfers of a tier are begun when they are posted, and end at once: it decides what they come to, and
  /// the meter says it. Of other tiers an operation's bytes are transferred.
  /// @param tier, meter Outlive what is posted to the tier.
  void begin_transfers(TierRef tier, const TransferMeter& meter) { prices_.add_meter(tier.identity(), meter); }

  /// The host's compute between two calls into the library, on `stream()`.
  void compute(std::string_view name, const Work& work) { compute(stream(), name, work); }
  void compute(std::string_view name, double flops) { compute(name, Work{flops}); }

  /// The same on the device's stream, or on the calling thread, which goes on when it is done.
  void compute(StreamRef on, std::string_view name, const Work& work) {
    const double speed = compute_ ? compute_(work) : cluster_.topology().flops_per_second;
    if (!(speed > 0)) throw_configuration_error("the speed of the compute '" + std::string{name} + "' is not positive");
    const detail::Part part{.bytes = 0, .seconds = work.flops > 0 ? slower_ * work.flops / speed : 0};
    record_of_host(on, {OperationKind::compute, name}, {}, {&part, 1});
  }

 private:
  friend class Lanes<Where>;
  friend class Tier;

  /// What is posted on the host's stream is an item of its own.
  class HostStream final : public detail::PricedItem {
   public:
    explicit HostStream(BasicDevice& device) : PricedItem{device.prices_, device.memory_}, device_{device} {}

    void copies(const std::byte* to, const std::byte* from, std::size_t bytes) override {
      PricedItem::copies(to, from, bytes);
      call_ends(OperationKind::copy, "copy");
    }
    void touches(std::size_t bytes) override {
      PricedItem::touches(bytes);
      call_ends(OperationKind::fill, "kernel");
    }
    void call_ends(OperationKind kind, std::string_view name) override {
      device_.record_of_host(device_.stream(), {kind, name}, {}, parts);
      parts.clear();
    }

   private:
    BasicDevice& device_;
  };

  static std::shared_ptr<std::byte> addresses(Bytes budget, int access) {
    const std::size_t bytes = round_up(budget.count + 1, Arena::alignment);
    void* range = ::mmap(nullptr, bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) throw_configuration_error("no address space for a simulated budget");
    return {static_cast<std::byte*>(range), [bytes](std::byte* begin) { ::munmap(begin, bytes); }};
  }

  bool is_own_stream(StreamRef stream) const noexcept {
    return stream.native_handle() == static_cast<const void*>(static_cast<const detail::ItemBeingPosted*>(&stream_));
  }

  Completion record_of_host(StreamRef on, const Operation& operation, std::span<const Completion> after,
                            std::span<const detail::Part> parts) {
    const bool is_host = on.is_calling_thread();
    if (!is_host && !is_own_stream(on)) {
      throw_configuration_error("a simulated device is given its own stream(), or the calling thread");
    }
    const detail::Item item{.bytes = static_cast<double>(operation.bytes),
                            .kind = operation.kind,
                            .runner = is_host ? detail::Runner::host : detail::Runner::stream};
    Completion end = cluster_.record(rank_, item, operation.name, after, parts);
    if (!is_host) last_on_stream_ = end;
    return end;
  }

  Cluster& cluster_;
  Rank rank_;
  ComputeSpeed compute_;
  double slower_;
  Arena memory_;
  Arena host_memory_;
  detail::DevicePrices prices_;
  HostStream stream_;
  Completion last_on_stream_;
};

/// Lanes that record. What is posted is described, priced and not done.
template <DeviceMemory Where>
class Lanes {
 public:
  using stream_type = Stream;
  using Work = std::function<Completion(Stream&)>;

  static constexpr bool is_unified = Where == DeviceMemory::unified;

  Lanes(BasicDevice<Where>& device, const LaneOptions&)
      : device_{device}, number_{device.cluster_.add_lanes(device.rank_)} {}

  Completion post(Lane lane, const std::vector<Completion>& after, const Operation& operation, const Work& work) {
    detail::PricedItem item{device_.prices_, device_.memory_};
    if (detail::DevicePrices::is_kernel(operation.kind)) {
      item.parts.push_back(device_.prices_.kernel(operation, is_unified ? detail::Side::host : detail::Side::device));
    } else {
      Stream stream{item};
      work(stream);
    }
    return record(lane, after, operation, is_unified ? detail::Runner::lane : detail::Runner::enqueued, item.parts);
  }

  Completion post_host(Lane lane, const std::vector<Completion>& after, const Operation& operation,
                       const std::function<Completion()>& work) {
    std::vector<detail::Part> parts;
    const bool is_transfer = detail::DevicePrices::is_transfer(operation.kind);
    const TransferMeter* const meter = is_transfer && work ? device_.prices_.meter(operation.resource) : nullptr;
    if (meter) {
      const Moved before = meter->moved();
      work().wait();
      parts = device_.prices_.transfer(*meter, before);
    } else if (is_transfer) {
      parts.push_back(device_.prices_.transfer(operation));
    }
    if (detail::DevicePrices::is_kernel(operation.kind)) {
      parts.push_back(device_.prices_.kernel(operation, detail::Side::host));
    }
    return record(lane, after, operation, is_transfer ? detail::Runner::transfer : detail::Runner::lane, parts);
  }

  /// @note On the device's stream the host's thread goes on as soon as the streams know what to wait for.
  void wait(StreamRef stream, const Completion& completion, const Operation& operation) {
    if (completion.ticket() == 0) return;
    device_.record_of_host(stream, {OperationKind::wait, operation.name}, {&completion, 1}, {});
  }

  Completion record(StreamRef stream) const {
    if (stream.is_calling_thread()) return {};
    return device_.last_on_stream_;
  }

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
  Completion record(Lane lane, const std::vector<Completion>& after, const Operation& operation, detail::Runner runner,
                    std::span<const detail::Part> parts) {
    OperationCounter& counter = counters_[operation.kind];
    ++counter.count;
    counter.bytes += operation.bytes;
    const detail::Item item{.bytes = static_cast<double>(operation.bytes),
                            .kind = operation.kind,
                            .runner = runner,
                            .lane = static_cast<std::uint8_t>(lane),
                            .lanes = number_};
    return device_.cluster_.record(device_.rank_, item, operation.name, after, parts);
  }

  BasicDevice<Where>& device_;
  std::uint8_t number_;
  LaneCounters counters_;
  std::exception_ptr error_;
};

/// A GPU.
using Device = BasicDevice<DeviceMemory::own>;

/// A CPU.
using HostDevice = BasicDevice<DeviceMemory::unified>;

static_assert(DeviceLanes<Lanes<DeviceMemory::own>> && DeviceLanes<Lanes<DeviceMemory::unified>>);
static_assert(zerospan::Device<Device> && zerospan::Device<HostDevice>);
static_assert(StreamKernels<Stream> && QuantizesBlocks<Stream>);

}  // namespace zerospan::inline v0::sim
