/// @file
/// What a plan says that a training takes, beside what it has taken.
#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include <zerospan/core/timeline.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/engine/detail/engine_of.hpp>
#include <zerospan/engine/memory_account.hpp>
#include <zerospan/plan/footprint.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan_test {

/// What a real engine has taken, that has nothing under way.
/// @param disk Of the tier that is the plan's disk. @return No operations: a timeline has seen them.
template <class Engine, class Device>
zerospan::plan::Footprint footprint_of(Engine& engine, Device& device, const zerospan::TierCounters& disk) {
  zerospan::detail::Engine& whole = zerospan::detail::engine_of(*engine.store(), "a footprint");
  const auto bytes = [](const zerospan::Arena& arena) {
    return zerospan::plan::ArenaBytes{arena.capacity(), arena.used(), arena.peak()};
  };
  zerospan::plan::Footprint seen{};
  seen.account = whole.memory();
  seen.least = whole.requirements();
  seen.device = bytes(device.memory());
  seen.host = bytes(device.host_memory());
  seen.disk = disk;
  seen.prefetch = engine.statistics().prefetch;
  return seen;
}

/// What a timeline has seen: counts and bytes.
inline zerospan::LaneCounters operations_of(const zerospan::Timeline& timeline) {
  zerospan::LaneCounters counters{};
  for (const zerospan::Span& span : timeline.spans()) {
    for (std::size_t k = 0; k < zerospan::operation_kinds; ++k) {
      const auto kind = static_cast<zerospan::OperationKind>(k);
      if (span.kind != to_string(kind)) continue;
      ++counters[kind].count;
      counters[kind].bytes += span.bytes;
    }
  }
  return counters;
}

inline std::string in_words(zerospan::Addressable where) {
  using zerospan::Addressable;
  return where == Addressable::on_device ? "device" : where == Addressable::on_host ? "host" : "disk";
}

/// Every figure that a plan and an engine have in common; what takes the host's time is a plan's alone.
inline std::string in_words(const zerospan::plan::Footprint& f) {
  using zerospan::OperationKind;
  std::string result;
  const auto add = [&](auto... words) { (result.append(words).append(" "), ...); };
  const auto number = [](std::uint64_t n) { return std::to_string(n); };
  for (const zerospan::MemoryLine& line : f.account.lines) {
    using zerospan::MemoryPurpose;
    if (line.purpose == MemoryPurpose::activations || line.purpose == MemoryPurpose::disk_cache) continue;  // a plan's
    add(to_string(line.purpose), "on", in_words(line.addressable), number(line.reserved.count), number(line.used.count),
        number(line.peak.count), "\n");
  }
  add("working", number(f.account.working.count), "\n");
  add("least", number(f.least.device_forward.count), number(f.least.device_backward.count), number(f.least.host.count),
      "\n");
  for (const auto& tier : f.least.tiers) add(number(tier.bytes.count));
  for (const zerospan::plan::ArenaBytes& arena : {f.device, f.host}) {
    add("\narena", number(arena.budget.count), number(arena.used.count), number(arena.peak.count));
  }
  add("\ndisk", number(f.disk.used.count), number(f.disk.peak.count), "\n");
  // What the disk has transferred, and which reads hit its cache, is not compared: it depends on which of the lanes
  // that race for the cache comes first, and on what was read ahead when the training ended. What was posted is
  // compared.
  add("prefetch", number(f.prefetch.hits), number(f.prefetch.misses), number(f.prefetch.mended),
      number(f.prefetch.dropped), number(f.prefetch.kept), number(f.prefetch.plans), "\n");
  for (std::size_t k = 0; k < zerospan::operation_kinds; ++k) {
    const auto kind = static_cast<OperationKind>(k);
    const auto& counter = f.all_steps[kind];
    if (kind == OperationKind::wait || kind == OperationKind::compute || counter.count == 0) continue;
    add(to_string(kind), number(counter.count), number(counter.bytes), "\n");
  }
  if (f.saves) {
    add("saves", number(f.saves->written.count), number(f.saves->linked.count), number(f.saves->kept.count), "\n");
  }
  if (f.activations) {
    add("activations", number(f.activations->peak_device.count), number(f.activations->peak_tier.count),
        number(f.activations->bytes_offloaded), number(f.activations->bytes_fetched), number(f.activations->hits),
        number(f.activations->misses), "\n");
  }
  return result;
}

/// The account has a line for every byte that is taken.
inline void check_complete(const zerospan::plan::Footprint& f) {
  using zerospan::Addressable;
  std::map<Addressable, std::size_t> used;
  for (const zerospan::MemoryLine& line : f.account.lines) used[line.addressable] += line.used.count;
  CHECK(used[Addressable::on_device] == f.device.used.count);
  CHECK(used[Addressable::on_host] == f.host.used.count);
  CHECK(used[Addressable::nowhere] == f.disk.used.count);
}

/// A plan says to the byte what a real engine has taken, and what for.
inline void check_same_footprint(const zerospan::plan::Footprint& planned, const zerospan::plan::Footprint& seen) {
  check_complete(planned);
  CHECK(in_words(planned) == in_words(seen));
}

}  // namespace zerospan_test
