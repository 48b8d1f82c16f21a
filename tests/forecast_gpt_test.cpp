#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>
#include <zerospan/core/timeline.hpp>
#include <zerospan/kernels/gradient_operations.hpp>

#include "gpt/announcement.hpp"
#include "gpt/forecast/forecast.hpp"
#include "gpt/forecast/machine_time.hpp"
#include "gpt/forecast/prices.hpp"
#include "gpt/forecast/recorder.hpp"
#include "machine/library_work.hpp"
#include "machine/links.hpp"
#include "machine/rates.hpp"
#include "machine/rates_file.hpp"
#include "support/running_program.hpp"
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

/// Between two ranks, or four in groups of two: a link that moves so many bytes a second of any tensor.
machine::HostLinks even_links(int ranks_per_group, double bytes_a_second) {
  using zerospan::ElementType;
  const std::string types = " " + machine::reduction_types(ElementType::float32, ElementType::float32);
  machine::LinkLevel level{.ranks = 2, .collectives = {}};
  for (const std::string& name : {std::string{"all-gather"}, std::string{"broadcast"}, "reduce-scatter" + types,
                                  "all-reduce" + types, "reduce" + types}) {
    const machine::WorkRate rate{{{1, bytes_a_second}}};
    level.collectives[name] = {.alone = rate, .busy = rate, .cores = {{{1, instant}}}};
  }
  machine::HostLinks links{.ranks = 2, .ranks_per_group = ranks_per_group, .levels = {{"all", level}}};
  if (ranks_per_group == 0) return links;
  links.ranks = 4;
  links.levels = {{"all", {.ranks = 4, .collectives = {}}}, {"within", level}, {"across", level}};
  return links;
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
  for (Recorder& rank : ranks) rank.meet("meeting", {.latency = 0.125});
  rates.cores = 3;
  MachineTime time{rates, rates.disk, ranks};
  time.run();
  CHECK(time.times(2)[1].end == Approx(1.325));
  CHECK(time.times(1)[1].end == Approx(1.325));  // so soon that it has not slept
  ranks[0] = Recorder{};
  ranks[0].meet("meeting", {.latency = 0.125});
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
  for (Recorder& rank : ranks) rank.meet("meeting", {.latency = 0.5});
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
  const auto bf16_products_do = [&rates](double flops_per_second) {
    rates.bf16_products.clear();
    for (const auto& each : rates.products) rates.bf16_products.push_back({each.shape, flops_per_second});
  };
  bf16_products_do(2e6);
  const double in_bf16 = foretell(o, rates).step_seconds;
  CHECK(in_bf16 > flops / 2e6);
  CHECK(in_bf16 < flops / 2e6 + (of_vectors + embeddings) / 1e6);
  o.products = gpt::Products::fp32;
  CHECK(foretell(o, rates).step_seconds == in_fp32);
  bf16_products_do(0.5e6);  // a processor whose instructions for bf16 are slow
  o.products = gpt::Products::fastest;
  CHECK(foretell(o, rates).step_seconds == in_fp32);
  o.products = gpt::Products::bf16;
  CHECK(foretell(o, rates).step_seconds > flops / 0.5e6);
  rates.bf16_products.clear();
  CHECK_THROWS_AS(static_cast<void>(foretell(o, rates)), zerospan::ConfigurationError);
  o.products = gpt::Products::fastest;
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
    for (const auto& span : forecast.critical_path) {
      on_path += span.kind == zerospan::OperationKind::read ? span.end - span.begin : 0;
    }
    if (ranks == 1) CHECK(on_path > 0.9 * forecast.step_seconds);
  }
}

/// A training of processes whose states are in memory.
gpt::Options training_over_mpi(int ranks) {
  gpt::Options o = small_training(ranks);
  o.communicator = gpt::CommunicatorKind::mpi;
  o.parameters = o.gradients = o.optimizer = gpt::TierKind::device;
  return o;
}

TEST_CASE("where the link between hosts alone takes time, a step takes as long as its bytes") {
  Rates rates = instant_rates();
  constexpr double bandwidth = 1e6;
  rates.host_links = even_links(0, bandwidth);
  // Of a tensor that two ranks gather, each receives half.
  rates.host_links->levels["all"].collectives["all-gather"].alone.points[0].per_second = 2 * bandwidth;
  for (const int stage : {0, 2, 3}) {
    gpt::Options o = training_over_mpi(2);
    o.stage = stage;
    const auto forecast = foretell(o, rates);
    CHECK(forecast.bytes.reduced > 100000);
    CHECK((forecast.bytes.gathered > 0) == (stage > 0));
    CHECK(forecast.step_seconds ==
          Approx((forecast.bytes.gathered + forecast.bytes.reduced) / bandwidth).epsilon(1e-6));
    CHECK(forecast.all_lanes == Approx(forecast.step_seconds).epsilon(1e-6));
    CHECK(forecast.compute_alone < 1e-6 * forecast.step_seconds);
  }
}

TEST_CASE("in groups, a collective goes over the links within them and across") {
  Rates rates = instant_rates();
  rates.host_links = even_links(2, 100);
  for (auto& [name, rate] : rates.host_links->levels["across"].collectives) rate.alone.points[0].per_second = 10;
  rates.host_links->levels["within"].rendezvous = 3;
  rates.host_links->levels["across"].rendezvous = 4;
  rates.host_links->levels["across"].busy_rendezvous = 9;
  gpt::Options o = training_over_mpi(4);
  o.ranks_per_group = 2;
  using zerospan::OperationKind;
  const auto link_seconds = [&](OperationKind kind, std::size_t bytes) {
    const Cost cost = gpt::forecast::Prices{rates, o}.of({kind, "a", bytes});
    CHECK(cost.latency >= 3);
    return cost.link;
  };
  CHECK(link_seconds(OperationKind::all_gather, 750) == Approx(1000.0 / 2 / 10 + 1000.0 / 100));  // 3/4 received
  CHECK(link_seconds(OperationKind::reduce_scatter, 1000) == Approx(1000.0 / 100 + 1000.0 / 2 / 10));
  CHECK(link_seconds(OperationKind::broadcast, 1000) == Approx(1000.0 / 10 + 1000.0 / 100));
  CHECK(link_seconds(OperationKind::all_reduce, 1000) == Approx(1000.0 / 100 + 1000.0 / 2 / 10 + 1000.0 / 100));
  const Cost meeting = gpt::forecast::Prices{rates, o}.of({OperationKind::barrier, "a"});
  CHECK(meeting.latency == Approx(7.0));
  CHECK(meeting.busy_latency == Approx(2.0));  // across; within it is not longer
  o.sharding = gpt::Sharding::group;
  CHECK(link_seconds(OperationKind::all_gather, 500) == Approx(1000.0 / 100));  // half received, none from elsewhere
}

TEST_CASE("what goes over links that were not measured is refused, with words of what to measure") {
  Rates rates = instant_rates();
  gpt::Options o = training_over_mpi(2);
  const auto refuse = [&](const std::string& message) {
    CHECK_THROWS_WITH_AS(foretell(o, rates), message.c_str(), zerospan::ConfigurationError);
  };
  refuse(
      "no time is foretold of --comm mpi by rates without the links between the ranks: measure_rates --add-links "
      "RATES, started by mpirun like the training, adds them");
  rates.host_links = even_links(0, 1e6);
  o.ranks = 4;
  refuse(
      "the rates have the links of 2 ranks in groups of 0 (0: none), not of 4 in groups of 0: measure_rates "
      "--add-links measures those of the ranks that mpirun starts");
  o.ranks = 2;
  o.precision = gpt::Precision::bf16;
  CHECK_THROWS_AS(foretell(o, rates), zerospan::ConfigurationError);
  o.precision = gpt::Precision::fp32;
  rates.host_links->machines = 2;
  refuse("no time is foretold of hosts with cores of their own: the links in the rates are between 2 machines");
  rates.host_links->machines = 1;
  rates.host_links->levels["all"].collectives.erase("all-gather");
  refuse(
      "the rates have no collective 'all-gather' between hosts: measure_rates --add-links --types measures those of "
      "a type");
  rates.host_links.reset();
  o.ranks = 1;
  CHECK(foretell(o, rates).step_seconds < 1e-6);  // it has no links
}

TEST_CASE("collectives share a rank's link, are slower while cores compute, and take their part of the cores") {
  Rates rates = instant_rates();
  const auto play = [&](std::size_t collectives, double computing, Cost cost) {
    std::vector<Recorder> ranks(2);
    for (Recorder& rank : ranks) {
      for (std::size_t i = 0; i < collectives; ++i) {
        const std::size_t lane = rank.add_lanes();
        static_cast<void>(rank.post(lane, {zerospan::OperationKind::all_gather, "g"}, cost, {}));
      }
      rank.compute(WorkKind::product, computing);
    }
    MachineTime time{rates, rates.disk, ranks};
    time.run();
    return time.times(0);
  };
  const Cost even{.meets = true, .link = 2, .busy_link = 2};
  CHECK(play(1, 0, even)[0].end == Approx(2.0));
  CHECK(play(3, 0, even)[2].end == Approx(6.0));
  CHECK(play(1, 9, even)[0].end == Approx(2.0));
  const Cost slower{.meets = true, .busy_latency = 1, .link = 2, .busy_link = 4};
  CHECK(play(1, 0, slower)[0].end == Approx(2.0));
  CHECK(play(1, 9, slower)[0].end == Approx(5.0));
  const Cost polling{.meets = true, .link = 2, .busy_link = 2, .link_core_seconds = 1};
  CHECK(play(1, 9, polling)[1].end == Approx(10.0));  // two ranks, two cores: one core-second each
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
  CHECK(!machine::read_rates(path).host_links);

  rates.host_links = even_links(2, 1e6);
  rates.host_links->machines = 3;
  rates.host_links->levels["within"].rendezvous = 1e-5;
  rates.host_links->levels["within"].busy_rendezvous = 2e-5;
  rates.host_links->levels["across"].collectives["broadcast"].busy.points.push_back({100, 5});
  machine::write_rates(rates, path);
  const Rates read = machine::read_rates(path);
  CHECK(to_json(read) == to_json(rates));
  CHECK(read.host_links->machines == 3);
  CHECK(read.host_links->ranks == 4);
  CHECK(read.host_links->level("within").busy_rendezvous == 2e-5);
  CHECK(read.host_links->level("across").rate("broadcast").busy.seconds(100) == Approx(20.0));
}

TEST_CASE("an error names the file and the field of rates that are missing or wrong") {
  Rates rates = instant_rates();
  rates.host_links = even_links(0, 1e6);
  const nlohmann::json sound = nlohmann::json::parse(to_json(rates).dump());
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
  refuse([](auto& j) { j["host_links"].erase("ranks"); }, "file: host_links.ranks is missing");
  refuse([](auto& j) { j["host_links"]["levels"]["near"] = j["host_links"]["levels"]["all"]; },
         "file: host_links.levels.near is not known");
  refuse([](auto& j) { j["host_links"]["levels"]["all"]["collectives"]["broadcast"].erase("busy"); },
         "file: host_links.levels.all.collectives.broadcast.busy is missing");
  refuse([](auto& j) { j["format"] = "other"; }, "file: format is not that of rates");
  refuse([](auto& j) { j = nlohmann::json::array(); }, "file: all of it is no object");

  const zerospan_test::ScratchDirectory directory;
  const std::filesystem::path path = directory.path() + "/rates.json";
  std::ofstream{path} << "{";
  CHECK_THROWS_WITH_AS(machine::read_rates(path), (path.string() + ": is not JSON").c_str(),
                       zerospan::ConfigurationError);
}

#if defined(PLAN)

/// What the program plan chooses, the best first, for two ranks of a model of one block.
nlohmann::json chosen(const Rates& rates, const gpt::Dimensions& model, std::uint64_t device_budget) {
  const zerospan_test::ScratchDirectory scratch;
  machine::write_rates(rates, scratch.path() + "/rates");
  std::vector<std::string> arguments{"--choose", "--layers", "1", "--rates", scratch.path() + "/rates"};
  for (const auto& [flag, value] :
       {std::pair{"--heads", model.heads}, std::pair{"--width", model.width}, std::pair{"--context", model.context},
        std::pair{"--tiles", model.tiles}, std::pair{"--batch", std::size_t{2}}, std::pair{"--gpus", std::size_t{2}},
        std::pair{"--gpu-memory", std::size_t{device_budget}}}) {
    arguments.insert(arguments.end(), {flag, std::to_string(value)});
  }
  arguments.insert(arguments.end(), {"--json", scratch.path() + "/json"});
  const auto run = zerospan_test::RunningProgram{PLAN, scratch, std::move(arguments)}.wait();
  INFO(run.errors);
  REQUIRE(run.exit_code == 0);
  CHECK(run.output.find("  tiles ") != std::string::npos);
  return nlohmann::json::parse(zerospan_test::content(scratch.path() + "/json"));
}

TEST_CASE("plan --choose finds the tiles that are the fastest of a placement, and those that fit where one does not") {
  Rates rates = instant_rates();
  rates.disk.read = rates.disk.busy_read = rates.disk.mixed_read = 1e8;
  rates.disk.read_alone = {{{1, 1e8}}};
  rates.collectives["all-gather"] = {{2, {{{1, 1e9}}}}};
  rates.rendezvous[2] = 1e-4;
  gpt::Options o = small_training(2);
  o.model = {.layers = 1, .heads = 2, .width = 256, .context = 16};  // weights are large beside the embeddings
  const auto seconds = [&](const nlohmann::json& row, std::size_t tiles) {
    const auto tier = [](const std::string& name) {
      if (name == gpt::to_string(gpt::TierKind::device)) return gpt::TierKind::device;
      return name == gpt::to_string(gpt::TierKind::host) ? gpt::TierKind::host : gpt::TierKind::nvme;
    };
    o.model.tiles = tiles;
    o.parameters = tier(row["parameters"]);
    o.gradients = tier(row["gradients"]);
    o.optimizer = tier(row["optimizer"]);
    o.prefetch_bytes = row["prefetch_bytes"];
    try {
      return foretell(o, rates).step_seconds;
    } catch (const zerospan::BudgetError&) {
      return instant;
    }
  };
  std::set<std::size_t> all;
  for (const std::uint64_t device_budget : {std::uint64_t{1} << 20, std::uint64_t{32} << 20}) {
    CAPTURE(device_budget);
    o.device_budget = device_budget;
    o.model.tiles = 1;
    const nlohmann::json rows = chosen(rates, o.model, device_budget);
    CHECK(rows.size() == 81);
    for (const nlohmann::json& row : rows) {
      if (!row.contains("refusal")) all.insert(row["tiles"].get<std::size_t>());
    }
    for (std::size_t i = 0; i < rows.size(); i += 8) {
      const nlohmann::json& row = rows[i];
      CAPTURE(row.dump());
      const double best = std::min({seconds(row, 1), seconds(row, 2), seconds(row, 4)});
      REQUIRE(row.contains("refusal") == (best == instant));
      if (best == instant) continue;
      CHECK(row["step_seconds"] == Approx(best).epsilon(1e-12));
      CHECK(seconds(row, row["tiles"]) == Approx(best).epsilon(1e-12));
    }
  }
  CHECK(all == std::set<std::size_t>{1, 2, 4});
}

TEST_CASE("plan --choose has no more tiles than weights have rows") {
  const gpt::Dimensions model{.layers = 1, .heads = 2, .width = 16, .context = 16, .tiles = 8};
  for (const nlohmann::json& row : chosen(instant_rates(), model, std::uint64_t{32} << 20)) {
    CHECK(row["tiles"] >= 8);
    CHECK(row["tiles"] <= 16);
  }
}

#endif

}  // namespace
