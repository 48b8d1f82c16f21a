/// @file
/// MasterAccess: the full fp32 master weights, streamed out and written in, piece by piece.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/outcome.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/stream_operations.hpp>

namespace zerospan::inline v0::detail {

/// Reads and replaces master weights outside of a step. Memory is bounded by one small buffer, whatever the model.
template <Device D>
class MasterAccess {
 public:
  explicit MasterAccess(EngineCore<D>& core) : core_{core} {}

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

  Completion read_master(const ParameterRecord& parameter, const Part& part, float* to) {
    const Operand master{core_.placement.tier(part.group->states_on), part.group->states, part.in_group * sizeof(float),
                         part.elements * sizeof(float), Operand::Access::read};
    return run_copy(parameter, master, [to, bytes = master.bytes](auto& stream, std::byte* from) {
      copy_bytes(stream, reinterpret_cast<std::byte*>(to), from, bytes);
    });
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
    const ShardSpace& space = core_.states.spaces[parameter.space];
    const std::size_t width = element_bytes(parameter.type);
    const std::size_t elements = part.elements;
    std::vector<Operand> operands;
    if (parameter.has_states()) {
      operands.push_back({core_.placement.tier(part.group->states_on), part.group->states,
                          part.in_group * sizeof(float), elements * sizeof(float), Operand::Access::write});
    }
    if (parameter.residence == Residence::partitioned) {
      operands.push_back({core_.placement.parameters, space.parameters, (part.group->first + part.in_group) * width,
                          elements * width, Operand::Access::write});
    }
    return core_.staging.run(Lane::copy, {OperationKind::copy, parameter.name, elements * width}, operands, {arrived},
                             [=, type = parameter.type, trains = parameter.has_states()](
                                 auto& stream, std::span<std::byte* const> pointers) {
                               if (trains) widen(stream, type, from, reinterpret_cast<float*>(pointers[0]), elements);
                               if (pointers.size() > trains)
                                 copy_bytes(stream, pointers[trains], from, elements * width);
                             });
  }

  EngineCore<D>& core_;
};

}  // namespace zerospan::inline v0::detail
