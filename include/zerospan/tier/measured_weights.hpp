/// @file
/// measured_weights: how a StripedTier should deal its bytes, by the bandwidth that each of its tiers sustains.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/when_all.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/detail/huge_pages.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

/// A short measurement of a tier's bandwidth.
struct BandwidthProbe {
  Bytes bytes{std::size_t{32} << 20};    ///< Written twice and read once on each tier; placed there meanwhile.
  Bytes transfer{std::size_t{1} << 20};  ///< What is transferred at a time: a part of `bytes`.
  std::size_t under_way = 16;            ///< Transfers at once.

  /// The clock, for measurements in virtual time.
  std::function<std::chrono::steady_clock::time_point()> now = std::chrono::steady_clock::now;
};

namespace detail {

/// An extent of a tier, and memory for its transfers, for as long as the object lives.
class ProbedExtent {
 public:
  ProbedExtent(TierRef tier, const BandwidthProbe& probe)
      : tier_{tier}, probe_{probe}, memory_{transfer_memory(probe.transfer)}, extent_{tier.place(probe.bytes.count)} {
    for (std::size_t i = 0; i < probe.transfer.count; ++i) {
      memory_.get()[i] = static_cast<std::byte>(i * 2654435761U >> 13U);  // nothing that a disk would shorten
    }
  }
  ProbedExtent(const ProbedExtent&) = delete;
  ProbedExtent& operator=(const ProbedExtent&) = delete;
  ~ProbedExtent() { tier_.remove(extent_); }

  /// How long everything takes to be written and read. It was written before: the first time may take longer.
  std::chrono::duration<double> measure() const {
    write();
    const auto begin = probe_.now();
    write();
    read();
    return probe_.now() - begin;
  }

 private:
  void write() const {
    transfer([&](std::size_t offset, std::size_t bytes) { return tier_.write(extent_, offset, memory_.get(), bytes); });
  }

  void read() const {
    transfer([&](std::size_t offset, std::size_t bytes) { return tier_.read(extent_, offset, memory_.get(), bytes); });
  }

  /// Starts all transfers, some at a time, and waits for all; throws the first error.
  template <class Start>
  void transfer(Start start) const {
    std::deque<Completion> ends;
    std::exception_ptr error;
    const auto end_first = [&] {
      try {
        ends.front().wait();
      } catch (...) {
        if (!error) error = std::current_exception();
      }
      ends.pop_front();
    };
    for (std::size_t offset = 0; offset < probe_.bytes.count && !error; offset += probe_.transfer.count) {
      if (ends.size() == probe_.under_way) end_first();
      ends.push_back(started([&] { return start(offset, probe_.transfer.count); }));
    }
    while (!ends.empty()) end_first();
    if (error) std::rethrow_exception(error);
  }

  TierRef tier_;
  const BandwidthProbe& probe_;
  std::shared_ptr<std::byte> memory_;
  Extent extent_;
};

/// Small whole numbers in proportion to the rates: the smallest of which none is off by more than a twentieth, if the
/// largest need not be more than 16; with 16 else, and no less than 1.
inline std::vector<std::size_t> proportional_weights(std::span<const double> rates) {
  constexpr std::size_t largest = 16;
  const double fastest = std::ranges::max(rates);
  std::vector<std::size_t> weights(rates.size());
  for (std::size_t scale = 1; scale <= largest; ++scale) {
    bool are_close = true;
    for (std::size_t i = 0; i < rates.size(); ++i) {
      const double exact = rates[i] / fastest * static_cast<double>(scale);
      weights[i] = std::max<std::size_t>(1, static_cast<std::size_t>(std::lround(exact)));
      are_close = are_close && std::abs(static_cast<double>(weights[i]) - exact) <= exact / 20;
    }
    if (are_close) break;
  }
  return weights;
}

}  // namespace detail

/// Measures each tier alone, one after the other, and returns weights for `StripedTierOptions::weights`:
/// @code
/// zerospan::StripedTier disks{{fast, slow}, {.weights = zerospan::measured_weights({fast, slow})}};
/// @endcode
/// What is dealt so lies elsewhere from run to run, where bandwidths are not the same; values and checkpoints do not
/// depend on it. Who wants the same places again gives the weights himself.
/// @throws ConfigurationError if the probe has no transfers, or not whole ones that suit a tier; what a tier throws
/// that has no space, and the first error of a transfer. Nothing remains placed.
inline std::vector<std::size_t> measured_weights(const std::vector<TierRef>& tiers, const BandwidthProbe& probe = {}) {
  std::vector<double> rates;
  for (const TierRef tier : tiers) {
    if (probe.under_way == 0 || probe.transfer.count == 0 || probe.bytes.count == 0 ||
        probe.bytes.count % probe.transfer.count != 0 || probe.transfer.count % tier.alignment() != 0) {
      throw_configuration_error("the bandwidth of " + std::string{tier.name()} + " cannot be measured with " +
                                std::to_string(probe.bytes.count) + " bytes in transfers of " +
                                std::to_string(probe.transfer.count) + ", " + std::to_string(probe.under_way) +
                                " at once: its alignment is " + std::to_string(tier.alignment()));
    }
    const std::chrono::duration<double> least = std::chrono::nanoseconds{1};  // where the clock does not tell
    rates.push_back(1 / std::max(least, detail::ProbedExtent{tier, probe}.measure()).count());
  }
  return rates.empty() ? std::vector<std::size_t>{} : detail::proportional_weights(rates);
}

}  // namespace zerospan::inline v0
