/// @file
/// StateAccess: master weights and the optimizer's states, streamed out and written in, piece by piece.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/engine_description.hpp>
#include <zerospan/engine/detail/piece_memory.hpp>
#include <zerospan/engine/detail/states_being_read.hpp>
#include <zerospan/engine/outcome.hpp>
#include <zerospan/engine/states.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/split_float.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/optimizer/state_array.hpp>

namespace zerospan::inline v0::detail {

/// Reads and replaces master weights and states outside of a step. Memory is bounded by one buffer, whatever the model.
template <Device D>
class StateAccess {
 public:
  explicit StateAccess(EngineCore<D>& core) : core_{core} {}

  /// What this rank holds.
  StatesRange held(const ParameterRecord& parameter) const {
    if (!core_.holds(parameter)) return {};
    const std::size_t shard = core_.shard_of(parameter);
    return {parameter.partition.first(shard), parameter.partition.count(shard)};
  }

  /// A part of what this rank holds, so that each element is in one rank's part, and those who hold the same have about
  /// as much of it.
  StatesRange part_of(std::size_t index) const {
    const ParameterRecord& parameter = core_.states.parameters[index];
    const StatesRange all = held(parameter);
    const bool is_everywhere = parameter.partition.shards == 1 && !parameter.partition.owner;
    const std::size_t holders = is_everywhere ? core_.contributors() : core_.contributors() / core_.ranks();
    const std::size_t self = is_everywhere ? core_.place() : core_.replica();
    const std::uint64_t each = round_up((all.elements + holders - 1) / holders, PieceMemory::unit);
    const std::uint64_t begin = std::min<std::uint64_t>(all.elements, (self + index) % holders * each);
    return {all.first + begin, std::min(each, all.elements - begin)};
  }

  /// Shows this rank's parts, in declaration order.
  /// @param left_out Of each parameter: what is not shown, in order, whole places; or of none.
  void visit_own(const PieceMemory& memory, std::span<const std::vector<StatesRange>> left_out,
                 const StatesVisitor& visitor) {
    for (std::size_t p = 0; p < core_.states.parameters.size(); ++p) {
      const StatesRange part = part_of(p);
      std::uint64_t next = part.first;
      if (!left_out.empty()) {
        for (const StatesRange& out : left_out[p]) {
          visit_range(p, {next, out.first - next}, memory, visitor);
          next = out.first + out.elements;
        }
      }
      visit_range(p, {next, part.first + part.elements - next}, memory, visitor);
    }
  }

  /// Where this rank's parts rest.
  std::vector<StatesPlace> places_of_own(std::span<const StateArray> arrays) const {
    const auto neighbours = neighbours_in_spaces();
    std::vector<StatesPlace> result;
    for (std::size_t p = 0; p < core_.states.parameters.size(); ++p) {
      const ParameterRecord& parameter = core_.states.parameters[p];
      const StatesRange part = part_of(p);
      if (part.elements == 0) continue;
      const std::uint64_t shard_first = held(parameter).first;
      for_each_part(places_of(p), part.first - shard_first, part.elements, [&](const Part& each) {
        constexpr auto reads = Operand::Access::read;
        std::vector<StatesPlace::Component> components;
        const auto add = [&](const Operand& operand, std::size_t first, ElementWidth width) {
          const bool passes = EngineCore<D>::staging_type::passes(operand.tier, Site::host);
          components.push_back({operand.tier, operand.extent, operand.offset + first, width,
                                passes ? nullptr : operand.tier.view(operand.extent)});
        };
        const auto add_whole = [&](const Operand& operand) { add(operand, 0, {operand.bytes / each.elements}); };
        if (!parameter.has_states() || is_split(parameter)) add_whole(parameter_operand(parameter, each, reads));
        if (parameter.has_states()) {
          const StateOperands states = state_operands(parameter, each, arrays, reads);
          add_whole(states.list[0]);
          for (std::size_t a = 0; a < arrays.size(); ++a) {
            add(states.list[states.arrays[a].operand], states.arrays[a].offset, arrays[a].width());
          }
        }
        result.push_back({p, {shard_first + each.in_shard, each.elements}, std::move(components), each.group,
                          neighbours[parameter.space]});
      });
    }
    return result;
  }

  /// Where this rank's shards rest of what has no states and is partitioned.
  std::vector<FrozenPlace> places_of_frozen() const {
    std::vector<FrozenPlace> result;
    for (std::size_t p = 0; p < core_.states.parameters.size(); ++p) {
      const ParameterRecord& parameter = core_.states.parameters[p];
      const StatesRange range = held(parameter);
      if (parameter.has_states() || parameter.residence != Residence::partitioned || range.elements == 0) continue;
      const Operand shard = core_.parameter_shard(parameter);
      result.push_back({p, range, shard.tier, shard.extent, shard.offset,
                        round_up(shard.bytes, shard.tier.alignment())});
    }
    return result;
  }

  /// Has an editor change what this rank holds, in declaration order, and publishes it (a collective).
  void edit_own(const PieceMemory& memory, WriteContent content, const StatesEditor& editor) {
    core_.await_readers();
    std::vector<std::int64_t> updates(core_.states.parameters.size());
    for (std::size_t p = 0; p < core_.states.parameters.size(); ++p) {
      ParameterRecord& parameter = core_.states.parameters[p];
      parameter.copy.is_current = false;
      const StatesRange all = held(parameter);
      const std::vector<Place> places = places_of(p);
      std::int64_t count = parameter.updates;
      for (std::size_t begin = 0; begin < all.elements; begin += memory.elements()) {
        const std::size_t elements = std::min<std::size_t>(memory.elements(), all.elements - begin);
        if (content == WriteContent::current) read(parameter, places, begin, elements, memory);
        const auto states = states_in(parameter, memory, elements);
        const EditOutcome outcome = editor({parameter.name, parameter.shape, parameter.type, parameter.options.training,
                                            count, all.first + begin, memory.master(elements), states});
        if (outcome == EditOutcome::changed) write(parameter, places, begin, elements, memory);
      }
      if (count < 0) {
        throw_configuration_error("parameter " + parameter.name + " cannot have had " + std::to_string(count) +
                                  " updates");
      }
      const StatesRange part = part_of(p);
      if (part.elements > 0 && part.first == 0) updates[p] = count;
    }
    core_.sum_over_ranks(updates, "the updates of parameters");
    for (std::size_t p = 0; p < updates.size(); ++p) core_.states.parameters[p].updates = updates[p];
    for (const Completion& end : core_.publish_replicas("edited parameters", {})) {
      core_.lanes.wait(calling_thread, end, {OperationKind::all_gather, "edited parameters"});
    }
  }

  /// A collective: shows every rank all master weights (of frozen parameters: their values), in declaration order and
  /// logical order.
  void visit(const MasterVisitor& visitor) {
    for (std::size_t p = 0; p < core_.states.parameters.size(); ++p) {
      const ParameterRecord& parameter = core_.states.parameters[p];
      const Partition& partition = parameter.partition;
      const std::vector<Place> places = places_of(p);
      for (std::size_t shard = 0; shard < partition.shards; ++shard) {
        for (std::size_t begin = 0; begin < partition.count(shard); begin += piece_elements) {
          const std::size_t elements = std::min(piece_elements, parameter.shard_elements() - begin);
          const float* const values = fetch(parameter, places, shard, begin, elements);
          visitor(parameter.name, partition.first(shard) + begin,
                  std::span{values, std::min(elements, partition.count(shard) - begin)});
        }
      }
    }
  }

  /// Replaces the parameter by what rank `source` holds in the gathered buffer `data`, which `written` has filled
  /// (a collective); waits for it.
  void replace(std::size_t index, std::byte* data, Rank source, const Completion& written) {
    core_.await_readers();
    ParameterRecord& parameter = core_.states.parameters[index];
    parameter.copy.is_current = false;
    const std::size_t bytes = parameter.gathered_bytes();
    const std::size_t used = parameter.partition.elements * element_bytes(parameter.type);
    const Completion arrived = core_.communicate(OperationKind::broadcast, parameter.name, bytes, {written},
                                                 [=](auto& stream, AnyCommunicator& communicator, Collective what) {
                                                   fill_zero(stream, data + used, bytes - used);
                                                   communicator.broadcast(what, std::span{data, bytes}, source);
                                                 });
    std::vector<Completion> ends{arrived};
    if (parameter.residence == Residence::replicated) {
      ends.push_back(core_.lanes.post(Lane::copy, {arrived}, {OperationKind::copy, parameter.name, bytes},
                                      [to = core_.replica_of(parameter), data, bytes](auto& stream) -> Completion {
                                        copy_bytes(stream, to, data, bytes);
                                        return {};
                                      }));
    }
    const std::vector<Place> places = places_of(index);
    for (std::size_t begin = 0; begin < parameter.shard_elements(); begin += piece_elements) {
      for_each_part(places, begin, piece_elements, [&](const Part& part) {
        const std::byte* const from = core_.shard_in(parameter, data) + part.in_shard * element_bytes(parameter.type);
        const PostedWork posted = store(parameter, part, from, arrived);
        ends.insert(ends.end(), posted.ends.begin(), posted.ends.end());
      });
    }
    for (const Completion& end : ends) core_.lanes.wait(calling_thread, end, {OperationKind::write, parameter.name});
  }

 private:
  static constexpr std::size_t piece_elements = EngineCore<D>::exchange_elements;

  /// A run of this rank's shard of a parameter, and its sub-group.
  struct Place {
    const SubGroup* group;
    ShardRun run;
  };

  /// Part of such a run.
  struct Part {
    const SubGroup* group;
    std::size_t in_group;
    std::size_t in_shard;
    std::size_t elements;
  };

  /// Of each space that has master weights, or half of them, in the extent of its parameters: its sub-groups.
  std::vector<std::shared_ptr<const std::vector<StatesBeingRead::Group>>> neighbours_in_spaces() const {
    std::vector<std::shared_ptr<std::vector<StatesBeingRead::Group>>> spaces(core_.states.spaces.size());
    for (const SubGroup& group : core_.states.groups) {
      const ShardSpace& space = core_.states.spaces[group.space];
      if (space.master == MasterPlace::with_states || space.residence != Residence::partitioned) continue;
      if (!spaces[group.space]) spaces[group.space] = std::make_shared<std::vector<StatesBeingRead::Group>>();
      spaces[group.space]->push_back(&group);
    }
    return {spaces.begin(), spaces.end()};
  }

  /// Shows elements that this rank holds of a parameter.
  void visit_range(std::size_t index, const StatesRange& range, const PieceMemory& memory,
                   const StatesVisitor& visitor) {
    if (range.elements == 0) return;
    const ParameterRecord& parameter = core_.states.parameters[index];
    const std::size_t shard_begin = range.first - held(parameter).first;
    const std::vector<Place> places = places_of(index);
    for (std::size_t done = 0; done < range.elements; done += memory.elements()) {
      const std::size_t elements = std::min<std::size_t>(memory.elements(), range.elements - done);
      const auto states = read(parameter, places, shard_begin + done, elements, memory);
      const std::vector<std::span<const std::byte>> constant{states.begin(), states.end()};
      visitor({parameter.name, parameter.shape, parameter.type, parameter.options.training, parameter.updates,
               range.first + done, memory.master(elements), constant});
    }
  }

  /// Where this rank's shard of the parameter is, in order; nowhere if it holds none.
  std::vector<Place> places_of(std::size_t parameter) const {
    std::vector<Place> places;
    core_.states.for_each_run(parameter, [&](const SubGroup& group, const ShardRun& run) {
      places.push_back({&group, run});
    });
    return places;
  }

  /// Calls `f(part)` for what lies of the shard's elements [begin, begin + elements) in each place.
  template <class F>
  static void for_each_part(const std::vector<Place>& places, std::size_t begin, std::size_t elements, F f) {
    for (const auto& [group, run] : places) {
      const std::size_t from = std::max(begin, run.first_in_shard);
      const std::size_t to = std::min(begin + elements, run.first_in_shard + run.elements);
      if (from < to) f(Part{group, run.first_in_group + (from - run.first_in_shard), from, to - from});
    }
  }

  /// Brings the elements from `begin` on of a shard from who holds it to every rank. Every rank cuts shards into the
  /// same pieces, wherever its sub-groups end.
  /// @return Where they are, until the next call.
  const float* fetch(const ParameterRecord& parameter, const std::vector<Place>& places, std::size_t shard,
                     std::size_t begin, std::size_t elements) {
    std::vector<Completion> ends;
    const std::span piece{core_.exchange.on_device(), elements * sizeof(float)};
    if (shard == core_.shard_of(parameter)) {
      for_each_part(places, begin, elements, [&](const Part& part) {
        float* const to = reinterpret_cast<float*>(piece.data()) + (part.in_shard - begin);
        ends.push_back(parameter.has_states() ? read_master(parameter, part, to) : read_frozen(parameter, part, to));
      });
    }
    if (parameter.partition.shards > 1 || parameter.partition.owner) {
      const Rank root = parameter.partition.owner.value_or(Rank{static_cast<int>(shard)});
      ends = {core_.broadcast({{piece, root}}, parameter.name, std::move(ends))};
    }
    ends = core_.exchange.bring_to_host(core_.lanes, parameter.name, piece.size(), std::move(ends));
    for (const Completion& end : ends) core_.lanes.wait(calling_thread, end, {OperationKind::read, parameter.name});
    return reinterpret_cast<const float*>(core_.exchange.on_host());
  }

  /// The states in a piece of a parameter; none of one that was declared frozen.
  static std::vector<std::span<std::byte>> states_in(const ParameterRecord& parameter, const PieceMemory& memory,
                                                     std::size_t elements) {
    return parameter.has_states() ? memory.states(elements) : std::vector<std::span<std::byte>>{};
  }

  /// What there is of an array of states in an operand.
  struct ArrayPlace {
    std::size_t operand;  ///< Its index.
    std::size_t offset;   ///< Bytes from the operand's begin.
  };

  struct StateOperands {
    std::vector<Operand> list;
    std::vector<ArrayPlace> arrays;
  };

  /// Master weights, or their lower halves, and each array of states, of part of a shard. Scales do not begin at a
  /// transfer's boundary, as the others do: all of the sub-group's, which are few, are the last operand.
  StateOperands state_operands(const ParameterRecord& parameter, const Part& part, std::span<const StateArray> arrays,
                               Operand::Access access) const {
    const SubGroup& group = *part.group;
    const TierRef tier = core_.placement.tier(group.states_on);
    StateOperands operands{{master_operand(parameter, part, access)}, {}};
    std::size_t array_begin = group.elements * master_bytes_with_states(parameter.master);
    std::optional<std::size_t> scales_begin;
    for (const StateArray& array : arrays) {
      const ElementWidth width = array.width();
      const std::size_t begin = array_begin + width.of(part.in_group);
      if (array.form != StateForm::scales) {
        operands.list.push_back({tier, group.states, begin, width.of(part.elements), access});
        operands.arrays.push_back({operands.list.size() - 1, 0});
      } else {
        if (!scales_begin) {
          const bool writes = access == Operand::Access::write;
          scales_begin = array_begin;
          operands.list.push_back(
              {tier, group.states, array_begin, 0, writes ? Operand::Access::change : Operand::Access::read});
        }
        operands.list.back().bytes += width.of(group.elements);
        operands.arrays.push_back({operands.list.size() - 1, begin - *scales_begin});
      }
      array_begin += width.of(group.elements);
    }
    return operands;
  }

  /// The master weights, or their lower halves.
  Operand master_operand(const ParameterRecord& parameter, const Part& part, Operand::Access access) const {
    if (parameter.master == MasterPlace::in_parameter) return parameter_operand(parameter, part, access);
    const std::size_t width = master_bytes_with_states(parameter.master);
    return {core_.placement.tier(part.group->states_on), part.group->states, part.in_group * width,
            part.elements * width, access};
  }

  static bool is_split(const ParameterRecord& parameter) {
    return parameter.has_states() && parameter.master == MasterPlace::split;
  }

  /// The parameter itself, on its tier or in this rank's part of the replica.
  Operand parameter_operand(const ParameterRecord& parameter, const Part& part, Operand::Access access) const {
    const std::size_t width = element_bytes(parameter.type);
    if (parameter.residence == Residence::replicated) {
      const std::size_t shard = core_.shard_of(parameter) * parameter.shard_bytes();
      return {core_.replicas, core_.states.replicas, parameter.replica + shard + part.in_shard * width,
              part.elements * width, access};
    }
    return {core_.placement.parameters, core_.states.spaces[parameter.space].parameters,
            (part.group->first + part.in_group) * width, part.elements * width, access};
  }

  /// Reads elements of this rank's shard, from `begin` on, into the memory of a piece; waits for it.
  /// @return Where their states are.
  std::vector<std::span<std::byte>> read(const ParameterRecord& parameter, const std::vector<Place>& places,
                                         std::size_t begin, std::size_t elements, const PieceMemory& memory) {
    const std::span<float> master = memory.master(elements);
    const std::vector<std::span<std::byte>> states = states_in(parameter, memory, elements);
    std::vector<Completion> ends;
    for_each_part(places, begin, elements, [&](const Part& part) {
      float* const to = master.data() + (part.in_shard - begin);
      const std::size_t count = part.elements;
      const Operation operation{OperationKind::copy, parameter.name, count * sizeof(float)};
      if (parameter.has_states()) {
        auto [from, arrays] = state_operands(parameter, part, memory.arrays(), Operand::Access::read);
        const bool are_halves = is_split(parameter);
        if (are_halves) from.push_back(parameter_operand(parameter, part, Operand::Access::read));
        std::vector<std::pair<std::byte*, std::size_t>> targets;
        for (std::size_t a = 0; a < states.size(); ++a) {
          const ElementWidth width = memory.arrays()[a].width();
          targets.emplace_back(states[a].data() + width.of(part.in_shard - begin), width.of(count));
        }
        ends.push_back(core_.staging
                           .run_on_host(Lane::copy, operation, from, {},
                                        [=, ranges = std::move(arrays)](std::span<std::byte* const> pointers) {
                                          if (are_halves) {
                                            join_halves(pointers.back(), pointers[0], to, count);
                                          } else {
                                            std::memcpy(to, pointers[0], count * sizeof(float));
                                          }
                                          for (std::size_t i = 0; i < targets.size(); ++i) {
                                            const auto& [operand, offset] = ranges[i];
                                            std::memcpy(targets[i].first, pointers[operand] + offset,
                                                        targets[i].second);
                                          }
                                        })
                           .work);
      } else {
        const Operand from = parameter_operand(parameter, part, Operand::Access::read);
        ends.push_back(core_.staging
                           .run_on_host(Lane::copy, operation, {&from, 1}, {},
                                        [to, count, type = parameter.type](std::span<std::byte* const> pointers) {
                                          to_float(type, pointers[0], to, count);
                                        })
                           .work);
      }
    });
    for (const Completion& end : ends) core_.lanes.wait(calling_thread, end, {OperationKind::read, parameter.name});
    return states;
  }

  /// Writes them from there, and the parameter itself; zeros where the shard has places past its last element. Waits
  /// for it.
  void write(const ParameterRecord& parameter, const std::vector<Place>& places, std::size_t begin,
             std::size_t elements, const PieceMemory& memory) {
    const std::span<const float> master = memory.master(elements);
    const std::vector<std::span<std::byte>> states = states_in(parameter, memory, elements);
    const std::size_t with_padding = std::min(memory.elements(), parameter.shard_elements() - begin);
    std::vector<Completion> ends;
    for_each_part(places, begin, with_padding, [&](const Part& part) {
      const std::size_t done = part.in_shard - begin;
      const std::size_t count = std::min(part.elements, elements - std::min(elements, done));
      StateOperands operands;
      std::vector<const std::byte*> from;
      std::vector<ElementWidth> widths;
      if (parameter.has_states()) {
        operands = state_operands(parameter, part, memory.arrays(), Operand::Access::write);
        for (std::size_t a = 0; a < states.size(); ++a) {
          widths.push_back(memory.arrays()[a].width());
          from.push_back(states[a].data() + widths.back().of(done));
        }
      }
      std::vector<Operand>& to = operands.list;
      const bool are_halves = is_split(parameter);
      const bool has_master = parameter.has_states() && !are_halves;
      const bool has_parameter = parameter.master != MasterPlace::in_parameter;
      if (has_parameter) to.push_back(parameter_operand(parameter, part, Operand::Access::write));
      const std::size_t master_width = to.front().bytes / part.elements;
      const auto copy = [=, arrays = operands.arrays, type = parameter.type, places_here = part.elements,
                         values = master.data() + done](std::span<std::byte* const> pointers) {
        const auto clear = [=](std::byte* target, ElementWidth width) {
          std::memset(target + width.of(count), 0, width.of(places_here) - width.of(count));
        };
        clear(pointers.front(), {master_width});
        if (has_parameter) clear(pointers.back(), {element_bytes(type)});
        for (std::size_t i = 0; i < from.size(); ++i) {
          std::byte* const target = pointers[arrays[i].operand] + arrays[i].offset;
          if (count > 0) std::memcpy(target, from[i], widths[i].of(count));
          clear(target, widths[i]);
        }
        if (count == 0) return;
        if (has_master) std::memcpy(pointers[0], values, count * sizeof(float));
        if (are_halves) {
          split({values, count}, reinterpret_cast<bfloat16*>(pointers.back()),
                reinterpret_cast<std::uint16_t*>(pointers[0]));
        } else if (has_parameter) {
          from_float(values, type, pointers.back(), count);
        }
      };
      const Operation operation{OperationKind::copy, parameter.name, part.elements * sizeof(float)};
      const PostedWork posted = core_.staging.run_on_host(Lane::copy, operation, to, {}, copy);
      ends.insert(ends.end(), posted.ends.begin(), posted.ends.end());
    });
    for (const Completion& end : ends) core_.lanes.wait(calling_thread, end, {OperationKind::write, parameter.name});
  }

  /// @param to In device memory.
  Completion read_master(const ParameterRecord& parameter, const Part& part, float* to) {
    const Operand master = master_operand(parameter, part, Operand::Access::read);
    if (is_split(parameter)) return read_halves(parameter, part, master, to);
    return run_copy(parameter, master, [to, bytes = master.bytes](auto& stream, std::byte* from) {
      copy_bytes(stream, reinterpret_cast<std::byte*>(to), from, bytes);
    });
  }

  /// Joins them in the host's memory for exports, on their way to the device's.
  Completion read_halves(const ParameterRecord& parameter, const Part& part, const Operand& lower, float* to) {
    const std::array operands{lower, parameter_operand(parameter, part, Operand::Access::read)};
    const std::ptrdiff_t place = to - reinterpret_cast<float*>(core_.exchange.on_device());
    float* const on_host = reinterpret_cast<float*>(core_.exchange.on_host()) + place;
    const std::size_t bytes = part.elements * sizeof(float);
    const Completion joined =
        core_.staging
            .run_on_host(Lane::copy, {OperationKind::copy, parameter.name, bytes}, operands, {},
                         [on_host, elements = part.elements](std::span<std::byte* const> pointers) {
                           join_halves(pointers[1], pointers[0], on_host, elements);
                         })
            .work;
    if (on_host == to) return joined;
    return core_.lanes.post(Lane::copy, {joined}, {OperationKind::copy, parameter.name, bytes},
                            [=](auto& stream) -> Completion {
                              copy_bytes(stream, reinterpret_cast<std::byte*>(to),
                                         reinterpret_cast<const std::byte*>(on_host), bytes);
                              return {};
                            });
  }

  static void join_halves(const std::byte* upper, const std::byte* lower, float* to, std::size_t elements) {
    join(reinterpret_cast<const bfloat16*>(upper), reinterpret_cast<const std::uint16_t*>(lower), {to, elements});
  }

  Completion read_frozen(const ParameterRecord& parameter, const Part& part, float* to) {
    const std::size_t width = element_bytes(parameter.type);
    const auto convert = [to, type = parameter.type, elements = part.elements](auto& stream, std::byte* from) {
      widen(stream, type, from, to, elements);
    };
    if (parameter.residence == Residence::replicated) {
      std::byte* const from = core_.shard_in(parameter, core_.replica_of(parameter)) + part.in_shard * width;
      return core_.lanes.post(Lane::copy, {}, {OperationKind::copy, parameter.name, part.elements * width},
                              [convert, from](auto& stream) -> Completion {
                                convert(stream, from);
                                return {};
                              });
    }
    const ShardSpace& space = core_.states.spaces[parameter.space];
    return run_copy(parameter,
                    {core_.placement.parameters, space.parameters, (part.group->first + part.in_group) * width,
                     part.elements * width, Operand::Access::read},
                    convert);
  }

  template <class Convert>
  Completion run_copy(const ParameterRecord& parameter, const Operand& from, Convert convert) {
    return core_.staging
        .run(Lane::copy, {OperationKind::copy, parameter.name, from.bytes}, {&from, 1}, {},
             [convert](auto& stream, std::span<std::byte* const> pointers) { convert(stream, pointers[0]); })
        .work;
  }

  /// Writes part of this rank's shard: the master weights, and the parameter on its tier.
  PostedWork store(const ParameterRecord& parameter, const Part& part, const std::byte* from,
                   const Completion& arrived) {
    const std::size_t width = element_bytes(parameter.type);
    const std::size_t elements = part.elements;
    const bool are_halves = is_split(parameter);
    const bool has_master = parameter.has_states() && parameter.master != MasterPlace::in_parameter;
    std::vector<Operand> operands;
    if (has_master) operands.push_back(master_operand(parameter, part, Operand::Access::write));
    if (parameter.residence == Residence::partitioned) {
      operands.push_back(parameter_operand(parameter, part, Operand::Access::write));
    }
    return core_.staging.run(
        Lane::copy, {OperationKind::copy, parameter.name, elements * width}, operands, {arrived},
        [=, type = parameter.type](auto& stream, std::span<std::byte* const> pointers) {
          if (are_halves) {
            fill_zero(stream, pointers[0], elements * sizeof(std::uint16_t));
          } else if (has_master) {
            widen(stream, type, from, reinterpret_cast<float*>(pointers[0]), elements);
          }
          if (pointers.size() > has_master) copy_bytes(stream, pointers[has_master], from, elements * width);
        });
  }

  EngineCore<D>& core_;
};

}  // namespace zerospan::inline v0::detail
