/// @file
/// What stays in memory while the model of the example train_gpt is trained: beside what recency would keep.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <list>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/units.hpp>
#include <zerospan/pipeline/detail/residency.hpp>
#include <zerospan/pipeline/detail/trace.hpp>
#include <zerospan/pipeline/detail/working_memory.hpp>
#include <zerospan/tier/cached_tier.hpp>
#include <zerospan/tier/host_tier.hpp>

#include "gpt/cpu_math.hpp"
#include "gpt/model.hpp"
#include "gpt/options.hpp"
#include "gpt/plain_parameter.hpp"
#include "gpt/zerospan_adapter.hpp"
#include "support/sample.hpp"
#include "support/tier_conformance.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::Bytes;
using zerospan::CachedTier;
using zerospan::Extent;
using zerospan::HostTier;
using zerospan::detail::Residency;
using zerospan::detail::Trace;
using zerospan::detail::TraceEvent;
using zerospan::detail::TraceUse;
using zerospan::detail::UseKey;
using zerospan::detail::UseKind;

/// Takes down the leases of a model as an engine does.
class Recorder {
 public:
  using Group = std::vector<std::size_t>;  // numbers of parameters

  /// @return The number of a new parameter.
  std::size_t declare(std::size_t elements) {
    bytes_.push_back(elements * sizeof(float));
    return bytes_.size() - 1;
  }

  std::size_t gather(const Group& parameters) {
    const auto [entry, is_new] = numbers_.try_emplace(parameters, static_cast<std::uint32_t>(groups_.size()));
    if (is_new) groups_.push_back(parameters);
    std::size_t bytes = 0;
    for (const std::size_t p : parameters) bytes += buffer_bytes(p);
    return trace_.acquire(UseKey{UseKind::gathered, entry->second}, bytes, 0);
  }

  std::size_t lease_gradient(std::size_t parameter, std::uint32_t use) {
    return trace_.acquire(UseKey{UseKind::gradient, use}, buffer_bytes(parameter), 0);
  }

  void release(std::size_t use) { trace_.release(use); }

  const Trace& trace() const { return trace_; }
  const std::vector<std::size_t>& bytes() const { return bytes_; }
  const Group& group(UseKey key) const { return groups_[key.number]; }

  gpt::PlainStore<float> store{1};
  std::uint32_t uses = 0;

 private:
  std::size_t buffer_bytes(std::size_t parameter) const {
    return zerospan::round_up(bytes_[parameter], zerospan::detail::WorkingMemory::alignment);
  }

  Trace trace_;
  std::vector<std::size_t> bytes_;
  std::map<Group, std::uint32_t> numbers_;
  std::vector<Group> groups_;
};

/// A lease that is taken down; the group ends with the last of its members.
template <class Lease>
class RecordedLease {
 public:
  RecordedLease(Lease lease, std::shared_ptr<void> end) : lease_{std::move(lease)}, end_{std::move(end)} {}
  decltype(auto) operator*() { return *lease_; }
  decltype(auto) operator*() const { return *lease_; }
  void commit() {
    lease_.commit();
    end_.reset();
  }

 private:
  Lease lease_;
  std::shared_ptr<void> end_;
};

/// A plain parameter whose leases are taken down.
class RecordedParameter {
 public:
  using Plain = gpt::PlainParameter<float>;
  using tensor_type = Plain::tensor_type;
  using ReadLease = RecordedLease<Plain::ReadLease>;
  using GradientLease = RecordedLease<Plain::GradientLease>;

  RecordedParameter(Recorder& recorder, std::string name, const zerospan::Shape& shape,
                    const zerospan::Initializer& initializer, zerospan::ParameterOptions options = {})
      : recorder_{&recorder},
        plain_{recorder.store, std::move(name), shape, initializer, options},
        number_{recorder.declare(shape.elements())},
        use_{recorder.uses++} {}

  RecordedParameter tie(const std::string&) const {
    RecordedParameter tied{*this};
    tied.use_ = recorder_->uses++;
    return tied;
  }

  ReadLease gather(zerospan::StreamRef stream) const {
    return {plain_.gather(stream), until_release(recorder_->gather({number_}))};
  }

  GradientLease gradient(zerospan::StreamRef stream) const {
    return {plain_.gradient(stream), until_release(recorder_->lease_gradient(number_, use_))};
  }

  template <class... More>
  friend auto gather(zerospan::StreamRef stream, const RecordedParameter& first, const More&... more) {
    const auto end = first.until_release(first.recorder_->gather({first.number_, more.number_...}));
    return std::tuple{ReadLease{first.plain_.gather(stream), end}, ReadLease{more.plain_.gather(stream), end}...};
  }

 private:
  /// Releases the use with the last of its owners.
  std::shared_ptr<void> until_release(std::size_t use) const {
    return {nullptr, [recorder = recorder_, use](void*) { recorder->release(use); }};
  }

  Recorder* recorder_;
  Plain plain_;
  std::size_t number_;
  std::uint32_t use_;
};

/// The leases of one step of the model that train_gpt trains if nobody says otherwise.
const Recorder& recorded_step() {
  static const std::unique_ptr<const Recorder> step = [] {
    auto recorder = std::make_unique<Recorder>();
    const gpt::Options options;
    gpt::CpuMath<float> math{options.model};
    gpt::Model<RecordedParameter, gpt::CpuMath<float>> model{*recorder, math, options.model};
    gpt::Activations<gpt::CpuMath<float>> activations{math, options.model, 1, options.model.layers};
    gpt::ActivationGradients<gpt::CpuMath<float>> gradients{math, options.model, 1};
    const std::vector<std::uint8_t> tokens(options.model.context, 'a');
    model.train({tokens, tokens, options.model.context}, activations, gradients);
    return recorder;
  }();
  return *step;
}

std::size_t sum_of(const std::vector<std::size_t>& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::size_t{0});
}

/// A pass of so many micro-batches.
Trace pass_of(std::size_t micro_batches) {
  const Trace& step = recorded_step().trace();
  Trace pass;
  for (std::size_t m = 0; m < micro_batches; ++m) {
    const std::size_t first = pass.uses.size();
    for (const TraceEvent& event : step.events) {
      const TraceUse& use = step.uses[event.use];
      if (event.kind == TraceEvent::Kind::acquire) {
        pass.acquire(use.key, use.bytes, 0);
      } else {
        pass.release(first + event.use);
      }
    }
  }
  return pass;
}

/// Bytes of all gathers, and of the most that is in use or draining at once.
struct Needs {
  explicit Needs(const Trace& trace) {
    std::size_t taken = 0;
    std::size_t draining = 0;
    for (const TraceEvent& event : trace.events) {
      const TraceUse& use = trace.uses[event.use];
      const bool is_gradient = use.key.kind == UseKind::gradient;
      if (event.kind == TraceEvent::Kind::acquire) {
        taken += use.bytes;
        gathered += is_gradient ? 0 : use.bytes;
      } else {
        taken -= is_gradient ? std::exchange(draining, use.bytes) : use.bytes;
      }
      most = std::max(most, taken);
    }
  }

  std::size_t gathered = 0;
  std::size_t most = 0;
};

std::size_t gathered_by_next_use(const Trace& trace, std::size_t memory) {
  const Residency residency{trace, memory};
  std::size_t bytes = Needs{trace}.gathered;
  for (std::size_t u = 0; u < trace.uses.size(); ++u) {
    if (residency.kept_for(u) != TraceUse::never) bytes -= trace.uses[u].bytes;
  }
  return bytes;
}

/// What is gathered if the buffer goes, whenever memory runs short, that was released first.
std::size_t gathered_by_recency(const Trace& trace, std::size_t memory) {
  std::list<std::size_t> kept;  // uses, by their release
  std::size_t taken = 0;
  std::size_t draining = 0;
  std::size_t gathered = 0;
  for (const TraceEvent& event : trace.events) {
    const TraceUse& use = trace.uses[event.use];
    const bool is_gradient = use.key.kind == UseKind::gradient;
    if (event.kind == TraceEvent::Kind::release) {
      if (is_gradient) {
        taken -= std::exchange(draining, use.bytes);
      } else {
        kept.push_back(event.use);
      }
      continue;
    }
    const auto found = std::ranges::find_if(kept, [&](std::size_t k) { return trace.uses[k].key == use.key; });
    if (found != kept.end()) {
      kept.erase(found);
      continue;
    }
    taken += use.bytes;
    gathered += is_gradient ? 0 : use.bytes;
    for (; taken > memory && !kept.empty(); kept.pop_front()) taken -= trace.uses[kept.front()].bytes;
  }
  return gathered;
}

TEST_CASE("the step that is recorded is the whole model's, there and back") {
  const Trace& trace = recorded_step().trace();
  const std::size_t parameters = recorded_step().bytes().size();
  std::vector<std::size_t> gathers(parameters);
  std::size_t gradients = 0;
  for (const TraceUse& use : trace.uses) {
    CHECK(use.released != TraceUse::never);
    if (use.key.kind == UseKind::gradient) {
      ++gradients;
    } else {
      for (const std::size_t p : recorded_step().group(use.key)) ++gathers[p];
    }
  }
  CHECK(gradients == parameters + 1);  // the head's too, which is the token embedding
  CHECK(std::ranges::count(gathers, std::size_t{0}) == 0);
  CHECK(gathers[0] == 3);
  CHECK(sum_of(recorded_step().bytes()) == gpt::Options{}.model.parameters() * sizeof(float));
}

TEST_CASE("of a step of the model, whatever the memory, no more is gathered than by recency") {
  for (const std::size_t micro_batches : {1U, 2U, 4U}) {
    CAPTURE(micro_batches);
    const Trace trace = pass_of(micro_batches);
    const Needs needs{trace};
    const std::size_t all = sum_of(recorded_step().bytes());
    std::size_t fewer = 0;
    std::size_t budgets = 0;
    for (std::size_t memory = needs.most; memory < needs.most + all; memory += needs.most / 16) {
      CAPTURE(memory);
      const std::size_t ours = gathered_by_next_use(trace, memory);
      const std::size_t by_recency = gathered_by_recency(trace, memory);
      CHECK(ours <= by_recency);
      fewer += ours < by_recency;
      ++budgets;
    }
    MESSAGE(micro_batches << " micro-batches: fewer bytes than by recency with " << fewer << " of " << budgets
                          << " budgets");
    CHECK(fewer > 0);
  }
}

/// Bytes of lines that are read from below if those that were read last stay.
class RecentLines {
 public:
  explicit RecentLines(std::size_t room) : room_{room} {}

  /// @return What the read of a line takes from below.
  std::size_t read(std::pair<std::size_t, std::size_t> line, std::size_t bytes) {
    const auto found = std::ranges::find(recent_, line);
    const bool is_hit = found != recent_.end();
    if (is_hit) recent_.erase(found);
    recent_.push_front(line);
    if (recent_.size() > room_) recent_.pop_back();
    return is_hit ? 0 : bytes;
  }

 private:
  std::size_t room_;
  std::list<std::pair<std::size_t, std::size_t>> recent_;  ///< Parameter and line.
};

/// Reads each parameter that is gathered from a cached tier, step after step.
struct CachedSteps {
  static constexpr std::size_t line = 64 << 10;
  static constexpr std::size_t steps = 6;

  explicit CachedSteps(std::size_t room) {
    const Recorder& step = recorded_step();
    zerospan::Arena storage = zerospan_test::make_arena("storage", 8_MiB);
    zerospan::Arena memory = zerospan_test::make_arena("cache", Bytes{room * line});
    HostTier host{storage};
    CachedTier tier{host, memory, {.bytes = Bytes{room * line}, .line = Bytes{line}}};
    std::vector<Extent> extents;
    for (const std::size_t bytes : step.bytes()) extents.push_back(tier.place(bytes));
    std::vector<std::byte> data(std::ranges::max(step.bytes()));
    RecentLines recent{room};
    for (std::size_t s = 0; s < steps; ++s) {
      const std::size_t before = tier.cache_counters().misses.count;
      by_recency.push_back(0);
      for (const TraceUse& use : step.trace().uses) {
        if (use.key.kind != UseKind::gathered) continue;
        for (const std::size_t p : step.group(use.key)) {
          const std::size_t bytes = extents[p].bytes;
          tier.read(extents[p], 0, data.data(), bytes).wait();
          for (std::size_t begin = 0; begin < bytes; begin += line) {
            by_recency.back() += recent.read({p, begin}, std::min(line, bytes - begin));
          }
        }
      }
      by_next_use.push_back(tier.cache_counters().misses.count - before);
    }
  }

  std::vector<std::size_t> by_next_use;  ///< Bytes from below, of each step.
  std::vector<std::size_t> by_recency;
};

TEST_CASE("of several steps of the model, whatever the cache, no more is read from below than by recency") {
  std::size_t lines = 0;
  for (const std::size_t bytes : recorded_step().bytes()) lines += (bytes - 1) / CachedSteps::line + 1;
  std::vector<double> worst(CachedSteps::steps);  // bytes up to the end of each step, beside those by recency
  for (std::size_t room = 1; room <= lines; room += zerospan_test::is_sanitized ? 20 : 3) {
    CAPTURE(room);
    const CachedSteps run{room};
    std::size_t ours = 0;
    std::size_t recent = 0;
    for (std::size_t s = 0; s < CachedSteps::steps; ++s) {
      CAPTURE(s);
      ours += run.by_next_use[s];
      recent += run.by_recency[s];
      worst[s] = std::max(worst[s], static_cast<double>(ours) / static_cast<double>(recent));
      if (s >= 2) CHECK(ours <= recent);  // from the third step on, intervals between reads are known
    }
  }
  CHECK(worst[0] < 1.03);
  CHECK(worst[1] < 1.04);
  MESSAGE("bytes read beside those by recency, at worst, after one, two and three steps: "
          << worst[0] << ", " << worst[1] << ", " << worst[2] << ", " << worst.back() << " in the end");
}

}  // namespace
