#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/pipeline/detail/overlap_pipeline.hpp>
#include <zerospan/pipeline/detail/trace.hpp>
#include <zerospan/pipeline/detail/working_memory.hpp>

#include "support/scratch.hpp"

namespace {

using zerospan::Arena;
using zerospan::Bytes;
using zerospan::Completion;
using zerospan::PipelineCounters;
using zerospan::Promise;
using zerospan::detail::OverlapPipeline;
using zerospan::detail::UseKey;
using zerospan::detail::UseKind;
using zerospan::detail::WorkingMemory;

constexpr std::size_t unit = WorkingMemory::alignment;
constexpr std::uint8_t training = 0;
constexpr std::uint8_t evaluation = 1;

using Keys = std::vector<std::uint32_t>;
using Tickets = std::set<std::uint64_t>;

Tickets tickets(const std::vector<Completion>& completions) {
  Tickets result;
  for (const Completion& completion : completions) result.insert(completion.ticket());
  return result;
}

/// A gather that was started. Its completion stays open until the test ends it; its ticket is its place in the log.
struct Fetched {
  std::uint32_t key;
  std::size_t offset;  ///< In units.
  Tickets after;
};

/// A pipeline over some units of memory, with gathers that are logged and carry nothing.
class Rig {
 public:
  Rig(std::size_t units, std::size_t look_ahead)
      : buffer_{zerospan::round_up(units * unit, Arena::alignment)},
        arena_{"device memory", std::shared_ptr<std::byte>{std::shared_ptr<void>{}, buffer_.data()},
               Bytes{units * unit}},
        pipeline_{WorkingMemory{arena_.allocate_working(arena_.capacity())}, Bytes{look_ahead * unit},
                  [this](UseKey key, std::byte* data, std::vector<Completion> after) {
                    log_.push_back({key.number, offset(data), tickets(after)});
                    promises_.emplace_back(std::string{"gather "} + std::to_string(log_.back().key), log_.size());
                    return std::vector{promises_.back().completion()};
                  }} {}

  OverlapPipeline& operator*() noexcept { return pipeline_; }
  OverlapPipeline* operator->() noexcept { return &pipeline_; }

  /// One unit each, unless said otherwise.
  std::optional<OverlapPipeline::Buffer> gather(std::uint32_t key, std::size_t units = 1) {
    return acquire(key, UseKind::gathered, units);
  }
  std::optional<OverlapPipeline::Buffer> gradient(std::uint32_t key, std::size_t units = 1) {
    return acquire(key, UseKind::gradient, units);
  }
  void release(const std::optional<OverlapPipeline::Buffer>& buffer, std::vector<Completion> last_uses = {}) {
    live_ -= units_of_.at(buffer->offset);
    pipeline_.release(buffer->offset, std::move(last_uses));
  }

  /// A whole pass: gathers and releases each key in turn. @return Where each of them was, in units.
  std::vector<std::size_t> pass(const Keys& keys, std::size_t units = 1, std::uint8_t kind = training) {
    begin(kind);
    std::vector<std::size_t> offsets;
    for (const std::uint32_t key : keys) {
      const auto buffer = gather(key, units);
      REQUIRE(buffer);
      offsets.push_back(offset(buffer->data));
      release(buffer);
    }
    end();
    return offsets;
  }
  void begin(std::uint8_t kind = training) {
    units_of_.clear();
    pipeline_.begin_pass(kind);
  }
  void end() { pipeline_.end_pass(); }

  /// The keys of the gathers started since the last call.
  Keys fetched() {
    Keys keys;
    for (; seen_ < log_.size(); ++seen_) keys.push_back(log_[seen_].key);
    return keys;
  }

  const Fetched& last() const { return log_.back(); }
  std::size_t log_size() const { return log_.size(); }
  std::size_t offset(const std::byte* data) const { return static_cast<std::size_t>(data - buffer_.data()) / unit; }
  void end_fetch(std::size_t ticket) { promises_[ticket - 1].succeed(); }

  /// Units that are posted and not used.
  std::size_t pending() const { return arena_.used().count / unit - live_; }
  std::size_t live() const { return live_; }

 private:
  std::optional<OverlapPipeline::Buffer> acquire(std::uint32_t key, UseKind kind, std::size_t units) {
    auto buffer = pipeline_.acquire({kind, key}, units * unit);
    if (buffer) {
      live_ += units;
      units_of_[buffer->offset] = units;
    }
    return buffer;
  }

  zerospan_test::AlignedBuffer buffer_;
  Arena arena_;
  std::deque<Promise> promises_;
  std::vector<Fetched> log_;
  std::size_t seen_ = 0;
  std::size_t live_ = 0;
  std::map<std::size_t, std::size_t> units_of_;
  OverlapPipeline pipeline_;
};

void check(const PipelineCounters& counters, std::uint64_t hits, std::uint64_t misses, std::uint64_t mended,
           std::uint64_t dropped) {
  CHECK(counters.hits == hits);
  CHECK(counters.misses == misses);
  CHECK(counters.mended == mended);
  CHECK(counters.dropped == dropped);
}

TEST_CASE("the first pass fetches on demand, at the lowest free address") {
  Rig rig{10, 4};
  rig.begin();
  CHECK(rig.fetched().empty());
  const auto a = rig.gather(5, 3);
  const auto b = rig.gather(6, 2);
  CHECK(rig.offset(a->data) == 0);
  CHECK(rig.offset(b->data) == 3);
  CHECK(rig.fetched() == Keys{5, 6});
  rig.release(a);
  const auto c = rig.gather(7, 1);
  CHECK(rig.offset(c->data) == 0);
  rig.release(b);
  rig.release(c);
  rig.end();
  check(rig->counters(), 0, 3, 0, 0);
}

TEST_CASE("a buffer's first use waits for its gather, the gather for the last uses of the range") {
  Rig rig{1, 0};
  rig.begin();
  Promise matmul{"matmul", 1000};
  const auto a = rig.gather(1);
  CHECK(tickets(a->ready) == Tickets{1});
  CHECK(rig.last().after.empty());
  rig.release(a, {matmul.completion()});
  const auto b = rig.gather(2);
  CHECK(rig.last().after == Tickets{1000});
  CHECK(tickets(b->ready) == Tickets{2});
  rig.release(b);
}

TEST_CASE("a gradient is not fetched; its first use waits for the last uses of the range") {
  Rig rig{1, 0};
  rig.begin();
  Promise matmul{"matmul", 1000};
  const auto a = rig.gather(1);
  rig.release(a, {matmul.completion()});
  const auto gradient = rig.gradient(1);
  CHECK(rig.fetched() == Keys{1});
  CHECK(tickets(gradient->ready) == Tickets{1000});
  rig.release(gradient);
  rig.end();
  check(rig->counters(), 0, 1, 0, 0);
}

TEST_CASE("from the second pass on every gather was posted ahead, at the same address each time") {
  Rig rig{3, 2};
  const Keys keys{0, 1, 2, 3, 2, 1, 0};
  rig.pass(keys);
  CHECK(rig.fetched() == keys);
  const auto offsets = rig.pass(keys);
  CHECK(rig.fetched() == keys);
  for (int i = 0; i < 3; ++i) {
    CHECK(rig.pass(keys) == offsets);
    CHECK(rig.fetched() == keys);  // once each, in the order of use
  }
  check(rig->counters(), 4 * 7, 7, 0, 0);
}

TEST_CASE("prefetches are posted as soon as the look-ahead and the memory allow") {
  Rig rig{3, 2};
  rig.pass({0, 1, 2, 3});
  rig.fetched();
  rig.begin();
  CHECK(rig.fetched() == Keys{0, 1});
  const auto a = rig.gather(0);
  CHECK(rig.fetched() == Keys{2});  // a third unit is free
  rig.release(a);
  CHECK(rig.fetched().empty());  // memory is free, but two are posted
  const auto b = rig.gather(1);
  CHECK(rig.fetched() == Keys{3});
  rig.release(b);
  rig.release(rig.gather(2));
  rig.release(rig.gather(3));
  CHECK(rig.fetched().empty());
}

TEST_CASE("without look-ahead everything is fetched on demand, pass after pass") {
  Rig rig{3, 0};
  for (int i = 0; i < 3; ++i) CHECK(rig.pass({0, 1, 2}) == std::vector<std::size_t>{0, 0, 0});
  check(rig->counters(), 0, 9, 0, 0);
}

TEST_CASE("a prefetch waits for the last uses of its range") {
  Rig rig{1, 1};
  rig.pass({0, 1});
  rig.begin();
  Promise matmul{"matmul", 1000};
  const auto a = rig.gather(0);
  rig.release(a, {matmul.completion()});
  CHECK(rig.last().key == 1);
  CHECK(rig.last().after == Tickets{1000});
  const auto b = rig.gather(1);
  CHECK(tickets(b->ready) == Tickets{rig.log_size()});
}

TEST_CASE("a use that is skipped costs its prefetch alone") {
  Rig rig{4, 2};
  rig.pass({0, 1, 2, 3, 4, 5});
  rig.pass({0, 1, 2, 3, 4, 5});
  const auto before = rig->counters();
  rig.pass({0, 1, 3, 4, 5});
  const auto after = rig->counters();
  CHECK(after.mended == before.mended + 1);
  CHECK(after.dropped == before.dropped + 1);
  CHECK(after.hits == before.hits + 5);
  CHECK(after.misses == before.misses);
}

TEST_CASE("a use that is inserted is fetched on demand, and the look-ahead goes on") {
  Rig rig{4, 2};
  rig.pass({0, 1, 2, 3, 4, 5});
  const auto before = rig->counters();
  rig.pass({0, 1, 77, 2, 3, 4, 5});
  const auto after = rig->counters();
  CHECK(after.mended == before.mended + 1);
  CHECK(after.misses == before.misses + 1);
  CHECK(after.hits == before.hits + 6);
  CHECK(after.dropped == before.dropped);
}

TEST_CASE("a pass that ends early drops what was posted, and becomes a path") {
  Rig rig{4, 2};
  rig.pass({0, 1, 2, 3});
  rig.pass({0, 1});
  check(rig->counters(), 2, 4, 0, 2);  // 2 and 3 had been posted; no event contradicted the path
  CHECK(rig.pending() == 0);
  rig.fetched();
  rig.pass({0, 1});
  CHECK(rig.fetched() == Keys{0, 1});  // what is expected now ends here
}

TEST_CASE("a pass that goes on after the end of its path fetches on demand") {
  Rig rig{4, 2};
  rig.pass({0, 1});
  rig.pass({0, 1, 2, 3});
  check(rig->counters(), 2, 4, 1, 0);
  rig.pass({0, 1, 2, 3});
  check(rig->counters(), 6, 4, 1, 0);
}

TEST_CASE("another order is mended, and known from then on") {
  Rig rig{4, 2};
  rig.pass({0, 1, 2, 3});
  rig.pass({3, 2, 1, 0});
  CHECK(rig->counters().mended == 1);
  const auto before = rig->counters();
  rig.pass({3, 2, 1, 0});
  CHECK(rig->counters().hits == before.hits + 4);
  CHECK(rig->counters().mended == 1);
}

TEST_CASE("a release in another place leaves the path, and costs no gather") {
  Rig rig{4, 2};
  rig.pass({0, 1, 2, 3});
  rig.begin();
  const auto a = rig.gather(0);
  const auto b = rig.gather(1);  // the path releases 0 first
  rig.release(a);
  rig.release(b);
  rig.release(rig.gather(2));
  rig.release(rig.gather(3));
  rig.end();
  CHECK(rig->counters().mended == 1);
  CHECK(rig->counters().hits == 4);
}

TEST_CASE("alternating paths are both prefetched from the first use on") {
  Rig rig{4, 2};
  const Keys a{0, 1, 2, 3};
  const Keys b{5, 6, 7};
  for (const Keys* keys : {&a, &b, &a, &b}) rig.pass(*keys);
  const auto before = rig->counters();
  rig.fetched();
  for (const Keys* keys : {&a, &b, &a, &b}) {
    rig.pass(*keys);
    CHECK(rig.fetched() == *keys);
  }
  CHECK(rig->counters().hits == before.hits + 14);
  CHECK(rig->counters().misses == before.misses);
  CHECK(rig->counters().dropped == before.dropped);
  CHECK(rig->counters().mended == before.mended);
}

TEST_CASE("kinds of passes keep paths of their own") {
  Rig rig{4, 2};
  for (int i = 0; i < 2; ++i) {
    rig.pass({0, 1, 2}, 1, training);
    rig.pass({9, 8}, 1, evaluation);
  }
  check(rig->counters(), 5, 5, 0, 0);
  CHECK((*rig).pass() == evaluation);
}

TEST_CASE("a gather and a gradient of one number are not the same use") {
  Rig rig{4, 2};
  rig.pass({0});
  for (int i = 0; i < 3; ++i) {
    rig.begin();
    rig.release(rig.gradient(0));
    rig.end();
  }
  CHECK(rig->counters().mended == 1);  // the pass of gradients is learned once
  check(rig->counters(), 0, 1, 1, 1);
}

TEST_CASE("prefetches give way to what is needed now, the farthest first") {
  Rig rig{4, 4};
  rig.pass({0, 1, 2, 3});
  rig.fetched();
  rig.begin();
  CHECK(rig.fetched() == Keys{0, 1, 2, 3});
  const auto other = rig.gather(9, 2);
  REQUIRE(other);
  CHECK(rig->counters().dropped == 2);  // 3 and 2
  CHECK(tickets(other->ready) == Tickets{rig.log_size()});
  CHECK(rig.last().after == Tickets{rig.log_size() - 2, rig.log_size() - 1});  // it waits for what was given up
  rig.fetched();
  rig.release(rig.gather(0));
  rig.release(rig.gather(1));
  CHECK(rig->counters().hits == 2);
  rig.release(other);
  rig.end();
}

TEST_CASE("what cannot fit beside the buffers in use is refused, and nothing is lost") {
  Rig rig{4, 2};
  rig.begin();
  const auto a = rig.gather(0, 2);
  CHECK(rig->largest_free() == 2 * unit);
  CHECK_FALSE(rig.gather(1, 3));
  CHECK_FALSE(rig.gradient(1, 3));
  rig.release(a);
  const auto b = rig.gather(1, 3);
  REQUIRE(b);
  rig.release(b);
  rig.end();
  check(rig->counters(), 0, 2, 0, 0);
  CHECK(rig->capacity() == 4 * unit);
}

TEST_CASE("the end of a pass gives up what was posted; the next one posts it again") {
  Rig rig{4, 3};
  rig.pass({0, 1, 2});
  rig.fetched();
  rig.begin();
  CHECK(rig.pending() == 3);
  CHECK(rig->pass_is_empty());
  rig.end();
  CHECK(rig.pending() == 0);
  CHECK(rig->counters().dropped == 3);
  rig.begin();
  CHECK(rig.fetched() == Keys{0, 1, 2, 0, 1, 2});
  CHECK(rig.last().after.size() == 1);  // the dropped gather of the same range is still under way
}

TEST_CASE("what is needed again soonest stays in memory, and is not gathered again") {
  Rig rig{6, 3};  // one in use, three for the look-ahead, two to stay
  const Keys there_and_back{0, 1, 2, 3, 4, 4, 3, 2, 1, 0};
  rig.pass(there_and_back);
  rig.fetched();
  const auto before = rig->counters();
  const std::vector<std::size_t> offsets = rig.pass(there_and_back);
  CHECK(rig.fetched() == Keys{0, 1, 2, 3, 4, 1, 0});  // 4, 3 and 2 were there
  CHECK(rig->counters().kept == before.kept + 3);
  CHECK(rig->counters().hits == before.hits + 7);
  CHECK(rig->counters().dropped == before.dropped);
  for (const std::size_t key : {2U, 3U, 4U}) CHECK(offsets[key] == offsets[9 - key]);
  CHECK(rig.pass(there_and_back) == offsets);
}

TEST_CASE("with memory for everything each parameter is gathered once a pass") {
  Rig rig{16, 2};
  const Keys twice{0, 1, 2, 3, 0, 1, 2, 3};
  rig.pass(twice);
  rig.fetched();
  rig.pass(twice);
  CHECK(rig.fetched() == Keys{0, 1, 2, 3});
  CHECK(rig.pending() == 0);  // the end of a pass gives everything up: parameters change
}

TEST_CASE("the next use of what has stayed waits for its last one, and so does whoever gets its range") {
  Rig rig{4, 1};
  const Keys twice{0, 0};
  rig.pass(twice);
  Promise matmul{"matmul", 1000};
  rig.begin();
  const auto first = rig.gather(0);
  rig.release(first, {matmul.completion()});
  const auto again = rig.gather(0);
  CHECK(again->data == first->data);
  CHECK(tickets(again->ready) == Tickets{1000});
  rig.release(again, {matmul.completion()});
  rig.end();
  const auto gradient = rig.gradient(9, 4);
  REQUIRE(gradient);
  CHECK(tickets(gradient->ready).contains(1000));
}

TEST_CASE("what has stayed gives way to what is needed now") {
  Rig rig{6, 1};
  rig.pass({0, 1, 2, 2, 1, 0});
  rig.fetched();
  rig.begin();
  for (const std::uint32_t key : {0U, 1U, 2U}) rig.release(rig.gather(key));
  CHECK(rig.fetched() == Keys{0, 1, 2});
  const auto large = rig.gather(50, 6);  // no path has predicted it
  REQUIRE(large);
  CHECK(rig.pending() == 0);
  rig.release(large);
  for (const std::uint32_t key : {2U, 1U, 0U}) rig.release(rig.gather(key));
  rig.end();
  CHECK(rig->counters().mended == 1);
}

TEST_CASE("an empty pass is no path") {
  Rig rig{4, 2};
  rig.pass({0, 1});
  rig.begin();
  rig.end();
  rig.fetched();
  rig.begin();
  CHECK(rig.fetched() == Keys{0, 1});
}

TEST_CASE("a buffer outside of passes drops what was posted, and is no part of the path") {
  Rig rig{4, 4};
  rig.pass({0, 1, 2, 3});
  rig.begin();
  const auto buffer = rig->acquire_untraced(4 * unit - 1);
  REQUIRE(buffer);
  CHECK(rig->counters().dropped == 4);
  CHECK(tickets(buffer->ready) == Tickets{5, 6, 7, 8});
  CHECK_FALSE(rig->acquire_untraced(1));
  CHECK_FALSE(rig.gather(0));
  Promise write{"write", 1000};
  rig->release_untraced(*buffer, {write.completion()});
  CHECK(rig->pass_is_empty());
  rig.release(rig.gather(0));
  CHECK(rig.last().after == Tickets{1000});
  for (const std::uint32_t key : {1U, 2U, 3U}) rig.release(rig.gather(key));
  rig.end();
  rig.fetched();
  rig.begin();
  CHECK(rig.fetched() == Keys{0, 1, 2, 3});  // still the path
}

TEST_CASE("in a pass with a buffer outside of it, leases go around it") {
  Rig rig{4, 4};
  rig.pass({0, 1, 2});
  rig.begin();
  const auto a = rig.gather(0);
  const auto buffer = rig->acquire_untraced(unit);
  REQUIRE(buffer);
  const auto b = rig.gather(1);
  REQUIRE(b);
  CHECK(std::set<std::byte*>{a->data, b->data, buffer->data}.size() == 3);
  rig.release(a);
  rig.release(b);
  rig->release_untraced(*buffer, {});
  rig.end();
  CHECK(rig->counters().mended == 1);
}

/// An event of a random program: a lease is taken, or the lease that was taken `use`-th ends.
struct Step {
  bool is_acquisition;
  std::uint32_t key;
  UseKind kind;
  std::size_t units;
  std::size_t use;
};
using Program = std::vector<Step>;

/// Programs over a few keys, whose leases fit into memory as far as bytes tell.
class ProgramWriter {
 public:
  ProgramWriter(std::mt19937& random, std::size_t units) : random_{random}, units_{units} {
    for (std::size_t& size : sizes_) size = 1 + random_() % std::max<std::size_t>(1, units / 2);
  }

  /// A program of at least `events` events that begins as `prefix` does.
  Program write(std::size_t events, const Program& prefix = {}) {
    program_.clear();
    live_.clear();
    uses_.clear();
    for (const Step& step : prefix) add(step);
    while (program_.size() < events) {
      const std::size_t k = random_() % std::size(sizes_);
      if (live_units() + sizes_[k] <= units_ && random_() % 2 == 0) {
        const UseKind kind = k == 0 ? UseKind::gradient : UseKind::gathered;
        add({true, static_cast<std::uint32_t>(k), kind, sizes_[k], 0});
      } else if (!live_.empty()) {
        release_any();
      }
    }
    while (!live_.empty()) release_any();
    return program_;
  }

 private:
  std::size_t live_units() const {
    std::size_t sum = 0;
    for (const std::size_t use : live_) sum += uses_[use];
    return sum;
  }
  void release_any() { add({false, 0, UseKind::gathered, 0, live_[random_() % live_.size()]}); }
  void add(const Step& step) {
    program_.push_back(step);
    if (step.is_acquisition) {
      live_.push_back(uses_.size());
      uses_.push_back(step.units);
    } else {
      std::erase(live_, step.use);
    }
  }

  std::mt19937& random_;
  std::size_t units_;
  std::size_t sizes_[6]{};
  Program program_;
  std::vector<std::size_t> live_;
  std::vector<std::size_t> uses_;
};

/// Runs a program as a pass; buffers in use must not meet. Releases everything at a refusal.
/// @return The addresses, in units; nothing if a lease was refused.
std::optional<std::vector<std::size_t>> run(Rig& rig, const Program& program, std::size_t look_ahead) {
  rig.begin();
  std::vector<std::optional<OverlapPipeline::Buffer>> buffers;
  std::vector<std::size_t> offsets;
  std::map<std::size_t, std::size_t> live;  // offset -> units
  std::set<std::size_t> held;
  bool fits = true;
  for (const Step& step : program) {
    if (step.is_acquisition) {
      auto buffer =
          step.kind == UseKind::gathered ? rig.gather(step.key, step.units) : rig.gradient(step.key, step.units);
      fits = buffer.has_value();
      if (!fits) break;
      const std::size_t offset = rig.offset(buffer->data);
      const auto next = live.lower_bound(offset);
      if (next != live.end()) REQUIRE(offset + step.units <= next->first);
      if (next != live.begin()) REQUIRE(std::prev(next)->first + std::prev(next)->second <= offset);
      live.emplace(offset, step.units);
      offsets.push_back(offset);
      held.insert(buffers.size());
      buffers.push_back(std::move(buffer));
    } else {
      live.erase(offsets[step.use]);
      held.erase(step.use);
      rig.release(buffers[step.use]);
    }
    REQUIRE(rig->posted_bytes() <= look_ahead * unit);
  }
  for (const std::size_t use : held) rig.release(buffers[use]);
  rig.end();
  REQUIRE(rig.pending() + rig.live() == 0);
  return fits ? std::optional{offsets} : std::nullopt;
}

TEST_CASE("at random, in tight memory: a path that was recorded never fails, and keeps its addresses") {
  std::uint64_t hits = 0;
  std::uint64_t kept = 0;
  std::size_t recorded = 0;
  for (std::uint32_t seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::size_t units = 6 + random() % 20;
    const std::size_t look_ahead = random() % (units + 1);
    const Program program = ProgramWriter{random, units}.write(10 + random() % 40);
    Rig rig{units, look_ahead};
    const auto first = run(rig, program, look_ahead);
    if (!first) continue;
    ++recorded;
    const auto second = run(rig, program, look_ahead);
    REQUIRE(second);
    for (int pass = 0; pass < 3; ++pass) REQUIRE(run(rig, program, look_ahead) == second);
    REQUIRE(rig->counters().mended == 0);
    REQUIRE(rig->counters().dropped == 0);
    hits += rig->counters().hits;
    kept += rig->counters().kept;
  }
  CHECK(recorded > 100);
  CHECK(hits > 1000);
  CHECK(kept > 500);
}

TEST_CASE("at random, in tight memory: a path that was recorded never fails among others that begin alike") {
  std::size_t again = 0;
  std::size_t refused = 0;
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::size_t units = 6 + random() % 20;
    const std::size_t look_ahead = random() % (units + 1);
    ProgramWriter writer{random, units};
    std::vector<Program> programs;
    for (int i = 0; i < 4; ++i) {
      Program prefix;
      if (!programs.empty()) {
        const Program& other = programs[random() % programs.size()];
        prefix.assign(other.begin(), other.begin() + static_cast<std::ptrdiff_t>(random() % other.size()));
      }
      programs.push_back(writer.write(10 + random() % 20, prefix));
    }
    Rig rig{units, look_ahead};
    std::set<std::size_t> recorded;
    for (int pass = 0; pass < 16; ++pass) {
      const std::size_t chosen = random() % programs.size();
      const bool fits = run(rig, programs[chosen], look_ahead).has_value();
      if (recorded.contains(chosen)) {
        REQUIRE(fits);
        ++again;
      } else if (fits) {
        recorded.insert(chosen);
      } else {
        ++refused;
      }
    }
  }
  CHECK(again > 1000);
  CHECK(refused > 100);  // memory was tight
}

TEST_CASE("a pass turns to a known path that began alike, and its prefetches go on") {
  Rig rig{4, 2};
  const Keys left{0, 1, 2, 3, 4};
  const Keys right{0, 1, 7, 8, 9};
  for (const Keys* keys : {&left, &right, &left, &right}) rig.pass(*keys);
  const auto before = rig->counters();
  rig.fetched();
  rig.pass(right);  // after right has come left so far
  CHECK(rig->counters().mended == before.mended + 1);
  CHECK(rig->counters().hits == before.hits + 4);
  CHECK(rig->counters().misses == before.misses + 1);  // 7: where the paths part
  const Keys fetched = rig.fetched();
  CHECK(Keys(fetched.end() - 3, fetched.end()) == Keys{7, 8, 9});
}

TEST_CASE("after a buffer outside of passes, a pass that has not begun begins anew") {
  Rig rig{4, 2};
  rig.pass({0, 1, 2});
  rig.begin();
  const auto first = rig->acquire_untraced(unit);
  const auto second = rig->acquire_untraced(unit);
  rig.fetched();
  rig->release_untraced(*first, {});
  CHECK(rig.fetched().empty());
  rig->release_untraced(*second, {});
  CHECK(rig.fetched() == Keys{0, 1});
  const auto before = rig->counters();
  for (const std::uint32_t key : {0U, 1U, 2U}) rig.release(rig.gather(key));
  rig.end();
  CHECK(rig->counters().hits == before.hits + 3);
  CHECK(rig->counters().misses == before.misses);
}

TEST_CASE("a path is planned once; new ones at once as long as few wait to be taken again") {
  Rig rig{4, 2};
  rig.pass({0, 1, 2});
  CHECK(rig->counters().plans == 1);
  rig.pass({0, 1, 2});
  rig.pass({0, 1, 2});
  CHECK(rig->counters().plans == 1);
  rig.pass({5, 6, 7});
  rig.pass({7, 6, 5});
  CHECK(rig->counters().plans == 3);
  rig.pass({6, 5, 7});  // two trials wait
  CHECK(rig->counters().plans == 3);
  rig.pass({6, 5, 7});
  CHECK(rig->counters().plans == 4);  // it has come again
  rig.pass({5, 6, 7});                // so has this one, and planning was worth its while
  rig.pass({7, 5, 6});
  CHECK(rig->counters().plans == 5);
  rig.pass({9}, 1, evaluation);  // kinds of passes have trials of their own
  CHECK(rig->counters().plans == 6);
}

TEST_CASE("where every pass takes another path, planning ends") {
  std::mt19937 random{3};
  Rig rig{8, 4};
  Keys keys(100);
  for (std::uint32_t k = 0; k < keys.size(); ++k) keys[k] = k;
  for (int pass = 0; pass < 50; ++pass) {
    std::ranges::shuffle(keys, random);
    rig.pass(keys);
  }
  CHECK(rig->counters().plans == 2);
  for (int pass = 0; pass < 2; ++pass) rig.pass(keys);  // from now on it is always the same
  const auto before = rig->counters();
  CHECK(before.plans == 3);
  rig.pass(keys);
  CHECK(rig->counters().hits == before.hits + keys.size());
}

TEST_CASE("until it is planned, a path is repeated as it was recorded, with the prefetches that came in time") {
  Rig rig{8, 2};
  const Keys usual{0, 1, 2, 3, 4, 5, 6, 7};
  for (const Keys& keys : {usual, {9}, usual, {9}, usual, {10}, {11}, {9}}) rig.pass(keys);
  // Two trials wait, of 10 and 11; after 9 has come the usual path.
  const PipelineCounters before = rig->counters();
  const auto recorded = rig.pass({0, 1, 2, 5, 6, 7});
  const PipelineCounters between = rig->counters();
  CHECK(between.plans == before.plans);
  CHECK(between.hits == before.hits + 5);
  CHECK(between.misses == before.misses + 1);  // 5, in place of 3
  rig.pass({9});
  const PipelineCounters then = rig->counters();
  CHECK(rig.pass({0, 1, 2, 5, 6, 7}) == recorded);
  const PipelineCounters after = rig->counters();
  CHECK(after.plans == then.plans + 1);
  CHECK(after.hits == then.hits + 5);
  CHECK(after.misses == then.misses + 1);
  CHECK(after.mended == then.mended);
  CHECK(after.dropped == then.dropped);
  rig.pass({9});
  rig.pass({0, 1, 2, 5, 6, 7});
  CHECK(rig->counters().hits == after.hits + 7);
}

TEST_CASE("long passes are learned like short ones") {
  constexpr std::uint32_t length = 20'000;
  Rig rig{6, 3};
  Keys keys(length);
  for (std::uint32_t k = 0; k < length; ++k) keys[k] = k;
  rig.pass(keys);
  rig.pass(keys);
  check(rig->counters(), length, length, 0, 0);
}

constexpr auto at_once = OverlapPipeline::Start::at_once;
constexpr auto at_first_lease = OverlapPipeline::Start::at_first_lease;

TEST_CASE("a pass that is announced and stays empty costs nothing") {
  Rig rig{6, 3};
  rig.pass({0, 1, 2});
  rig.pass({5, 6}, 1, evaluation);
  rig.begin(training);
  CHECK(rig.fetched() == Keys{0, 1, 2, 5, 6, 0, 1, 2});
  rig->turn_to(evaluation, at_first_lease);
  CHECK((*rig).pass() == evaluation);
  rig->turn_to(training, at_once);
  CHECK(rig.fetched().empty());
  CHECK(rig->counters().dropped == 0);
  for (const std::uint32_t key : {0U, 1U, 2U}) rig.release(rig.gather(key));
  CHECK(rig.fetched().empty());
  CHECK(rig->counters().hits == 3);
  rig->turn_to(evaluation, at_first_lease);  // nothing is posted behind a pass that was not empty either
  rig->turn_to(training, at_first_lease);
  CHECK(rig.pending() == 0);
  CHECK(rig->counters().dropped == 0);
  CHECK(rig->counters().mended == 0);
}

TEST_CASE("a pass that begins at its first lease prefetches from there on") {
  Rig rig{6, 3};
  rig.pass({5, 6, 7, 8}, 1, evaluation);
  rig.begin(training);
  rig.fetched();
  rig->turn_to(evaluation, at_first_lease);
  CHECK(rig.fetched().empty());
  const auto first = rig.gather(5);
  CHECK(rig.fetched() == Keys{5, 6, 7, 8});
  rig.release(first);
  for (const std::uint32_t key : {6U, 7U, 8U}) rig.release(rig.gather(key));
  check(rig->counters(), 3, 5, 0, 0);
}

TEST_CASE("what was posted for an empty pass serves the one that is announced instead, as far as both begin alike") {
  Rig rig{8, 3};
  rig.pass({0, 1, 2, 3}, 1, training);
  rig.pass({0, 1, 9}, 1, evaluation);
  rig.begin(training);
  rig.fetched();
  rig->turn_to(evaluation, at_first_lease);
  const auto before = rig->counters();
  for (const std::uint32_t key : {0U, 1U, 9U}) rig.release(rig.gather(key));
  CHECK(rig.fetched() == Keys{9});
  CHECK(rig->counters().hits == before.hits + 3);
  CHECK(rig->counters().dropped == before.dropped + 1);  // 2
  rig.end();
}

TEST_CASE("a buffer outside of passes in a pass that has not begun") {
  Rig rig{6, 3};
  rig.pass({5, 6, 7}, 1, evaluation);
  rig.fetched();
  rig->turn_to(evaluation, at_first_lease);
  const auto outside = rig->acquire_untraced(unit);
  REQUIRE(outside);
  rig->release_untraced(*outside, {});
  CHECK(rig.fetched().empty());
  for (const std::uint32_t key : {5U, 6U, 7U}) rig.release(rig.gather(key));
  CHECK(rig->counters().hits == 2);
  rig.end();
}

TEST_CASE("addresses and postings depend on the order of the calls alone, not on when gathers end") {
  std::mt19937 random{5};
  const Program program = ProgramWriter{random, 16}.write(40);
  Rig slow{16, 8};
  Rig quick{16, 8};
  for (int pass = 0; pass < 4; ++pass) {
    const auto offsets = run(slow, program, 8);
    for (std::size_t ticket = 1; ticket <= quick.log_size(); ++ticket) quick.end_fetch(ticket);
    CHECK(run(quick, program, 8) == offsets);
    CHECK(slow.fetched() == quick.fetched());
  }
}

}  // namespace
