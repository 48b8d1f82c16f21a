/// @file
/// GroupCopies: gathers that stay within groups of near ranks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/tier_copies.hpp>

namespace zerospan::inline v0::detail {

/// The first gather of a parameter after it was changed goes across groups, and each rank keeps the shards of all ranks
/// at its place, so that its group has the whole parameter. Every later gather is the group's alone: those of backward,
/// and of further micro-batches (hpZ of ZeRO++, arXiv 2306.10209, section 3.2).
template <TrainingCommunicator C, Device D>
class GroupCopies {
 public:
  explicit GroupCopies(EngineCore<C, D>& core) : core_{core}, copies_{core} {}

  /// A parameter, and the buffer that it is gathered into.
  struct Target {
    std::size_t parameter;
    std::byte* data;
  };

  /// Posts the gather of a group of parameters, to be read: what a communicator across groups has quantized is what is
  /// kept. @param after What the first write to their buffers waits for.
  Completion fetch(std::span<const Target> targets, const std::string& name, const std::vector<Completion>& after) {
    std::vector<GatherPart> parts;
    for (const auto& [p, data] : targets) {
      const ParameterRecord& parameter = core_.states.parameters[p];
      parts.push_back({data, parameter.shard_bytes(), parameter.type});
    }
    std::vector<Completion> ready = after;
    const auto is_kept = [&](const Target& target) {
      return core_.states.parameters[target.parameter].copy.is_current;
    };
    if (std::ranges::all_of(targets, is_kept)) {
      for (const auto& [p, data] : targets) ready.push_back(read_copy(core_.states.parameters[p], data, after));
    } else {
      for (const auto& [p, data] : targets) ready.push_back(read_shard(core_.states.parameters[p], data, after));
      ready = {core_.gather_across(parts, name, std::move(ready))};
      const std::vector<Completion> across = ready;
      for (const auto& [p, data] : targets) ready.push_back(write_copy(core_.states.parameters[p], data, across));
    }
    return core_.gather_within(std::move(parts), name, std::move(ready));
  }

 private:
  Operand operand(const ParameterRecord& parameter, Operand::Access access) const {
    const std::size_t groups = core_.groups();
    return {core_.placement.tier(StateKind::group_copies),
            core_.states.spaces[parameter.space].group_copies,
            groups * parameter.linear * element_bytes(parameter.type),
            groups * parameter.shard_bytes(),
            access,
            parameter.copy.ready};
  }

  /// The shards of all ranks at this rank's place, in the gathered buffer.
  std::byte* range_in(const ParameterRecord& parameter, std::byte* data) const {
    return data + core_.rank() / core_.groups() * core_.groups() * parameter.shard_bytes();
  }

  Completion read_shard(const ParameterRecord& parameter, std::byte* data, const std::vector<Completion>& after) {
    return copies_.read(parameter.name, core_.parameter_shard(parameter), core_.shard_in(parameter, data), after);
  }
  Completion read_copy(const ParameterRecord& parameter, std::byte* data, const std::vector<Completion>& after) {
    return copies_.read(parameter.name, operand(parameter, Operand::Access::read), range_in(parameter, data), after);
  }
  Completion write_copy(ParameterRecord& parameter, std::byte* data, const std::vector<Completion>& after) {
    PostedWork posted =
        copies_.write(parameter.name, operand(parameter, Operand::Access::write), range_in(parameter, data), after);
    parameter.copy = {true, std::move(posted.ends)};
    return posted.work;
  }

  EngineCore<C, D>& core_;
  TierCopies<C, D> copies_;
};

}  // namespace zerospan::inline v0::detail
