#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/timeline.hpp>
#include <zerospan/core/units.hpp>

namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;
using zerospan::Rank;
using zerospan::Span;
using zerospan::Timeline;
using Time = Timeline::Clock::time_point;

/// In the order in which they were recorded, the spans of each track follow one another.
void check_tracks(const std::vector<Span>& spans) {
  std::map<std::pair<int, std::string_view>, std::int64_t> last_end;
  for (const Span& span : spans) {
    std::int64_t& last = last_end[{span.rank.value, span.track}];
    REQUIRE(span.begin >= last);
    REQUIRE(span.end >= span.begin);
    last = span.end;
  }
}

TEST_CASE("a span tells what was recorded, in nanoseconds since the timeline was made") {
  const Time before = Timeline::Clock::now();
  Timeline timeline;
  const Time after = Timeline::Clock::now();
  const Time begin = after + microseconds{10};
  timeline.record(Rank{3}, "read (nc)", "read", std::string{"blocks.0"} + ".mlp", 4096, begin, begin + nanoseconds{25});
  const auto spans = timeline.spans();
  REQUIRE(spans.size() == 1);
  CHECK(spans[0].rank == Rank{3});
  CHECK(spans[0].track == "read (nc)");
  CHECK(spans[0].kind == "read");
  CHECK(spans[0].name == "blocks.0.mlp");
  CHECK(spans[0].bytes == 4096);
  CHECK(spans[0].end - spans[0].begin == 25);
  CHECK(spans[0].begin >= 10'000);
  CHECK(nanoseconds{spans[0].begin} <= begin - before);
}

TEST_CASE("what was queued behind another begins when that one ends") {
  Timeline timeline;
  const Time origin = Timeline::Clock::now() + microseconds{1};
  const auto record = [&](int rank, std::string_view track, int begin, int end) {
    timeline.record(Rank{rank}, track, "read", "x", 1, origin + nanoseconds{begin}, origin + nanoseconds{end});
  };
  record(0, "a", 100, 200);
  record(0, "a", 150, 300);  // queued behind the first
  record(0, "a", 120, 250);  // ended before the last one that was recorded: nothing is left of it
  record(0, "a", 400, 500);
  record(0, "b", 150, 300);  // another track
  record(1, "a", 150, 300);  // another rank
  const auto spans = timeline.spans();
  REQUIRE(spans.size() == 6);
  const std::int64_t zero = spans[0].begin - 100;
  const auto at = [&](std::size_t i) { return std::pair{spans[i].begin - zero, spans[i].end - zero}; };
  using Pair = std::pair<std::int64_t, std::int64_t>;
  CHECK(at(0) == Pair{100, 200});
  CHECK(at(1) == Pair{200, 300});
  CHECK(at(2) == Pair{300, 300});
  CHECK(at(3) == Pair{400, 500});
  CHECK(at(4) == Pair{150, 300});
  CHECK(at(5) == Pair{150, 300});
}

TEST_CASE("what began before the timeline was made begins with it") {
  const Time early = Timeline::Clock::now() - microseconds{5};
  Timeline timeline;
  timeline.record(Rank{0}, "host", "compute", "host", 0, early, early + nanoseconds{1});
  timeline.record(Rank{0}, "host", "compute", "host", 0, early, Timeline::Clock::now() + microseconds{1});
  const auto spans = timeline.spans();
  REQUIRE(spans.size() == 2);
  CHECK(spans[0].begin == 0);
  CHECK(spans[0].end == 0);
  CHECK(spans[1].begin == 0);
  CHECK(spans[1].end > 0);
}

TEST_CASE("spans of one track never overlap, whatever is recorded") {
  constexpr std::string_view tracks[]{"read", "write", "host"};
  Timeline timeline;
  const Time origin = Timeline::Clock::now();
  std::mt19937 random{7};
  for (int i = 0; i < 5000; ++i) {
    const Time begin = origin + nanoseconds{static_cast<int>(random() % 100'000)} - nanoseconds{1000};
    timeline.record(Rank{static_cast<int>(random() % 3)}, tracks[random() % 3], "kind", "name", 1, begin,
                    begin + nanoseconds{static_cast<int>(random() % 3000)});
  }
  CHECK(timeline.spans().size() == 5000);
  check_tracks(timeline.spans());
}

TEST_CASE("ranks record at once") {
  constexpr int ranks = 4;
  constexpr std::size_t count = 500;
  Timeline timeline;
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 2 * ranks; ++thread) {  // two threads share each rank's track
      threads.emplace_back([&timeline, thread] {
        for (std::size_t i = 0; i < count; ++i) {
          const Time begin = Timeline::Clock::now();
          timeline.record(Rank{thread / 2}, "update", "update", std::to_string(thread) + "." + std::to_string(i), i,
                          begin, Timeline::Clock::now());
          if (i % 100 == 0) check_tracks(timeline.spans());
        }
      });
    }
  }
  const auto spans = timeline.spans();
  CHECK(spans.size() == 2 * ranks * count);
  check_tracks(spans);
  std::map<std::string, std::size_t> bytes;
  for (const Span& span : spans) bytes.emplace(span.name, span.bytes);
  REQUIRE(bytes.size() == 2 * ranks * count);  // none is lost or recorded twice
  CHECK(bytes.at("7.499") == 499);
}

}  // namespace
