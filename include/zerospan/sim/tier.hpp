/// @file
/// sim::Tier: storage in virtual time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/sim/topology.hpp>
#include <zerospan/sim/transfer_meter.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::sim {

struct TierOptions {
  std::string name = "simulated storage";
  Bytes capacity;
  std::optional<Disk> own{};  ///< A disk of this tier alone. Otherwise it is on the topology's.
};

/// A tier that is not addressable, of known capacity, bandwidth and latency. It holds no bytes: transfers are counted,
/// and priced by the device that posts them.
class Tier {
 public:
  static constexpr std::size_t block = 4096;

  /// @param device The only one that posts transfers to it; outlives it.
  template <DeviceMemory Where>
  Tier(BasicDevice<Where>& device, TierOptions options) : options_{std::move(options)} {
    if (options_.own) device.prices_.add_tier(this, *options_.own);
    device.begin_transfers(*this, meter_);
  }
  Tier(const Tier&) = delete;
  Tier& operator=(const Tier&) = delete;

  std::string_view name() const noexcept { return options_.name; }
  std::size_t alignment() const noexcept { return block; }
  Addressable addressable() const noexcept { return Addressable::nowhere; }

  void reserve(Bytes bytes, std::string_view what) {
    if (reserved_ + bytes.count > options_.capacity.count) {
      throw_budget_error(std::string{what} + " on " + options_.name, bytes, Bytes{options_.capacity.count - reserved_},
                         "raise its capacity");
    }
    reserved_ += bytes.count;
  }

  void cancel(Bytes bytes) noexcept { reserved_ -= std::min(reserved_, bytes.count); }

  Extent place(std::size_t bytes) {
    const Extent extent{end_, bytes};
    end_ += round_up(bytes, block);
    used_ += bytes;
    peak_ = std::max(peak_, used_);
    return extent;
  }

  void remove(const Extent& extent) noexcept {
    used_ -= extent.bytes;
    reserved_ -= std::min(reserved_, extent.bytes);
  }

  std::byte* view(const Extent&) const noexcept { return nullptr; }
  Completion read(const Extent&, std::size_t, std::byte*, std::size_t bytes) noexcept {
    read_ += bytes;
    return {};
  }
  Completion write(const Extent&, std::size_t, const std::byte*, std::size_t bytes) noexcept {
    written_ += bytes;
    return {};
  }
  TierCounters counters() const noexcept { return {Bytes{used_}, Bytes{peak_}, Bytes{read_}, Bytes{written_}}; }

 private:
  TierOptions options_;
  std::size_t reserved_ = 0;
  std::size_t end_ = 0;
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
  std::size_t read_ = 0;
  std::size_t written_ = 0;
  TierMeter meter_{*this};
};

static_assert(OffloadTier<Tier>);

}  // namespace zerospan::inline v0::sim
