/// @file
/// StatePlacement: what was declared is given its places, filled, and in the end given back.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/engine/detail/declaring_model.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/group_operands.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/kernels/initial_values.hpp>
#include <zerospan/kernels/split_float.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/tier/file_backed_extents.hpp>

namespace zerospan::inline v0::detail {

/// Gives every state its place when declaration ends, and every parameter its initial values: partitioned from the
/// start, each rank fills what it holds.
template <Device D>
class StatePlacement {
 public:
  StatePlacement(EngineCore<D>& core, D& device, ReservedSpace& space, const StateSizes<D>& sizes)
      : core_{core}, device_{device}, space_{space}, sizes_{sizes} {}

  /// Ends declaration: forms sub-groups and gives every state its place.
  /// @param group_limit Elements of the largest sub-group.
  void place(std::size_t group_limit) {
    ModelStates& states = core_.states;
    for (ParameterRecord& parameter : states.parameters) {
      if (core_.holds(parameter)) states.append_to_space(parameter, sizes_.alignment());
    }
    states.form_groups(group_limit);
    states.lay_replicas();
    states.replicas = space_.place_replicas();
    for (ShardSpace& space : states.spaces) {
      if (space.residence == Residence::partitioned) {
        const std::size_t bytes = space.elements * element_bytes(space.type);
        space.parameters = space_.place(StateKind::parameters, bytes);
        if (core_.placement.group_copies && !space.is_owned) {
          space.group_copies = space_.place(StateKind::group_copies, core_.groups() * bytes);
        }
      }
      if (space.training == Training::trainable && sizes_.gradients_follow_shards()) {
        space.gradients = space_.place(StateKind::gradients, sizes_.gradient_bytes(space.elements, space.type));
      }
    }
    place_states();
    for (ParameterUse& use : states.uses) place_gradient(use);
    place_norms();
  }

  /// Posts the initialization of every shard, and the gathering of replicas. The library's own values are computed by
  /// two lanes in turn, which have nothing else to do; the host's functions are called by one of them alone.
  /// @return The ends of all that was posted.
  std::vector<Completion> fill() {
    std::vector<Completion> ends{clear_norms()};
    bool is_turn_of_copies = false;
    for (const SubGroup& group : core_.states.groups) {
      if (clear_group(group)) continue;
      const bool is_shared = std::ranges::all_of(group.runs, [this](const ShardRun& run) {
        return is_our_initializer(core_.states.parameters[run.parameter].initializer);
      });
      if (is_shared) is_turn_of_copies = !is_turn_of_copies;
      const PostedWork posted = fill_group(group, is_shared && is_turn_of_copies ? Lane::copy : Lane::update);
      ends.insert(ends.end(), posted.ends.begin(), posted.ends.end());
    }
    const std::vector<Completion> published = core_.publish_replicas("initial parameters", ends);
    ends.insert(ends.end(), published.begin(), published.end());
    return ends;
  }

  /// Gives all places, and what was reserved for them, back to the tiers.
  void remove_extents() noexcept {
    space_.cancel_since({});
    const auto remove = [this](StateKind kind, const Extent& extent) {
      if (extent.bytes > 0) core_.placement.tier(kind).remove(extent);
    };
    for (const ShardSpace& space : core_.states.spaces) {
      remove(StateKind::parameters, space.parameters);
      remove(StateKind::gradients, space.gradients);
      remove(StateKind::group_copies, space.group_copies);
    }
    for (const SubGroup& group : core_.states.groups) remove(group.states_on, group.states);
    for (const ParameterUse& use : core_.states.uses) {
      const ParameterRecord& parameter = core_.states.parameters[use.parameter];
      const bool in_space = &core_.states.uses[parameter.uses.front()] == &use && sizes_.gradients_follow_shards();
      if (!in_space) remove(StateKind::gradients, use.gradient.extent);
    }
  }

 private:
  /// The sub-groups of a share lie evenly among the others.
  void place_states() {
    const double fraction = core_.placement.optimizer_share ? core_.placement.optimizer_share->fraction : 0;
    double owed = 0;
    for (SubGroup& group : core_.states.groups) {
      const ShardSpace& space = core_.states.spaces[group.space];
      const std::size_t bytes = sizes_.states_bytes(group.elements, space.master);
      if (space.training != Training::trainable || bytes == 0) continue;
      owed += fraction * static_cast<double>(bytes);
      if (owed >= static_cast<double>(bytes)) {
        group.states_on = StateKind::optimizer_share;
        owed -= static_cast<double>(bytes);
      }
      group.states = space_.place(group.states_on, bytes, group.elements * master_bytes_with_states(space.master));
    }
  }

  void place_norms() {
    constexpr std::size_t bytes = ExactSum::limb_count * sizeof(std::int64_t);
    core_.norms.emplace(device_, Bytes{core_.states.uses.size() * bytes}, "the sums of squares");
    auto* digits = reinterpret_cast<std::int64_t*>(core_.norms->on_device());
    for (ParameterUse& use : core_.states.uses) use.gradient.square_norm = std::exchange(digits, digits + bytes / 8);
  }

  /// Device memory is not born empty.
  Completion clear_norms() {
    if constexpr (D::lanes_type::is_unified) return {};
    return core_.lanes.post(
        Lane::update, {}, {OperationKind::fill, "the sums of squares", core_.norms->bytes()},
        [norms = core_.norms->on_device(), bytes = core_.norms->bytes()](auto& stream) -> Completion {
          fill_zero(stream, norms, bytes);
          return {};
        });
  }

  void place_gradient(ParameterUse& use) {
    ParameterRecord& parameter = core_.states.parameters[use.parameter];
    if (!parameter.has_states() || !core_.holds(parameter)) return;
    const ShardSpace& space = core_.states.spaces[parameter.space];
    const bool is_first = &core_.states.uses[parameter.uses.front()] == &use;
    if (is_first && sizes_.gradients_follow_shards()) {
      use.gradient.extent = space.gradients;
      use.gradient.offset = parameter.linear * element_bytes(core_.accumulator_type(parameter.type));
    } else {
      use.gradient.extent =
          space_.place(StateKind::gradients, sizes_.gradient_bytes(use.gradient.elements, parameter.type));
    }
  }

  /// What is frozen and begins as zeros needs not be written, where the tier can do without: it will be imported.
  /// @return Whether that is so of the whole sub-group.
  bool clear_group(const SubGroup& group) {
    const ShardSpace& space = core_.states.spaces[group.space];
    FileBackedExtents* const tier = core_.placement.parameters.file_backed();
    const bool is_left = !tier || space.training != Training::frozen || space.residence != Residence::partitioned;
    const auto is_zero = [&](const ShardRun& run) {
      const auto* values = core_.states.parameters[run.parameter].initializer.template target<ConstantValues>();
      return values && std::bit_cast<std::uint32_t>(values->value) == 0;
    };
    if (is_left || !std::ranges::all_of(group.runs, is_zero)) return false;
    const std::size_t width = element_bytes(space.type);
    tier->clear(space.parameters, group.first * width, group.elements * width);
    return true;
  }

  /// @param lane Whose thread computes the values.
  PostedWork fill_group(const SubGroup& group, Lane lane) {
    const bool trains = core_.states.spaces[group.space].training == Training::trainable;
    GroupOperands operands{core_, group};
    const StatesOperand states = trains ? operands.add_states(Operand::Access::write) : StatesOperand{};
    const RunOperands parameters = operands.add_parameters();
    return core_.staging.run_on_host(
        lane, {OperationKind::fill, group.name, group.states.bytes}, operands.list(), {},
        [this, &group, trains, states, parameters](std::span<std::byte* const> pointers) {
          if (states.operand != StatesOperand::none) {
            fill_zero(calling_thread, pointers[states.operand], group.states.bytes);
          }
          for (std::size_t i = 0; i < group.runs.size(); ++i) {
            const ShardRun& run = group.runs[i];
            std::byte* const parameter = parameters(pointers, i, run);
            const bool has_master = trains && states.master_weights == MasterPlace::with_states;
            const bool has_halves = trains && states.master_weights == MasterPlace::split;
            fill_run(core_.states.parameters[run.parameter], run,
                     has_master ? states.master(pointers, run, parameter) : nullptr,
                     has_halves ? states.lower_halves(pointers, run.first_in_group) : nullptr, parameter);
          }
        });
  }

  /// @param master Where whole master weights go that are not the parameter itself; otherwise nullptr.
  /// @param lower Where the lower halves go of those that are split; otherwise nullptr.
  void fill_run(const ParameterRecord& parameter, const ShardRun& run, float* master, std::uint16_t* lower,
                std::byte* target) const {
    std::array<float, block_elements> block;
    const std::size_t first = parameter.partition.first(core_.shard_of(parameter)) + run.first_in_shard;
    for (std::size_t done = 0; done < run.elements; done += block_elements) {
      const std::size_t begin = std::min(first + done, parameter.partition.elements);
      const std::size_t here = std::min(block_elements, run.elements - done);
      const std::size_t count = std::min(here, parameter.partition.elements - begin);
      block.fill(0.0F);
      if (count > 0) {
        initialize(parameter.initializer, {core_.options.seed, name_stream(parameter.name)}, begin,
                   std::span{block}.first(count));
      }
      if (master) std::copy_n(block.begin(), here, master + done);
      if (lower) {
        split(std::span{block}.first(here), reinterpret_cast<bfloat16*>(target) + done, lower + done);
      } else {
        from_float(block.data(), parameter.type, target + done * element_bytes(parameter.type), here);
      }
    }
  }

  EngineCore<D>& core_;
  D& device_;
  ReservedSpace& space_;
  const StateSizes<D>& sizes_;
};

}  // namespace zerospan::inline v0::detail
