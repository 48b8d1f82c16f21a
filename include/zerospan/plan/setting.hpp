/// @file
/// plan::Setting: how a model is to be trained, and on what memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <variant>

#include <zerospan/activation/options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/optimizer/lion.hpp>
#include <zerospan/optimizer/sgd.hpp>
#include <zerospan/tier/cached_tier.hpp>

namespace zerospan::inline v0::plan {

/// Where states rest: in device memory, in host memory, or on a disk. Each is one tier.
enum class Place : std::uint8_t { device, host, nvme };

inline constexpr std::size_t places = 3;

constexpr std::string_view to_string(Place place) noexcept {
  return place == Place::device ? "device" : place == Place::host ? "host" : "nvme";
}

/// What computes, and updates what is in its memory.
enum class Processor : std::uint8_t {
  cpu,  ///< The host: device memory is a part of its memory.
  gpu,  ///< A device with memory and streams of its own.
};

/// Where each kind of state rests. @see zerospan::Placement
struct Placing {
  Place parameters = Place::device;
  Place gradients = Place::device;
  Place optimizer = Place::device;

  friend bool operator==(const Placing&, const Placing&) = default;
};

/// A share of the optimizer's states that rests elsewhere. @see zerospan::TierShare
struct PlacedShare {
  Place place;
  double fraction;

  friend bool operator==(const PlacedShare&, const PlacedShare&) = default;
};

/// Ranks in groups that are near each other, such as those of a node: collectives take two hops, within groups and
/// across them. @see zerospan::GroupedCommunicator
struct GroupSetting {
  int ranks;                                   ///< Of a group; consecutive ones.
  std::optional<Place> copies = std::nullopt;  ///< Where each rank keeps its part of what its group has gathered across
                                               ///< groups, until it changes. @see zerospan::Placement::group_copies
};

/// The disk of one rank, as an NvmeTier sees it.
struct Disk {
  Bytes capacity{std::numeric_limits<std::int64_t>::max()};
  std::size_t alignment = 4096;  ///< `NvmeTier::alignment()`: what direct transfers are multiples of there.
};

/// How the micro-batches of a step go through the model.
enum class MicroBatches : std::uint8_t {
  in_passes,       ///< One after the other, each in a pass of its own (`ZeroEngine::begin`).
  in_one_pass,     ///< One after the other, without a word between them.
  layer_by_layer,  ///< Together: a layer's parameters are gathered once for all of them.
};

/// Activation checkpoints, which the model's passes push and pop.
struct ActivationSetting {
  Place place = Place::host;
  ActivationOptions options{};
};

/// Checkpoints that a training saves. @see zerospan::SaveOptions
struct SaveSetting {
  enum class By : std::uint8_t { linking, copying };

  std::size_t keep = 1;  ///< Complete ones.
  By by = By::linking;
};

using AnyOptimizerSetting = std::variant<AdamW, Sgd, Lion>;

/// One rank's memory, and what the engine on it is told. The same on every rank.
struct Setting {
  int stage = 3;
  int ranks = 1;
  std::optional<GroupSetting> groups = std::nullopt;
  Processor processor = Processor::cpu;
  Placing placing{};
  std::optional<PlacedShare> optimizer_share = std::nullopt;
  Bytes device_budget{};
  Bytes host_budget{};
  Disk disk{};
  std::optional<CachedTierOptions> disk_cache = std::nullopt;  ///< Host memory in front of the disk. @see CachedTier
  AnyOptimizerSetting optimizer = AdamW{};
  EngineOptions options{};
  MicroBatches micro_batches = MicroBatches::in_passes;  ///< How many there are, `options` say.
  std::optional<ActivationSetting> activations = std::nullopt;
  std::optional<SaveSetting> saves = std::nullopt;
};

}  // namespace zerospan::inline v0::plan
