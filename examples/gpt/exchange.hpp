/// @file
/// Where one rank's figures come from, and how ranks tell each other.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include <zerospan/activation/options.hpp>
#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/tier/offload_tier.hpp>

#include "figures.hpp"

namespace gpt {

/// @param storage A RankStorage. @param activation_bytes What the mathematics has allocated.
template <class Engine, class Storage>
Figures figures_of(const Engine& engine, Storage& storage, std::size_t activation_bytes) {
  const auto count = [](zerospan::Bytes bytes) { return static_cast<double>(bytes.count); };
  const auto statistics = engine.statistics();
  const auto disk = storage.disk();
  const auto* checkpoints = storage.checkpoints();
  const auto activations = checkpoints ? checkpoints->counters() : zerospan::ActivationCounters{};
  const auto& memory = storage.device().memory();
  const auto& host_memory = storage.device().host_memory();
  return {.bytes_read = static_cast<double>(statistics.bytes_read),
          .bytes_written = static_cast<double>(statistics.bytes_written),
          .transfer_seconds = statistics.transfer_seconds(),
          .exposed_seconds = statistics.exposed_seconds(),
          .prefetch_hits = static_cast<double>(statistics.prefetch.hits),
          .prefetch_misses = static_cast<double>(statistics.prefetch.misses),
          .prefetch_kept = static_cast<double>(statistics.prefetch.kept),
          .prefetch_dropped = static_cast<double>(statistics.prefetch.dropped),
          .passes_mended = static_cast<double>(statistics.prefetch.mended),
          .device_bytes = count(memory.used()),
          .peak_device_bytes = count(memory.peak()),
          .host_bytes = count(host_memory.used()),
          .peak_host_bytes = count(host_memory.peak()),
          .disk_bytes = count(disk.used),
          .peak_disk_bytes = count(disk.peak),
          .activation_bytes = static_cast<double>(activation_bytes),
          .activation_bytes_offloaded = static_cast<double>(activations.bytes_offloaded),
          .activation_bytes_fetched = static_cast<double>(activations.bytes_fetched)};
}

/// Every rank's value, in rank order, bit for bit: a collective. A sum in which all terms but one are zero is exact.
template <zerospan::AllReduces Communicator, class T>
requires std::is_trivially_copyable_v<T> &&
    (sizeof(T) % sizeof(std::int64_t) == 0) std::vector<T> exchange(Communicator& communicator, std::string_view name,
                                                                    const T& value) {
  using Words = std::array<std::int64_t, sizeof(T) / sizeof(std::int64_t)>;
  std::vector<Words> table(static_cast<std::size_t>(communicator.size()), Words{});
  table[static_cast<std::size_t>(communicator.rank().value)] = std::bit_cast<Words>(value);
  communicator.all_reduce({zerospan::calling_thread, name},
                          std::span{table.front().data(), table.size() * Words{}.size()});
  std::vector<T> values;
  for (const Words& words : table) values.push_back(std::bit_cast<T>(words));
  return values;
}

}  // namespace gpt
