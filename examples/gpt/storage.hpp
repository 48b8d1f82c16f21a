/// @file
/// One rank's memory and tiers.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <deque>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include <zerospan/activation/activation_checkpoints.hpp>
#include <zerospan/core/timeline.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/io/any_io_engine.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/measured_weights.hpp>
#include <zerospan/tier/nvme_tier.hpp>
#include <zerospan/tier/offload_tier.hpp>
#include <zerospan/tier/striped_tier.hpp>

#include "checks.hpp"
#include "directory_use.hpp"
#include "io.hpp"
#include "options.hpp"

namespace gpt {

/// The nvme tier of a rank: a file in each of the options' directories, striped by their bandwidths.
class FileDisks {
 public:
  /// Several directories are measured first.
  explicit FileDisks(const Options& options) {
    for (const auto& path : options.nvme_path) {
      auto& tier = tiers_.emplace_back(io_, zerospan::NvmeTierOptions{.directory = path.string()});
      refs_.push_back(options.checksums == Checksums::on ? checks_.over(tier) : zerospan::TierRef{tier});
    }
    if (refs_.size() > 1) stripe();
  }

  zerospan::TierRef tier() { return stripes_ ? zerospan::TierRef{*stripes_} : refs_.front(); }

  /// Where what is placed there lies now.
  std::vector<DirectoryUse> directories(const Options& options) const {
    std::vector<DirectoryUse> uses;
    for (std::size_t i = 0; i < tiers_.size(); ++i) {
      const auto bytes = static_cast<double>(tiers_[i].counters().used.count);
      uses.push_back({options.nvme_path[i], bytes, weights_[i]});
    }
    return uses;
  }

 private:
  /// All ranks measure now, as all will use the disks at once. The fastest disk gets a MiB at a time.
  void stripe() {
    weights_ = zerospan::measured_weights(refs_);
    constexpr std::size_t longest = std::size_t{1} << 20;
    constexpr std::size_t shortest = std::size_t{64} << 10;
    const zerospan::Bytes each{zerospan::round_up(longest / std::ranges::max(weights_), shortest)};
    stripes_.emplace(refs_, zerospan::StripedTierOptions{.stripe = each, .weights = weights_});
  }

  zerospan::AnyIoEngine io_ = make_io_engine();
  std::deque<zerospan::NvmeTier<zerospan::AnyIoEngine>> tiers_;
  Checks checks_;
  std::vector<zerospan::TierRef> refs_;
  std::vector<std::size_t> weights_{1};  ///< Of each.
  std::optional<zerospan::StripedTier> stripes_;
};

/// Disks are opened only where the options place something on them.
/// @tparam Disks Has the nvme tier, and is made of the options, or of them and the device: `FileDisks`, or what has the
/// same members.
template <zerospan::Device D, class Disks = FileDisks>
class RankStorage {
 public:
  using Device = D;

  /// @param timeline Outlives the storage.
  /// @param device What the device is made of; its budgets are the options'.
  template <class... Arguments>
  RankStorage(const Options& options, int rank, zerospan::Timeline& timeline, Arguments&&... device)
      : device_{std::forward<Arguments>(device)...,
                {.device_budget = zerospan::Bytes{options.device_budget},
                 .host_budget = zerospan::Bytes{options.host_budget}}},
        on_device_{device_},
        on_host_{device_} {
    const bool has_checkpoints = options.checkpoint_every > 0;
    const TierKind places[]{options.parameters, options.gradients, options.optimizer,
                            has_checkpoints ? options.activations : TierKind::device,
                            options.group_copies.value_or(TierKind::device)};
    if (std::ranges::find(places, TierKind::nvme) != std::end(places)) open_disks(options);
    if (has_checkpoints) open_checkpoints(options, rank, timeline);
  }

  D& device() { return device_; }

  zerospan::Placement placement(const Options& options) {
    zerospan::Placement placement{.parameters = tier(options.parameters),
                                  .gradients = tier(options.gradients),
                                  .optimizer = tier(options.optimizer)};
    if (options.group_copies) placement.group_copies = tier(*options.group_copies);
    return placement;
  }

  /// Where activations are checkpointed; nullptr: nowhere.
  zerospan::ActivationCheckpoints* checkpoints() { return checkpoints_ ? &*checkpoints_ : nullptr; }

  /// Where what is placed on disk lies now; empty without one.
  std::vector<DirectoryUse> directories(const Options& options) const {
    return disks_ ? disks_->directories(options) : std::vector<DirectoryUse>{};
  }

  /// What is and was placed on disk; zeros without one.
  zerospan::TierCounters disk() { return disks_ ? disks_->tier().counters() : zerospan::TierCounters{}; }

 private:
  void open_disks(const Options& options) {
    if constexpr (std::constructible_from<Disks, const Options&, D&>) {
      disks_.emplace(options, device_);
    } else {
      disks_.emplace(options);
    }
  }

  /// Each is the residual stream of a micro-batch, in float; two of all are in device memory.
  void open_checkpoints(const Options& options, int rank, zerospan::Timeline& timeline) {
    const std::size_t bytes = options.batch * options.model.context * options.model.width * sizeof(float);
    const std::size_t rounded = zerospan::round_up(bytes, zerospan::Arena::alignment);
    const std::size_t segments = (options.model.layers + options.checkpoint_every - 1) / options.checkpoint_every;
    const std::size_t count = segments * options.micro_batches_at_once();
    checkpoints_.emplace(device_, tier(options.activations),
                         zerospan::ActivationOptions{.bytes = zerospan::Bytes{count * rounded},
                                                     .device_bytes = zerospan::Bytes{2 * rounded},
                                                     .staging = zerospan::Bytes{2 * rounded},
                                                     .rank = zerospan::Rank{options.ranks + rank},
                                                     .timeline = &timeline});
  }

  zerospan::TierRef tier(TierKind kind) {
    switch (kind) {
      case TierKind::device:
        return on_device_;
      case TierKind::host:
        return on_host_;
      case TierKind::nvme:
        break;
    }
    return disks_->tier();
  }

  D device_;
  zerospan::DeviceTier on_device_;
  zerospan::HostTier on_host_;
  std::optional<Disks> disks_;
  std::optional<zerospan::ActivationCheckpoints> checkpoints_;
};

}  // namespace gpt
