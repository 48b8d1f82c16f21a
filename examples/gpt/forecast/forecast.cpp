/// @file
/// A training over recorded work, and when that happens.
#include "forecast.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/plan/planned_span.hpp>
#include <zerospan/tier/offload_tier.hpp>
#include <zerospan/zerospan.hpp>

#include "../job.hpp"
#include "../levels.hpp"
#include "../run.hpp"
#include "../storage.hpp"
#include "../train.hpp"
#include "device.hpp"
#include "link_prices.hpp"
#include "machine_time.hpp"
#include "priced_math.hpp"
#include "prices.hpp"
#include "recorder.hpp"

namespace gpt::forecast {

namespace {

using zerospan::plan::PlannedSpan;

/// The name of a moment between two steps.
constexpr std::string_view step_made = "a step is made";

/// A disk without bytes: extents that have a place, and transfers that lanes record and do not begin.
class RecordingDisk {
 public:
  /// @param device Has the prices of the disk.
  RecordingDisk(const Options&, const RecordingDevice& device)
      : alignment_{static_cast<std::size_t>(device.prices().disk().alignment)} {}
  RecordingDisk(const RecordingDisk&) = delete;
  RecordingDisk& operator=(const RecordingDisk&) = delete;

  zerospan::TierRef tier() { return *this; }
  static std::vector<DirectoryUse> directories(const Options&) { return {}; }

  static std::string_view name() noexcept { return "planned disk"; }
  std::size_t alignment() const noexcept { return alignment_; }
  static zerospan::Addressable addressable() noexcept { return zerospan::Addressable::nowhere; }
  static void reserve(zerospan::Bytes, std::string_view) noexcept {}
  static void cancel(zerospan::Bytes) noexcept {}
  zerospan::Extent place(std::size_t bytes) noexcept {
    const zerospan::Extent extent{end_, bytes};
    end_ += zerospan::round_up(bytes, std::max<std::size_t>(alignment_, page_bytes));
    used_ += bytes;
    peak_ = std::max(peak_, used_);
    return extent;
  }
  void remove(const zerospan::Extent& extent) noexcept { used_ -= extent.bytes; }
  static std::byte* view(const zerospan::Extent&) noexcept { return nullptr; }
  static zerospan::Completion read(const zerospan::Extent&, std::size_t, std::byte*, std::size_t) noexcept {
    return {};
  }
  static zerospan::Completion write(const zerospan::Extent&, std::size_t, const std::byte*, std::size_t) noexcept {
    return {};
  }
  zerospan::TierCounters counters() const noexcept { return {zerospan::Bytes{used_}, zerospan::Bytes{peak_}, {}, {}}; }

 private:
  std::size_t alignment_;
  std::uint64_t end_ = 0;
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
};

static_assert(zerospan::OffloadTier<RecordingDisk>);

/// A rank that computes by prices.
class ForecastPlatform {
 public:
  using Storage = RankStorage<RecordingDevice, RecordingDisk>;

  ForecastPlatform(Recorder& recorder, const Prices& prices, int rank, const Job& job)
      : recorder_{recorder},
        prices_{prices},
        storage_{job.options, rank, job.timeline, recorder, prices},
        ranks_{this->world(rank, job.options)},
        communicator_{in_levels(world(rank, job.options), storage_.device(), job.options)} {}

  zerospan::AnyCommunicator& ranks() { return ranks_; }
  zerospan::AnyCommunicator& communicator() { return communicator_; }
  Storage& storage() { return storage_; }
  static MatrixProducts products(const Options&) { return {.library = "none"}; }

  Result train(Engine& engine, const Job& job) {
    switch (job.options.precision) {
      case Precision::bf16:
        return train_with<BFloat16>(engine, job);
      case Precision::fp16:
        return train_with<Float16>(engine, job);
      default:
        return train_with<float>(engine, job);
    }
  }

 private:
  RecordingRank world(int rank, const Options& o) {
    return {recorder_, zerospan::Rank{rank}, o.ranks, o.ranks_per_group, prices_.meetings()};
  }

  template <class E>
  Result train_with(Engine& engine, const Job& job) {
    return gpt::train(PricedMath<E>{recorder_, prices_.rates(), prices_.has_narrow_products()}, engine, ranks_, job);
  }

  Recorder& recorder_;
  const Prices& prices_;
  Storage storage_;
  zerospan::AnyCommunicator ranks_;
  zerospan::AnyCommunicator communicator_;
};

/// Marks where steps end.
class StepMarks final : public Reports {
 public:
  explicit StepMarks(Recorder& recorder) : recorder_{recorder} {}

  void begin(const Options&, const Text&, const MatrixProducts&) override {}
  void progress(std::string_view what, std::size_t, std::size_t) override {
    if (what == training_phase) marks_.push_back(recorder_.mark(step_made));
  }
  void step(const StepMetrics& metrics) override {
    marks_.push_back(recorder_.mark(step_made));
    metrics_ = metrics;
  }
  void note(std::string_view) override {}
  void trained() override {}
  void end(const FinalMetrics&) override {}

  const std::vector<std::size_t>& marks() const { return marks_; }
  const StepMetrics& metrics() const { return *metrics_; }

 private:
  Recorder& recorder_;
  std::vector<std::size_t> marks_;  // the first is where training begins
  std::optional<StepMetrics> metrics_;
};

/// Nothing is saved or loaded.
class NoSaves final : public Saves {
 public:
  bool is_on() const override { return false; }
  std::unique_ptr<Saver> saver(std::shared_ptr<zerospan::ParameterStore>) override { return nullptr; }
  std::optional<Position> resume(std::shared_ptr<zerospan::ParameterStore>) override { return std::nullopt; }
  bool is_interrupted() const override { return false; }
  bool import_model(std::shared_ptr<zerospan::ParameterStore>) override { return false; }
  bool export_model(std::shared_ptr<zerospan::ParameterStore>, bool) override { return false; }
};

/// Steps that are played: the first records what is gathered, the last one's updates hide behind no further step.
constexpr std::size_t steps = 5;

/// Nothing but steps.
Options only_steps(Options o) {
  const auto require = [](bool sound, const char* what) {
    if (!sound) zerospan::throw_configuration_error(std::string{"no time is foretold of "} + what);
  };
  require(o.device == DeviceKind::cpu, "--device cuda");
  require(!needs_links(o) || !o.group_copies, "--group-copies with --comm mpi");
  require(o.quantization == Quantization::none, "--quantize");
  require(o.threads == 1, "--threads beyond 1");
  o.schedule.steps = steps;
  o.stop_after.reset();
  o.eval_every = 0;
  o.skip_validation = true;
  o.sample = 0;
  o.checkpoint.clear();
  o.metrics.clear();
  o.init.clear();
  o.export_to.clear();
  return o;
}

/// Enough for any context; what it says does not matter.
Text any_text(const Options& o) { return Text{std::vector<std::uint8_t>(20 * (o.model.context + 1), 7)}; }

std::string_view track_name(const Item& item) {
  if (item.track == Item::host) return "host";
  return zerospan::lane_names[(item.track - 1) % zerospan::lane_count];
}

/// What rank 0 did between two of its moments.
class StepOfRank {
 public:
  StepOfRank(const Recorder& recorder, const std::vector<Times>& times, const Prices& prices, double begin, double end,
             double steps_in_it)
      : recorder_{recorder}, times_{times}, prices_{prices}, begin_{begin}, end_{end}, steps_{steps_in_it} {}

  std::vector<TrackTime> tracks() const {
    std::vector<TrackTime> tracks{{"compute"}};
    for (const std::string_view lane : zerospan::lane_names) tracks.push_back({std::string{lane}});
    for_each([&](const Item& item, double seconds) {
      if (item.kind == zerospan::OperationKind::wait) return;
      TrackTime& track = tracks[item.track == Item::host ? 0 : 1 + (item.track - 1) % zerospan::lane_count];
      track.seconds += seconds / steps_;
      track.alone += alone(item) / steps_;
    });
    return tracks;
  }

  std::vector<PlannedSpan> spans() const {
    std::vector<PlannedSpan> all;
    for (std::size_t i = 0; i < times_.size(); ++i) {
      if (times_[i].end > std::max(begin_, times_[i].begin) && times_[i].begin < end_) all.push_back(span(i));
    }
    std::ranges::stable_sort(all, {}, &PlannedSpan::begin);
    return all;
  }

  /// Back from an item to what it has waited for: the last to end of what it comes after, of what its track did before,
  /// and of what the host did before it was posted.
  std::vector<PlannedSpan> critical_path(std::size_t number) const {
    const auto& items = recorder_.items();
    std::vector<std::size_t> before(items.size(), none);  // on the same track
    std::vector<std::size_t> host_before(items.size(), none);
    std::vector<std::size_t> last(recorder_.tracks(), none);
    for (std::size_t i = 0; i < items.size(); ++i) {
      host_before[i] = last[Item::host];
      before[i] = std::exchange(last[items[i].track], i);
    }
    std::vector<PlannedSpan> path;
    while (number != none && times_[number].end > begin_) {
      const Item& item = items[number];
      if (item.kind != zerospan::OperationKind::wait && times_[number].end > times_[number].begin) {
        path.push_back(span(number));
      }
      // A transfer begins with the one before it on its lane, which may be under way: what that came after counts too.
      std::vector<std::size_t> causes;
      for (std::size_t i = number; i != none && times_[i].begin >= times_[number].begin - 1e-9; i = before[i]) {
        causes.insert(causes.end(), items[i].after.begin(), items[i].after.end());
        if (before[i] != none) causes.push_back(before[i]);
        if (host_before[i] != none) causes.push_back(host_before[i]);
        if (items[i].track == Item::host) break;
      }
      const bool is_wait = item.kind == zerospan::OperationKind::wait;
      const double until = (is_wait ? times_[number].end : times_[number].begin) + 1e-9;
      std::size_t cause = none;
      for (const std::size_t each : causes) {
        if (times_[each].end > until) continue;
        if (cause == none || times_[each].end > times_[cause].end) cause = each;
      }
      number = cause;
    }
    std::ranges::reverse(path);
    return path;
  }

  /// What collectives take of the rank's link, alone.
  double link_seconds() const {
    double sum = 0;
    for_each([&](const Item& item, double) { sum += item.cost.link / steps_; });
    return sum;
  }

  StepBytes bytes() const {
    StepBytes sum;
    for_each([&](const Item& item, double) {
      const double part = static_cast<double>(item.bytes) / steps_;
      using zerospan::OperationKind;
      if (item.kind == OperationKind::read) sum.read += part;
      if (item.kind == OperationKind::write) sum.written += part;
      if (item.kind == OperationKind::copy) sum.copied += part;
      if (item.kind == OperationKind::all_gather || item.kind == OperationKind::broadcast) sum.gathered += part;
      if (item.kind == OperationKind::reduce_scatter || item.kind == OperationKind::reduce) sum.reduced += part;
      if (item.kind == OperationKind::all_reduce) sum.reduced += part;
      if (item.kind == OperationKind::update) sum.updated += part;
    });
    return sum;
  }

 private:
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  PlannedSpan span(std::size_t number) const {
    const Item& item = recorder_.items()[number];
    return {track_name(item),
            item.kind,
            item.name,
            item.bytes,
            std::max(times_[number].begin, begin_) - begin_,
            std::min(times_[number].end, end_) - begin_};
  }

  double alone(const Item& item) const {
    return item.cost.core_seconds + item.cost.link + item.cost.read / prices_.disk().read +
           item.cost.written / prices_.disk().written;
  }

  /// What began in it.
  template <class Visit>
  void for_each(Visit visit) const {
    for (std::size_t i = 0; i < times_.size(); ++i) {
      if (times_[i].begin < begin_ || times_[i].begin >= end_) continue;
      visit(recorder_.items()[i], times_[i].end - times_[i].begin);
    }
  }

  const Recorder& recorder_;
  const std::vector<Times>& times_;
  const Prices& prices_;
  double begin_;
  double end_;
  double steps_;
};

void record_spans(zerospan::Timeline& timeline, const std::vector<Recorder>& recorders, const MachineTime& time) {
  struct Ended {
    int rank;
    const Item* item;
    Times times;
  };
  std::vector<Ended> all;
  for (std::size_t r = 0; r < recorders.size(); ++r) {
    const auto& items = recorders[r].items();
    for (std::size_t i = 0; i < items.size(); ++i) all.push_back({static_cast<int>(r), &items[i], time.times(r)[i]});
  }
  std::ranges::stable_sort(all, {}, [](const Ended& each) { return each.times.end; });
  const auto origin = zerospan::Timeline::Clock::now();
  const auto at = [origin](double seconds) {
    return origin +
           std::chrono::duration_cast<zerospan::Timeline::Clock::duration>(std::chrono::duration<double>(seconds));
  };
  for (const auto& [rank, item, times] : all) {
    if (times.end <= times.begin && item->name != step_made) continue;
    timeline.record(zerospan::Rank{rank}, track_name(*item), to_string(item->kind), item->name, item->bytes,
                    at(times.begin), at(times.end));
  }
}

}  // namespace

Forecast foretell(Options given, const machine::Rates& rates, zerospan::Timeline* timeline) {
  const Options options = only_steps(std::move(given));
  const Prices prices{rates, options};
  const Text text = any_text(options);
  std::vector<Recorder> recorders(static_cast<std::size_t>(options.ranks));
  StepMarks marks{recorders.front()};
  NoSaves saves;
  zerospan::Timeline unused;
  Forecast forecast;
  for (int rank = 0; rank < options.ranks; ++rank) {
    const Job job{options, text, unused, marks, saves};
    ForecastPlatform platform{recorders[static_cast<std::size_t>(rank)], prices, rank, job};
    static_cast<void>(run_rank(platform, job));
    if (rank > 0) continue;
    forecast.peak_device_bytes = static_cast<double>(platform.storage().device().memory().peak().count);
    forecast.peak_host_bytes = static_cast<double>(platform.storage().device().host_memory().peak().count);
    forecast.peak_disk_bytes = static_cast<double>(platform.storage().disk().peak.count);
  }

  MachineTime time{rates, prices.disk(), recorders};
  time.run();
  const std::vector<Times>& of_rank_0 = time.times(0);
  const std::vector<std::size_t>& ends = marks.marks();
  // From the end of the second step to that of the last but one: steady, as far as they are.
  const double begin = of_rank_0[ends[2]].end;
  const double end = of_rank_0[ends[steps - 1]].end;
  constexpr double counted = steps - 3;
  const StepOfRank step{recorders.front(), of_rank_0, prices, begin, end, counted};
  const double last = of_rank_0[ends[steps - 2]].end;
  const StepOfRank last_step{recorders.front(), of_rank_0, prices, last, end, 1};
  forecast.spans = last_step.spans();
  forecast.critical_path = last_step.critical_path(ends[steps - 1]);
  forecast.step_seconds = (end - begin) / counted;
  forecast.tracks = step.tracks();
  forecast.bytes = step.bytes();
  const double crowd = std::max(1.0, static_cast<double>(options.ranks) / rates.cores);
  // Where more ranks than cores share these, they do not share the links more than was measured.
  forecast.all_lanes = (1 - crowd) * step.link_seconds();
  for (const TrackTime& track : forecast.tracks) forecast.all_lanes += track.alone * crowd;
  forecast.compute_alone = forecast.tracks.front().alone * crowd;
  if (timeline) record_spans(*timeline, recorders, time);
  return forecast;
}

}  // namespace gpt::forecast
