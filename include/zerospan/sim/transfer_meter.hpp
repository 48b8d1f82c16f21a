/// @file
/// sim::TransferMeter: what the transfers of a tier come to in virtual time.
#pragma once

#include <cstddef>

#include <zerospan/core/config.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::sim {

/// Bytes that a tier has moved since it was made.
struct Moved {
  std::size_t read = 0;     ///< From storage.
  std::size_t written = 0;  ///< To storage.
  std::size_t copied = 0;   ///< Within host memory.
};

/// Counts for a tier whose transfers a simulated device begins when they are posted, in program order.
/// @see BasicDevice::begin_transfers
class TransferMeter {
 public:
  virtual Moved moved() const = 0;

  /// The tier whose disk is read and written: itself, or one below it.
  virtual const void* storage() const noexcept = 0;

 protected:
  TransferMeter() = default;
  TransferMeter(const TransferMeter&) = default;
  TransferMeter& operator=(const TransferMeter&) = default;
  ~TransferMeter() = default;
};

/// Of a tier that counts its transfers itself.
class TierMeter final : public TransferMeter {
 public:
  explicit TierMeter(TierRef tier) noexcept : tier_{tier} {}

  Moved moved() const override {
    const TierCounters counters = tier_.counters();
    return {counters.read.count, counters.written.count, 0};
  }
  const void* storage() const noexcept override { return tier_.identity(); }

 private:
  TierRef tier_;
};

}  // namespace zerospan::inline v0::sim
