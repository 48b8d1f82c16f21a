/// @file
/// GradientPath: the way of a committed gradient to its accumulator.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/group_updates.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/kernels/gradient_operations.hpp>
#include <zerospan/kernels/stream_operations.hpp>

namespace zerospan::inline v0::detail {

/// A gradient is reduced over ranks on the communication lane (in rank order, in fp32), added to the accumulator on
/// its tier in micro-batch order, and its squared norm is taken in the same pass. Who holds no shard of the parameter
/// has no part in what follows the reduction.
template <Device D>
class GradientPath {
 public:
  GradientPath(EngineCore<D>& core, GroupUpdates<D>& updates) : core_{core}, updates_{updates} {}

  /// Posts the reduction and accumulation of the gradient in `data`, which `after` have written.
  /// @return The last uses of `data`.
  std::vector<Completion> commit(ParameterUse& use, std::byte* data, std::vector<Completion> after) {
    updates_.bring(use.parameter);
    updates_.read_ahead();
    ParameterRecord& parameter = core_.states.parameters[use.parameter];
    Summand sum{data, parameter.type};
    std::size_t padding_from = parameter.partition.elements;
    if (core_.contributors() > 1) {
      after = {reduce(use, parameter, data, sum, std::move(after))};
      padding_from = parameter.gathered_elements();
    }
    ++use.gradient.commits;
    const bool is_left = core_.holds(parameter) && may_be_left(use, parameter);
    const Addition addition = std::exchange(use.gradient.has_sum, true) ? Addition::add : Addition::replace;
    if (core_.holds(parameter)) {
      const Operand::Access access = is_left                        ? Operand::Access::leave
                                     : addition == Addition::replace ? Operand::Access::write
                                                                     : Operand::Access::change;
      after = accumulate_sum(use, parameter, sum, padding_from, addition, access, std::move(after));
    }
    const auto is_whole = [&](std::size_t u) {
      return core_.states.uses[u].gradient.commits == core_.options.micro_batches;
    };
    if (std::ranges::all_of(parameter.uses, is_whole)) {
      join_uses(parameter);
      const std::vector<const SubGroup*> early = updates_.gradient_is_whole(use.parameter);
      if (is_left) write_back(use, parameter, early);
      for (const SubGroup* const group : early) updates_.update(*group);
      if (is_left) use.gradient.staged.clear();  // others read what was written
    }
    return after;
  }

  /// Adds the gradients of tied uses to the first use's, in declaration order; a second call adds nothing more. What
  /// they have committed stays committed until the step is made.
  void join_uses(ParameterRecord& parameter) {
    ParameterUse& target = core_.states.uses[parameter.uses.front()];
    for (const std::size_t u : parameter.uses) {
      ParameterUse& use = core_.states.uses[u];
      if (&use == &target || !std::exchange(use.gradient.has_sum, false)) continue;
      const Addition addition = std::exchange(target.gradient.has_sum, true) ? Addition::add : Addition::replace;
      if (core_.holds(parameter)) join(target, use, addition, parameter);
    }
  }

 private:
  /// What is added to an accumulator.
  struct Summand {
    std::byte* data;
    ElementType type;
  };

  /// Whether a gradient is whole at once, would be written, and can be read in staging memory by those updates that come
  /// now: then what they alone read is not written.
  bool may_be_left(const ParameterUse& use, const ParameterRecord& parameter) {
    const bool is_whole_at_once = core_.options.micro_batches == 1 && parameter.uses.size() == 1;
    if (!is_whole_at_once || parameter.residence != Residence::partitioned) return false;
    const std::size_t bytes = use.gradient.elements * element_bytes(core_.accumulator_type(parameter.type));
    const std::size_t staged = EngineCore<D>::staging_type::slot_bytes(core_.placement.gradients, bytes, Site::device);
    return staged > 0 && updates_.finds_in_staging(use.parameter, staged);
  }

  /// Writes what was left of a gradient, but for what is in sub-groups that have nothing else in them, are updated now
  /// and find all of it in one piece.
  void write_back(ParameterUse& use, const ParameterRecord& parameter, std::span<const SubGroup* const> early) {
    GradientAccumulator& gradient = use.gradient;
    const std::size_t width = element_bytes(core_.accumulator_type(parameter.type));
    const auto write = [&](std::size_t from, std::size_t to) {
      for (const GradientAccumulator::Piece& piece : gradient.staged) {
        const std::size_t begin = std::max(from, piece.begin);
        const std::size_t end = std::min(to, piece.begin + piece.bytes);
        if (begin >= end) continue;
        const Operand range = operand(gradient, begin, end - begin, Operand::Access::write);
        gradient.ready.push_back(core_.staging.write_back(use.name, range, piece.values.from(begin - piece.begin)));
      }
    };
    std::size_t from = 0;  // of what is to be written, in bytes
    std::size_t to = 0;
    core_.states.for_each_run(use.parameter, [&](const SubGroup& group, const ShardRun& run) {
      const std::size_t end = (run.first_in_shard + run.elements) * width;
      const bool is_read_there = std::ranges::find(early, &group) != early.end() && group.runs.size() == 1 &&
                                 gradient.staged_values(group.first * width, group.elements * width);
      if (is_read_there) {
        write(from, to);
        from = end;
      }
      to = end;
    });
    write(from, to);
    for (GradientAccumulator::Piece& piece : gradient.staged) piece.values.are_on_tier = false;
  }

  bool is_partitioned(const ParameterUse& use, const ParameterRecord& parameter) const {
    return use.gradient.elements < parameter.gathered_elements();
  }

  Completion reduce(const ParameterUse& use, const ParameterRecord& parameter, std::byte* data, Summand& sum,
                    std::vector<Completion> after) {
    const std::optional<Rank> owner = parameter.partition.owner;
    const bool scatter = is_partitioned(use, parameter);
    const OperationKind kind = owner     ? OperationKind::reduce
                               : scatter ? OperationKind::reduce_scatter
                                         : OperationKind::all_reduce;
    sum.type = core_.accumulator_type(parameter.type);
    if (core_.has_sum_buffer()) {
      sum.data = data + parameter.gathered_bytes();
    } else if (scatter) {
      sum.data = core_.shard_in(parameter, data);
    }
    const Reduction reduction{parameter.type, data, sum.type, sum.data, use.gradient.elements};
    const std::size_t used = parameter.partition.elements * element_bytes(parameter.type);
    return core_.communicate(
        kind, use.name, parameter.gathered_bytes(), std::move(after),
        [reduction, owner, scatter, padding = data + used, padding_bytes = parameter.gathered_bytes() - used](
            auto& stream, AnyCommunicator& communicator, Collective what) {
          fill_zero(stream, padding, padding_bytes);
          if (owner) {
            communicator.reduce(what, reduction, *owner);
          } else if (scatter) {
            communicator.reduce_scatter(what, reduction);
          } else {
            communicator.all_reduce(what, reduction);
          }
        });
  }

  /// @param padding_from The summand's elements from here on are to be zeroed first.
  std::vector<Completion> accumulate_sum(ParameterUse& use, const ParameterRecord& parameter, Summand sum,
                                         std::size_t padding_from, Addition addition, Operand::Access access,
                                         std::vector<Completion> after) {
    GradientAccumulator& gradient = use.gradient;
    const ElementType type = core_.accumulator_type(parameter.type);
    const auto [norm_begin, norm_end] = owned(use, parameter);
    std::vector<Completion> read;
    for_each_piece(
        gradient, type,
        [&](std::size_t begin, std::size_t elements, const Operand& accumulator) {
          const PostedWork posted = core_.staging.run(
              Lane::update, {OperationKind::accumulate, use.name, accumulator.bytes}, {&accumulator, 1}, after,
              [=, digits = gradient.square_norm](auto& stream, std::span<std::byte* const> pointers) {
                std::byte* const source = sum.data + begin * element_bytes(sum.type);
                if (const std::size_t from = std::max(padding_from, begin); from < begin + elements) {
                  fill_zero(stream, sum.data + from * element_bytes(sum.type),
                            (begin + elements - from) * element_bytes(sum.type));
                }
                if (begin == 0) clear(stream, digits);
                add_gradient(stream, {type, pointers[0], sum.type, source, elements, addition,
                                      within(norm_begin, begin, elements), within(norm_end, begin, elements), digits});
              });
          read.push_back(posted.work);
          if (posted.last && core_.options.updates == UpdateTime::during_backward) {
            gradient.staged.push_back({begin * element_bytes(type), accumulator.bytes,
                                       {posted.last, posted.work, posted.slot}});
          }
          return posted.ends;
        },
        access);
    if (!read.empty()) gradient.summed = read.back();  // the lane's work ends in order
    return read;
  }

  void join(ParameterUse& target, ParameterUse& use, Addition addition, const ParameterRecord& parameter) {
    const ElementType type = core_.accumulator_type(parameter.type);
    const auto [norm_begin, norm_end] = owned(target, parameter);
    for_each_piece(
        target.gradient, type,
        [&](std::size_t begin, std::size_t elements, const Operand& accumulator) {
          const std::array operands{accumulator, operand(use.gradient, begin * element_bytes(type), accumulator.bytes,
                                                         Operand::Access::read)};
          PostedWork posted = core_.staging.run(
              Lane::update, {OperationKind::accumulate, use.name, accumulator.bytes}, operands, {},
              [=, digits = target.gradient.square_norm](auto& stream, std::span<std::byte* const> pointers) {
                if (begin == 0) clear(stream, digits);
                add_gradient(stream,
                             {type, pointers[0], type, pointers[1], elements, addition,
                              within(norm_begin, begin, elements), within(norm_end, begin, elements), digits});
              });
          target.gradient.summed = posted.work;
          return std::move(posted.ends);
        },
        addition == Addition::replace ? Operand::Access::write : Operand::Access::change);
  }

  Operand operand(const GradientAccumulator& gradient, std::size_t offset, std::size_t bytes,
                  Operand::Access access) const {
    return {core_.placement.gradients, gradient.extent, gradient.offset + offset, bytes, access, gradient.ready};
  }

  /// Cuts an accumulator into pieces; `post(begin, elements, operand)` returns the ends of what it posted.
  template <class Post>
  void for_each_piece(GradientAccumulator& gradient, ElementType type, Post post, Operand::Access access) {
    const std::size_t piece = core_.staging.piece_bytes(core_.placement.gradients);
    const std::size_t total = gradient.elements * element_bytes(type);
    std::vector<Completion> ends;
    gradient.staged.clear();
    for (std::size_t done = 0; done < total;) {
      const std::size_t bytes = std::min(piece, total - done);
      const auto posted =
          post(done / element_bytes(type), bytes / element_bytes(type), operand(gradient, done, bytes, access));
      ends.insert(ends.end(), posted.begin(), posted.end());
      done += bytes;
    }
    gradient.ready = std::move(ends);
  }

  /// The elements of an accumulator that this rank counts in the norm.
  std::pair<std::size_t, std::size_t> owned(const ParameterUse& use, const ParameterRecord& parameter) const {
    if (is_partitioned(use, parameter)) return {0, use.gradient.elements};
    const std::size_t begin = parameter.partition.first(core_.shard_of(parameter));
    return {begin, begin + parameter.shard_elements()};
  }

  template <class Stream>
  static void clear(Stream& stream, std::int64_t* digits) {
    fill_zero(stream, reinterpret_cast<std::byte*>(digits), ExactSum::limb_count * sizeof(std::int64_t));
  }

  /// A position in an accumulator, seen from a piece that begins at `begin`.
  static std::size_t within(std::size_t position, std::size_t begin, std::size_t elements) {
    return std::clamp(position, begin, begin + elements) - begin;
  }

  EngineCore<D>& core_;
  GroupUpdates<D>& updates_;
};

}  // namespace zerospan::inline v0::detail
