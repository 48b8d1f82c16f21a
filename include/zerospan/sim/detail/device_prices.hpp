/// @file
/// DevicePrices: what the operations of a simulated device cost, and over which links they go.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <string_view>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/sim/cluster.hpp>
#include <zerospan/sim/detail/links_of_ranks.hpp>
#include <zerospan/sim/detail/recording.hpp>
#include <zerospan/sim/stream.hpp>
#include <zerospan/sim/topology.hpp>
#include <zerospan/sim/transfer_meter.hpp>

namespace zerospan::inline v0::sim::detail {

/// Whose processors run a kernel.
enum class Side : std::uint8_t { host, device };

class DevicePrices {
 public:
  DevicePrices(Cluster& cluster, Rank rank, DeviceMemory where)
      : cluster_{cluster}, rank_{rank}, host_link_{cluster.topology().host_link} {
    const Topology& topology = cluster.topology();
    const bool is_unified = where == DeviceMemory::unified;
    const Memory& host = topology.host_memory;
    const Memory& device = is_unified ? host : topology.device_memory;
    const Resource in_device = is_unified ? Resource::host_memory : Resource::device_memory;
    const double ends_in_host = is_unified ? 2 * host.traffic.copy : host.traffic.copy;
    to_device_ = route({{Resource::to_device, 1}, {Resource::host_memory, ends_in_host}});
    to_host_ = route({{Resource::to_host, 1}, {Resource::host_memory, ends_in_host}});
    in_host_ = route({{Resource::host_memory, 2 * host.traffic.copy}});
    in_device_ = route({{in_device, 2 * device.traffic.copy}});
    touch_ = route({{in_device, 1}});
    by_host_ = kernels(host, Resource::host_memory);
    by_device_ = kernels(device, in_device);
    disk_ = {route({{Resource::disk_read, 1}, {Resource::host_memory, host.traffic.disk}}),
             route({{Resource::disk_write, 1}, {Resource::host_memory, host.traffic.disk}}), topology.disk.latency};
  }

  /// A tier has a disk of its own.
  void add_tier(const void* tier, const Disk& disk) {
    const auto [read, write] = cluster_.private_disk(rank_, disk);
    tiers_[tier] = {read, write, disk.latency};
  }

  Part copy(bool to_device, bool from_device, std::size_t bytes) const {
    const auto amount = static_cast<double>(bytes);
    if (to_device && from_device) return {amount, 0, in_device_, none};
    if (to_device) return {amount, host_link_.to_device.latency, to_device_, none};
    if (from_device) return {amount, host_link_.to_host.latency, to_host_, none};
    return {amount, 0, in_host_, none};
  }

  /// A kernel beside a collective, which reads and writes so many bytes.
  Part touch(std::size_t bytes) const { return {static_cast<double>(bytes), 0, touch_, none}; }

  static bool is_kernel(OperationKind kind) {
    return kind == OperationKind::fill || kind == OperationKind::accumulate || kind == OperationKind::update;
  }
  /// In bytes of memory, not of operands: memories are shared by what crosses them.
  Part kernel(const Operation& operation, Side side) const {
    const auto& kernels = side == Side::host ? by_host_ : by_device_;
    const std::size_t which = operation.kind == OperationKind::fill     ? 0
                              : operation.kind == OperationKind::update ? 2
                                                                        : 1;
    return {static_cast<double>(operation.bytes) * kernels[which].traffic, 0, kernels[which].route, none};
  }

  /// The transfers of a tier are begun when they are posted.
  void add_meter(const void* tier, const TransferMeter& meter) { meters_[tier] = &meter; }

  /// Of a tier whose transfers are begun; nullptr for others.
  const TransferMeter* meter(const void* tier) const {
    const auto found = meters_.find(tier);
    return found == meters_.end() ? nullptr : found->second;
  }

  static bool is_transfer(OperationKind kind) { return kind == OperationKind::read || kind == OperationKind::write; }
  Part transfer(const Operation& operation) const {
    const TierRoutes& routes = routes_of(operation.resource);
    return {static_cast<double>(operation.bytes), routes.latency,
            operation.kind == OperationKind::read ? routes.read : routes.write, none};
  }

  /// What one transfer of a tier came to. Its requests are under way together: their latency counts once, at the end.
  std::vector<Part> transfer(const TransferMeter& meter, const Moved& before) const {
    const Moved now = meter.moved();
    const TierRoutes& routes = routes_of(meter.storage());
    std::vector<Part> parts;
    const auto add = [&](std::size_t bytes, RouteId route) {
      if (bytes > 0) parts.push_back({static_cast<double>(bytes), 0, route, none});
    };
    add(now.copied - before.copied, in_host_);
    const std::size_t copies = parts.size();
    add(now.written - before.written, routes.write);
    add(now.read - before.read, routes.read);
    if (parts.size() > copies) parts.back().seconds = routes.latency;
    return parts;
  }

 private:
  struct TierRoutes {
    RouteId read = none;
    RouteId write = none;
    double latency = 0;
  };

  const TierRoutes& routes_of(const void* tier) const {
    const auto own = tiers_.find(tier);
    return own != tiers_.end() ? own->second : disk_;
  }

  RouteId route(std::initializer_list<Use> uses, double cap = instant) {
    return cluster_.route(rank_, std::vector<Use>{uses}, cap);
  }

  struct Kernel {
    RouteId route = none;
    double traffic = 1;
  };

  std::array<Kernel, 3> kernels(const Memory& memory, Resource resource) {
    const auto kernel = [&](double traffic, double operands) {
      return Kernel{route({{resource, 1}}, operands * traffic), traffic};
    };
    return {kernel(memory.traffic.fill, memory.fill), kernel(memory.traffic.accumulate, memory.accumulate),
            kernel(memory.traffic.update, memory.update)};
  }

  Cluster& cluster_;
  Rank rank_;
  HostLink host_link_;
  RouteId to_device_ = none;
  RouteId to_host_ = none;
  RouteId in_host_ = none;
  RouteId in_device_ = none;
  RouteId touch_ = none;
  std::array<Kernel, 3> by_host_{};
  std::array<Kernel, 3> by_device_{};
  TierRoutes disk_;
  std::map<const void*, TierRoutes> tiers_;
  std::map<const void*, const TransferMeter*> meters_;
};

/// Prices what an item does in the memory of a device.
class PricedItem : public ItemBeingPosted {
 public:
  PricedItem(const DevicePrices& prices, const Arena& memory) : prices_{prices}, memory_{memory} {}

  void copies(const std::byte* to, const std::byte* from, std::size_t bytes) override {
    parts.push_back(prices_.copy(is_in_memory(to), is_in_memory(from), bytes));
  }
  void touches(std::size_t bytes) override {
    if (bytes > 0) parts.push_back(prices_.touch(bytes));
  }
  void call_ends(OperationKind, std::string_view) override {}

 private:
  bool is_in_memory(const std::byte* address) const {
    const std::less<const std::byte*> before;
    return !before(address, memory_.data()) && before(address, memory_.data() + memory_.capacity().count);
  }

  const DevicePrices& prices_;
  const Arena& memory_;
};

}  // namespace zerospan::inline v0::sim::detail
