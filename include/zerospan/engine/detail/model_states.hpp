/// @file
/// ModelStates: the parameters of a model as one rank keeps them, and where their states lie.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/engine/placement.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/partition/partitioner.hpp>
#include <zerospan/pipeline/detail/staging.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

/// Where a parameter is between its uses.
enum class Residence : std::uint8_t {
  partitioned,  ///< Each rank has its shard, or its owner has all of it, on the parameters' tier.
  replicated,   ///< Each rank has all of it, in device memory.
};

/// Where the fp32 master weights of a parameter that trains are.
enum class MasterPlace : std::uint8_t {
  with_states,   ///< Before the optimizer's states, beside the parameter.
  in_parameter,  ///< They are the parameter, which is of fp32 and as near to its updates as they would be.
  split,         ///< The parameter is their upper half, the lower one before the optimizer's states (SplitFloat).
};

/// Bytes of a master weight that are with the optimizer's states.
constexpr std::size_t master_bytes_with_states(MasterPlace place) {
  return place == MasterPlace::with_states ? sizeof(float) : place == MasterPlace::split ? sizeof(std::uint16_t) : 0;
}

/// One rank's accumulated gradient of one use: the sum over ranks and micro-batches.
struct GradientAccumulator {
  Extent extent;
  std::size_t offset = 0;               ///< Bytes from the extent's begin.
  std::size_t elements = 0;             ///< A shard, or all of the gathered buffer where gradients are not partitioned.
  std::size_t commits = 0;              ///< Micro-batches that were committed in this step.
  bool has_sum = false;                 ///< There is something in it, of this step.
  std::vector<Completion> ready;        ///< What the next access waits for: the ends of the last addition, and of the
                                        ///< updates that have read it.
  Completion summed;                    ///< The last addition has been made, and its norm taken.
  std::int64_t* square_norm = nullptr;  ///< Digits of an ExactSum, on the device: of this rank's shard, after the last
                                        ///< addition.

  /// What the last addition has left in staging memory of it.
  struct Piece {
    std::size_t begin;  ///< Bytes from the accumulator's begin.
    std::size_t bytes;
    StagedValues values;
  };
  std::vector<Piece> staged{};  ///< Where updates are made during the backward pass.

  /// A range of the extent, if it is in one piece. @param from Bytes from the extent's begin.
  std::optional<StagedValues> staged_values(std::size_t from, std::size_t bytes) const {
    for (const Piece& piece : staged) {
      const std::size_t begin = offset + piece.begin;
      if (from < begin || from + bytes > begin + piece.bytes) continue;
      return piece.values.from(from - begin);
    }
    return std::nullopt;
  }

  void forget() noexcept {
    commits = 0;
    has_sum = false;
    staged.clear();
  }
};

/// One use of a parameter: its own, or a tied one.
struct ParameterUse {
  std::string name;
  std::size_t parameter;
  GradientAccumulator gradient;
  bool gradient_leased = false;
};

/// What a rank keeps of its group's shards of a parameter.
struct GroupCopy {
  bool is_current = false;
  std::vector<Completion> ready;  ///< The ends of the last writes.
};

struct ParameterRecord {
  static constexpr std::size_t nowhere = std::numeric_limits<std::size_t>::max();

  /// What is whole begins at a multiple of so many bytes, and ends at one.
  static constexpr std::size_t pack_bytes = 64;

  std::string name{};
  Shape shape{};
  ElementType type = ElementType::float32;
  Initializer initializer{};
  ParameterOptions options{};
  Partition partition{};
  Residence residence = Residence::partitioned;
  MasterPlace master = MasterPlace::with_states;
  std::size_t replica = 0;        ///< If replicated: bytes from the begin of the extent of replicas.
  std::size_t space = nowhere;    ///< Of its shard; `nowhere` on a rank that holds none.
  std::size_t linear = 0;         ///< Its shard's first element in the space.
  std::vector<std::size_t> uses;  ///< In declaration order.
  std::int64_t updates = 0;
  bool is_frozen = false;   ///< For now; what was declared frozen is so for ever.
  bool is_updated = false;  ///< In this step already, during the backward pass.
  GroupCopy copy{};
  std::vector<Completion> ready{};  ///< The ends of the last update, of its shard or of the replica.

  /// Whether it has master weights and optimizer states.
  bool has_states() const noexcept { return options.training == Training::trainable; }

  /// Whether it has gradients now.
  bool trains() const noexcept { return has_states() && !is_frozen; }

  /// Elements of a shard in a buffer or on a tier. What is cut into one shard is packed, and not padded to whole
  /// blocks.
  std::size_t shard_elements() const noexcept {
    if (partition.shards > 1) return partition.shard_elements;
    return round_up(partition.elements, pack_bytes / element_bytes(type));
  }

  /// Elements of the gathered buffer; the first `partition.elements` are the tensor.
  std::size_t gathered_elements() const noexcept { return partition.shards * shard_elements(); }

  std::size_t gathered_bytes() const noexcept { return gathered_elements() * element_bytes(type); }
  std::size_t shard_bytes() const noexcept { return shard_elements() * element_bytes(type); }
};

/// A run of one parameter's shard within a sub-group.
struct ShardRun {
  std::size_t parameter;
  std::size_t first_in_group;
  std::size_t first_in_shard;
  std::size_t elements;
};

/// A window of a shard space whose states are one extent: master weights, or what of them is not in the parameters,
/// then the optimizer's states. One sub-group is one sequential read and one sequential write.
struct SubGroup {
  std::string name;
  std::size_t space;
  std::size_t first;  ///< In the space.
  std::size_t elements;
  StateKind states_on;  ///< Whose tier its states are on.
  Extent states;
  std::vector<ShardRun> runs;
};

/// The shards of all parameters of one kind, one after the other in declaration order, so that whatever tier they lie
/// on, windows of them are contiguous there. Each shard begins at a multiple of the space's alignment.
///
/// What has owners is apart from what is sliced: the spaces of slices are the same on every rank.
struct ShardSpace {
  ElementType type;
  Residence residence;
  Training training;
  MasterPlace master;
  bool is_owned;
  std::size_t elements = 0;
  Extent parameters{};
  Extent gradients{};
  Extent group_copies{};
  std::size_t first_group = 0;  ///< Its sub-groups are numbered from here on.
};

struct ModelStates {
  std::deque<ParameterRecord> parameters;  // addresses (and names) are stable
  std::deque<ParameterUse> uses;
  std::vector<ShardSpace> spaces;
  std::deque<SubGroup> groups;
  std::size_t group_elements = 0;  ///< Of each sub-group, but the last one of a space.
  Extent replicas;                 ///< All replicated parameters, in device memory; those of one owner are one range.

  ParameterRecord& parameter_of(ParameterId id) { return parameters[use(id).parameter]; }
  ParameterUse& use(ParameterId id) { return uses[static_cast<std::size_t>(id)]; }
  const ParameterUse& use(ParameterId id) const { return uses[static_cast<std::size_t>(id)]; }

  /// Appends the parameter's shard to the space of its kind.
  void append_to_space(ParameterRecord& parameter, std::size_t alignment) {
    const auto is_its_space = [&](const ShardSpace& s) {
      return s.type == parameter.type && s.residence == parameter.residence &&
             s.training == parameter.options.training && s.is_owned == parameter.partition.owner.has_value();
    };
    auto space = std::ranges::find_if(spaces, is_its_space);
    if (space == spaces.end()) {
      spaces.push_back(
          {parameter.type, parameter.residence, parameter.options.training, parameter.master,
           parameter.partition.owner.has_value()});
      space = std::prev(spaces.end());
    }
    parameter.space = static_cast<std::size_t>(space - spaces.begin());
    parameter.linear = space->elements;
    space->elements += round_up(parameter.shard_elements(), alignment);
  }

  /// Lays the replicated parameters one after the other: first those in slices, then those of each owner.
  void lay_replicas() {
    std::vector<ParameterRecord*> order;
    for (ParameterRecord& parameter : parameters) {
      if (parameter.residence == Residence::replicated) order.push_back(&parameter);
    }
    const auto owner = [](const ParameterRecord* parameter) { return parameter->partition.owner.value_or(Rank{-1}); };
    std::sort(order.begin(), order.end(), [&](const ParameterRecord* a, const ParameterRecord* b) {
      return std::pair{owner(a), a->uses.front()} < std::pair{owner(b), b->uses.front()};
    });
    std::size_t begin = 0;
    for (ParameterRecord* parameter : order)
      parameter->replica = std::exchange(begin, begin + parameter->gathered_bytes());
  }

  /// Cuts every space into sub-groups of at most `limit` elements (a multiple of the alignment).
  void form_groups(std::size_t limit) {
    group_elements = limit;
    for (std::size_t s = 0; s < spaces.size(); ++s) {
      spaces[s].first_group = groups.size();
      for (std::size_t first = 0; first < spaces[s].elements; first += limit) {
        groups.push_back({"sub-group " + std::to_string(groups.size()),
                          s,
                          first,
                          std::min(limit, spaces[s].elements - first),
                          StateKind::optimizer,
                          {},
                          {}});
      }
    }
    for (std::size_t p = 0; p < parameters.size(); ++p) {
      if (parameters[p].space != ParameterRecord::nowhere) append_runs(p, limit);
    }
  }

  /// Calls `f(group, run)` for each run of a parameter's shard, in order; for none if it holds no shard.
  template <class F>
  void for_each_run(std::size_t parameter, F f) const {
    const ParameterRecord& record = parameters[parameter];
    if (record.space == ParameterRecord::nowhere) return;
    const std::size_t first = spaces[record.space].first_group + record.linear / group_elements;
    const std::size_t end = record.linear + record.shard_elements();
    for (std::size_t g = first; g < groups.size() && groups[g].space == record.space && groups[g].first < end; ++g) {
      const auto run = std::ranges::lower_bound(groups[g].runs, parameter, {}, &ShardRun::parameter);
      f(groups[g], *run);
    }
  }

 private:
  void append_runs(std::size_t index, std::size_t limit) {
    const ParameterRecord& parameter = parameters[index];
    const std::size_t first_group = spaces[parameter.space].first_group;
    std::size_t done = 0;
    while (done < parameter.shard_elements()) {
      const std::size_t linear = parameter.linear + done;
      const std::size_t count = std::min(parameter.shard_elements() - done, limit - linear % limit);
      groups[first_group + linear / limit].runs.push_back({index, linear % limit, done, count});
      done += count;
    }
  }
};

}  // namespace zerospan::inline v0::detail
