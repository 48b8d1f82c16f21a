/// @file
/// MasterAccess: the full fp32 master weights, streamed out and written in, piece by piece.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/convert.hpp>
#include <zerospan/device/stream_operations.hpp>
#include <zerospan/engine/engine_core.hpp>

namespace zerospan::inline v0 {

/// Told `count` master weights of a parameter, from logical element `first` on.
using MasterVisitor =
    std::function<void(std::string_view parameter, std::uint64_t first, std::span<const float> values)>;

/// Reads and replaces master weights outside of a step. Memory is bounded by one small buffer, whatever the model.
template <TrainingCommunicator C, Device D>
class MasterAccess {
 public:
  explicit MasterAccess(EngineCore<C, D>& core) : core_{core} {}

  /// A collective: shows every rank all master weights (of frozen parameters: their values), in declaration order and
  /// logical order.
  void visit(const MasterVisitor& visitor) {
    std::vector<float> buffer(piece_elements);
    for (std::size_t p = 0; p < core_.states.parameters.size(); ++p) {
      const ParameterRecord& parameter = core_.states.parameters[p];
      for (std::size_t shard = 0; shard < parameter.partition.shards; ++shard) {
        for_each_piece(p, [&](const SubGroup& group, const ShardRun& run, std::size_t done, std::size_t elements) {
          const std::size_t first = parameter.partition.first(shard) + run.first_in_shard + done;
          if (first >= parameter.partition.elements) return;
          fetch(parameter, group, run.first_in_group + done, run.first_in_shard + done, elements, shard, buffer);
          visitor(parameter.name, first,
                  std::span{buffer}.first(std::min(elements, parameter.partition.elements - first)));
        });
      }
    }
  }

  /// Replaces the parameter by what rank `source` holds in the gathered buffer `data`, which `written` has filled
  /// (a collective); waits for it.
  void replace(std::size_t index, std::byte* data, Rank source, const Completion& written) {
    ParameterRecord& parameter = core_.states.parameters[index];
    const std::size_t bytes = parameter.gathered_bytes();
    const std::size_t used = parameter.partition.elements * element_bytes(parameter.type);
    const Completion arrived = core_.communicate(OperationKind::broadcast, parameter.name, bytes, {written},
                                                 [=](C& communicator, Collective what) {
                                                   fill_zero(what.stream, data + used, bytes - used);
                                                   communicator.broadcast(what, std::span{data, bytes}, source);
                                                 });
    std::vector<Completion> ends{arrived};
    if (parameter.residence == Residence::replicated) {
      ends.push_back(core_.lanes.post(Lane::copy, {arrived}, {OperationKind::copy, parameter.name, bytes},
                                      [to = parameter.replica.data(), data, bytes](auto& stream) -> Completion {
                                        copy_bytes(stream, to, data, bytes);
                                        return {};
                                      }));
    }
    for_each_piece(index, [&](const SubGroup& group, const ShardRun& run, std::size_t done, std::size_t elements) {
      const std::byte* const from =
          core_.shard_in(parameter, data) + (run.first_in_shard + done) * element_bytes(parameter.type);
      const PostedWork posted = store(parameter, group, run.first_in_group + done, elements, from, arrived);
      ends.insert(ends.end(), posted.ends.begin(), posted.ends.end());
    });
    for (const Completion& end : ends) core_.lanes.wait(calling_thread, end, {OperationKind::write, parameter.name});
  }

 private:
  static constexpr std::size_t piece_elements = 4096;

  /// Calls `f(group, run, done, elements)` for the pieces of a shard of the parameter, in order; shards are cut alike.
  template <class F>
  void for_each_piece(std::size_t parameter, F f) const {
    for (const SubGroup& group : core_.states.groups) {
      if (group.space != core_.states.parameters[parameter].space) continue;
      for (const ShardRun& run : group.runs) {
        if (run.parameter != parameter) continue;
        for (std::size_t done = 0; done < run.elements; done += piece_elements) {
          f(group, run, done, std::min(piece_elements, run.elements - done));
        }
      }
    }
  }

  /// Brings a piece of a shard from its owner into everybody's buffer.
  void fetch(const ParameterRecord& parameter, const SubGroup& group, std::size_t in_group, std::size_t in_shard,
             std::size_t elements, std::size_t shard, std::vector<float>& buffer) {
    std::vector<Completion> ends;
    if (shard == core_.shard_of(parameter)) {
      ends = {parameter.trainable() ? read_master(parameter, group, in_group, elements, buffer)
                                    : read_frozen(parameter, group, in_group, in_shard, elements, buffer)};
    }
    if (parameter.partition.shards > 1) {
      const auto bytes = std::as_writable_bytes(std::span{buffer}.first(elements));
      ends = {core_.communicate(OperationKind::broadcast, parameter.name, bytes.size(), std::move(ends),
                                [bytes, root = Rank{static_cast<int>(shard)}](C& communicator, Collective what) {
                                  communicator.broadcast(what, bytes, root);
                                })};
    }
    for (const Completion& end : ends) core_.lanes.wait(calling_thread, end, {OperationKind::read, parameter.name});
  }

  Completion read_master(const ParameterRecord& parameter, const SubGroup& group, std::size_t in_group,
                         std::size_t elements, std::vector<float>& buffer) {
    const Operand master{core_.placement.optimizer, group.states, in_group * sizeof(float), elements * sizeof(float),
                         Operand::Access::read};
    return run_copy(parameter, master, [to = buffer.data(), elements](std::byte* from) {
      to_float(ElementType::float32, from, to, elements);
    });
  }

  Completion read_frozen(const ParameterRecord& parameter, const SubGroup& group, std::size_t in_group,
                         std::size_t in_shard, std::size_t elements, std::vector<float>& buffer) {
    const std::size_t width = element_bytes(parameter.type);
    const auto convert = [to = buffer.data(), type = parameter.type, elements](std::byte* from) {
      to_float(type, from, to, elements);
    };
    if (parameter.residence == Residence::replicated) {
      std::byte* const from = core_.shard_in(parameter, parameter.replica.data()) + in_shard * width;
      return core_.lanes.post(Lane::copy, {}, {OperationKind::copy, parameter.name, elements * width},
                              [convert, from](auto&) -> Completion {
                                convert(from);
                                return {};
                              });
    }
    const ShardSpace& space = core_.states.spaces[parameter.space];
    return run_copy(parameter,
                    {core_.placement.parameters, space.parameters, (group.first + in_group) * width, elements * width,
                     Operand::Access::read},
                    convert);
  }

  template <class Convert>
  Completion run_copy(const ParameterRecord& parameter, const Operand& from, Convert convert) {
    return core_.staging
        .run(Lane::copy, {OperationKind::copy, parameter.name, from.bytes}, {&from, 1}, {},
             [convert](auto&, std::span<std::byte* const> pointers) { convert(pointers[0]); })
        .work;
  }

  /// Writes a piece of this rank's shard: the master weights, and the parameter on its tier.
  PostedWork store(const ParameterRecord& parameter, const SubGroup& group, std::size_t in_group, std::size_t elements,
                   const std::byte* from, const Completion& arrived) {
    const ShardSpace& space = core_.states.spaces[parameter.space];
    const std::size_t width = element_bytes(parameter.type);
    std::vector<Operand> operands;
    if (parameter.trainable()) {
      operands.push_back({core_.placement.optimizer, group.states, in_group * sizeof(float), elements * sizeof(float),
                          Operand::Access::write});
    }
    if (parameter.residence == Residence::partitioned) {
      operands.push_back({core_.placement.parameters, space.parameters, (group.first + in_group) * width,
                          elements * width, Operand::Access::write});
    }
    return core_.staging.run(
        Lane::copy, {OperationKind::copy, parameter.name, elements * width}, operands, {arrived},
        [=, type = parameter.type, trains = parameter.trainable()](auto& stream, std::span<std::byte* const> pointers) {
          if (trains) to_float(type, from, reinterpret_cast<float*>(pointers[0]), elements);
          if (pointers.size() > trains) copy_bytes(stream, pointers[trains], from, elements * width);
        });
  }

  EngineCore<C, D>& core_;
};

}  // namespace zerospan::inline v0
