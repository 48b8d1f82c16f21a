/// @file
/// GroupUpdates: the updates of sub-groups that a step has decided on, posted in the order in which they are needed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/group_operands.hpp>
#include <zerospan/engine/detail/states_being_read.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/optimizer/detail/any_optimizer.hpp>
#include <zerospan/optimizer/optimizer.hpp>

namespace zerospan::inline v0::detail {

/// Updates sub-group after sub-group: while one is updated, the next one's states are read and the last one's are
/// written (ZeRO-Infinity, arXiv 2104.07857, section 5.2.2). Sub-groups without gradients are left alone. States that
/// rest in device memory are updated by the device, if the optimizer has an update for it; others by the host.
///
/// A step ends before its updates do. What is partitioned is updated behind the next forward pass, in the order in which
/// the last pass brought it: whoever is about to read a parameter calls `bring`, which posts the updates up to its own,
/// and a few more, so that transfers go on; if it comes soon, it finds the new values in staging memory. As the
/// backward pass ends, when that memory is idle, the states of the first sub-groups are read ahead. What is replicated is
/// published by collectives, whose order is the same on every rank: all of its updates are posted at once.
/// `ParameterRecord::ready` and `GradientAccumulator::ready` say when what an update writes may be read, and what it
/// reads may be written.
template <Device D>
class GroupUpdates {
 public:
  using AnyOptimizer = OptimizerInterface<typename EngineCore<D>::stream_type>;

  explicit GroupUpdates(EngineCore<D>& core) : core_{core}, needs_(core.states.parameters.size()) {
    for (const SubGroup& group : core_.states.groups) {
      const ShardSpace& space = core_.states.spaces[group.space];
      if (space.training == Training::frozen) continue;
      (space.residence == Residence::partitioned ? queue_ : replicated_).push_back({&group});
    }
    next_ = queue_.size();
    largest_ = largest();
    ahead_ = groups_ahead();
    number();
  }

  /// Posts the updates of every parameter with a committed gradient, or leaves them to be posted by `bring`. Those of
  /// the step before have ended (`finish`).
  /// @param optimizer With the settings of this step. It lives on until all that is posted has ended.
  /// @param gradient_scale The factor from accumulated to effective gradients.
  void begin(std::shared_ptr<const AnyOptimizer> optimizer, float gradient_scale) {
    optimizer_ = std::move(optimizer);
    gradient_scale_ = gradient_scale;
    std::vector<ParameterRecord*> owned;  // replicated ones that have owners
    for (ParameterRecord& parameter : core_.states.parameters) {
      parameter.ready.clear();
      if (!has_gradient(parameter)) continue;
      ++parameter.updates;
      parameter.copy.is_current = false;
      if (parameter.residence == Residence::replicated && parameter.partition.owner) owned.push_back(&parameter);
    }
    update_replicated(owned);
    order();
    for (Update& update : queue_) prepare(update);
    read_ahead_ = 0;
    commits_before_ = std::exchange(commits_, 0);
    next_ = 0;
    ++steps_;
    brought_ = 0;
    post_until(ahead_);
  }

  /// For whoever is about to read a parameter, or to write its gradient: posts its update, if that is still to come.
  void bring(std::size_t parameter) {
    Need& need = needs_[parameter];
    if (need.step != steps_) need = {steps_, brought_++, need.last};
    if (need.last >= next_) post_until(need.last + 1 + ahead_);
  }

  /// For whoever has written a gradient: during the second half of the last backward pass the states of the sub-groups
  /// that will be updated first are read, one after the other, so that what that pass reads itself is not behind them.
  void read_ahead() {
    ++commits_;
    if (next_ < queue_.size()) return;
    const std::size_t of_replicated = std::min(ahead_ + 1, replicated_.size());
    const std::size_t count = of_replicated + std::min(ahead_ + 1, queue_.size());
    const std::size_t span = commits_before_ / (2 * core_.options.micro_batches);
    while (read_ahead_ < count && commits_before_ > 0 &&
           commits_ > commits_before_ - span + read_ahead_ * span / count) {
      const std::size_t next = read_ahead_++;
      read_ahead(next < of_replicated ? replicated_[next] : queue_[next - of_replicated]);
    }
  }

  /// The new values of a sub-group's parameters, in staging memory, after `work`.
  struct Values {
    const std::byte* data;
    Completion work;
    StagingSlot slot;
  };

  /// @return Nothing where they are not, or not any more.
  std::optional<Values> values_in_staging(const SubGroup& group) const {
    const auto place = places_.find(&group);
    if (place == places_.end()) return std::nullopt;
    const std::optional<Values>& values = queue_[place->second].values;
    if (!values || place->second >= next_ || !core_.staging.holds(values->slot)) return std::nullopt;
    return values;
  }

  /// From now on somebody reads the states that the updates so far leave: each sub-group when its own has ended, and
  /// before its next one begins.
  void let_read(const std::shared_ptr<StatesBeingRead>& reader) {
    for (const SubGroup& group : core_.states.groups) {
      if (core_.states.spaces[group.space].training == Training::frozen) reader->let(&group, {});
    }
    for (const Update& update : replicated_) reader->let(update.group, update.states_written);
    for (std::size_t i = 0; i < queue_.size(); ++i) {
      const bool is_to_come = i >= next_ && !queue_[i].runs.empty();
      if (!is_to_come) reader->let(queue_[i].group, queue_[i].states_written);
    }
    core_.add_reader(reader);
  }

  /// Before states and parameters change in another way: what is in staging memory of them is void.
  void settle() {
    finish();
    for (std::vector<Update>* const updates : {&replicated_, &queue_}) {
      for (Update& update : *updates) {
        drop(update);
        update.values.reset();
      }
    }
    read_ahead_ = 0;
  }

  /// Posts what is left, and waits until everything is at rest.
  void finish() {
    post_until(queue_.size());
    for (const Completion& end : ends_) {
      core_.lanes.wait(calling_thread, end, {OperationKind::update, "the last step"});
    }
    ends_.clear();
    optimizer_.reset();
  }

 private:
  /// A run as the lane sees it: nothing in it changes until the update is over.
  struct RunUpdate {
    ShardRun run;
    std::int64_t step;
    ParameterGroup group;
    bool has_gradient;
  };

  /// A sub-group that waits for its update.
  struct Update {
    const SubGroup* group;
    std::vector<RunUpdate> runs{};             ///< None if it has none in this step.
    std::optional<BegunWork> begun{};          ///< Its states were read ahead.
    std::optional<Values> values{};            ///< What the last update has left in staging memory.
    std::vector<Completion> states_written{};  ///< The ends of the last update.
  };

  /// When a parameter was needed.
  struct Need {
    std::uint64_t step = 0;   ///< After which it was brought for the last time.
    std::uint64_t place = 0;  ///< Among those that were brought then.
    std::size_t last = 0;     ///< The last of the queue's sub-groups that have something of it.
  };

  static constexpr bool device_has_own_memory = !D::lanes_type::is_unified;

  /// Bytes of staging memory that the largest sub-group takes.
  std::size_t largest() {
    std::size_t result = 0;
    for (const std::vector<Update>* const updates : {&replicated_, &queue_}) {
      for (const Update& update : *updates) {
        const GroupOperands<D> operands = operands_of(*update.group);
        std::size_t bytes = 0;
        for (const Operand& operand : operands.list()) {
          bytes += EngineCore<D>::staging_type::slot_bytes(operand.tier, operand.bytes, site_of(*update.group));
        }
        result = std::max(result, bytes);
      }
    }
    return result;
  }

  /// How many more sub-groups than are asked for are under way, so that one is read, one updated and one written
  /// meanwhile: fewer where the staging memory has no room for them, all where none passes through it.
  std::size_t groups_ahead() const {
    constexpr std::size_t most = 3;
    if (largest_ == 0) return queue_.size();
    return std::min(most, std::max<std::size_t>(1, core_.staging.capacity() / largest_) - 1);
  }

  /// States, gradients, parameters.
  GroupOperands<D> operands_of(const SubGroup& group) {
    GroupOperands<D> operands{core_, group};
    operands.add_states(Operand::Access::change);
    operands.add_gradients();
    operands.add_parameters();
    return operands;
  }

  /// Reads the states of a sub-group, if they are not addressable and there is room.
  void read_ahead(Update& update) {
    if (core_.placement.tier(update.group->states_on).addressable() != Addressable::nowhere) return;
    GroupOperands<D> operands = operands_of(*update.group);
    operands.await_states(update.states_written);
    update.begun = core_.staging.begin(update.group->name, operands.list(), largest_);
  }

  void drop(Update& update) {
    if (update.begun) core_.staging.drop(*std::exchange(update.begun, std::nullopt));
  }

  /// Who updates a sub-group, if the optimizer has updates for either.
  Site site_of(const SubGroup& group) const {
    const bool is_on_device = core_.placement.tier(group.states_on).addressable() == Addressable::on_device;
    return device_has_own_memory && is_on_device ? Site::device : Site::host;
  }

  bool has_gradient(const ParameterRecord& parameter) const {
    return core_.states.uses[parameter.uses.front()].gradient.has_sum;
  }

  /// The order in which the last pass brought what is in the sub-groups; that of the declaration before the first pass.
  void order() {
    const auto first_need = [this](const Update& update) {
      std::uint64_t first = std::numeric_limits<std::uint64_t>::max();
      for (const ShardRun& run : update.group->runs) {
        const Need& need = needs_[run.parameter];
        if (need.step == steps_) first = std::min(first, need.place);
      }
      return first;
    };
    if (std::ranges::is_sorted(queue_, {}, first_need)) return;
    std::ranges::stable_sort(queue_, {}, first_need);
    number();
  }

  void number() {
    for (std::size_t i = 0; i < queue_.size(); ++i) {
      places_[queue_[i].group] = i;
      for (const ShardRun& run : queue_[i].group->runs) needs_[run.parameter].last = i;
    }
  }

  /// Takes down what the update of a sub-group is in this step.
  void prepare(Update& update) {
    update.runs.clear();
    update.values.reset();
    const auto trains = [this](const ShardRun& run) { return has_gradient(core_.states.parameters[run.parameter]); };
    if (std::ranges::none_of(update.group->runs, trains)) return drop(update);
    for (const ShardRun& run : update.group->runs) {
      const ParameterRecord& parameter = core_.states.parameters[run.parameter];
      update.runs.push_back({run, parameter.updates, parameter.options.group, has_gradient(parameter)});
    }
  }

  /// Posts the updates of the first `count` sub-groups of the queue, if they are still to come.
  void post_until(std::size_t count) {
    for (const std::size_t end = std::min(count, queue_.size()); next_ < end; ++next_) {
      Update& update = queue_[next_];
      if (update.runs.empty()) continue;
      const PostedWork posted = post(update);
      for (const RunUpdate& run : update.runs) {
        core_.states.parameters[run.run.parameter].ready.push_back(posted.last_end);
      }
      if (posted.last) update.values = Values{posted.last, posted.work, posted.slot};
    }
  }

  /// Posts the updates of what is replicated, and its publication.
  void update_replicated(std::span<ParameterRecord* const> owned) {
    std::vector<Completion> owned_written;
    for (Update& update : replicated_) {
      prepare(update);
      if (update.runs.empty()) continue;
      const PostedWork posted = post(update);
      // Replicas are written in place, or, by the host to a device of its own, after the work.
      const std::vector<Completion> written = device_has_own_memory ? posted.ends : std::vector{posted.work};
      if (core_.states.spaces[update.group->space].is_owned) {
        owned_written.insert(owned_written.end(), written.begin(), written.end());
      } else {
        publish(update.runs, written);
      }
    }
    if (owned.empty()) return;
    const std::vector<const ParameterRecord*> parameters{owned.begin(), owned.end()};
    const Completion end = core_.broadcast_replicas(parameters, "updated parameters", std::move(owned_written));
    for (ParameterRecord* parameter : owned) parameter->ready = {end};
    ends_.push_back(end);
  }

  /// Gathers the slices whose last run is among `runs`.
  void publish(std::span<const RunUpdate> runs, const std::vector<Completion>& written) {
    std::vector<GatherPart> slices;
    for (const RunUpdate& update : runs) {
      ParameterRecord& parameter = core_.states.parameters[update.run.parameter];
      parameter.ready.insert(parameter.ready.end(), written.begin(), written.end());
      const bool is_last = update.run.first_in_shard + update.run.elements == parameter.shard_elements();
      if (is_last && parameter.partition.shards > 1 && update.has_gradient) {
        slices.push_back({core_.replica_of(parameter), parameter.shard_bytes()});
      }
    }
    if (slices.empty()) return;
    const Completion end = core_.all_gather(std::move(slices), "updated parameters", written);
    for (const RunUpdate& update : runs) core_.states.parameters[update.run.parameter].ready.push_back(end);
    ends_.push_back(end);
  }

  /// Posts the update of a sub-group, once nobody reads its states any more. The gradients that it reads may be written
  /// when it has read them.
  PostedWork post(Update& update) {
    core_.await_readers(*update.group);
    PostedWork posted = post(*update.group, update.runs, std::exchange(update.begun, std::nullopt));
    ends_.insert(ends_.end(), posted.ends.begin(), posted.ends.end());
    update.states_written = posted.ends;
    core_.let_read(*update.group, posted.ends);
    for (const RunUpdate& run : update.runs) {
      if (!run.has_gradient) continue;
      const ParameterRecord& parameter = core_.states.parameters[run.run.parameter];
      core_.states.uses[parameter.uses.front()].gradient.ready.push_back(posted.work);
    }
    return posted;
  }

  PostedWork post(const SubGroup& group, const std::vector<RunUpdate>& runs, std::optional<BegunWork> begun) {
    const ElementType type = core_.states.spaces[group.space].type;
    GroupOperands operands{core_, group};
    operands.add_states(Operand::Access::change);
    const RunOperands gradients = operands.add_gradients();
    const RunOperands parameters = operands.add_parameters();
    const Operation operation{OperationKind::update, group.name, group.states.bytes};
    const auto updates_of = [=, scale = gradient_scale_, gradient_type = core_.accumulator_type(type),
                             capacity = group.elements](auto& stream, std::span<std::byte* const> pointers) {
      auto* const master = reinterpret_cast<float*>(pointers[0]);
      std::vector<ShardUpdate> updates;
      for (std::size_t i = 0; i < runs.size(); ++i) {
        const ShardRun& run = runs[i].run;
        std::byte* const parameter = parameters(pointers, i, run);
        if (runs[i].has_gradient) {
          updates.push_back({master, pointers[0] + capacity * sizeof(float), capacity, run.first_in_group, run.elements,
                             gradients(pointers, i, run), gradient_type, parameter, type, scale, runs[i].step,
                             runs[i].group});
        } else {
          narrow(stream, master + run.first_in_group, type, parameter, run.elements);
        }
      }
      return updates;
    };
    if constexpr (device_has_own_memory) {
      if (optimizer_->updates_on_device() && site_of(group) == Site::device) {
        return core_.staging.run(
            Lane::update, operation, operands.list(), {},
            [optimizer = optimizer_, updates_of](auto& stream, std::span<std::byte* const> pointers) {
              optimizer->update(stream, updates_of(stream, pointers));
            });
      }
    }
    const auto work = [optimizer = optimizer_, updates_of](std::span<std::byte* const> pointers) {
      StreamRef host = calling_thread;
      optimizer->update(updates_of(host, pointers));
    };
    if (begun) {
      return core_.staging.run_on_host(Lane::update, operation, operands.list(), *std::move(begun), {}, work);
    }
    return core_.staging.run_on_host(Lane::update, operation, operands.list(), {}, work);
  }

  EngineCore<D>& core_;
  std::shared_ptr<const AnyOptimizer> optimizer_;
  float gradient_scale_ = 1.0F;
  std::vector<Update> replicated_;  ///< What is replicated and trains.
  std::vector<Update> queue_;       ///< What is partitioned and trains, in the order of its updates.
  std::size_t next_ = 0;            ///< The first of the queue whose update is not posted.
  std::size_t largest_ = 0;
  std::size_t ahead_ = 0;  ///< How many more are posted than are asked for.
  std::size_t commits_ = 0;         ///< Since the last step.
  std::size_t commits_before_ = 0;  ///< Of that step.
  std::size_t read_ahead_ = 0;      ///< Sub-groups whose states were asked for since.
  std::vector<Completion> ends_;                             ///< Of all that was posted.
  std::vector<Need> needs_;                                  ///< Of each parameter.
  std::unordered_map<const SubGroup*, std::size_t> places_;  ///< In the queue.
  std::uint64_t steps_ = 1;
  std::uint64_t brought_ = 0;  ///< Parameters that were brought since the last step.
};

}  // namespace zerospan::inline v0::detail
