#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>
#include <zerospan/core/timeline.hpp>
#include <zerospan/kernels/gradient_operations.hpp>

#include "gpt/forecast/forecast.hpp"
#include "gpt/forecast/machine_time.hpp"
#include "gpt/forecast/prices.hpp"
#include "gpt/forecast/recorder.hpp"
#include "machine/library_work.hpp"
#include "machine/links.hpp"
#include "machine/rates.hpp"
#include "machine/rates_file.hpp"
#include "support/scratch.hpp"

namespace {

using doctest::Approx;
using gpt::forecast::Cost;
using gpt::forecast::foretell;
using gpt::forecast::MachineTime;
using gpt::forecast::Recorder;
using machine::Rates;
using machine::WorkKind;

constexpr double instant = 1e30;

/// Nothing takes time, and nothing gets in the way of anything.
Rates instant_rates() {
  using zerospan::Addition;
  using zerospan::ElementType;
  Rates r;
  r.processor = "a processor";
  r.cores = 2;
  r.matrix_kernels = "none";
  r.disk = {.read = instant,
            .written = instant,
            .mixed_read = instant,
            .mixed_written = instant,
            .busy_read = instant,
            .busy_written = instant,
            .read_latency = 0,
            .write_latency = 0,
            .busy_read_latency = 0,
            .busy_write_latency = 0,
            .read_alone = {{{1, instant}}},
            .write_alone = {{{1, instant}}},
            .read_core_time = 0,
            .write_core_time = 0,
            .alignment = 4096};
  r.checked_disk = r.disk;
  const auto add = [&r](const std::string& name) { r.work[name] = {{{1, instant}}}; };
  for (const char* name :
       {"copy", "fill", "bias", "residual", "copy of activations", "clear", "sum of rows", "layer norm forward",
        "layer norm backward weight", "layer norm backward input", "gelu forward", "gelu backward", "embedding forward",
        "embedding backward", "cross entropy forward", "cross entropy backward"}) {
    add(name);
  }
  add(machine::sum_name(Addition::replace, ElementType::float32, ElementType::float32));
  add(machine::update_name("AdamW", ElementType::float32));
  for (const auto kind : {machine::ProductKind::forward, machine::ProductKind::input, machine::ProductKind::weight}) {
    r.products.push_back({{kind, 1, 1, 1}, instant});
  }
  r.attention.push_back({1, 1, 1 / instant, 1 / instant});
  const std::string types = machine::reduction_types(ElementType::float32, ElementType::float32);
  for (const std::string& name : {std::string{"all-gather"}, "reduce-scatter " + types, "all-reduce " + types}) {
    r.collectives[name].push_back({2, {{{1, instant}}}});
  }
  r.rendezvous[2] = 0;
  for (auto& row : r.slowdown) row.fill(1);
  return r;
}

gpt::Options small_training(int ranks) {
  gpt::Options o;
  o.ranks = ranks;
  o.model = {.layers = 3, .heads = 2, .width = 64, .context = 16};
  o.batch = 2;
  o.nvme_path = {"."};
  return o;
}

Recorder recorder_with_lanes() {
  Recorder recorder;
  recorder.add_lanes();
  return recorder;
}

constexpr std::size_t read_lane = 1;
constexpr std::size_t update_lane = 5;
constexpr std::size_t write_lane = 6;

TEST_CASE("work of two ranks shares one core, and has one each where there are two") {
  Rates rates = instant_rates();
  for (const int cores : {1, 2}) {
    rates.cores = cores;
    std::vector<Recorder> ranks(2);
    for (Recorder& rank : ranks) rank.compute(WorkKind::product, 3);
    MachineTime time{rates, rates.disk, ranks};
    time.run();
    for (std::size_t r = 0; r < 2; ++r) CHECK(time.times(r)[0].end == Approx(6.0 / cores));
  }
}

TEST_CASE("work slows other work down by the rates of both") {
  Rates rates = instant_rates();
  rates.slowdown[static_cast<std::size_t>(WorkKind::product)][static_cast<std::size_t>(WorkKind::update)] = 2;
  std::vector<Recorder> ranks;
  ranks.push_back(recorder_with_lanes());
  static_cast<void>(ranks[0].post(update_lane, {zerospan::OperationKind::update, "a"},
                                  {.kind = WorkKind::update, .core_seconds = 2}, {}));
  ranks[0].compute(WorkKind::product, 3);
  MachineTime time{rates, rates.disk, ranks};
  time.run();
  CHECK(time.times(0)[0].end == Approx(2.0));
  CHECK(time.times(0)[1].end == Approx(4.0));  // half of the speed for two seconds
}

TEST_CASE("transfers share the disk, take their part of the cores, and are slower while it is busy both ways") {
  Rates rates = instant_rates();
  rates.cores = 1;
  rates.disk.read = rates.disk.busy_read = 100;
  rates.disk.mixed_read = 50;
  rates.disk.read_core_time = 0.005;
  const auto play = [&](bool writes, double computing) {
    std::vector<Recorder> ranks;
    ranks.push_back(recorder_with_lanes());
    for (int i = 0; i < 2; ++i) {
      static_cast<void>(ranks[0].post(read_lane, {zerospan::OperationKind::read, "r"}, {.read = 100}, {}));
    }
    if (writes) {
      rates.disk.written = rates.disk.busy_written = 2;
      rates.disk.mixed_written = 1;
      for (int i = 0; i < 2; ++i) {
        static_cast<void>(ranks[0].post(write_lane, {zerospan::OperationKind::write, "w"}, {.written = 100}, {}));
      }
    }
    ranks[0].compute(WorkKind::product, computing);
    MachineTime time{rates, rates.disk, ranks};
    time.run();
    return time.times(0);
  };
  const auto reading = play(false, 4);
  CHECK(reading[0].end == Approx(2.0));
  CHECK(reading[1].end == Approx(2.0));
  CHECK(reading[2].end == Approx(5.0));  // half of the core for two seconds
  CHECK(play(true, 0)[1].end == Approx(4.0));
}

TEST_CASE("a disk that is busy both ways has time for each in proportion to its transfers") {
  // Written bytes until 100 are read, and when that is.
  const auto play = [](double mixed, std::size_t readers, std::size_t writers) {
    Rates rates = instant_rates();
    rates.disk.read = rates.disk.busy_read = rates.disk.written = rates.disk.busy_written = 100;
    rates.disk.mixed_read = rates.disk.mixed_written = mixed;
    std::vector<Recorder> ranks;
    ranks.push_back(recorder_with_lanes());
    for (std::size_t i = 0; i < readers; ++i) {
      static_cast<void>(ranks[0].post(read_lane, {zerospan::OperationKind::read, "r"},
                                      {.read = 100 / static_cast<double>(readers)}, {}));
    }
    for (std::size_t i = 0; i < writers; ++i) {
      static_cast<void>(ranks[0].post(write_lane, {zerospan::OperationKind::write, "w"}, {.written = 1000}, {}));
    }
    MachineTime time{rates, rates.disk, ranks};
    time.run();
    return time.times(0)[0].end;
  };
  CHECK(play(50, 1, 1) == Approx(2.0));      // one disk, half of it each
  CHECK(play(50, 3, 1) == Approx(4.0 / 3));  // three quarters of it
  CHECK(play(50, 1, 3) == Approx(4.0));
  CHECK(play(25, 1, 1) == Approx(4.0));  // directions that hold each other up
  CHECK(play(25, 3, 1) == Approx(8.0 / 3));
  CHECK(play(100, 3, 1) == Approx(1.0));  // and such that do not
  CHECK(play(100, 1, 3) == Approx(1.0));
}

TEST_CASE("the end of a transfer comes later while cores compute") {
  Rates rates = instant_rates();
  rates.cores = 2;
  rates.disk.write_latency = 1;
  rates.disk.busy_write_latency = 5;
  for (const std::size_t computing : std::array<std::size_t, 4>{0, 1, 2, 4}) {
    std::vector<Recorder> ranks;
    for (std::size_t r = 0; r < 4; ++r) ranks.push_back(recorder_with_lanes());
    for (std::size_t r = 0; r < computing; ++r) ranks[r].compute(WorkKind::product, 100);
    const std::size_t number = ranks[3].items().size();
    static_cast<void>(ranks[3].post(write_lane, {zerospan::OperationKind::write, "w"},
                                    {.latency = rates.disk.write_latency, .written = 1}, {}));
    MachineTime time{rates, rates.disk, ranks};
    time.run();
    const std::array<double, 5> ends{1, 3, 5, 0, 100 * 4 / 2 + 1};  // behind its own rank's computing
    CHECK(time.times(3)[number].end == Approx(ends[computing]));
  }
}

TEST_CASE("who waits for others in a collective wakes up a little later") {
  Rates rates = instant_rates();
  rates.handoff = 0.25;
  std::vector<Recorder> ranks(3);
  ranks[0].compute(WorkKind::product, 1);
  ranks[1].compute(WorkKind::product, 1.1);
  ranks[2].compute(WorkKind::product, 1.2);
  for (Recorder& rank : ranks) rank.meet("meeting", 0.125);
  rates.cores = 3;
  MachineTime time{rates, rates.disk, ranks};
  time.run();
  CHECK(time.times(2)[1].end == Approx(1.325));
  CHECK(time.times(1)[1].end == Approx(1.325));  // so soon that it has not slept
  ranks[0] = Recorder{};
  ranks[0].meet("meeting", 0.125);
  MachineTime later{rates, rates.disk, ranks};
  later.run();
  CHECK(later.times(0)[0].begin == Approx(1.2));
  CHECK(later.times(0)[0].end == Approx(1.575));
}

TEST_CASE("a transfer alone takes what it was measured to take, and several are as fast as more bytes under way") {
  Rates rates = instant_rates();
  rates.disk.read = rates.disk.busy_read = 100;
  rates.disk.read_latency = 1;
  rates.disk.read_alone = {{{10, 10.0 / 3}, {110, 110.0 / 5}}};  // 3 s and 5 s
  const auto end_of = [&](std::vector<double> transfers) {
    std::vector<Recorder> ranks;
    ranks.push_back(recorder_with_lanes());
    for (const double bytes : transfers) {
      static_cast<void>(ranks[0].post(read_lane, {zerospan::OperationKind::read, "r"},
                                      {.latency = rates.disk.read_latency, .read = bytes}, {}));
    }
    MachineTime time{rates, rates.disk, ranks};
    time.run();
    double end = 0;
    for (const auto& times : time.times(0)) end = std::max(end, times.end);
    return end;
  };
  CHECK(end_of({10}) == Approx(3.0));
  CHECK(end_of({110}) == Approx(5.0));
  CHECK(end_of({60}) == Approx(4.0));
  CHECK(end_of({60, 50}) == Approx(5.0));
}

TEST_CASE("a collective begins when the last rank has come to it") {
  const Rates rates = instant_rates();
  std::vector<Recorder> ranks(2);
  ranks[0].compute(WorkKind::product, 1);
  ranks[1].compute(WorkKind::product, 5);
  for (Recorder& rank : ranks) rank.meet("meeting", 0.5);
  MachineTime time{rates, rates.disk, ranks};
  time.run();
  for (std::size_t r = 0; r < 2; ++r) {
    CHECK(time.times(r)[1].begin == Approx(5.0));
    CHECK(time.times(r)[1].end == Approx(5.5));
  }
}

TEST_CASE("where products alone take time, a step takes as long as its operations") {
  Rates rates = instant_rates();
  for (machine::ProductRate& each : rates.products) each.flops_per_second = 1e6;
  gpt::Options o = small_training(1);
  o.parameters = o.gradients = o.optimizer = gpt::TierKind::device;
  const auto forecast = foretell(o, rates);
  // Three products of two operations for each token and each weight of the layers and of the head.
  const double weights = 3 * 12 * 64 * 64 + 256 * 64;
  const double flops = 3 * 2 * 32 * weights;
  CHECK(forecast.step_seconds == Approx(flops / 1e6).epsilon(1e-6));
  CHECK(forecast.compute_alone == Approx(flops / 1e6).epsilon(1e-6));
  CHECK(forecast.bytes.read == 0);
}

TEST_CASE("weights in bf16 are widened for products in fp32, unless the processor has products in bf16") {
  Rates rates = instant_rates();
  for (const char* name : {"operand bfloat16", "gradient bfloat16"}) rates.work[name] = {{{1, 1e6}}};
  rates.work[machine::sum_name(zerospan::Addition::replace, zerospan::ElementType::bfloat16,
                               zerospan::ElementType::float32)] = {{{1, instant}}};
  rates.work[machine::sum_name(zerospan::Addition::replace, zerospan::ElementType::bfloat16,
                               zerospan::ElementType::bfloat16)] = {{{1, instant}}};
  rates.work[machine::update_name("AdamW", zerospan::ElementType::bfloat16)] = {{{1, instant}}};
  for (machine::ProductRate& each : rates.products) each.flops_per_second = 1e6;
  gpt::Options o = small_training(1);
  o.precision = gpt::Precision::bf16;
  o.parameters = o.gradients = o.optimizer = gpt::TierKind::device;
  const double weights = 3 * 12 * 64 * 64 + 256 * 64;
  const double flops = 3 * 2 * 32 * weights;
  const double conversions = 3 * weights;  // forward, backward, and of the gradients
  const double of_vectors = 3 * (3 * (2 * 2 + 3 + 1 + 4 + 1) + 2) * 64;
  const double embeddings = 3 * (256 + 16) * 64;
  const double in_fp32 = foretell(o, rates).step_seconds;
  CHECK(in_fp32 > (flops + conversions) / 1e6);
  CHECK(in_fp32 < (flops + conversions + of_vectors + embeddings) / 1e6);
  for (const machine::ProductRate& each : rates.products) rates.bf16_products.push_back({each.shape, 2e6});
  const double in_bf16 = foretell(o, rates).step_seconds;
  CHECK(in_bf16 > flops / 2e6);
  CHECK(in_bf16 < flops / 2e6 + (of_vectors + embeddings) / 1e6);
  o.precision = gpt::Precision::fp32;
  CHECK(foretell(o, rates).step_seconds == Approx(flops / 1e6).epsilon(1e-6));
}

TEST_CASE("where reading alone takes time, a step takes as long as its bytes") {
  Rates rates = instant_rates();
  rates.disk.read = rates.disk.mixed_read = rates.disk.busy_read = 1e6;
  for (const int ranks : {1, 2}) {
    gpt::Options o = small_training(ranks);
    o.prefetch_bytes = 0;
    const auto forecast = foretell(o, rates);
    CHECK(forecast.bytes.read > 100000);
    // Rank 1 owns fewer of the small parameters than rank 0.
    CHECK(forecast.step_seconds == Approx(ranks * forecast.bytes.read / 1e6).epsilon(ranks == 1 ? 1e-6 : 0.02));
    double on_path = 0;
    for (const auto& span : forecast.critical_path) on_path += span.kind == "read" ? span.end - span.begin : 0;
    if (ranks == 1) CHECK(on_path > 0.9 * forecast.step_seconds);
  }
}

TEST_CASE("transfers are multiples of the alignment that the disk has") {
  const auto read_with = [](double alignment) {
    Rates rates = instant_rates();
    rates.disk.alignment = alignment;
    gpt::Options o = small_training(1);
    o.prefetch_bytes = 0;
    return foretell(o, rates).bytes.read;
  };
  CHECK(std::fmod(read_with(512), 512) == 0);
  CHECK(std::fmod(read_with(4096), 4096) == 0);
  CHECK(read_with(512) < read_with(4096));  // biases are small
}

TEST_CASE("what is foretold is the same each time, and a timeline has all of it") {
  Rates rates = instant_rates();
  for (machine::ProductRate& each : rates.products) each.flops_per_second = 1e6;
  rates.disk.read = rates.disk.written = 1e7;
  zerospan::Timeline timeline;
  const auto first = foretell(small_training(2), rates, &timeline);
  const auto second = foretell(small_training(2), rates);
  CHECK(first.step_seconds == second.step_seconds);
  CHECK(!timeline.spans().empty());
}

TEST_CASE("what cannot be foretold is refused, and so is what was not measured") {
  Rates rates = instant_rates();
  gpt::Options o = small_training(1);
  o.device = gpt::DeviceKind::cuda;
  CHECK_THROWS_WITH_AS(foretell(o, rates), "no time is foretold of --device cuda", zerospan::ConfigurationError);
  rates.work.erase("gelu forward");
  CHECK_THROWS_WITH_AS(foretell(small_training(1), rates), "the rates have no work 'gelu forward'",
                       zerospan::ConfigurationError);
}

TEST_CASE("between measured sizes rates change evenly, and beyond them not at all") {
  const machine::WorkRate rate{{{100, 10}, {10000, 20}}};
  CHECK(rate.seconds(100) == Approx(10.0));
  CHECK(rate.seconds(50) == Approx(5.0));
  CHECK(rate.seconds(1000) == Approx(1000 / 15.0));
  CHECK(rate.seconds(20000) == Approx(1000.0));
  CHECK(rate.seconds(0) == 0);
}

TEST_CASE("rates are read as they were written") {
  Rates rates = instant_rates();
  rates.disk.read_latency = 7e-5;
  rates.slowdown[1][2] = 1.25;
  rates.post = 1e-6;
  const zerospan_test::ScratchDirectory directory;
  const std::filesystem::path path = directory.path() + "/rates.json";
  machine::write_rates(rates, path);
  CHECK(to_json(machine::read_rates(path)) == to_json(rates));
  rates.bf16_products = {{{machine::ProductKind::weight, 1, 2, 3}, 5e9}};  // of processors that have them
  machine::write_rates(rates, path);
  CHECK(to_json(machine::read_rates(path)) == to_json(rates));
}

TEST_CASE("an error names the file and the field of rates that are missing or wrong") {
  const nlohmann::json sound = nlohmann::json::parse(to_json(instant_rates()).dump());
  const auto refuse = [&](auto spoil, const std::string& message) {
    nlohmann::json spoilt = sound;
    spoil(spoilt);
    CHECK_THROWS_WITH_AS(machine::rates_from_json(spoilt, "file"), message.c_str(), zerospan::ConfigurationError);
  };
  refuse([](auto& j) { j.erase("disk"); }, "file: disk is missing");
  refuse([](auto& j) { j["disk"].erase("read_bytes_per_second"); }, "file: disk.read_bytes_per_second is missing");
  refuse([](auto& j) { j["disk"]["read_bytes_per_second"] = 0; }, "file: disk.read_bytes_per_second is not above zero");
  refuse([](auto& j) { j["disk"]["read_latency_seconds"] = "soon"; }, "file: disk.read_latency_seconds is no number");
  refuse([](auto& j) { j["work"]["copy"][0]["per_second"] = -1; },
         "file: work.copy[0].per_second is negative, or not finite");
  refuse([](auto& j) { j["products"][1]["kind"] = "sideways"; }, "file: products[1].kind is not known: sideways");
  refuse([](auto& j) { j["products"] = nlohmann::json::array(); }, "file: products is no list of something");
  refuse([](auto& j) { j["processor"]["cores"] = 1.5; }, "file: processor.cores is no count");
  refuse([](auto& j) { j["slowdown"]["copy"].erase("sum"); }, "file: slowdown.copy.sum is missing");
  refuse([](auto& j) { j["format"] = "other"; }, "file: format is not that of rates");
  refuse([](auto& j) { j = nlohmann::json::array(); }, "file: all of it is no object");

  const zerospan_test::ScratchDirectory directory;
  const std::filesystem::path path = directory.path() + "/rates.json";
  std::ofstream{path} << "{";
  CHECK_THROWS_WITH_AS(machine::read_rates(path), (path.string() + ": is not JSON").c_str(),
                       zerospan::ConfigurationError);
}

}  // namespace
