/// @file
/// StripedTier: several tiers as one, which has the bandwidth of them all.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/when_all.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/tier/detail/extents.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

struct StripedTierOptions {
  /// What is dealt at a time; a multiple of the tiers' alignments.
  Bytes stripe = 1_MiB;

  /// How many stripes each tier gets in proportion to the others, by their bandwidths: as `measured_weights` finds them,
  /// or as they are known; empty: all the same.
  std::vector<std::size_t> weights{};
};

namespace detail {

/// An unbounded range of bytes, dealt over members in rounds: in each round, each member in turn gets one run of as
/// many stripes as its weight says (weights are divided by their greatest common divisor).
class Stripes {
 public:
  /// A part of the range that one member has in one piece.
  struct Piece {
    std::size_t member;
    std::uint64_t begin;
    std::size_t bytes;
  };

  /// @param weights One for each member, all positive.
  /// @param stripe Positive.
  Stripes(std::vector<std::size_t> weights, std::size_t stripe) : runs_{std::move(weights)} {
    const std::size_t divisor = std::accumulate(runs_.begin(), runs_.end(), std::size_t{0},
                                                [](std::size_t a, std::size_t b) { return std::gcd(a, b); });
    for (std::size_t& run : runs_) {
      run = run / divisor * stripe;
      round_ += run;
    }
  }

  std::size_t members() const noexcept { return runs_.size(); }

  /// How many bytes of a range the member has.
  std::size_t share(std::size_t member, std::uint64_t begin, std::size_t bytes) const noexcept {
    return static_cast<std::size_t>(share_before(member, begin + bytes) - share_before(member, begin));
  }

  /// The first piece of a range that is not empty.
  Piece first_piece(std::uint64_t begin, std::size_t bytes) const noexcept {
    if (members() == 1) return {0, begin, bytes};
    std::uint64_t within = begin % round_;
    std::size_t member = 0;
    while (within >= runs_[member]) within -= runs_[member++];
    return {member, begin, static_cast<std::size_t>(std::min<std::uint64_t>(bytes, runs_[member] - within))};
  }

 private:
  /// How many of the first `end` bytes the member has.
  std::uint64_t share_before(std::size_t member, std::uint64_t end) const noexcept {
    std::uint64_t begin = 0;
    for (std::size_t i = 0; i < member; ++i) begin += runs_[i];
    const std::uint64_t rest = std::max(end % round_, begin) - begin;
    return end / round_ * runs_[member] + std::min<std::uint64_t>(rest, runs_[member]);
  }

  std::vector<std::size_t> runs_;  ///< Bytes of each member in a round.
  std::size_t round_ = 0;
};

}  // namespace detail

/// Extents cut into stripes that are dealt over several tiers: several disks, or several ways to storage (MLP-Offload,
/// arXiv 2509.02480). A transfer goes to all of them at once; it is done when its last part is, and carries the error
/// that came first.
///
/// It is one range of bytes in rounds of stripes, so that small extents are spread as well; an extent is one extent of
/// each tier. Extents begin and end at multiples of 4096 bytes, or of the tiers' alignments if those are larger. Not
/// addressable: it works by transfers. The tiers outlive it.
class StripedTier {
 public:
  /// @throws ConfigurationError if there are no tiers, if some are addressable and others are not, if the weights are
  /// not one positive number for each, or if the stripe is not a positive multiple of the alignments.
  explicit StripedTier(std::vector<TierRef> tiers, const StripedTierOptions& options = {})
      : tiers_{std::move(tiers)},
        name_{name_of(tiers_)},
        alignment_{alignment_of(tiers_)},
        stripes_{checked_weights(options), checked_stripe(options)},
        set_aside_(tiers_.size()) {}

  StripedTier(const StripedTier&) = delete;
  StripedTier& operator=(const StripedTier&) = delete;

  std::string_view name() const noexcept { return name_; }
  std::size_t alignment() const noexcept { return alignment_; }
  Addressable addressable() const noexcept { return Addressable::nowhere; }

  /// Reserves each tier's share of the next free bytes, or nothing.
  /// @throws BudgetError, or what else a tier throws that cannot set its share aside.
  void reserve(Bytes bytes, std::string_view what) {
    if (bytes.count > most_bytes - outstanding_) refuse(what, bytes, Bytes{most_bytes - outstanding_}, name_);
    set_aside(free_shares(outstanding_ + bytes.count), what, bytes);
    outstanding_ += bytes.count;
  }

  void cancel(Bytes bytes) noexcept {
    outstanding_ -= std::min(outstanding_, bytes.count);
    balance();
  }

  /// Deals out `bytes`, rounded up; the extent tells how many they are. 0 bytes take nothing.
  /// @throws as `reserve`, where the free space is in pieces or less was reserved; then nothing is taken.
  Extent place(std::size_t bytes) {
    if (bytes == 0) return {};
    if (bytes > most_bytes) refuse("an extent", Bytes{bytes}, Bytes{most_bytes}, name_);
    const std::size_t rounded = round_up(bytes, std::max(alignment_, page));
    const Extent extent{extents_.first_fit(rounded), rounded};
    const std::size_t before = outstanding_;
    auto& taken = insert(extent);
    try {
      outstanding_ -= std::min(outstanding_, bytes);
      Shares needed = free_shares(outstanding_);
      for (std::size_t i = 0; i < tiers_.size(); ++i) needed[i] += stripes_.share(i, extent.offset, rounded);
      set_aside(needed, "an extent", Bytes{rounded});
      place_parts(taken);
    } catch (...) {
      erase(taken);
      outstanding_ = before;
      balance();
      throw;
    }
    return extent;
  }

  /// Gives an extent back; one that `place` did not deal is ignored.
  void remove(const Extent& extent) noexcept {
    if (const auto* taken = extents_.find(extent)) erase(*taken);
  }

  std::byte* view(const Extent&) const noexcept { return nullptr; }

  /// @throws ConfigurationError if the range leaves the extent, or is not aligned.
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    return transfer("read", extent, offset, data, bytes,
                    [](TierRef tier, const Extent& part, std::size_t at, std::byte* memory, std::size_t n) {
                      return tier.read(part, at, memory, n);
                    });
  }

  /// @throws ConfigurationError if the range leaves the extent, or is not aligned.
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) {
    return transfer("write", extent, offset, data, bytes,
                    [](TierRef tier, const Extent& part, std::size_t at, const std::byte* memory, std::size_t n) {
                      return tier.write(part, at, memory, n);
                    });
  }

  /// What is and was placed here, and what the tiers have transferred together.
  TierCounters counters() const {
    TierCounters sum;
    for (const TierRef tier : tiers_) {
      const TierCounters counters = tier.counters();
      sum.read = sum.read + counters.read;
      sum.written = sum.written + counters.written;
    }
    const std::scoped_lock lock{mutex_};
    sum.used = Bytes{used_};
    sum.peak = Bytes{peak_};
    return sum;
  }

 private:
  /// One extent of each tier, some of them empty; none before they are placed.
  using Parts = std::vector<Extent>;
  using Extents = detail::ExtentMap<Parts>;
  using Shares = std::vector<std::size_t>;  ///< Bytes of each tier.

  static constexpr std::size_t page = 4096;
  static constexpr std::size_t most_bytes = Extents::most_bytes;

  static std::string name_of(const std::vector<TierRef>& tiers) {
    std::string name = "stripes over ";
    for (std::size_t i = 0; i < tiers.size(); ++i) name.append(i == 0 ? "" : " and ").append(tiers[i].name());
    return name;
  }

  static std::size_t alignment_of(const std::vector<TierRef>& tiers) {
    if (tiers.empty()) throw_configuration_error("stripes over no tiers");
    std::size_t alignment = 1;
    for (const TierRef tier : tiers) {
      if (tier.addressable() != tiers.front().addressable()) {
        throw_configuration_error(name_of(tiers) + ": some are addressable, others are not");
      }
      alignment = std::max(alignment, tier.alignment());
    }
    return alignment;
  }

  std::vector<std::size_t> checked_weights(const StripedTierOptions& options) const {
    if (options.weights.empty()) return std::vector<std::size_t>(tiers_.size(), 1);
    if (options.weights.size() != tiers_.size() || std::ranges::find(options.weights, 0U) != options.weights.end()) {
      throw_configuration_error(name_ + " need one positive weight for each tier");
    }
    return options.weights;
  }

  std::size_t checked_stripe(const StripedTierOptions& options) const {
    if (options.stripe.count == 0 || options.stripe.count % alignment_ != 0) {
      throw_configuration_error("a stripe of " + std::to_string(options.stripe.count) +
                                " bytes is not a positive multiple of " + std::to_string(alignment_) +
                                ", the alignment of " + name_);
    }
    return options.stripe.count;
  }

  [[noreturn]] static void refuse(std::string_view what, Bytes requested, Bytes available, std::string_view where) {
    throw_budget_error(std::string{what} + " on " + std::string{where}, requested, available,
                       "raise its capacity, or choose another tier");
  }

  Extents::Taken& insert(const Extent& extent) {
    const std::scoped_lock lock{mutex_};
    return extents_.insert(extent, {});
  }

  void erase(const Extents::Taken& taken) noexcept {
    for (std::size_t i = 0; i < taken.value.size(); ++i) {
      const Extent& part = taken.value[i];
      if (part.bytes != 0) tiers_[i].remove(part);
    }
    const std::scoped_lock lock{mutex_};
    for (const Extent& part : taken.value) used_ -= part.bytes;
    extents_.erase(taken);
  }

  // Accounts with the tiers.

  /// Each tier's share of the first `bytes` that are free.
  Shares free_shares(std::size_t bytes) const {
    Shares shares(tiers_.size());
    extents_.visit_gaps([&](std::uint64_t begin, std::size_t free) {
      const std::size_t taken = std::min(bytes, free);
      for (std::size_t i = 0; i < shares.size(); ++i) shares[i] += stripes_.share(i, begin, taken);
      bytes -= taken;
      return bytes == 0;
    });
    return shares;
  }

  /// Reserves and cancels until each tier has set aside as much as it should, or throws and changes nothing.
  void set_aside(const Shares& shares, std::string_view what, Bytes bytes) {
    const Shares before = set_aside_;
    try {
      for (std::size_t i = 0; i < tiers_.size(); ++i) raise(i, shares[i], what, bytes);
    } catch (...) {
      lower(before);
      throw;
    }
    lower(shares);
  }

  void raise(std::size_t i, std::size_t share, std::string_view what, Bytes bytes) {
    if (share <= set_aside_[i]) return;
    try {
      tiers_[i].reserve(Bytes{share - set_aside_[i]}, what);
    } catch (const BudgetError& error) {
      refuse(what, bytes, Bytes{bytes.count - std::min(bytes.count, error.short_by().count)}, name_);
    }
    set_aside_[i] = share;
  }

  void lower(const Shares& shares) noexcept {
    for (std::size_t i = 0; i < tiers_.size(); ++i) {
      if (set_aside_[i] > shares[i]) tiers_[i].cancel(Bytes{set_aside_[i] - shares[i]});
      set_aside_[i] = std::min(set_aside_[i], shares[i]);
    }
  }

  /// Sets aside what is outstanding. Where a tier refuses, it remains as it is until the next time.
  void balance() noexcept {
    try {
      set_aside(free_shares(outstanding_), "what was reserved", Bytes{outstanding_});
    } catch (...) {
    }
  }

  void place_parts(Extents::Taken& taken) {
    Parts parts(tiers_.size());
    const std::scoped_lock lock{mutex_};
    taken.value = std::move(parts);
    for (std::size_t i = 0; i < tiers_.size(); ++i) {
      const std::size_t share = stripes_.share(i, taken.extent.offset, taken.extent.bytes);
      taken.value[i] = tiers_[i].place(share);
      set_aside_[i] -= share;
      used_ += taken.value[i].bytes;
    }
    peak_ = std::max(peak_, used_);
  }

  // Transfers.

  template <class Data, class Start>
  Completion transfer(std::string_view operation, const Extent& extent, std::size_t offset, Data* data,
                      std::size_t bytes, Start start) {
    const detail::TransferName transfer{operation, extent, offset, bytes, name_};
    transfer.check_inside();
    transfer.check_aligned(extent.offset | offset | bytes | std::bit_cast<std::uintptr_t>(data), alignment_);
    if (extent.bytes == 0) return {};
    const auto [origin, parts] = parts_of(transfer);
    std::vector<Completion> ends;
    for (std::size_t done = 0; done < bytes;) {
      const detail::Stripes::Piece piece = stripes_.first_piece(extent.offset + offset + done, bytes - done);
      const TierRef tier = tiers_[piece.member];
      const std::size_t within = stripes_.share(piece.member, origin, piece.begin - origin);
      ends.push_back(detail::started(
          [&, part = parts[piece.member]] { return start(tier, part, within, data + done, piece.bytes); }));
      done += piece.bytes;
    }
    return detail::joined(transfer.text(), ends);
  }

  /// The extent that was placed and holds the transfer's: its begin and its parts.
  std::pair<std::uint64_t, Parts> parts_of(const detail::TransferName& transfer) const {
    const std::scoped_lock lock{mutex_};
    if (const auto* taken = extents_.holder(transfer.extent)) return {taken->extent.offset, taken->value};
    transfer.refuse_unplaced();
  }

  std::vector<TierRef> tiers_;
  std::string name_;
  std::size_t alignment_;
  std::size_t outstanding_ = 0;  ///< Reserved, not placed yet.
  detail::Stripes stripes_;
  mutable std::mutex mutex_;  // of what follows, which only the engine's caller changes
  Extents extents_;
  Shares set_aside_;  ///< What is outstanding, as it is reserved on each tier.
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
};

static_assert(OffloadTier<StripedTier>);

}  // namespace zerospan::inline v0
