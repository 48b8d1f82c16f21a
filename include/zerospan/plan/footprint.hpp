/// @file
/// plan::bytes_of: what of a model and its training takes how many bytes, and where.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include <zerospan/activation/options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/lane_options.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/engine/detail/engine.hpp>
#include <zerospan/engine/detail/engine_description.hpp>
#include <zerospan/engine/memory_account.hpp>
#include <zerospan/engine/outcome.hpp>
#include <zerospan/pipeline/pipeline_counters.hpp>
#include <zerospan/plan/detail/rehearsal.hpp>
#include <zerospan/plan/model.hpp>
#include <zerospan/plan/setting.hpp>
#include <zerospan/tier/cached_tier.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::plan {

/// An arena's counts.
struct ArenaBytes {
  Bytes budget;
  Bytes used;
  Bytes peak;

  friend bool operator==(const ArenaBytes&, const ArenaBytes&) = default;
};

/// One rank's data of the checkpoints that it saves.
struct SavedBytes {
  Bytes written;  ///< Of one checkpoint: what is copied. What says where everything is, and the host's bytes, come on
                  ///< top.
  Bytes linked;  ///< Of one: master weights and states whose files become the checkpoint's; the tier goes on in others.
  Bytes kept;    ///< Of all that are kept. While one is being saved there is one more.

  friend bool operator==(const SavedBytes&, const SavedBytes&) = default;
};

/// One rank's memory after some steps of training, to the byte.
struct Footprint {
  MemoryAccount account;  ///< By purpose and tier; activations and the disk's cache are its last lines.
  Requirements least;     ///< The least budgets that the engine trains in; those two are not among it.
  ArenaBytes device;
  ArenaBytes host;
  TierCounters disk;                              ///< Behind its cache, if it has one.
  std::optional<CacheCounters> cache;             ///< None, where there is none.
  std::optional<ActivationCounters> activations;  ///< None, where there are none.
  std::optional<SavedBytes> saves;                ///< None, where nothing is saved.
  LaneCounters last_step;                         ///< What the last step has posted: counts and bytes, no seconds.
  LaneCounters all_steps;                         ///< Likewise since the engine was made, with what is at rest at last.
  PipelineCounters prefetch;                      ///< Since the first step.

  /// Bytes of one purpose in one kind of memory.
  MemoryLine of(MemoryPurpose purpose, Addressable where) const {
    MemoryLine sum{purpose, {}, where, {}, {}, {}};
    for (const MemoryLine& line : account.lines) {
      if (line.purpose != purpose || line.addressable != where) continue;
      sum.tier = line.tier;
      sum.reserved = sum.reserved + line.reserved;
      sum.used = sum.used + line.used;
      sum.peak = sum.peak + line.peak;
    }
    return sum;
  }
};

namespace detail {

inline ArenaBytes bytes_of(const Arena& arena) { return {arena.capacity(), arena.used(), arena.peak()}; }

/// Appends what activation checkpoints have taken.
template <class Machine>
void add_activations(MemoryAccount& account, const ActivationSetting& setting, Machine& machine,
                     const ActivationCounters& counters) {
  const TierRef tier = machine.tier(setting.place);
  const auto add = [&](const std::string& where, Addressable addressable, Bytes taken, Bytes peak) {
    if (taken.count == 0) return;
    account.lines.push_back({MemoryPurpose::activations, where, addressable, taken, taken, peak});
  };
  const bool in_place = tier.addressable() == Addressable::on_device;
  const std::size_t grain =
      tier.addressable() == Addressable::nowhere ? std::max<std::size_t>(tier.alignment(), 4096) : 1;
  add(std::string{tier.name()}, tier.addressable(), Bytes{round_up(setting.options.bytes.count, grain)},
      in_place ? counters.peak_device : counters.peak_tier);
  if (!in_place) {
    add(machine.device.memory().name(), Addressable::on_device, setting.options.device_bytes, counters.peak_device);
  }
  if (tier.addressable() == Addressable::nowhere) {
    const Bytes staging{setting.options.staging.count / Arena::alignment * Arena::alignment};
    add(machine.device.host_memory().name(), Addressable::on_host, staging, staging);
  }
}

/// Appends what the disk's cache has taken.
inline void add_cache(MemoryAccount& account, const CachedTierOptions& options, const Arena& host_memory) {
  const Bytes bytes{options.bytes.count / options.line.count * options.line.count};
  account.lines.push_back({MemoryPurpose::disk_cache, host_memory.name(), Addressable::on_host, bytes, bytes, bytes});
}

/// What was posted since.
inline LaneCounters difference(const LaneCounters& now, const LaneCounters& before) {
  LaneCounters result{};
  for (std::size_t k = 0; k < operation_kinds; ++k) {
    result.of_kind[k].count = now.of_kind[k].count - before.of_kind[k].count;
    result.of_kind[k].bytes = now.of_kind[k].bytes - before.of_kind[k].bytes;
  }
  return result;
}

/// What a save would write of the states where they are, and have linked of those on disk. Behind a cache the files are
/// not what the states are: nothing is linked.
inline SavedBytes saved_bytes(zerospan::detail::Engine& engine, const Model& model, const Setting& setting) {
  std::vector<Training> training;  // of parameters, as engines number them
  for (const Parameter& parameter : model.parameters) {
    if (!parameter.tied_to) training.push_back(parameter.training);
  }
  SavedBytes saved{};
  for (const zerospan::detail::StatesPlace& place : engine.places_of_states()) {
    std::size_t bytes = 0;
    for (const auto& component : place.components) bytes += component.width.of(place.range.elements);
    const bool is_linked = setting.saves->by == SaveSetting::By::linking && !setting.disk_cache &&
                           training[place.parameter] == Training::trainable &&
                           std::ranges::all_of(place.components, [](const auto& component) {
                             return component.tier.addressable() == Addressable::nowhere;
                           });
    Bytes& of_its_kind = is_linked ? saved.linked : saved.written;
    of_its_kind.count += bytes;
  }
  saved.kept = Bytes{setting.saves->keep * (saved.written.count + saved.linked.count)};
  return saved;
}

/// More than anything of the model can take in one memory.
inline Bytes plenty(const Model& model, const Setting& setting) {
  constexpr std::size_t bytes_an_element = 64;  // states, gradients, whole parameters and buffers, with room to spare
  const std::size_t padding =
      static_cast<std::size_t>(setting.ranks) * std::max(setting.disk.alignment, block_elements);
  std::size_t bytes = 8 * setting.options.staging.value_or(64_MiB).count + (std::size_t{64} << 20);
  if (setting.disk_cache) bytes += setting.disk_cache->bytes.count;
  for (const Parameter& parameter : model.parameters) {
    bytes += bytes_an_element * (parameter.shape.elements() + padding);
  }
  if (setting.activations) {
    const ActivationOptions& options = setting.activations->options;
    bytes += options.bytes.count + options.device_bytes.count + options.staging.count;
  }
  return Bytes{bytes};
}

}  // namespace detail

/// What training takes on a rank: declared, placed and trained for some steps, on a simulated machine without bytes, by
/// the code that would do it. In the second step memory is used as in all later ones; the first one learns.
/// @param steps 0: what is taken when declaration has ended.
/// @throws BudgetError with the bytes that would be short, as training would: at the declaration, or at the lease;
/// ConfigurationError if model and setting contradict each other.
inline Footprint bytes_of(const Model& model, const Setting& setting, Rank rank = {}, std::size_t steps = 3) {
  detail::check_rank(setting, rank);
  return detail::with_device(setting, [&]<sim::DeviceMemory Where>() {
    sim::Cluster cluster = detail::timeless(setting);
    detail::SimulatedRank<Where> machine{cluster, setting, rank};
    Footprint result{};
    LaneCounters before{};
    detail::rehearse(model, setting, machine, steps, [&](const detail::Rehearsed& now) {
      if (now.step + 1 == steps) before = now.engine.statistics().operations;
      if (now.step < steps) return;
      if (steps > 0) result.last_step = detail::difference(now.engine.statistics().operations, before);
      now.engine.synchronize();
      result.account = now.engine.memory();
      result.least = now.engine.requirements();
      result.device = detail::bytes_of(machine.device.memory());
      result.host = detail::bytes_of(machine.device.host_memory());
      result.disk = machine.disk.counters();
      const Statistics statistics = now.engine.statistics();
      result.prefetch = statistics.prefetch;
      result.all_steps = statistics.operations;
      if (setting.saves) result.saves = detail::saved_bytes(now.engine, model, setting);
      if (now.checkpoints) {
        result.activations = now.checkpoints->counters();
        detail::add_activations(result.account, *setting.activations, machine, *result.activations);
      }
      if (machine.cache) {
        result.cache = machine.cache->cache_counters();
        detail::add_cache(result.account, *setting.disk_cache, machine.device.host_memory());
      }
    });
    return result;
  });
}

/// What a model and its training would take at the most, whatever the budgets of the setting: as `bytes_of`, on a
/// machine that has enough. Staging memory is as large as the options allow, and all parameters stay gathered that are
/// used again; how little is enough, `Footprint::least` says.
inline Footprint needs_of(const Model& model, Setting setting, Rank rank = {}, std::size_t steps = 3) {
  const Bytes plenty = detail::plenty(model, setting);
  setting.device_budget = plenty;
  setting.host_budget = plenty;
  setting.disk.capacity = Disk{}.capacity;
  return bytes_of(model, setting, rank, steps);
}

}  // namespace zerospan::inline v0::plan
