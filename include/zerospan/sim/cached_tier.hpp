/// @file
/// sim::CachedTier: a cache of host memory, in virtual time.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/sim/topology.hpp>
#include <zerospan/sim/transfer_meter.hpp>
#include <zerospan/tier/cached_tier.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::sim {

namespace detail {

/// Counts what a cache copies, and copies nothing: simulated memory has no bytes.
class CountedCopies {
 public:
  void copy(std::byte*, const std::byte*, std::size_t bytes) const noexcept { *bytes_ += bytes; }
  std::size_t bytes() const noexcept { return *bytes_; }

 private:
  std::shared_ptr<std::size_t> bytes_ = std::make_shared<std::size_t>(0);
};

}  // namespace detail

/// The cache that zerospan::CachedTier is, with its lines and its rule, and without its bytes. Which lines are resident
/// is decided when a transfer is posted: by the order of the program, which lanes that race for it have not. What hits
/// is copied in host memory; what misses, and what is written back, goes to the storage below.
class CachedTier final : public BasicCachedTier<detail::CountedCopies>, public TransferMeter {
 public:
  /// @param device The only one that posts transfers to it; lends its host memory; outlives it.
  /// @param storage In virtual time, and counts what is read and written. Outlives it.
  /// @throws As BasicCachedTier.
  template <DeviceMemory Where>
  CachedTier(BasicDevice<Where>& device, TierRef storage, const CachedTierOptions& options)
      : CachedTier{device, storage, options, detail::CountedCopies{}} {}
  CachedTier(const CachedTier&) = delete;
  CachedTier& operator=(const CachedTier&) = delete;
  ~CachedTier() = default;

  Moved moved() const override {
    const TierCounters below = counters();
    return {below.read.count, below.written.count, copies_.bytes()};
  }
  const void* storage() const noexcept override { return storage_; }

 private:
  template <DeviceMemory Where>
  CachedTier(BasicDevice<Where>& device, TierRef storage, const CachedTierOptions& options,
             const detail::CountedCopies& copies)
      : BasicCachedTier{storage, device.host_memory(), options, copies}, copies_{copies}, storage_{storage.identity()} {
    device.begin_transfers(*this, *this);
  }

  detail::CountedCopies copies_;
  const void* storage_;
};

static_assert(OffloadTier<CachedTier>);

}  // namespace zerospan::inline v0::sim
