// The table of ratios and the pictures that bench/run.sh makes, and the files that they are made of.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/wait.h>

#include <zerospan/core/error.hpp>

#include "../bench/report/error.hpp"
#include "../bench/report/json_files.hpp"
#include "../bench/report/losses.hpp"
#include "../bench/report/ratio_chart.hpp"
#include "../bench/report/table.hpp"
#include "drawing/error.hpp"
#include "drawing/svg.hpp"
#include "drawing/timeline.hpp"
#include "support/scratch.hpp"

namespace {

using bench::Goal;
using bench::LossCurve;
using bench::Measurement;
using bench::ReportError;
using bench::Row;
using drawing::DrawingError;
using drawing::TracedLane;

Measurement measured(const std::string& name, double ours, double baseline) {
  return {name, "bytes_per_second", ours, baseline};
}

Goal at_least(const std::string& name, double goal) { return {name, goal, 1.0, false, "a test"}; }

bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

std::size_t count(const std::string& text, std::string_view part) {
  std::size_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

std::string write(const zerospan_test::ScratchDirectory& scratch, const std::string& name, const std::string& text) {
  const std::string path = scratch.path() + "/" + name;
  bench::write_file(path, text);
  return path;
}

std::string content(const std::string& path) {
  std::ifstream file{path};
  return {std::istreambuf_iterator<char>{file}, {}};
}

/// What `read` throws of the file's text names the file and says `words`.
template <class Error, class Read>
void check_refused(const std::string& text, const std::string& words, Read read) {
  const zerospan_test::ScratchDirectory scratch;
  const std::string path = write(scratch, "file", text);
  CAPTURE(text);
  try {
    read(path);
    FAIL("was not refused");
  } catch (const Error& error) {
    CHECK_MESSAGE(has(error.what(), words), error.what());
  }
}

/// A trace of steps of 10 ms: the host computes for 6 ms, then waits for the norm and for more; the disk is read
/// meanwhile, and states are updated in two pieces.
/// @param updates When the first is, after the beginning of the step.
std::vector<TracedLane> lanes(int steps, double updates = 7) {
  std::vector<TracedLane> all{{"host", {}}, {"read (nc)", {}}, {"communicate (gg)", {}}, {"update", {}}};
  const auto add = [&](std::size_t lane, const std::string& kind, const std::string& of, double begin, double end) {
    all[lane].spans.push_back({kind, kind + " " + of, begin, end});
  };
  for (int i = 0; i < steps; ++i) {
    const double begin = 10.0 * i;
    add(0, "compute", "host", begin, begin + 1);
    add(0, "compute", "host", begin + 1, begin + 6);
    add(0, "wait", "the gradient norm", begin + 6, begin + 6.5);
    add(0, "wait", "step", begin + 6.5, begin + 9.5);
    add(1, "read", "head", begin + 1, begin + 3);
    add(2, "all-reduce", "the gradient norm", begin + 6.5, begin + 6.7);
    add(3, "accumulate", "head", begin + 5, begin + 5.5);
    add(3, "update", "sub-group 0", begin + updates, begin + updates + 0.5);
    add(3, "update", "sub-group 1", begin + updates + 1, begin + updates + 1.5);
  }
  return all;
}

LossCurve curve(const std::string& name, const std::vector<double>& losses) {
  LossCurve made{name, {}};
  for (const double loss : losses) made.losses.push_back({static_cast<std::int64_t>(made.losses.size()) + 1, loss});
  return made;
}

/// How much a colour stands out from another: "relative luminance" and "contrast ratio" of WCAG 2.
double contrast(std::string_view one, std::string_view other) {
  const auto luminance = [](std::string_view colour) {
    constexpr std::array weights{0.2126, 0.7152, 0.0722};
    double sum = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double part = std::stoi(std::string{colour.substr(1 + 2 * i, 2)}, nullptr, 16) / 255.0;
      sum += weights[i] * (part <= 0.04045 ? part / 12.92 : std::pow((part + 0.055) / 1.055, 2.4));
    }
    return sum + 0.05;
  };
  const double ratio = luminance(one) / luminance(other);
  return ratio > 1 ? ratio : 1 / ratio;
}

}  // namespace

TEST_CASE("a row meets its goal or misses it, and is told in a word") {
  const auto table = bench::make_table({measured("over", 98, 100), measured("under", 96, 100), measured("at", 97, 100)},
                                       {at_least("over", 0.97), at_least("under", 0.97), at_least("at", 0.97)}, {});
  REQUIRE(table.rows.size() == 3);
  CHECK(table.rows[0].ratio == 0.98);
  CHECK(table.rows[0].is_met());
  CHECK(!table.rows[1].is_met());
  CHECK(table.rows[2].is_met());
  CHECK(bench::marks(table.rows[0]).empty());
  CHECK(bench::marks(table.rows[1]) == "MISSED");
  CHECK(bench::complaints(table).empty());
  CHECK(has(bench::in_text(table.rows),
            "3 rows: 1 MISSED their goal, 0 are UNSURE, within their noise of it; 0 of 0 compared"));
  CHECK(count(bench::in_text(table.rows), "at least 0.97") == 3);
}

TEST_CASE("a goal may be an upper bound") {
  const Goal goal{"cost", 1.05, 1.0, true, "a test"};
  const auto row = [&](double ours) {
    return bench::make_table({measured("cost", ours, 100)}, {goal}, {Row{"cost", 1.0, 1.05, 1.0, true}}).rows.at(0);
  };
  CHECK(row(104).is_met());
  CHECK(!row(106).is_met());
  CHECK(row(106).is_lost());  // more is worse
  CHECK(!row(50).is_lost());
  CHECK(has(bench::in_text({row(104)}), "at most 1.05"));
}

TEST_CASE("a goal that is missed within the noise of the measurement is told apart") {
  const auto row = [](double ours, std::optional<double> noise, bool at_most = false) {
    Measurement measurement = measured("a", ours, 100);
    measurement.noise = noise;
    return bench::make_table({measurement}, {Goal{"a", 1.0, 1.0, at_most, "a test"}}, {}).rows.at(0);
  };
  CHECK(row(98, 0.03).noise.value() == doctest::Approx(0.98 * 0.03));
  CHECK(bench::marks(row(98, 0.03)) == "UNSURE");
  CHECK(bench::marks(row(96, 0.03)) == "MISSED");
  CHECK(bench::marks(row(98, std::nullopt)) == "MISSED");
  CHECK(bench::marks(row(102, 0.03)).empty());
  CHECK(bench::marks(row(102, 0.03, true)) == "UNSURE");
  CHECK(bench::marks(row(105, 0.03, true)) == "MISSED");
  const std::string text = bench::in_text({row(98, 0.03), row(96, 0.03), row(98, std::nullopt)});
  CHECK(has(text, "3 rows: 2 MISSED their goal, 1 are UNSURE, within their noise of it; 0 of 0 compared"));
  CHECK(count(text, " 0.029 ") == 2);
}

TEST_CASE("what has no goal, and what was not measured, is named") {
  const auto table = bench::make_table({measured("new", 1, 1), measured("known", 1, 1)},
                                       {at_least("known", 1), at_least("gone", 1)}, {});
  REQUIRE(table.rows.size() == 1);
  CHECK(table.rows[0].name == "known");
  CHECK(bench::complaints(table) == "new: was measured, but has no goal\ngone: has a goal, but was not measured\n");
}

TEST_CASE("a loss of more than a twentieth since the table before is marked") {
  const auto row = [](double ours, const std::vector<Row>& before) {
    return bench::make_table({measured("a", ours, 100)}, {at_least("a", 0.9)}, before).rows.at(0);
  };
  const std::vector<Row> before{{"a", 1.0, 0.9, 1.0}, {"other", 1.0, 0.9, 1.0}};
  CHECK(bench::marks(row(94, before)) == "LOST");
  CHECK(bench::marks(row(80, before)) == "MISSED, LOST");
  CHECK(bench::marks(row(96, before)).empty());
  CHECK(bench::marks(row(200, before)).empty());
  CHECK(bench::marks(row(94, {})).empty());
  CHECK(!row(94, {{"other", 1.0, 0.9, 1.0}}).previous);
  const std::string text = bench::in_text({row(94, before)});
  CHECK(has(text, "-6.0%"));
  CHECK(has(text,
            "0 MISSED their goal, 0 are UNSURE, within their noise of it; 1 of 1 compared with the table before LOST "
            "more than 5%"));
}

TEST_CASE("figures that make no table are refused") {
  const double infinite = std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH_AS(bench::make_table({}, {at_least("a", 1)}, {}), "nothing was measured", ReportError);
  CHECK_THROWS_WITH_AS(bench::make_table({measured("a", 1, 1), measured("a", 2, 1)}, {at_least("a", 1)}, {}),
                       "a: has two measurements", ReportError);
  CHECK_THROWS_WITH_AS(bench::make_table({measured("a", 1, 1)}, {at_least("a", 1), at_least("a", 2)}, {}),
                       "a: has two goals", ReportError);
  CHECK_THROWS_WITH_AS(bench::make_table({measured("a", 1, 0)}, {at_least("a", 1)}, {}),
                       "a: its baseline's speed is 0, which is no positive number", ReportError);
  CHECK_THROWS_AS(bench::make_table({measured("a", infinite, 1)}, {at_least("a", 1)}, {}), ReportError);
  CHECK_THROWS_AS(bench::make_table({measured("a", 1, 1)}, {at_least("a", -1)}, {}), ReportError);
}

TEST_CASE("a table is read as it was written") {
  const zerospan_test::ScratchDirectory scratch;
  const std::string path = scratch.path() + "/table";
  const Row plain{"plain", 0.5, 0.9, 1.0, false, "bytes_per_second", 1, 2, std::nullopt};
  const Row bounded{"at most", 1.5, 2.0, 1.0, true, "runs_per_ms", 3, 2, 1.25, 0.125};
  bench::write_table(path, {plain, bounded});
  const auto rows = bench::read_table(path);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].name == "plain");
  CHECK(rows[0].ratio == 0.5);
  CHECK(rows[0].goal == 0.9);
  CHECK(rows[0].prediction == 1.0);
  CHECK(!rows[0].at_most);
  CHECK(!rows[0].previous);
  CHECK(!rows[0].noise);
  CHECK(rows[1].noise == 0.125);
  CHECK(rows[1].at_most);
  CHECK(rows[1].previous == 1.25);
  CHECK(count(content(path), "at_most") == 1);
}

TEST_CASE("goals and tables that are malformed are refused, with their place") {
  using zerospan::FormatError;
  const auto goals = [](const std::string& path) { bench::read_goals(path); };
  const auto table = [](const std::string& path) { bench::read_table(path); };
  check_refused<FormatError>("", "/file: is no JSON", goals);
  check_refused<FormatError>("[{", "/file: is no JSON", goals);
  check_refused<FormatError>("{}", "/file: is no list", goals);
  check_refused<FormatError>("[]", "/file: is an empty list", goals);
  check_refused<FormatError>(R"([{"name": "a", "goal": 1, "prediction": 1, "reason": ""}, {"name": "b"}])",
                             "/file, entry 2: is not what it should be", goals);
  check_refused<FormatError>(R"([{"name": "a", "goal": "1", "prediction": 1, "reason": ""}])", "entry 1", goals);
  check_refused<FormatError>(R"([{"name": "a", "goal": 1, "prediction": 1, "reason": "", "at_most": 1}])", "entry 1",
                             goals);
  check_refused<FormatError>(R"({"ratios": []})", "is no list", table);
  check_refused<FormatError>(R"([{"name": "a", "ratio": null, "goal": 1, "prediction": 1}])", "entry 1", table);
  check_refused<ReportError>(R"([{"name": "a", "ratio": 0, "goal": 1, "prediction": 1}])", "a: its ratio", table);
  CHECK_THROWS_AS(goals("/nowhere/goals.json"), zerospan::IoError);
  CHECK_THROWS_AS(bench::write_table("/nowhere/table.json", {}), zerospan::IoError);
}

TEST_CASE("a report of benchmarks gives the pairs, by names without settings") {
  const zerospan_test::ScratchDirectory scratch;
  const auto entry = [](const std::string& name, const std::string& rest) {
    return R"({"run_name": ")" + name + R"(", "aggregate_name": "median", "time_unit": "ms", )" + rest + "}";
  };
  const auto report = [](const std::string& entries) { return R"({"benchmarks": [)" + entries + "]}"; };
  const std::string path =
      write(scratch, "report",
            report(entry("load/once/iterations:2/real_time", R"("bytes_per_second": 3, "real_time": 7)") + "," +
                   entry("load_raw/once/iterations:2/real_time", R"("bytes_per_second": 4, "real_time": 7)") + "," +
                   entry("plan/repeats:3/manual_time", R"("real_time": 2)") + "," +
                   entry("plan_raw", R"("real_time": 1)") + "," + entry("alone/threads:1", R"("real_time": 1)") + "," +
                   R"({"run_name": "plan", "aggregate_name": "mean", "time_unit": "ms", "real_time": 9})"));
  const auto pairs = bench::read_report(path);
  REQUIRE(pairs.size() == 2);
  CHECK(pairs[0].name == "load/once");
  CHECK(pairs[0].ours == 3);
  CHECK(pairs[0].baseline == 4);
  CHECK(pairs[1].name == "plan");
  CHECK(pairs[1].unit == "runs_per_ms");
  CHECK(pairs[1].ours == 0.5);

  CHECK(!pairs[0].noise);

  // Deviations of 40 % and 30 % are, of medians of 4 values each, errors of 20 % and 15 % times 1.2533.
  const auto spread = [](const std::string& name, const std::string& rest) {
    return R"({"run_name": ")" + name + R"(", "aggregate_name": "cv", "repetitions": 4, "time_unit": "ms", )" + rest +
           "}";
  };
  const auto noisy =
      bench::read_report(write(scratch, "noisy",
                               report(entry("load", R"("bytes_per_second": 3, "real_time": 7)") + "," +
                                      spread("load", R"("bytes_per_second": 0.5, "real_time": 0.4)") + "," +
                                      entry("load_raw", R"("bytes_per_second": 4, "real_time": 7)") + "," +
                                      spread("load_raw", R"("bytes_per_second": 0.5, "real_time": 0.3)") + "," +
                                      entry("meet", R"("microseconds": 2, "real_time": 9)") + "," +
                                      spread("meet", R"("microseconds": 0.2, "real_time": 0.5)"))));
  REQUIRE(noisy.size() == 2);
  CHECK(noisy[0].noise.value() == doctest::Approx(1.2533 * 0.25));
  CHECK(noisy[1].noise.value() == doctest::Approx(1.2533 * 0.1));

  const auto latencies = bench::read_report(
      write(scratch, "latencies", report(entry("meet/barrier", R"("microseconds": 2.5, "real_time": 9)"))));
  REQUIRE(latencies.size() == 1);
  CHECK(latencies[0].name == "meet/barrier");
  CHECK(latencies[0].unit == "microseconds");
  CHECK(latencies[0].ours == 2.5);
  CHECK(latencies[0].baseline == 1);

  const auto read = [](const std::string& file) { bench::read_report(file); };
  check_refused<ReportError>(report(entry("a", R"("error_occurred": true, "error_message": "no disk")")),
                             "a failed: no disk", read);
  check_refused<ReportError>(
      report(entry("a", R"("bytes_per_second": 1)") + "," + entry("a_raw", R"("items_per_second": 1)")),
      "a and its baseline differ in their unit", read);
  check_refused<ReportError>(report(entry("a", R"("real_time": 1)") + "," + entry("a/real_time", R"("real_time": 1)")),
                             "a was measured twice", read);
  check_refused<zerospan::FormatError>("{}", "/file: is not what it should be", read);
}

TEST_CASE("measurements may stand in a list") {
  const zerospan_test::ScratchDirectory scratch;
  const std::string entry = R"({"name": "mpi/barrier", "unit": "calls_per_second", "ours": 1.5, "baseline": 3})";
  const auto list = bench::read_measurements(write(scratch, "list", "[" + entry + "]"));
  REQUIRE(list.size() == 1);
  CHECK(list[0].name == "mpi/barrier");
  CHECK(list[0].ours == 1.5);
  check_refused<zerospan::FormatError>("[" + entry + ", 1]", "entry 2",
                                       [](const std::string& path) { bench::read_measurements(path); });
}

TEST_CASE("metrics of a training give its rate and its losses") {
  const zerospan_test::ScratchDirectory scratch;
  const std::string path = write(scratch, "metrics",
                                 R"({"step": 1, "loss": 5.5, "tokens_per_second": 10}
{"step": 2, "loss": 4.5, "tokens_per_second": 30}
{"step": 3, "loss": 4.25, "tokens_per_second": 20}
{"step": 4, "loss": 4, "tokens_per_second": 25}
{"step": 5, "loss": 3.5, "tokens_per_second": 29}
{"parameter_hash": "0", "validation_loss": 4}
)");
  const std::string other = write(scratch, "other", "{\"step\": 3, \"tokens_per_second\": 50}\n");
  const auto trainings = bench::read_trainings("GPT", path, other);
  CHECK(trainings.name == "GPT");
  CHECK(trainings.unit == "tokens_per_second");
  CHECK(trainings.ours == 25);
  CHECK(trainings.baseline == 50);
  CHECK(!trainings.noise);  // one step tells none
  const auto equals = bench::read_trainings("GPT", path, path);
  const double deviation = std::sqrt((4.667 * 4.667 + 0.333 * 0.333 + 4.333 * 4.333) / 2) / 24.667;  // of 20, 25, 29
  CHECK(equals.noise.value() == doctest::Approx(std::sqrt(2) * 1.2533 * deviation / std::sqrt(3)).epsilon(1e-3));
  CHECK(bench::matrix_products(path).empty());
  CHECK(bench::matrix_products(write(scratch, "products",
                                     R"({"step": 1, "matrix_library": "OpenBLAS", "matrix_kernels": )"
                                     R"("Zen", "matrix_threads": 2, "matrix_gflops": 150.25})")) ==
        "OpenBLAS with its kernels for Zen, threads 2: 150.2 GFLOP/s");
  const auto read = bench::read_losses("stage 3", path);
  CHECK(read.name == "stage 3");
  CHECK(read.losses == std::vector<bench::Loss>{{1, 5.5}, {2, 4.5}, {3, 4.25}, {4, 4}, {5, 3.5}});

  const auto losses = [](const std::string& file) { bench::read_losses("a", file); };
  check_refused<zerospan::FormatError>("", "tells no losses", losses);
  check_refused<zerospan::FormatError>("{\"step\": 1, \"loss\": 1}\n{", "/file, line 2: is no JSON", losses);
  check_refused<zerospan::FormatError>(R"({"step": 1, "loss": null})", "/file, line 1", losses);
  check_refused<zerospan::FormatError>("{\"step\": 2, \"loss\": 1}\n{\"step\": 2, \"loss\": 1}\n", "has step 2 twice",
                                       losses);
  for (const char* const text : {"{}", "{\"step\": 2, \"tokens_per_second\": 1}"}) {
    check_refused<zerospan::FormatError>(text, "tells no tokens_per_second of a third step",
                                         [&](const std::string& file) { bench::read_trainings("GPT", file, path); });
  }
}

TEST_CASE("the lanes of a rank are read from a Chrome trace") {
  const zerospan_test::ScratchDirectory scratch;
  const std::string path = write(scratch, "trace", R"json({"traceEvents": [
{"ph": "X", "pid": 0, "tid": 1, "name": "read a", "cat": "read", "ts": 2000, "dur": 500},
{"ph": "X", "pid": 0, "tid": 0, "name": "compute host", "cat": "compute", "ts": 1000, "dur": 250},
{"ph": "X", "pid": 1, "tid": 0, "name": "compute host", "cat": "compute", "ts": 9000, "dur": 1},
{"ph": "M", "pid": 0, "name": "process_name", "args": {"name": "rank 0"}},
{"ph": "M", "pid": 0, "tid": 0, "name": "thread_name", "args": {"name": "host"}},
{"ph": "M", "pid": 0, "tid": 1, "name": "thread_name", "args": {"name": "read (nc)"}}
]})json");
  const auto read = bench::read_lanes(path, 0);
  REQUIRE(read.size() == 2);
  CHECK(read[0].name == "host");
  REQUIRE(read[0].spans.size() == 1);
  CHECK(read[0].spans[0].kind == "compute");
  CHECK(read[0].spans[0].name == "compute host");
  CHECK(read[0].spans[0].begin == 1);
  CHECK(read[0].spans[0].end == 1.25);
  CHECK(read[1].name == "read (nc)");
  CHECK_THROWS_AS(bench::read_lanes(path, 2), zerospan::FormatError);
  const auto lanes_of = [](const std::string& file) { bench::read_lanes(file, 0); };
  check_refused<zerospan::FormatError>(R"({"traceEvents": []})", "has nothing of rank 0", lanes_of);
  check_refused<zerospan::FormatError>(R"({"traceEvents": [{"ph": "X", "pid": 0, "tid": 1}]})", "is not what",
                                       lanes_of);
}

TEST_CASE("the step that is drawn is the last between two others") {
  const auto step = drawing::last_whole_step(lanes(3));
  CHECK(step.begin == 10);
  CHECK(step.end == 20);
  CHECK(drawing::last_whole_step(lanes(5)).begin == 30);
  CHECK(drawing::last_whole_step(lanes(5, 12)).begin == 30);  // updates are behind the next step's computation
  CHECK_THROWS_AS(drawing::last_whole_step(lanes(2)), DrawingError);
  CHECK_THROWS_WITH_AS(drawing::last_whole_step({{"update", {}}}), "the trace has no lane \"host\"", DrawingError);
}

TEST_CASE("the timeline shows each lane by its name, its spans, and how long it was busy") {
  const auto all = lanes(3);
  const std::string picture = drawing::draw_timeline(all, {10, 20}, "rank 0");
  CHECK(has(picture, ">One step of rank 0, lane by lane: 10 ms</text>"));
  for (const TracedLane& lane : all) CHECK(has(picture, ">" + lane.name + "</text>"));
  for (const char* busy : {"compute 60%", "wait 35%", "read 20%", "all-reduce 2%", "accumulate 5%", "update 10%"}) {
    CAPTURE(std::string{busy});
    CHECK(has(picture, ">" + std::string{busy} + "</text>"));
  }
  CHECK(has(picture, ">milliseconds</text>"));
  CHECK(count(picture, "<rect") == 7 + 6);  // two updates, one of each else, and six in the legend
  CHECK_THROWS_AS(drawing::draw_timeline(all, {10, 10}, "rank 0"), DrawingError);
  CHECK_THROWS_AS(drawing::draw_timeline(all, {100, 110}, "rank 0"), DrawingError);
  CHECK_THROWS_AS(drawing::draw_timeline({}, {0, 10}, "rank 0"), DrawingError);
}

TEST_CASE("spans between which no gap could be seen are one, of a kind and cut off at the ends of the step") {
  const std::vector<drawing::LaneSpan> spans{
      {"read", "", -1, 1}, {"write", "", 1, 2}, {"read", "", 2, 3}, {"read", "", 3.1, 12}};
  const auto shown = drawing::detail::visible(spans, "read", {0, 10}, 0.5);
  REQUIRE(shown.size() == 2);
  CHECK(shown[0].begin == 0);
  CHECK(shown[0].end == 1);
  CHECK(shown[1].begin == 2);
  CHECK(shown[1].end == 10);
}

TEST_CASE("a kind takes the time in which there is something of it, and all of its kinds are told beside a lane") {
  const std::vector<drawing::LaneSpan> spans{
      {"write", "", 5, 20}, {"read", "", 2, 6}, {"read", "", -1, 4}, {"read", "", 3, 4}, {"read", "", 30, 40}};
  const auto shares = drawing::detail::shares(spans, {0, 10});
  CHECK(shares.size() == 2);
  CHECK(shares.at("read") == doctest::Approx(0.6));
  CHECK(shares.at("write") == doctest::Approx(0.5));

  std::vector<TracedLane> few{{"critical path", {}}, {"host", {{"compute", "", 0, 10}}}};
  std::vector<TracedLane> many = few;
  for (const char* const kind : {"read", "compute"}) few[0].spans.push_back({kind, "", 0, 10});
  for (const char* const kind : {"read", "compute", "copy", "update", "write"}) {
    many[0].spans.push_back({kind, "", 0, 10});
  }
  const auto height = [](const std::vector<TracedLane>& drawn) {
    const std::string picture = drawing::draw_timeline(drawn, {0, 10}, "rank 0");
    return std::stoi(picture.substr(picture.find("height=\"") + 8));
  };
  CHECK(height(many) > height(few));
}

TEST_CASE("losses that are equal are said to be, and every curve is drawn in its own way") {
  const std::vector<LossCurve> equal{curve("a", {3, 2, 1}), curve("b", {3, 2, 1}), curve("c", {3, 2, 1})};
  CHECK(bench::compare_losses(equal) == "equal to the last bit");
  CHECK(bench::compare_losses({curve("a", {3, 2}), curve("b", {3, 2.5})}) == "up to 0.5 apart");
  CHECK(bench::compare_losses({curve("a", {3, 2}), curve("b", {3, 2, 1})}) == "of different steps");
  const std::string picture = bench::draw_losses(equal);
  CHECK(has(picture, ">The losses of 3 trainings: equal to the last bit</text>"));
  for (const char* width : {"14", "8.75", "3.5"}) {  // a curve, and its line in the legend
    CHECK(count(picture, "stroke-width=\"" + std::string{width} + "\"") == 2);
  }
  CHECK(count(picture, "stroke-dasharray") == 2);
  for (const char* name : {"a", "b", "c"}) CHECK(has(picture, ">" + std::string{name} + "</text>"));
  CHECK_NOTHROW(bench::draw_losses({curve("level", {1, 1}), curve("level too", {1, 1})}));
  CHECK_THROWS_AS(bench::draw_losses({}), ReportError);
  CHECK_THROWS_AS(bench::draw_losses({curve("alone", {2, 1})}), ReportError);
  CHECK_THROWS_WITH_AS(bench::draw_losses({curve("long", {2, 1}), curve("short", {2})}),
                       "short: fewer than two losses make no curve", ReportError);
}

TEST_CASE("the chart has a bar a row, with goal and prediction, and words where a goal is missed") {
  const Row met{"x/met", 1.0, 0.9, 1.0};
  Row missed{"x/missed", 0.5, 0.9, 1.0};
  missed.previous = 0.9;
  const Row beyond{"y/beyond", 3.0, 2.0, 2.5};
  const std::string picture = bench::draw_ratios({met, missed, beyond});
  CHECK(count(picture, "<rect") == 3 + 2);  // two in the legend
  const std::string around_goals = "stroke=\"" + std::string{drawing::colours::white} + "\"";
  CHECK(count(picture, "<circle") == 2 + 1);  // what is beyond the axis has no marks
  CHECK(count(picture, around_goals) == 2 + 1);
  CHECK(has(picture, ">1.00</text>"));
  CHECK(has(picture, ">at least 2.00</text>"));
  CHECK(count(picture, ">MISSED, LOST</text>") == 1);
  CHECK(count(picture, "MISSED") == 1);
  CHECK_THROWS_WITH_AS(bench::draw_ratios({}), "there are no ratios to draw", ReportError);
}

TEST_CASE("names are text in a drawing, whatever they are") {
  const std::string name = "a<b>&\"c'\x01";
  const std::string escaped = "a&lt;b&gt;&amp;&quot;c&apos;?";
  CHECK(drawing::escape(name) == escaped);
  std::vector<TracedLane> named = lanes(3);
  named[1].name = name;
  for (const std::string& picture :
       {bench::draw_ratios({Row{name, 1.0, 1.0, 1.0}}), bench::draw_losses({curve(name, {2, 1}), curve("b", {2, 1})}),
        drawing::draw_timeline(named, {10, 20}, "rank 0")}) {
    CHECK(has(picture, ">" + escaped + "</text>"));
    CHECK(!has(picture, "a<b"));
    CHECK(picture.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
    CHECK(picture.ends_with("</svg>\n"));
    CHECK(!has(picture, "<script"));
    CHECK(count(picture, "http") == 1);  // nothing is fetched
  }
}

TEST_CASE("nothing is drawn nowhere") {
  drawing::Svg svg{{10, 10}, "a test"};
  CHECK_THROWS_AS(svg.text({std::nan(""), 0}, "a"), DrawingError);
  CHECK_THROWS_AS(svg.line({{0, 0}, {std::numeric_limits<double>::infinity(), 0}}, {.colour = drawing::colours::text}),
                  DrawingError);
}

TEST_CASE("ticks are round numbers within the axis") {
  CHECK(drawing::ticks(0, 1.5, 3) == std::vector<double>{0, 0.5, 1, 1.5});
  CHECK(drawing::ticks(0, 390, 8) == std::vector<double>{0, 50, 100, 150, 200, 250, 300, 350});
  CHECK(drawing::ticks(-1, 1, 4) == std::vector<double>{-1, -0.5, 0, 0.5, 1});
}

TEST_CASE("every colour stands out from white and from GitHub's dark background") {
  for (const char* background : {"#ffffff", "#0d1117"}) {
    for (const std::string_view colour : drawing::colours::all) CHECK(contrast(colour, background) >= 3);
    CHECK(contrast(drawing::colours::text, background) >= 4.3);
  }
  CHECK(contrast("#ffffff", "#000000") == doctest::Approx(21));
}

#if defined(RATIOS)
namespace {

/// Runs a program of the benchmarks. @return its exit code; what it says is in the scratch directory's `told`.
int run(const zerospan_test::ScratchDirectory& scratch, const std::string& command) {
  const int status = std::system((command + " >" + scratch.path() + "/told 2>&1").c_str());
  REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

}  // namespace

TEST_CASE("the goals of the benchmarks are well formed") {
  const zerospan_test::ScratchDirectory scratch;
  CHECK(run(scratch, RATIOS " --goals " GOALS) == 0);
  std::vector<Measurement> as_predicted;
  const auto goals = bench::read_goals(GOALS);
  for (const Goal& goal : goals) {
    CHECK(!goal.reason.empty());
    as_predicted.push_back(measured(goal.name, goal.prediction, 1));
  }
  CHECK(bench::complaints(bench::make_table(as_predicted, goals, {})).empty());
}

TEST_CASE(
    "a missed goal does not fail the programs; a row without a goal, a goal without a row and malformed files do") {
  const zerospan_test::ScratchDirectory scratch;
  const auto measurement = [](const std::string& name) {
    return R"({"name": ")" + name + R"(", "unit": "bytes_per_second", "ours": 1, "baseline": 2})";
  };
  const std::string goals =
      write(scratch, "goals", R"([{"name": "a", "goal": 1, "prediction": 1, "reason": "a test"}])");
  const std::string one = write(scratch, "one", "[" + measurement("a") + "]");
  const std::string two = write(scratch, "two", "[" + measurement("a") + ", " + measurement("b") + "]");
  const std::string other = write(scratch, "other", "[" + measurement("b") + "]");
  const std::string malformed = write(scratch, "malformed", "[{}]");
  const std::string table = scratch.path() + "/table";
  const std::string told = scratch.path() + "/told";
  const auto ratios = [&](const std::string& measurements) {
    return run(scratch, RATIOS " --goals " + goals + " --output " + table + " " + measurements);
  };
  CHECK(ratios("--measurements " + one) == 0);
  CHECK(has(content(told), "MISSED"));
  CHECK(bench::read_table(table).size() == 1);
  CHECK(run(scratch, PICTURES " ratios " + table + " --output " + scratch.path() + "/svg") == 0);
  CHECK(content(scratch.path() + "/svg") == bench::draw_ratios(bench::read_table(table)));
  CHECK(ratios("--measurements " + two) == 1);
  CHECK(has(content(told), "b: was measured, but has no goal"));
  CHECK(ratios("--measurements " + other) == 1);
  CHECK(has(content(told), "a: has a goal, but was not measured"));
  CHECK(ratios("") == 1);
  CHECK(has(content(told), "nothing was measured"));
  CHECK(ratios("--measurements " + malformed) == 1);
  CHECK(ratios("--measurements " + one + " --previous " + malformed) == 1);
  CHECK(run(scratch, RATIOS " --goals " + malformed) == 1);
  CHECK(run(scratch, PICTURES " ratios " + malformed + " --output " + scratch.path() + "/svg") == 1);
  CHECK(run(scratch, PICTURES " timeline " + malformed + " --output " + scratch.path() + "/svg") == 1);
  CHECK(run(scratch, PICTURES " losses --training a " + malformed + " --output " + scratch.path() + "/svg") == 1);
}
#endif
