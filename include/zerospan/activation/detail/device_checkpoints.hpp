/// @file
/// DeviceCheckpoints: the stack of checkpoints on a device's lanes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/activation/detail/checkpoint_memory.hpp>
#include <zerospan/activation/detail/checkpoint_stack.hpp>
#include <zerospan/activation/detail/checkpoint_store.hpp>
#include <zerospan/activation/options.hpp>
#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/pipeline/detail/address_ranges.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

struct HeldCheckpoint {
  enum class Kind : std::uint8_t { pushed, popped };

  Checkpoint checkpoint;
  StreamRef stream;
  Kind kind;
  CheckpointId id{};
};

/// Which checkpoints are leased, and where they are. Few are at a time.
class CheckpointLeases {
 public:
  CheckpointId add(HeldCheckpoint held) {
    const CheckpointId id{next_++};
    ranges_.insert(held.checkpoint.offset, held.checkpoint.device_bytes());
    held.id = id;
    held_.push_back(std::move(held));
    return id;
  }

  /// @return What was held; nothing if the lease has ended before.
  std::optional<HeldCheckpoint> end(CheckpointId id) {
    const std::size_t i = index(id);
    if (i == held_.size()) return std::nullopt;
    std::optional<HeldCheckpoint> held{std::move(held_[i])};
    held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(i));
    ranges_.erase(held->checkpoint.offset);
    return held;
  }

  /// nullptr if the lease has ended.
  const HeldCheckpoint* find(CheckpointId id) const {
    const std::size_t i = index(id);
    return i < held_.size() ? &held_[i] : nullptr;
  }

  bool empty() const noexcept { return held_.empty(); }

  /// Of device memory.
  const AddressRanges& ranges() const noexcept { return ranges_; }

  /// "a checkpoint of float32 [8] being written, a checkpoint of float32 [4] being read", or nothing.
  std::string describe() const {
    std::string text;
    for (const HeldCheckpoint& held : held_) {
      text += text.empty() ? "" : ", ";
      text += detail::describe(held.checkpoint);
      text += held.kind == HeldCheckpoint::Kind::pushed ? " being written" : " being read";
    }
    return text;
  }

 private:
  std::size_t index(CheckpointId id) const noexcept {
    std::size_t i = 0;
    while (i < held_.size() && held_[i].id != id) ++i;
    return i;
  }

  std::vector<HeldCheckpoint> held_;  // in the order in which they were leased
  AddressRanges ranges_;
  std::uint64_t next_ = 0;
};

/// Nothing is decided by time: which checkpoints leave, which come back, and every address follow from the order of the
/// calls alone.
template <Device D>
class DeviceCheckpoints final : public CheckpointStore {
 public:
  DeviceCheckpoints(D& device, TierRef tier, ActivationOptions options)
      : options_{checked(std::move(options))},
        memory_{device, tier, options_},
        stack_{memory_.working().capacity(), memory_.in_place() ? 0 : options_.bytes.count, tier.alignment()},
        lanes_{device, LaneOptions{options_.rank, options_.timeout, options_.timeline, {}}},
        transfers_{lanes_, device.host_memory(), memory_.space(), options_} {}

  LeasedCheckpoint push(StreamRef stream, const Shape& shape, ElementType type) override {
    const Call call{*this};
    check_whole();
    Checkpoint checkpoint{shape, type};
    const CheckpointStack::Room room = find_room(checkpoint);
    while (stack_.residents() < room.residents) evict_next();
    checkpoint.offset = room.offset;
    wait(stream, memory_.working().take(room.offset, checkpoint.device_bytes()));
    return lease(std::move(checkpoint), stream, HeldCheckpoint::Kind::pushed);
  }

  void commit(CheckpointId id) override {
    const Call call{*this};
    HeldCheckpoint held = leases_.end(id).value();
    held.checkpoint.ready = {lanes_.record(held.stream)};
    held.checkpoint.ordinal = forecast_.next();
    const bool is_expected_to_leave = forecast_.expects(held.checkpoint.ordinal);
    const bool is_next_to_save = stack_.saved() == stack_.size();
    stack_.push(std::move(held.checkpoint));
    if (is_expected_to_leave && is_next_to_save && stack_.unsaved_bytes(stack_.size()) <= stack_.free_tier_bytes()) {
      save_next();
    }
  }

  LeasedCheckpoint pop(StreamRef stream, std::optional<ElementType> type) override {
    const Call call{*this};
    check_whole();
    check_top(type);
    const bool is_hit = stack_.residents() < stack_.size();
    if (!is_hit) fetch_top();
    ++(is_hit ? counters_.hits : counters_.misses);
    wait(stream, stack_.top().ready);
    const LeasedCheckpoint leased = lease(take_top(), stream, HeldCheckpoint::Kind::popped);
    look_ahead();
    return leased;
  }

  void release(CheckpointId id) noexcept override {
    if (closed_) return;
    std::optional<HeldCheckpoint> held = leases_.end(id);
    if (!held) return;
    lanes_.enter();
    try {
      held->checkpoint.ready = {lanes_.record(held->stream)};
      leave(held->checkpoint);
      look_ahead();
      end_pass();
    } catch (...) {
      lanes_.fail(std::current_exception());
    }
    lanes_.leave();
  }

  void drop(CheckpointId id) noexcept override {
    const HeldCheckpoint* const held = leases_.find(id);
    if (held && held->kind == HeldCheckpoint::Kind::pushed) dropped_ = held->checkpoint;
    release(id);
  }

  void clear() override {
    const Call call{*this};
    while (!stack_.empty()) {
      const bool is_resident = stack_.residents() < stack_.size();
      const Checkpoint checkpoint = take_top();
      if (is_resident) leave(checkpoint);
    }
    dropped_.reset();
    end_pass();
  }

  std::size_t size() const noexcept override { return stack_.size(); }

  ActivationCounters counters() const override {
    ActivationCounters result = counters_;
    result.peak_device = memory_.peak();
    if (memory_.in_place()) result.peak_tier = result.peak_device;
    result.operations = lanes_.counters();
    return result;
  }

  void close() noexcept override {
    closed_ = true;
    if (lanes_.drain()) {
      memory_.close();
    } else {
      transfers_.forfeit();  // what a lost transfer may still touch is nobody's any more
      memory_.forfeit();
    }
  }

 private:
  /// Brackets every call of the host.
  class Call {
   public:
    explicit Call(DeviceCheckpoints& store) : lanes_{store.lanes_} {
      if (store.closed_) throw_lease_error(store.options_.name + " are gone");
      lanes_.check();
      lanes_.enter();
    }
    ~Call() { lanes_.leave(); }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    typename D::lanes_type& lanes_;
  };

  static ActivationOptions checked(ActivationOptions options) {
    if (options.timeout.count() <= 0) throw_configuration_error("the timeout must be positive");
    return options;
  }

  void check_whole() const {
    if (!dropped_) return;
    throw_lease_error(describe(*dropped_) + " was dropped with neither commit() nor release(): the stack of " +
                      options_.name + " lacks it until clear()");
  }

  void check_top(std::optional<ElementType> type) {
    if (stack_.empty()) throw_lease_error(options_.name + " are empty: more was popped than pushed");
    if (!type || stack_.top().type == *type) return;
    throw_lease_error("the top of " + options_.name + " is " + describe(stack_.top()) + ", and was popped as " +
                      std::string{to_string(*type)});
  }

  /// Refuses what does not fit, before anything has changed.
  CheckpointStack::Room find_room(const Checkpoint& checkpoint) const {
    const bool is_too_large = checkpoint.shape.elements() > memory_.working().capacity();
    const auto room = is_too_large ? std::nullopt : stack_.find_room(checkpoint.device_bytes(), leases_.ranges());
    if (!room || (memory_.in_place() && room->residents > stack_.residents())) refuse(checkpoint);
    const std::size_t needed = stack_.unsaved_bytes(room->residents);
    if (needed <= stack_.free_tier_bytes()) return *room;
    throw_budget_error(options_.name + " on " + std::string{memory_.space().tier().name()} + ", to make room for " +
                           describe(checkpoint) + " in device memory,",
                       Bytes{needed}, Bytes{stack_.free_tier_bytes()}, "raise bytes or device_bytes");
  }

  [[noreturn]] void refuse(const Checkpoint& checkpoint) const {
    const std::size_t most = std::numeric_limits<std::size_t>::max();
    const bool is_countable = checkpoint.shape.elements() <= most / (2 * sizeof(float));
    const std::size_t available = memory_.in_place() ? memory_.working().largest_free()
                                                     : leases_.ranges().largest_gap(memory_.working().capacity());
    const std::string hint = memory_.in_place() ? "raise bytes" : "raise device_bytes";
    throw_budget_error(describe(checkpoint) + " in the device memory of " + options_.name,
                       Bytes{is_countable ? checkpoint.device_bytes() : most}, Bytes{available},
                       leases_.empty() ? hint : hint + ", or release one of the leases held: " + leases_.describe());
  }

  void wait(StreamRef stream, const std::vector<Completion>& completions) {
    for (const Completion& completion : completions) {
      lanes_.wait(stream, completion, {OperationKind::copy, options_.name});
    }
  }

  std::byte* data(const Checkpoint& checkpoint) const { return memory_.working().data(checkpoint.offset); }

  void save_next() {
    Checkpoint& next = stack_.save_next();
    transfers_.save(next, data(next));
    counters_.bytes_offloaded += next.bytes();
    counters_.peak_tier.count = std::max(counters_.peak_tier.count, stack_.used_tier_bytes());
  }

  void evict_next() {
    if (stack_.saved() == stack_.residents()) save_next();
    const Checkpoint& next = stack_.evict_next();
    leave(next);
    forecast_.left(next.ordinal);
  }

  /// The checkpoint's device memory is free, once what uses it has ended.
  void leave(const Checkpoint& checkpoint) {
    std::vector<Completion> last_uses = checkpoint.ready;
    last_uses.push_back(checkpoint.copied);
    memory_.working().give_back(checkpoint.offset, std::move(last_uses));
  }

  void fetch_next() {
    Checkpoint& next = stack_.fetch_next();
    transfers_.fetch(next, data(next), memory_.working().take(next.offset, next.device_bytes()));
    counters_.bytes_fetched += next.bytes();
  }

  /// Brings back what is popped next, as far as there is room where it was.
  void look_ahead() {
    while (stack_.residents() > 0) {
      const Checkpoint& next = stack_[stack_.residents() - 1];
      if (!memory_.working().is_free(next.offset, next.device_bytes())) return;
      fetch_next();
    }
  }

  /// Brings back the top, of which leases held keep the place.
  void fetch_top() {
    Checkpoint& top = stack_.top();
    if (!memory_.working().is_free(top.offset, top.device_bytes())) {
      const auto room = stack_.find_room(top.device_bytes(), leases_.ranges());
      if (!room) refuse(top);
      top.offset = room->offset;
    }
    fetch_next();
  }

  Checkpoint take_top() {
    const bool is_saved = stack_.saved() == stack_.size();
    Checkpoint top = stack_.pop();
    if (is_saved) transfers_.vacate(top);
    return top;
  }

  LeasedCheckpoint lease(Checkpoint checkpoint, StreamRef stream, HeldCheckpoint::Kind kind) {
    LeasedCheckpoint leased{{}, checkpoint.shape, checkpoint.type, data(checkpoint)};
    leased.id = leases_.add({std::move(checkpoint), stream, kind});
    return leased;
  }

  void end_pass() {
    if (stack_.empty() && leases_.empty()) forecast_.end_pass();
  }

  const ActivationOptions options_;
  CheckpointMemory memory_;
  CheckpointStack stack_;
  typename D::lanes_type lanes_;
  CheckpointTransfers<typename D::lanes_type> transfers_;
  OffloadForecast forecast_;
  CheckpointLeases leases_;
  std::optional<Checkpoint> dropped_;  ///< Uncommitted.
  ActivationCounters counters_;
  bool closed_ = false;
};

}  // namespace zerospan::inline v0::detail
