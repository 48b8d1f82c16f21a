/// @file
/// A device, and ranks, that record what they are told to do and do nothing of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/completion.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/device/lane_options.hpp>
#include <zerospan/device/operation.hpp>

#include "link_prices.hpp"
#include "prices.hpp"
#include "recorder.hpp"

namespace gpt::forecast {

class RecordingLanes;

/// A HostDevice whose memory nobody touches, so that it has addresses and budgets alone.
class RecordingDevice {
 public:
  using lanes_type = RecordingLanes;

  /// @param recorder,prices Outlive it.
  RecordingDevice(Recorder& recorder, const Prices& prices, const zerospan::HostDeviceOptions& options)
      : recorder_{recorder}, prices_{prices}, memory_{options} {}

  zerospan::Arena& memory() noexcept { return memory_.memory(); }
  zerospan::Arena& host_memory() noexcept { return memory_.host_memory(); }

  Recorder& recorder() noexcept { return recorder_; }
  const Prices& prices() const noexcept { return prices_; }

 private:
  Recorder& recorder_;
  const Prices& prices_;
  zerospan::HostDevice memory_;
};

/// What is posted is priced, and never run.
class RecordingLanes {
 public:
  using stream_type = zerospan::StreamRef;

  static constexpr bool is_unified = true;

  RecordingLanes(RecordingDevice& device, const zerospan::LaneOptions&)
      : device_{device}, first_{device.recorder().add_lanes()} {}

  zerospan::Completion post(zerospan::Lane lane, const std::vector<zerospan::Completion>& after,
                            const zerospan::Operation& operation,
                            const std::function<zerospan::Completion(zerospan::StreamRef&)>&) {
    return post_host(lane, after, operation, {});
  }
  zerospan::Completion post_host(zerospan::Lane lane, const std::vector<zerospan::Completion>& after,
                                 const zerospan::Operation& operation, const std::function<zerospan::Completion()>&) {
    zerospan::OperationCounter& counter = counters_[operation.kind];
    ++counter.count;
    counter.bytes += operation.bytes;
    const Prices& prices = device_.prices();
    device_.recorder().compute(machine::WorkKind::elementwise, prices.rates().post);
    return device_.recorder().post(first_ + static_cast<std::size_t>(lane), operation, prices.of(operation), after);
  }

  void wait(zerospan::StreamRef, const zerospan::Completion& completion, const zerospan::Operation& operation) {
    device_.recorder().wait(operation.name, completion);
  }
  zerospan::Completion record(zerospan::StreamRef) const noexcept { return {}; }
  void check() const {
    if (error_) std::rethrow_exception(error_);
  }
  void fail(const std::exception_ptr& error) {
    if (!error_) error_ = error;
  }
  void enter() const noexcept {}
  void leave() const noexcept {}
  zerospan::LaneCounters counters() const { return counters_; }
  bool drain() noexcept { return true; }

 private:
  RecordingDevice& device_;
  std::size_t first_;
  zerospan::LaneCounters counters_;
  std::exception_ptr error_;
};

static_assert(zerospan::Device<RecordingDevice>);

/// One of several ranks, or of groups of them. What the host itself has them do is recorded as a meeting; what it posts
/// is its lanes' business.
class RecordingRank {
 public:
  /// @param recorder Outlives it. @param ranks_per_group Of groups that it may be split into.
  RecordingRank(Recorder& recorder, zerospan::Rank rank, int size, int ranks_per_group, const Meetings& meetings)
      : recorder_{&recorder}, rank_{rank}, size_{size}, ranks_per_group_{ranks_per_group}, meetings_{meetings} {}

  zerospan::Rank rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  RecordingRank duplicate() const { return *this; }
  void abort(const std::string&) noexcept {}

  /// As `split_into_groups` does: first the ranks of its group, and then those at its place in all groups.
  RecordingRank split(zerospan::SplitPlace place) {
    const bool is_within = splits_++ == 0;
    const int size = is_within ? ranks_per_group_ : size_ / ranks_per_group_;
    const Cost& meeting = is_within ? meetings_.within : meetings_.across;
    return {*recorder_, zerospan::Rank{place.key}, size, ranks_per_group_, {meeting, {}, {}}};
  }

  void all_gather(zerospan::Collective, std::span<const zerospan::GatherPart>) const noexcept {}
  void reduce_scatter(zerospan::Collective, const zerospan::Reduction&) const noexcept {}
  void reduce(zerospan::Collective, const zerospan::Reduction&, zerospan::Rank) const noexcept {}
  void all_reduce(zerospan::Collective, const zerospan::Reduction&) const noexcept {}
  void all_reduce(zerospan::Collective what, std::span<std::int64_t>) const {
    if (size_ > 1) recorder_->meet(what.name, meetings_.all);
  }
  void broadcast(zerospan::Collective, std::span<std::byte>, zerospan::Rank) const noexcept {}
  void all_to_all(zerospan::Collective, const zerospan::SliceExchange&) const noexcept {}
  void barrier(zerospan::Collective what) const {
    if (size_ > 1) recorder_->meet(what.name, meetings_.all);
  }

 private:
  Recorder* recorder_;
  zerospan::Rank rank_;
  int size_;
  int ranks_per_group_;
  Meetings meetings_;
  int splits_ = 0;
};

static_assert(zerospan::TrainingCommunicator<RecordingRank> && zerospan::Splits<RecordingRank>);

}  // namespace gpt::forecast
