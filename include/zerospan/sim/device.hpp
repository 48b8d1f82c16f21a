/// @file
/// sim::Device and sim::HostDevice: devices in virtual time. Their memory has addresses and budgets, but no bytes.
#pragma once

#include <sys/mman.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
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
#include <zerospan/sim/stream.hpp>
#include <zerospan/sim/topology.hpp>

namespace zerospan::inline v0::sim {

struct DeviceOptions {
  Bytes device_budget;
  Bytes host_budget;
  ComputeSpeed compute{};  ///< Empty: the topology's `flops_per_second`.
};

/// Where a device has its memory.
enum class DeviceMemory : std::uint8_t {
  own,      ///< As a GPU: copies go over the host link, kernels run in the device's memory, compute on a stream.
  unified,  ///< As a CPU: the host's threads do everything, in its memory.
};

template <DeviceMemory Memory>
class Lanes;

/// One rank's device. Writing to its memory ends the program: nothing but posted work may, and posted work is described
/// and not done. What the host reads of it is zeros.
template <DeviceMemory Memory>
class BasicDevice {
 public:
  using lanes_type = Lanes<Memory>;

  static constexpr bool is_unified = Memory == DeviceMemory::unified;

  /// @param cluster Outlives the device.
  BasicDevice(Cluster& cluster, Rank rank, const DeviceOptions& options)
      : cluster_{cluster},
        rank_{rank},
        compute_{options.compute},
        slower_{cluster.slower(rank, &Slower::compute)},
        memory_{"device memory", addresses(options.device_budget, PROT_NONE), options.device_budget},
        host_memory_{"host memory", addresses(options.host_budget, is_unified ? PROT_NONE : PROT_READ),
                     options.host_budget},
        prices_{cluster, rank},
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

  /// The host's compute between two calls into the library, on `stream()`.
  void compute(std::string_view name, const Work& work) { compute(stream(), name, work); }
  void compute(std::string_view name, double flops) { compute(name, Work{flops}); }

  /// The same on the device's stream, or on the calling thread, which goes on when it is done.
  void compute(StreamRef on, std::string_view name, const Work& work) {
    const double speed = compute_ ? compute_(work) : cluster_.topology().flops_per_second;
    const detail::Part part{.bytes = 0, .seconds = work.flops > 0 ? slower_ * work.flops / speed : 0};
    record_of_host(on, {OperationKind::compute, name}, {}, {&part, 1});
  }

 private:
  friend class Lanes<Memory>;
  friend class Tier;

  /// How transfers to a tier go.
  struct TierRoutes {
    detail::RouteId read;
    detail::RouteId write;
    double latency;
  };

  /// The routes of what a device does by itself.
  class Prices {
   public:
    Prices(Cluster& cluster, Rank rank) : topology_{cluster.topology()} {
      using detail::Resource;
      using detail::Use;
      const auto route = [&](std::initializer_list<Use> uses, double cap = instant) {
        return cluster.route(rank, std::vector<Use>{uses}, cap);
      };
      const Memory_& host = topology_.host_memory;
      const Memory_& device = is_unified ? topology_.host_memory : topology_.device_memory;
      const Resource in_device = is_unified ? Resource::host_memory : Resource::device_memory;
      const double both_ends = is_unified ? 2 * host.traffic.copy : host.traffic.copy;
      to_device_ = route({{Resource::to_device, 1}, {Resource::host_memory, both_ends}});
      to_host_ = route({{Resource::to_host, 1}, {Resource::host_memory, both_ends}});
      in_host_ = route({{Resource::host_memory, 2 * host.traffic.copy}});
      in_device_ = route({{in_device, 2 * device.traffic.copy}});
      touch_ = route({{in_device, 1}});
      const auto kernels = [&](const Memory_& memory, Resource resource) {
        return std::array{route({{resource, memory.traffic.fill}}, memory.fill),
                          route({{resource, memory.traffic.accumulate}}, memory.accumulate),
                          route({{resource, memory.traffic.update}}, memory.update)};
      };
      by_host_ = kernels(host, Resource::host_memory);
      by_device_ = kernels(device, in_device);
      disk_ = {route({{Resource::disk_read, 1}, {Resource::host_memory, host.traffic.disk}}),
               route({{Resource::disk_write, 1}, {Resource::host_memory, host.traffic.disk}}),
               topology_.disk.latency};
    }

    detail::Part copy(bool to_device, bool from_device, std::size_t bytes) const {
      const auto amount = static_cast<double>(bytes);
      if (to_device && from_device) return {.bytes = amount, .route = in_device_};
      if (to_device) return {amount, topology_.host_link.to_device.latency, to_device_};
      if (from_device) return {amount, topology_.host_link.to_host.latency, to_host_};
      return {.bytes = amount, .route = in_host_};
    }
    detail::Part touch(std::size_t bytes) const { return {.bytes = static_cast<double>(bytes), .route = touch_}; }
    detail::Part kernel(OperationKind kind, std::size_t bytes, bool by_host) const {
      const auto& routes = by_host ? by_host_ : by_device_;
      const std::size_t which = kind == OperationKind::fill ? 0 : kind == OperationKind::accumulate ? 1 : 2;
      return {.bytes = static_cast<double>(bytes), .route = routes[which]};
    }
    const TierRoutes& disk() const noexcept { return disk_; }

   private:
    using Memory_ = sim::Memory;

    Topology topology_;
    detail::RouteId to_device_;
    detail::RouteId to_host_;
    detail::RouteId in_host_;
    detail::RouteId in_device_;
    detail::RouteId touch_;
    std::array<detail::RouteId, 3> by_host_;
    std::array<detail::RouteId, 3> by_device_;
    TierRoutes disk_;
  };

  /// Describes what is posted in this device's memory.
  class Posting : public detail::ItemBeingPosted {
   public:
    explicit Posting(const BasicDevice& device) : device_{device} {}

    void copies(const std::byte* to, const std::byte* from, std::size_t bytes) override {
      parts.push_back(device_.prices_.copy(device_.is_in_memory(to), device_.is_in_memory(from), bytes));
    }
    void touches(const std::byte*, std::size_t bytes) override {
      if (bytes > 0) parts.push_back(device_.prices_.touch(bytes));
    }
    void call_ends(OperationKind, std::string_view) override {}

   protected:
    const BasicDevice& device_;
  };

  /// What is posted on the host's stream is an item of its own.
  class HostStream final : public Posting {
   public:
    explicit HostStream(BasicDevice& device) : Posting{device}, owner_{device} {}

    void copies(const std::byte* to, const std::byte* from, std::size_t bytes) override {
      Posting::copies(to, from, bytes);
      call_ends(OperationKind::copy, "copy");
    }
    void touches(const std::byte* memory, std::size_t bytes) override {
      Posting::touches(memory, bytes);
      call_ends(OperationKind::fill, "kernel");
    }
    void call_ends(OperationKind kind, std::string_view name) override {
      owner_.record_of_host(owner_.stream(), {kind, name}, {}, this->parts);
      this->parts.clear();
    }

   private:
    BasicDevice& owner_;
  };

  static std::shared_ptr<std::byte> addresses(Bytes budget, int access) {
    const std::size_t bytes = round_up(budget.count + 1, Arena::alignment);
    void* range = ::mmap(nullptr, bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) throw_configuration_error("no address space for a simulated budget");
    return {static_cast<std::byte*>(range), [bytes](std::byte* begin) { ::munmap(begin, bytes); }};
  }

  bool is_in_memory(const std::byte* address) const {
    const std::less<const std::byte*> before;
    const std::byte* const begin = memory_.data();
    return !before(address, begin) && before(address, begin + memory_.capacity().count);
  }

  /// Tells the links to a tier; done by the tier.
  void connect(const void* tier, const Disk& disk) {
    const auto [read, write] = cluster_.private_disk(rank_, disk);
    tiers_[tier] = {read, write, disk.latency};
  }

  detail::Part transfer(const Operation& operation) const {
    const auto own = tiers_.find(operation.resource);
    const TierRoutes& routes = own != tiers_.end() ? own->second : prices_.disk();
    return {static_cast<double>(operation.bytes), routes.latency,
            operation.kind == OperationKind::read ? routes.read : routes.write};
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
  Prices prices_;
  std::map<const void*, TierRoutes> tiers_;
  HostStream stream_;
  Completion last_on_stream_;
};

/// Lanes that record. What is posted is described, priced and not done.
template <DeviceMemory Memory>
class Lanes {
 public:
  using stream_type = Stream;
  using Work = std::function<Completion(Stream&)>;

  static constexpr bool is_unified = Memory == DeviceMemory::unified;

  Lanes(BasicDevice<Memory>& device, const LaneOptions&)
      : device_{device}, number_{device.cluster_.add_lanes(device.rank_)} {}

  Completion post(Lane lane, const std::vector<Completion>& after, const Operation& operation, const Work& work) {
    typename BasicDevice<Memory>::Posting item{device_};
    if (is_kernel(operation.kind)) {
      item.parts.push_back(device_.prices_.kernel(operation.kind, operation.bytes, is_unified));
    } else {
      Stream stream{item};
      work(stream);
    }
    return record(lane, after, operation, is_unified ? detail::Runner::lane : detail::Runner::enqueued, item.parts);
  }

  Completion post_host(Lane lane, const std::vector<Completion>& after, const Operation& operation,
                       const std::function<Completion()>&) {
    std::vector<detail::Part> parts;
    const bool is_transfer = operation.kind == OperationKind::read || operation.kind == OperationKind::write;
    if (is_transfer) {
      parts.push_back(device_.transfer(operation));
    } else if (is_kernel(operation.kind)) {
      parts.push_back(device_.prices_.kernel(operation.kind, operation.bytes, true));
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
  static bool is_kernel(OperationKind kind) {
    return kind == OperationKind::fill || kind == OperationKind::accumulate || kind == OperationKind::update;
  }

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

  BasicDevice<Memory>& device_;
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
