/// @file
/// GatherPath: the way of shards from their tier to whole tensors in device memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/group_copies.hpp>
#include <zerospan/engine/detail/tier_copies.hpp>
#include <zerospan/pipeline/detail/trace.hpp>
#include <zerospan/pipeline/detail/working_memory.hpp>

namespace zerospan::inline v0::detail {

/// What is gathered, to the bit or nearly: a reader computes with what a communicator may have quantized, a writer
/// publishes what it was given.
enum class GatherFor : std::uint8_t { reading, writing };

/// Gathers groups of parameters in three stages on their lanes: tier to staging, staging to this rank's place in the
/// gathered buffer, all-gather (ZeRO-Infinity, arXiv 2104.07857, section 6.2). Parameters that have owners are read by
/// those, whole, and broadcast.
template <TrainingCommunicator C, Device D>
class GatherPath {
 public:
  explicit GatherPath(EngineCore<C, D>& core) : core_{core}, copies_{core}, group_copies_{core} {}

  /// The key of a group of partitioned parameters; equal for equal groups.
  UseKey key_of(std::vector<std::size_t> parameters) {
    const auto [entry, is_new] =
        keys_.emplace(parameters, UseKey{UseKind::gathered, static_cast<std::uint32_t>(groups_.size())});
    if (is_new) groups_.push_back(make_group(std::move(parameters)));
    return entry->second;
  }

  /// Bytes of the buffer that the group is gathered into.
  std::size_t bytes(UseKey key) const { return group(key).bytes; }

  /// Names the parameters of the group.
  const std::string& name(UseKey key) const { return group(key).name; }

  /// Where each parameter of the group is in that buffer.
  std::span<const std::size_t> offsets(UseKey key) const { return group(key).offsets; }

  /// Posts the gather of a group into `data`. @param after What the first write to `data` waits for.
  Completion fetch(UseKey key, GatherFor purpose, std::byte* data, const std::vector<Completion>& after) {
    const Group& g = group(key);
    if constexpr (Grouped<C>) {
      if (core_.placement.group_copies && purpose == GatherFor::reading) {
        std::vector<typename GroupCopies<C, D>::Target> targets;
        for (std::size_t i = 0; i < g.parameters.size(); ++i) targets.push_back({g.parameters[i], data + g.offsets[i]});
        return group_copies_.fetch(targets, g.name, after);
      }
    }
    std::vector<GatherPart> shards;
    std::vector<typename EngineCore<C, D>::BroadcastPart> wholes;
    std::vector<Completion> ready = after;
    for (std::size_t i = 0; i < g.parameters.size(); ++i) {
      const ParameterRecord& parameter = core_.states.parameters[g.parameters[i]];
      std::byte* const target = data + g.offsets[i];
      if (const auto& owner = parameter.partition.owner) {
        wholes.push_back({{target, parameter.gathered_bytes()}, *owner});
      } else {
        shards.push_back({target, parameter.shard_bytes()});
        if (purpose == GatherFor::reading) shards.back().approximable = parameter.type;
      }
      if (!core_.holds(parameter)) continue;
      ready.push_back(
          copies_.read(parameter.name, core_.parameter_shard(parameter), core_.shard_in(parameter, target), after));
    }
    if (core_.ranks() == 1) return ready.back();  // copies end in order
    return wholes.empty() ? core_.all_gather(std::move(shards), g.name, std::move(ready))
                          : core_.broadcast(std::move(wholes), g.name, std::move(ready));
  }

 private:
  /// Either all of its parameters have owners, or none.
  struct Group {
    std::string name;
    std::vector<std::size_t> parameters;
    std::vector<std::size_t> offsets;
    std::size_t bytes;
  };

  const Group& group(UseKey key) const { return groups_[key.number]; }

  Group make_group(std::vector<std::size_t> parameters) const {
    Group result{{}, std::move(parameters), {}, 0};
    for (const std::size_t p : result.parameters) {
      const ParameterRecord& parameter = core_.states.parameters[p];
      result.name += (result.name.empty() ? "" : " + ") + parameter.name;
      result.offsets.push_back(result.bytes);
      result.bytes += round_up(parameter.gathered_bytes(), WorkingMemory::alignment);
    }
    return result;
  }

  EngineCore<C, D>& core_;
  TierCopies<C, D> copies_;
  GroupCopies<C, D> group_copies_;
  std::deque<Group> groups_;  // names are stable
  std::map<std::vector<std::size_t>, UseKey> keys_;
};

}  // namespace zerospan::inline v0::detail
