/// @file
/// GroupUpdates: the updates of sub-groups that a step has decided on, posted in the order in which they are needed.
#pragma once

#include <algorithm>
#include <cmath>
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
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/group_operands.hpp>
#include <zerospan/engine/detail/group_updater.hpp>
#include <zerospan/engine/detail/states_being_read.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/optimizer/detail/any_optimizer.hpp>

namespace zerospan::inline v0::detail {

/// Updates sub-group after sub-group: while one is updated, the next one's states are read and the last one's are
/// written (ZeRO-Infinity, arXiv 2104.07857, section 5.2.2). Sub-groups without gradients are left alone.
///
/// A step ends before its updates do. What is partitioned is updated behind the next forward pass, in the order in
/// which the last pass brought it: whoever is about to read a parameter calls `bring`, which posts the updates up to
/// its own, and a few more, so that transfers go on; if it comes soon, it finds the new values in staging memory.
/// During the backward pass, when that memory is idle, the states of the first sub-groups are read ahead. What is
/// replicated is published by collectives, whose order is the same on every rank: all of its updates are posted at
/// once.
///
/// Or a share of what is partitioned is updated during the backward pass, as gradients come
/// (UpdateTime::during_backward), and the rest behind the next forward pass.
///
/// `ParameterRecord::ready` and `GradientAccumulator::ready` say when what an update writes may be read, and what it
/// reads may be written.
template <Device D>
class GroupUpdates {
 public:
  using AnyOptimizer = OptimizerInterface<typename EngineCore<D>::stream_type>;

  /// @param optimizer Outlives it; each step has its settings of then.
  GroupUpdates(EngineCore<D>& core, const AnyOptimizer& optimizer)
      : core_{core}, optimizer_{optimizer}, updater_{core}, needs_(core.states.parameters.size()) {
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

  /// Posts the updates of every parameter with a committed gradient, or leaves them to be posted by `bring`; but for
  /// those that were made during the backward pass. Those of the step before have ended (`finish`).
  /// @param gradient_scale The factor from accumulated to effective gradients.
  void begin(float gradient_scale) {
    if (early_ == 0) updater_.set(optimizer_.snapshot(), gradient_scale);
    std::vector<ParameterRecord*> owned;  // replicated ones that have owners
    for (ParameterRecord& parameter : core_.states.parameters) {
      if (std::exchange(parameter.is_updated, false)) continue;
      parameter.ready.clear();
      if (!has_gradient(parameter)) continue;
      count_update(parameter);
      if (parameter.residence == Residence::replicated && parameter.partition.owner) owned.push_back(&parameter);
    }
    update_replicated(owned);
    next_ = std::exchange(early_, 0);
    order();
    for (std::size_t i = next_; i < queue_.size(); ++i) prepare(queue_[i]);
    begin_counting();
    post_until(next_ + ahead_);
  }

  /// Of a step that is not made, whatever was updated during the backward pass.
  void give_up() {
    for (ParameterRecord& parameter : core_.states.parameters) parameter.is_updated = false;
    early_ = 0;
    begin_counting();
  }

  /// Sub-groups of this step that were updated during the backward pass.
  bool has_begun() const noexcept { return early_ > 0; }

  /// @throws ConfigurationError if the optimizer's settings are not those that updates of this step have had.
  void check_settings() const {
    if (early_ > 0 && updater_.optimizer()->settings().fingerprint != optimizer_.settings().fingerprint) {
      throw_configuration_error(
          "the optimizer's settings have changed since the first update of this step, which was "
          "made during the backward pass: set them before it");
    }
  }

  /// For whoever is about to read a parameter, or to write its gradient: posts its update, if that is still to come.
  void bring(std::size_t parameter) {
    Need& need = needs_[parameter];
    if (std::exchange(need.step, steps_) != steps_) need.place = brought_++;
    if (need.last >= next_) post_until(need.last + 1 + ahead_);
  }

  /// For the host, which has asked for a parameter that is not gathered. @throws LeaseError if it has been updated.
  void check_old(std::size_t parameter) {
    if (core_.states.parameters[parameter].is_updated) {
      throw_lease_error(core_.states.parameters[parameter].name +
                        " is gathered after its gradient was committed, more often than in any step before: it has "
                        "been updated already (UpdateTime::during_backward); hold its lease until then");
    }
    if (needs_[parameter].is_whole) ++needs_[parameter].gathers_after;
  }

  /// For whoever has added the last gradient of a parameter in this step: if updates are made during the backward
  /// pass, its sub-groups are updated when all that trains in them has come so far, and was gathered after that as
  /// often as in any step before; but for those that are left to the next forward pass.
  /// @return Them, in the order in which `update` is to be called for each: now.
  std::vector<const SubGroup*> gradient_is_whole(std::size_t parameter) {
    if (core_.options.updates != UpdateTime::during_backward) return {};
    if (core_.states.parameters[parameter].residence == Residence::partitioned) {
      needs_[parameter].is_whole = true;
      core_.states.for_each_run(parameter, [&](const SubGroup& group, const ShardRun&) {
        if (is_whole(group)) whole_.push_back(&group);
      });
    }
    std::vector<const SubGroup*> early;
    if (commits_before_ == 0) return early;
    std::erase_if(whole_, [&](const SubGroup* group) {
      if (!can_update(*group)) return false;
      if (is_early(++whole_so_far_)) early.push_back(group);
      return true;
    });
    return early;
  }

  /// Posts an update before its step is made.
  void update(const SubGroup& group) {
    begin_early();
    for (const ShardRun& run : group.runs) {
      ParameterRecord& parameter = core_.states.parameters[run.parameter];
      if (!parameter.trains() || std::exchange(parameter.is_updated, true)) continue;
      parameter.ready.clear();
      count_update(parameter);
    }
    const std::size_t place = places_.at(&group);
    std::swap(queue_[place], queue_[early_]);
    places_[queue_[place].group] = place;
    places_[&group] = early_;
    prepare(queue_[early_]);
    post_update(queue_[early_++]);
  }

  /// For whoever is about to add the last gradient of a parameter in this step: whether the updates that
  /// `gradient_is_whole` names then will find it in staging memory, if nothing but them is brought there meanwhile.
  /// @param bytes Of that gradient there.
  bool finds_in_staging(std::size_t parameter, std::size_t bytes) {
    if (core_.options.updates != UpdateTime::during_backward || commits_before_ == 0) return false;
    begin_early();
    std::size_t needed = bytes + largest_;  // a slot that does not fit in the end of the ring leaves that empty
    const auto add = [&](const SubGroup& group) { needed += updater_.staged_bytes(group); };
    for (const SubGroup* const group : whole_) add(*group);
    core_.states.for_each_run(parameter, [&](const SubGroup& group, const ShardRun&) { add(group); });
    return needed <= core_.staging.capacity();
  }

  /// For whoever has written a gradient: during the last backward pass the states of the sub-groups that will be
  /// updated first are read, evenly distributed over it, so that what it reads itself is not behind them: a backward
  /// pass reads less than a forward pass with its updates does, and has room for them from its beginning on.
  void read_ahead() {
    ++commits_;
    if (next_ < queue_.size() || core_.options.updates == UpdateTime::during_backward) return;
    const std::size_t of_replicated = std::min(ahead_ + 1, replicated_.size());
    const std::size_t count = of_replicated + std::min(ahead_ + 1, queue_.size());
    const std::size_t span = commits_before_ / core_.options.micro_batches;
    while (read_ahead_ < count && commits_before_ > 0 &&
           commits_ > commits_before_ - span + read_ahead_ * span / count) {
      const std::size_t next = read_ahead_++;
      read_ahead(next < of_replicated ? replicated_[next] : queue_[next - of_replicated]);
    }
  }

  /// The new values of a sub-group's parameters. @return Nothing where they are not, or not any more.
  std::optional<StagedValues> values_in_staging(const SubGroup& group) const {
    const auto place = places_.find(&group);
    if (place == places_.end()) return std::nullopt;
    const std::optional<StagedValues>& values = queue_[place->second].values;
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
  }

 private:
  /// A sub-group that waits for its update.
  struct Update {
    const SubGroup* group;
    std::vector<RunUpdate> runs{};             ///< None if it has none in this step.
    std::optional<BegunWork> begun{};          ///< Its states were read ahead.
    std::optional<StagedValues> values{};      ///< What the last update has left in staging memory.
    std::vector<Completion> states_written{};  ///< The ends of the last update.
  };

  /// When a parameter was needed.
  struct Need {
    std::uint64_t step = 0;   ///< After which it was brought for the last time.
    std::uint64_t place = 0;  ///< Among those that were brought then.
    std::size_t last = 0;     ///< The last of the queue's sub-groups that have something of it.

    bool is_whole = false;               ///< Its gradient is, in this step.
    std::size_t gathers_after = 0;       ///< How often it was gathered since.
    std::size_t most_gathers_after = 0;  ///< In the steps before.
  };

  static constexpr bool device_has_own_memory = !D::lanes_type::is_unified;

  /// Bytes of staging memory that the largest sub-group takes.
  std::size_t largest() const {
    std::size_t result = 0;
    for (const std::vector<Update>* const updates : {&replicated_, &queue_}) {
      for (const Update& update : *updates) result = std::max(result, updater_.staged_bytes(*update.group));
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

  /// Reads the states of a sub-group, if there are any, they are not addressable and there is room; and were not read
  /// before a step that was skipped.
  void read_ahead(Update& update) {
    if (update.begun || update.group->states.bytes == 0) return;
    if (core_.placement.tier(update.group->states_on).addressable() != Addressable::nowhere) return;
    GroupOperands<D> operands = updater_.operands_of(*update.group).all;
    operands.await_states(update.states_written);
    update.begun = core_.staging.begin(update.group->name, operands.list(), largest_);
  }

  void drop(Update& update) {
    if (update.begun) core_.staging.drop(*std::exchange(update.begun, std::nullopt));
  }

  void begin_counting() {
    read_ahead_ = 0;
    commits_before_ = std::exchange(commits_, 0);
    for (Need& need : needs_) {
      need.is_whole = false;
      need.most_gathers_after = std::max(need.most_gathers_after, std::exchange(need.gathers_after, 0));
    }
    whole_.clear();
    whole_so_far_ = 0;
    ++steps_;
    brought_ = 0;
  }

  static void count_update(ParameterRecord& parameter) {
    ++parameter.updates;
    parameter.copy.is_current = false;
  }

  /// Whether all that trains in a sub-group has its gradient.
  bool is_whole(const SubGroup& group) const {
    return std::ranges::all_of(group.runs, [&](const ShardRun& run) {
      return needs_[run.parameter].is_whole || !core_.states.parameters[run.parameter].trains();
    });
  }

  /// Whether a sub-group is updated during the backward pass: its share of them, evenly among the others.
  /// @param number Of those whose gradients have come so far in this step, from 1 on.
  bool is_early(std::size_t number) const {
    const auto early_of = [this](std::size_t count) {
      return std::floor(static_cast<double>(count) * core_.options.early_share);
    };
    return early_of(number) > early_of(number - 1);
  }

  /// Whether nothing in it is gathered any more in this step, if that is as it was.
  bool can_update(const SubGroup& group) const {
    return std::ranges::all_of(group.runs, [&](const ShardRun& run) {
      const Need& need = needs_[run.parameter];
      return need.gathers_after >= need.most_gathers_after;
    });
  }

  /// Before the first update of a step that is not yet made.
  void begin_early() {
    if (early_ > 0) return;
    finish();
    optimizer_.validate();
    const double gradients = static_cast<double>(core_.contributors() * core_.options.micro_batches);
    updater_.set(optimizer_.snapshot(), static_cast<float>(1.0 / gradients));
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
    const std::span rest = std::span{queue_}.subspan(next_);
    if (next_ == 0 && std::ranges::is_sorted(rest, {}, first_need)) return;
    std::ranges::stable_sort(rest, {}, first_need);
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
      if (!queue_[next_].runs.empty()) post_update(queue_[next_]);
    }
  }

  void post_update(Update& update) {
    const PostedWork posted = post(update);
    for (const RunUpdate& run : update.runs) {
      core_.states.parameters[run.run.parameter].ready.push_back(posted.last_end);
    }
    if (posted.last) update.values = StagedValues{posted.last, posted.work, posted.slot};
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

  /// Gathers the slices whose last run is among `runs`. What came before may have been written on another lane: part of
  /// it may rest on another tier.
  void publish(std::span<const RunUpdate> runs, const std::vector<Completion>& written) {
    std::vector<GatherPart> slices;
    std::vector<Completion> after = written;
    for (const RunUpdate& update : runs) {
      ParameterRecord& parameter = core_.states.parameters[update.run.parameter];
      parameter.ready.insert(parameter.ready.end(), written.begin(), written.end());
      const bool is_last = update.run.first_in_shard + update.run.elements == parameter.shard_elements();
      if (is_last && parameter.partition.shards > 1 && update.has_gradient) {
        slices.push_back({core_.replica_of(parameter), parameter.shard_bytes()});
        if (update.run.first_in_shard > 0) after.insert(after.end(), parameter.ready.begin(), parameter.ready.end());
      }
    }
    if (slices.empty()) return;
    const Completion end = core_.all_gather(std::move(slices), "updated parameters", std::move(after));
    for (const RunUpdate& update : runs) core_.states.parameters[update.run.parameter].ready.push_back(end);
    ends_.push_back(end);
  }

  /// Posts the update of a sub-group, once nobody reads its states any more. The gradients that it reads may be written
  /// when it has read them.
  PostedWork post(Update& update) {
    core_.await_readers(*update.group);
    PostedWork posted = updater_.post(*update.group, update.runs, std::exchange(update.begun, std::nullopt));
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

  EngineCore<D>& core_;
  const AnyOptimizer& optimizer_;
  GroupUpdater<D> updater_;
  std::vector<Update> replicated_;      ///< What is replicated and trains.
  std::vector<Update> queue_;           ///< What is partitioned and trains, in the order of its updates.
  std::size_t next_ = 0;                ///< The first of the queue whose update is not posted.
  std::size_t early_ = 0;               ///< So many of the queue, the first ones, were posted before their step.
  std::vector<const SubGroup*> whole_;  ///< Whose gradients are there, and of whom nobody has decided when.
  std::size_t whole_so_far_ = 0;        ///< In this step, of those for whom it was decided.
  std::size_t largest_ = 0;
  std::size_t ahead_ = 0;                                    ///< How many more are posted than are asked for.
  std::size_t commits_ = 0;                                  ///< Since the last step.
  std::size_t commits_before_ = 0;                           ///< Of that step.
  std::size_t read_ahead_ = 0;                               ///< Sub-groups whose states were asked for since.
  std::vector<Completion> ends_;                             ///< Of all that was posted.
  std::vector<Need> needs_;                                  ///< Of each parameter.
  std::unordered_map<const SubGroup*, std::size_t> places_;  ///< In the queue.
  std::uint64_t steps_ = 1;
  std::uint64_t brought_ = 0;  ///< Parameters that were brought since the last step.
};

}  // namespace zerospan::inline v0::detail
