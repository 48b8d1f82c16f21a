/// @file
/// GatherPath: the way of shards from their tier to whole tensors in device memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/group_updates.hpp>
#include <zerospan/engine/outcome.hpp>
#include <zerospan/pipeline/detail/trace.hpp>
#include <zerospan/pipeline/detail/working_memory.hpp>

namespace zerospan::inline v0::detail {

/// What is gathered, to the bit or nearly: a reader computes with what a communicator may have quantized, a writer
/// publishes what it was given.
enum class GatherFor : std::uint8_t { reading, writing };

/// Gathers groups of parameters in three stages on their lanes: tier to staging, staging to this rank's place in the
/// gathered buffer, all-gather (ZeRO-Infinity, arXiv 2104.07857, section 6.2). Where tiers can be read right into the
/// gathered buffer, the first two are one. Parameters that have owners are read by those, whole, and broadcast.
///
/// With copies in groups of ranks, the first gather of a sliced parameter after it was changed goes across groups, and
/// each rank keeps the shards of all ranks at its place, so that its group has the whole parameter. Every later gather
/// is the group's alone (hpZ of ZeRO++, arXiv 2306.10209, section 3.2).
template <Device D>
class GatherPath {
 public:
  GatherPath(EngineCore<D>& core, GroupUpdates<D>& updates) : core_{core}, updates_{updates} {}

  /// The key of a group of partitioned parameters; equal for equal groups.
  UseKey key_of(const std::vector<std::size_t>& parameters) {
    const auto [entry, is_new] =
        keys_.try_emplace(parameters, UseKey{UseKind::gathered, static_cast<std::uint32_t>(groups_.size())});
    if (is_new) groups_.push_back(make_group(parameters));
    return entry->second;
  }

  /// Bytes of the buffer that the group is gathered into.
  std::size_t bytes(UseKey key) const { return group(key).bytes; }

  /// Names the parameters of the group.
  const std::string& name(UseKey key) const { return group(key).name; }

  /// Where each parameter of the group is in that buffer.
  std::span<const std::size_t> offsets(UseKey key) const { return group(key).offsets; }

  /// Posts the gather of a group into `data`.
  /// @param pass The collective is named after it, so that ranks in passes of different kinds notice.
  /// @param after What the first write to `data` waits for. @return The ends of all that writes there.
  std::vector<Completion> fetch(UseKey key, GatherFor purpose, Pass pass, std::byte* data,
                                const std::vector<Completion>& after) {
    const Group& g = group(key);
    const std::string_view name = pass == Pass::training ? g.name : g.evaluation_name;
    std::vector<Target> sliced;
    std::vector<Target> owned;
    for (std::size_t i = 0; i < g.parameters.size(); ++i) {
      updates_.bring(g.parameters[i]);
      ParameterRecord& parameter = core_.states.parameters[g.parameters[i]];
      (parameter.partition.owner ? owned : sliced).push_back({g.parameters[i], &parameter, data + g.offsets[i]});
    }
    std::vector<Completion> ends;
    if (!owned.empty()) ends.push_back(broadcast(owned, name, after));
    if (sliced.empty()) return ends;
    if (core_.placement.group_copies && purpose == GatherFor::reading) {
      ends.push_back(gather_in_groups(sliced, name, after));
    } else if (core_.ranks() > 1) {
      ends.push_back(core_.all_gather(parts_of(sliced, purpose), name, read_shards(sliced, after)));
    } else {
      std::ranges::move(read_shards(sliced, after), std::back_inserter(ends));
    }
    return ends;
  }

 private:
  struct Group {
    std::string name;
    std::string evaluation_name;
    std::vector<std::size_t> parameters;
    std::vector<std::size_t> offsets;
    std::size_t bytes;
  };

  /// A parameter, and the buffer that it is gathered into.
  struct Target {
    std::size_t index;
    ParameterRecord* parameter;
    std::byte* data;
  };

  const Group& group(UseKey key) const { return groups_[key.number]; }

  Group make_group(std::vector<std::size_t> parameters) const {
    Group result{{}, {}, std::move(parameters), {}, 0};
    for (const std::size_t p : result.parameters) {
      const ParameterRecord& parameter = core_.states.parameters[p];
      result.name += (result.name.empty() ? "" : " + ") + parameter.name;
      result.offsets.push_back(result.bytes);
      result.bytes += round_up(parameter.gathered_bytes(), WorkingMemory::alignment);
    }
    result.evaluation_name = result.name + " (evaluation)";
    return result;
  }

  Completion broadcast(std::span<const Target> targets, std::string_view name, const std::vector<Completion>& after) {
    std::vector<typename EngineCore<D>::BroadcastPart> parts;
    std::vector<Completion> ready = after;
    for (const auto& [index, parameter, data] : targets) {
      parts.push_back({{data, parameter->gathered_bytes()}, *parameter->partition.owner});
      if (core_.holds(*parameter)) read_shard(index, data, after, ready);
    }
    return core_.broadcast(std::move(parts), name, std::move(ready));
  }

  /// What a communicator across groups has quantized is what is kept.
  Completion gather_in_groups(std::span<const Target> targets, std::string_view name,
                              const std::vector<Completion>& after) {
    std::vector<GatherPart> parts = parts_of(targets, GatherFor::reading);
    std::vector<Completion> ready;
    if (std::ranges::all_of(targets, [](const Target& target) { return target.parameter->copy.is_current; })) {
      ready = after;
      for (const auto& [index, parameter, data] : targets) read_copy(*parameter, data, after, ready);
    } else {
      ready = {core_.gather_across(parts, name, read_shards(targets, after))};
      const std::vector<Completion> across = ready;
      for (const auto& [index, parameter, data] : targets) ready.push_back(write_copy(*parameter, data, across));
    }
    return core_.gather_within(std::move(parts), name, std::move(ready));
  }

  static std::vector<GatherPart> parts_of(std::span<const Target> targets, GatherFor purpose) {
    std::vector<GatherPart> parts;
    for (const auto& [index, parameter, data] : targets) {
      parts.push_back({data, parameter->shard_bytes()});
      if (purpose == GatherFor::reading) parts.back().approximable = parameter->type;
    }
    return parts;
  }

  /// Brings this rank's shards into the gathered buffer. @return When all of that is done, and what it waits for.
  std::vector<Completion> read_shards(std::span<const Target> targets, const std::vector<Completion>& after) {
    std::vector<Completion> ready = after;
    for (const auto& [index, parameter, data] : targets) read_shard(index, data, after, ready);
    return ready;
  }

  /// Brings this rank's shard into the gathered buffer: what an update has just left in staging memory from there, and
  /// the rest from its tier. Adds the ends to `ready`.
  void read_shard(std::size_t index, std::byte* data, const std::vector<Completion>& after,
                  std::vector<Completion>& ready) {
    const ParameterRecord& parameter = core_.states.parameters[index];
    const Operand shard = core_.parameter_shard(parameter);
    std::byte* const to = core_.shard_in(parameter, data);
    if (!EngineCore<D>::staging_type::passes(shard.tier, Site::device)) {
      return read(parameter.name, shard, to, after, ready);
    }
    const std::size_t width = element_bytes(parameter.type);
    std::vector<Operand> rest;
    std::size_t begin = 0;  // of what is not in staging memory, in bytes of the shard
    const auto rest_until = [&](std::size_t bytes) {
      if (bytes == begin) return;
      rest.push_back(shard);
      rest.back().offset += begin;
      rest.back().bytes = bytes - begin;
    };
    core_.states.for_each_run(index, [&](const SubGroup& group, const ShardRun& run) {
      const auto values = updates_.values_in_staging(group);
      if (!values) return;
      const std::size_t first = run.first_in_shard * width;
      rest_until(first);
      ready.push_back(
          copy_values(parameter.name, *values, run.first_in_group * width, to + first, run.elements * width, after));
      begin = first + run.elements * width;
    });
    rest_until(shard.bytes);
    // Now: reads that pass through staging memory take the place of what is there.
    for (const Operand& part : rest) read(parameter.name, part, to + (part.offset - shard.offset), after, ready);
  }

  Completion copy_values(std::string_view name, const StagedValues& values, std::size_t offset, std::byte* to,
                         std::size_t bytes, std::vector<Completion> after) {
    after.push_back(values.work);
    Completion end = core_.lanes.post(Lane::copy, std::move(after), {OperationKind::copy, name, bytes},
                                      [to, from = values.data + offset, bytes](auto& stream) -> Completion {
                                        copy_bytes(stream, to, from, bytes);
                                        return {};
                                      });
    core_.staging.record_use(values.slot, end);
    return end;
  }

  /// The group's copy of a parameter: the shards of all ranks at this rank's place.
  Operand group_copy(const ParameterRecord& parameter, Operand::Access access) const {
    const std::size_t groups = core_.groups();
    return {core_.placement.tier(StateKind::group_copies),
            core_.states.spaces[parameter.space].group_copies,
            groups * parameter.linear * element_bytes(parameter.type),
            groups * parameter.shard_bytes(),
            access,
            parameter.copy.ready};
  }

  /// Where they are in the gathered buffer.
  std::byte* group_copy_in(const ParameterRecord& parameter, std::byte* data) const {
    return data + core_.rank() / core_.groups() * core_.groups() * parameter.shard_bytes();
  }

  void read_copy(const ParameterRecord& parameter, std::byte* data, const std::vector<Completion>& after,
                 std::vector<Completion>& ready) {
    read(parameter.name, group_copy(parameter, Operand::Access::read), group_copy_in(parameter, data), after, ready);
  }

  Completion write_copy(ParameterRecord& parameter, std::byte* data, const std::vector<Completion>& after) {
    PostedWork posted = transfer(
        parameter.name, group_copy(parameter, Operand::Access::write), after,
        [from = group_copy_in(parameter, data)](auto& stream, std::byte* in_tier, std::size_t done, std::size_t bytes) {
          copy_bytes(stream, in_tier, from + done, bytes);
        });
    parameter.copy = {true, std::move(posted.ends)};
    return posted.work;
  }

  /// @param after What the first write to `to` waits for. @param ready Gets the end.
  void read(std::string_view name, const Operand& range, std::byte* to, const std::vector<Completion>& after,
            std::vector<Completion>& ready) {
    if (EngineCore<D>::staging_type::reads_directly(range, to)) {
      ready.push_back(core_.staging.read_directly(name, range, to, after));
      return;
    }
    const auto copy = [to](auto& stream, std::byte* in_tier, std::size_t done, std::size_t bytes) {
      copy_bytes(stream, to + done, in_tier, bytes);
    };
    ready.push_back(transfer(name, range, after, copy).work);
  }

  /// Posts copies between device memory and a range of a tier, piece by piece: `copy(stream, in_tier, done, bytes)`.
  /// The work ends when the device memory is read or written; the rest when it is all on the tier.
  template <class Copy>
  PostedWork transfer(std::string_view name, const Operand& range, const std::vector<Completion>& after, Copy copy) {
    PostedWork all;
    const std::size_t piece = core_.staging.piece_bytes(range.tier);
    for (std::size_t done = 0; done < range.bytes;) {
      Operand part = range;
      part.offset += done;
      part.bytes = std::min(piece, range.bytes - done);
      PostedWork posted =
          core_.staging.run(Lane::copy, {OperationKind::copy, name, part.bytes}, {&part, 1}, after,
                            [copy, done, bytes = part.bytes](auto& stream, std::span<std::byte* const> pointers) {
                              copy(stream, pointers[0], done, bytes);
                            });
      all.work = std::move(posted.work);  // the lane's work ends in order
      all.ends.insert(all.ends.end(), posted.ends.begin(), posted.ends.end());
      done += part.bytes;
    }
    return all;
  }

  EngineCore<D>& core_;
  GroupUpdates<D>& updates_;
  std::deque<Group> groups_;  // names are stable
  std::map<std::vector<std::size_t>, UseKey> keys_;
};

}  // namespace zerospan::inline v0::detail
