#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/plan/plan.hpp>
#include <zerospan/sim/detail/make_engine.hpp>

#include "support/sample.hpp"

namespace {

namespace plan = zerospan::plan;
using namespace zerospan::literals;
using plan::Place;
using zerospan::Bytes;
using zerospan::ElementType;
using zerospan::OperationKind;

/// Layers of one parameter of 2^16 elements of fp32: on two ranks a shard is 128 KiB.
plan::Model layers(std::size_t count, double forward_flops) {
  plan::Model model;
  for (std::size_t l = 0; l < count; ++l) {
    const std::string name = "layer " + std::to_string(l);
    model.declare({.name = name, .shape = {std::size_t{1} << 16}});
    model.append(
        {.name = name, .parameters = {name}, .forward_flops = forward_flops, .backward_flops = 2 * forward_flops});
  }
  return model;
}

plan::Setting on_disk() {
  return {.ranks = 2,
          .placing = {Place::nvme, Place::nvme, Place::nvme},
          .device_budget = 4_MiB,
          .host_budget = 32_MiB,
          .options = {.persistence_threshold = Bytes{0},
                      .prefetch = 2_MiB,
                      .staging = 24_MiB,
                      .sub_group_elements = std::size_t{3} << 15}};
}

constexpr double shard = 131072;

/// Two ranks that share nothing.
struct Rates {
  zerospan::sim::Link copy;
  zerospan::sim::Link network;
  double update;
  zerospan::sim::Link disk;

  /// One operation a second.
  zerospan::sim::Topology topology() const {
    auto result = zerospan::sim::one_node(2, {copy, network, update, 1});
    result.disk = {.read = disk.bytes_per_second, .write = disk.bytes_per_second, .latency = disk.latency};
    return result;
  }
};

/// So fast that only what a test changes takes time.
Rates fast() { return {.copy = {1e12}, .network = {1e12}, .update = 1e12, .disk = {1e12}}; }

double busy_time(const plan::Prediction& p, std::string_view track) {
  for (const plan::TrackTime& time : p.tracks) {
    if (time.track == track) return time.busy;
  }
  FAIL("there is no such track");
  return 0;
}

TEST_CASE("a step that is bound by compute takes as long as that, and says so") {
  const plan::Prediction p = plan::predict(layers(12, 4), on_disk(), fast().topology());
  CHECK(p.step_seconds == doctest::Approx(12 * 3 * 4).epsilon(0.001));
  CHECK(busy_time(p, "host") == doctest::Approx(12 * 3 * 4));
  CHECK(p.bottleneck() == "compute on host");
}

TEST_CASE("a step that is bound by the network or the disk is named after it") {
  Rates rates = fast();
  rates.network = {shard};
  const plan::Prediction network = plan::predict(layers(24, 0.01), on_disk(), rates.topology());
  CHECK(network.critical.front().track == zerospan::lane_names[2]);
  CHECK(network.step_seconds == doctest::Approx(busy_time(network, zerospan::lane_names[2])).epsilon(0.05));

  rates = fast();
  rates.disk = {shard};
  const plan::Prediction disk = plan::predict(layers(24, 0.01), on_disk(), rates.topology());
  const bool is_of_disk =
      disk.critical.front().kind == OperationKind::read || disk.critical.front().kind == OperationKind::write;
  CHECK(is_of_disk);
}

TEST_CASE("the critical path has no gaps, and no track is on it for longer than it works") {
  for (const double flops : {0.0, 0.3, 1.0, 4.0}) {
    CAPTURE(flops);
    const Rates rates{
        .copy = {8 * shard}, .network = {2 * shard, 0.01}, .update = 16 * shard, .disk = {5 * shard, 0.001}};
    const plan::Prediction p = plan::predict(layers(16, flops), on_disk(), rates.topology());
    double sum = 0;
    for (const plan::CriticalPart& part : p.critical) sum += part.seconds;
    CHECK(sum == doctest::Approx(p.step_seconds).epsilon(1e-9));
    double most = 0;
    for (const plan::TrackTime& time : p.tracks) {
      CHECK(time.critical <= time.busy * (1 + 1e-9));
      most = std::max(most, time.busy);
    }
    CHECK(p.step_seconds >= most * (1 - 1e-9));
    CHECK(std::ranges::is_sorted(p.critical, std::ranges::greater{}, &plan::CriticalPart::seconds));
  }
}

TEST_CASE("the critical path is one way through what is done, from the beginning of a step to its end") {
  Rates rates = fast();
  rates.disk = {4 * shard, 0.01};
  const plan::Prediction p = plan::predict(layers(12, 0.5), on_disk(), rates.topology());
  double until = 0;
  for (const plan::PlannedSpan& part : p.critical_path) {
    CHECK(part.begin == doctest::Approx(until).epsilon(1e-9));
    CHECK(part.end > part.begin);
    until = part.end;
    const bool is_done = std::ranges::any_of(p.spans, [&](const plan::PlannedSpan& span) {
      return span.track == part.track && span.name == part.name && span.begin <= part.begin && span.end > part.begin;
    });
    CHECK(is_done);
  }
  CHECK(until == doctest::Approx(p.step_seconds));
  double computed = 0;
  for (const plan::PlannedSpan& span : p.spans) {
    if (span.kind == OperationKind::compute) computed += span.end - span.begin;
  }
  CHECK(computed == doctest::Approx(12 * 3 * 0.5));
  CHECK(std::ranges::is_sorted(p.spans, {}, &plan::PlannedSpan::begin));
}

TEST_CASE("a trillion parameters take no memory, and their bytes are those of ZeRO-3") {
  const plan::Model model = plan::paper_gpt({.layers = 128, .hidden = 25600, .sequence = 1024, .batch = 1});
  CHECK(model.elements() == std::size_t{12} * 128 * 25600 * 25600);
  const plan::Setting setting{.ranks = 512,
                              .placing = {Place::nvme, Place::host, Place::nvme},
                              .device_budget = 32_GiB,
                              .host_budget = 90_GiB,
                              .options = {.staging = 4_GiB}};
  const plan::Footprint f = plan::bytes_of(model, setting);
  const std::size_t share = model.elements() / 512;
  const auto used = [&](zerospan::MemoryPurpose purpose, zerospan::Addressable where) {
    return f.of(purpose, where).used.count;
  };
  using zerospan::Addressable;
  using zerospan::MemoryPurpose;
  CHECK(used(MemoryPurpose::parameters, Addressable::nowhere) == 2 * share);
  CHECK(used(MemoryPurpose::gradients, Addressable::on_host) == 2 * share);
  CHECK(used(MemoryPurpose::master_weights, Addressable::nowhere) == 4 * share);
  CHECK(used(MemoryPurpose::optimizer_states, Addressable::nowhere) == 8 * share);
  CHECK(used(MemoryPurpose::staging, Addressable::on_host) == (4_GiB).count);
  CHECK(f.device.peak <= 32_GiB);
}

TEST_CASE("what is beyond a budget is refused with the bytes that are missing; what is needed is less than plenty") {
  plan::Setting setting = on_disk();
  setting.device_budget = 300_KiB;  // a parameter and its gradient are 512 KiB
  CHECK_THROWS_AS(plan::bytes_of(layers(2, 1), setting), zerospan::BudgetError);
  const plan::Footprint needs = plan::needs_of(layers(2, 1), setting);
  CHECK(needs.least.device_backward == 512_KiB);
  setting.device_budget = needs.least.device_backward;
  CHECK_NOTHROW(plan::bytes_of(layers(2, 1), setting));
  setting.device_budget = Bytes{needs.least.device_backward.count - 64};
  CHECK_THROWS_AS(plan::bytes_of(layers(2, 1), setting), zerospan::BudgetError);
}

TEST_CASE("a part of a batch takes its part of the time") {
  const plan::Model whole = layers(3, 12);
  const plan::Model part = plan::divided(whole, 4);
  CHECK(part.forward[1].flops == 3);
  CHECK(part.backward[1].flops == 6);
}

/// A grid in which each value matters somewhere.
plan::Grid small_grid() {
  plan::Grid grid;
  grid.placings = {{Place::device, Place::device, Place::device},
                   {Place::host, Place::host, Place::host},
                   {Place::nvme, Place::host, Place::nvme},
                   {Place::nvme, Place::nvme, Place::nvme}};
  grid.shares = {std::nullopt};
  grid.prefetch = {0_KiB, 512_KiB, 2_MiB};
  grid.persistence_threshold = {0_KiB, 1_MiB};
  grid.staging = {1_MiB, 8_MiB};
  grid.sub_group_elements = {std::size_t{1} << 15, std::size_t{1} << 17};
  grid.micro_batches = {1, 2};
  grid.orders = {plan::MicroBatches::in_passes, plan::MicroBatches::layer_by_layer};
  grid.caches = {std::nullopt};
  return grid;
}

TEST_CASE("a search finds what trying everything finds, with less") {
  const plan::Model model = layers(8, 0.5);
  const plan::Grid grid = small_grid();
  constexpr std::size_t points = std::size_t{4} * 3 * 2 * 2 * 2 * 2 * 2;
  const plan::Setting base = on_disk();
  std::size_t simulated = 0;
  std::size_t found = 0;
  zerospan_test::Sample sample{3};
  for (const Bytes device : {3_MiB, 16_MiB}) {
    for (const Bytes host : {12_MiB}) {
      for (const double disk : {2 * shard, 16 * shard}) {
        if (!sample.takes()) continue;
        CAPTURE(device.count);
        CAPTURE(host.count);
        CAPTURE(disk);
        const Rates rates{.copy = {64 * shard}, .network = {4 * shard}, .update = 32 * shard, .disk = {disk}};
        const plan::Machine machine{
            .topology = rates.topology(), .device_budget = device, .host_budget = host, .disk = {.capacity = 64_MiB}};
        const auto brute = plan::choose(model, machine, base, grid, {.exhaustive = points});
        const auto search = plan::choose(model, machine, base, grid, {.exhaustive = 0});
        REQUIRE(brute.has_value() == search.has_value());
        if (!brute) continue;
        ++found;
        CHECK(brute->simulated == points);
        CHECK(search->step_seconds == brute->step_seconds);
        CHECK(plan::predict(plan::divided(model, search->setting.options.micro_batches), search->setting,
                            machine.topology)
                  .step_seconds == search->step_seconds);
        simulated += search->simulated;
      }
    }
  }
  CHECK(found > 1);
  CHECK(simulated < found * points);
  MESSAGE("a search simulates " << simulated / found << " settings of " << points);
}

/// Four layers of 256 x 256 elements in tiles.
plan::Model tiled(std::size_t tiles) {
  plan::Model model;
  std::vector<plan::DeclaredLinear> declared;
  for (std::size_t l = 0; l < 4; ++l) {
    declared.emplace_back(model, plan::LinearLayer{.name = "layer " + std::to_string(l),
                                                   .extents = {256, 256},
                                                   .tiles = {.outputs = tiles},
                                                   .rows = 1.0 / 131072});  // an operation a layer
  }
  for (const plan::DeclaredLinear& layer : declared) {
    for (const plan::PassStep& step : layer.forward()) model.forward.push_back(step);
  }
  for (std::size_t l = declared.size(); l-- > 0;) {
    for (const plan::PassStep& step : declared[l].backward()) model.backward.push_back(step);
  }
  return model;
}

TEST_CASE("a search finds the tiles that trying everything finds: one where there is memory, more where there is not") {
  plan::Grid grid;
  grid.placings = {{Place::nvme, Place::nvme, Place::nvme}, {Place::host, Place::host, Place::nvme}};
  grid.prefetch = {0_KiB, 256_KiB};
  grid.persistence_threshold = {0_KiB};
  grid.staging = {1_MiB, 4_MiB};
  grid.sub_group_elements = {std::size_t{1} << 15};
  grid.tiles = {1, 2, 4, 257};  // there are 256 outputs
  grid.caches = {std::nullopt};
  constexpr std::size_t points = std::size_t{2} * 2 * 2 * 4;
  const Rates rates{.copy = {64 * shard}, .network = {4 * shard, 0.5}, .update = 32 * shard, .disk = {8 * shard}};
  const auto choose = [&](Bytes device, std::size_t exhaustive) {
    const plan::Machine machine{
        .topology = rates.topology(), .device_budget = device, .host_budget = 12_MiB, .disk = {.capacity = 64_MiB}};
    return plan::choose(tiled, machine, on_disk(), grid, {.exhaustive = exhaustive});
  };
  for (const Bytes device : {60_KiB, 100_KiB, 200_KiB, 4_MiB}) {
    CAPTURE(device.count);
    const auto brute = choose(device, points);
    const auto search = choose(device, 0);
    REQUIRE(brute.has_value() == search.has_value());
    if (!brute) continue;
    CHECK(brute->simulated == points);
    CHECK(search->step_seconds == brute->step_seconds);
    CHECK(search->tiles == brute->tiles);
    CHECK(plan::predict(tiled(brute->tiles), brute->setting, rates.topology()).step_seconds == brute->step_seconds);
  }
  CHECK(!choose(60_KiB, points));  // a tile of four has 64 KiB, and so has its gradient, which comes before it
  CHECK(choose(100_KiB, points)->tiles == 4);
  CHECK(choose(200_KiB, points)->tiles > 1);
  CHECK(choose(4_MiB, points)->tiles == 1);
}

TEST_CASE("a model that is as it is has no tiles to choose among") {
  plan::Grid grid = small_grid();
  grid.tiles = {1, 2};
  const plan::Machine machine{.topology = fast().topology(), .device_budget = 4_MiB, .host_budget = 32_MiB};
  CHECK_THROWS_AS(plan::choose(layers(2, 1), machine, on_disk(), grid), zerospan::ConfigurationError);
}

/// Eight sub-groups of optimizer states on the disk: of each rank two moments a layer.
plan::Setting states_on_disk() {
  plan::Setting setting = on_disk();
  setting.placing = {Place::device, Place::device, Place::nvme};
  setting.options.staging = 1_MiB;
  setting.options.sub_group_elements = std::size_t{1} << 15;
  return setting;
}

constexpr std::size_t states = 8 * 2 * 131072;
constexpr Bytes line = 4_KiB;  // extents are whole pages

TEST_CASE("a cache of a part of the states keeps that part of a step's bytes off the disk, and of its time") {
  const plan::Model model = layers(8, 0);
  Rates rates = fast();
  rates.disk = {shard};
  plan::Setting setting = states_on_disk();
  const double uncached = plan::predict(model, setting, rates.topology()).step_seconds;
  for (const std::size_t cache : {states / 4, states / 2, states}) {
    CAPTURE(cache);
    setting.disk_cache = zerospan::CachedTierOptions{.bytes = Bytes{cache}, .line = line};
    const plan::Footprint former = plan::bytes_of(model, setting, {}, 3);
    const plan::Footprint now = plan::bytes_of(model, setting, {}, 4);
    CHECK(now.disk.read.count - former.disk.read.count == states - cache);
    CHECK(now.disk.written.count - former.disk.written.count == states - cache);
    CHECK(now.cache.value().hits.count - former.cache.value().hits.count == cache);
    CHECK(now.of(zerospan::MemoryPurpose::disk_cache, zerospan::Addressable::on_host).used.count == cache);
    const double part = static_cast<double>(states - cache) / static_cast<double>(states);
    const double seconds = plan::predict(model, setting, rates.topology()).step_seconds;
    // The first reads of a step and its last writes have nothing beside them: that is longer where less is between.
    CHECK(seconds >= 0.95 * part * uncached);
    CHECK(seconds < (part + 0.15) * uncached);
  }
  setting.host_budget = Bytes{states};  // without the staging memory
  CHECK_THROWS_AS(plan::bytes_of(model, setting), zerospan::BudgetError);
}

TEST_CASE("what is left of the host memory is chosen as a cache of the disk") {
  const plan::Model model = layers(8, 0);
  Rates rates = fast();
  rates.disk = {shard};
  plan::Grid grid;
  grid.placings = {{Place::device, Place::device, Place::nvme}, {Place::nvme, Place::nvme, Place::nvme}};
  grid.prefetch = {512_KiB};
  grid.persistence_threshold = {0_KiB};
  grid.staging = {1_MiB, 3_MiB};
  grid.sub_group_elements = {std::size_t{1} << 15};
  grid.caches = {std::nullopt, plan::RestAsCache{line}};
  for (const Bytes host : {1_MiB, 2_MiB, 8_MiB}) {
    CAPTURE(host.count);
    const plan::Machine machine{
        .topology = rates.topology(), .device_budget = 4_MiB, .host_budget = host, .disk = {.capacity = 64_MiB}};
    std::optional<double> best;
    std::optional<double> best_uncached;
    for (const plan::Placing& placing : grid.placings) {
      for (const Bytes staging : grid.staging) {
        plan::Setting setting = on_disk();
        setting.placing = placing;
        setting.device_budget = machine.device_budget;
        setting.host_budget = host;
        setting.disk = machine.disk;
        setting.options.prefetch = grid.prefetch[0];
        setting.options.staging = staging;
        setting.options.sub_group_elements = grid.sub_group_elements[0];
        const auto seconds = [&](std::size_t lines) -> std::optional<double> {
          setting.disk_cache.reset();
          if (lines > 0) setting.disk_cache.emplace(Bytes{lines * line.count}, line);
          try {
            return plan::predict(model, setting, machine.topology).step_seconds;
          } catch (const zerospan::BudgetError&) {
            return std::nullopt;
          }
        };
        const std::optional<double> uncached = seconds(0);
        if (!uncached) continue;
        const std::size_t rest = (host.count - plan::bytes_of(model, setting).host.peak.count) / line.count;
        if (!best_uncached || *uncached < *best_uncached) best_uncached = uncached;
        for (const std::size_t lines : {std::size_t{0}, rest}) {
          if (const auto found = seconds(lines); found && (!best || *found < *best)) best = found;
        }
      }
    }
    REQUIRE(best.has_value());
    for (const std::size_t exhaustive : {std::size_t{64}, std::size_t{0}}) {
      const auto choice = plan::choose(model, machine, on_disk(), grid, {.exhaustive = exhaustive});
      REQUIRE(choice.has_value());
      CHECK(choice->step_seconds == *best);
      CHECK(plan::predict(model, choice->setting, machine.topology).step_seconds == *best);
      CHECK(choice->setting.disk_cache.has_value() == (host > 1_MiB));
      if (choice->setting.disk_cache) {
        CHECK(host.count - plan::bytes_of(model, choice->setting).host.peak.count < line.count);
      }
    }
    if (host > 1_MiB) CHECK(*best < 0.65 * *best_uncached);
  }
}

TEST_CASE("the cache that is chosen is what the rank with the fullest memory has left") {
  plan::Model model;
  for (const std::size_t elements : {std::size_t{1} << 14, std::size_t{1} << 17}) {  // of the first and second rank
    const std::string name = std::to_string(elements);
    model.declare({.name = name, .shape = {elements}});
    model.append({.name = name, .parameters = {name}});
  }
  plan::Setting base = on_disk();
  base.options.partition = zerospan::Owners{};
  plan::Grid grid;
  grid.placings = {{Place::host, Place::host, Place::nvme}};
  grid.prefetch = {512_KiB};
  grid.persistence_threshold = {0_KiB};
  grid.staging = {2_MiB};
  grid.sub_group_elements = {std::size_t{1} << 15};
  grid.caches = {plan::RestAsCache{line}};
  const plan::Machine machine{
      .topology = fast().topology(), .device_budget = 4_MiB, .host_budget = 4_MiB, .disk = {.capacity = 64_MiB}};
  const auto choice = plan::choose(model, machine, base, grid);
  REQUIRE(choice.has_value());
  plan::Setting uncached = choice->setting;
  uncached.disk_cache.reset();
  const auto left = [&](int rank) {
    const plan::ArenaBytes host = plan::bytes_of(model, uncached, zerospan::Rank{rank}).host;
    return (host.budget.count - host.peak.count) / line.count * line.count;
  };
  CHECK(left(1) < left(0));
  CHECK(choice->setting.disk_cache.value().bytes.count == left(1));
}

TEST_CASE("groups of ranks keep bytes off the links between nodes; copies in groups keep the second gathers off") {
  constexpr double second = 8 * shard;  // what a node sends in one
  const zerospan::sim::Topology topology{.nodes = 2, .ranks_per_node = 2, .between = {.bytes_per_second = second}};
  const plan::Model model = layers(12, 0);
  plan::Setting setting = on_disk();
  setting.ranks = 4;
  setting.placing = {Place::host, Place::host, Place::host};
  setting.device_budget = 512_KiB;  // nothing but the last layer stays there for the backward pass
  setting.options.prefetch = 0_KiB;
  const auto seconds = [&](std::optional<plan::GroupSetting> groups) {
    setting.groups = groups;
    return plan::predict(model, setting, topology).step_seconds;
  };
  // A layer has 2^18 bytes: every rank sends each of the two beyond its node a shard of a quarter in a collective, and
  // in groups one; there are three collectives a step, of which copies leave two between the nodes.
  const double layer = 4 * 65536.0 / second * 12;
  CHECK(seconds(std::nullopt) == doctest::Approx(3 * layer).epsilon(0.03));
  CHECK(seconds(plan::GroupSetting{2}) == doctest::Approx(3 * layer / 2).epsilon(0.03));
  CHECK(seconds(plan::GroupSetting{2, Place::host}) == doctest::Approx(2 * layer / 2).epsilon(0.03));
  CHECK_THROWS_AS(seconds(plan::GroupSetting{3}), zerospan::ConfigurationError);
}

TEST_CASE("groups, and when parameters are updated, are chosen as trying everything chooses them") {
  constexpr double second = 8 * shard;  // what a node sends in one
  zerospan::sim::Topology topology{.nodes = 2, .ranks_per_node = 2, .between = {.bytes_per_second = second}};
  const plan::Model model = layers(6, 1);
  plan::Grid grid;
  grid.placings = {{Place::host, Place::host, Place::nvme}, {Place::nvme, Place::nvme, Place::nvme}};
  grid.prefetch = {0_KiB, 1_MiB};
  grid.persistence_threshold = {0_KiB};
  grid.staging = {8_MiB};
  grid.sub_group_elements = {std::size_t{1} << 15};
  grid.caches = {std::nullopt};
  grid.updates = {zerospan::UpdateTime::after_step, zerospan::UpdateTime::during_backward};
  grid.groups = {std::nullopt, plan::GroupSetting{2}, plan::GroupSetting{2, Place::host}, plan::GroupSetting{3}};
  plan::Setting base = on_disk();
  base.ranks = 4;
  for (const float norm : {1.0F, std::numeric_limits<float>::infinity()}) {
    CAPTURE(norm);
    base.options.max_gradient_norm = norm;  // what is clipped is not updated early
    topology.disk = {.read = shard, .write = shard};
    topology.flops_per_second = 1;
    const plan::Machine machine{
        .topology = topology, .device_budget = 4_MiB, .host_budget = 32_MiB, .disk = {.capacity = 64_MiB}};
    std::optional<double> best;
    for (const plan::Placing& placing : grid.placings) {
      for (const Bytes prefetch : grid.prefetch) {
        for (const auto updates : grid.updates) {
          for (const auto& groups : grid.groups) {
            plan::Setting setting = base;
            setting.placing = placing;
            setting.device_budget = machine.device_budget;
            setting.host_budget = machine.host_budget;
            setting.disk = machine.disk;
            setting.options.prefetch = prefetch;
            setting.options.staging = grid.staging[0];
            setting.options.sub_group_elements = grid.sub_group_elements[0];
            setting.options.updates = updates;
            setting.groups = groups;
            try {
              const double seconds = plan::predict(model, setting, topology).step_seconds;
              if (!best || seconds < *best) best = seconds;
            } catch (const zerospan::ConfigurationError&) {
            }
          }
        }
      }
    }
    for (const std::size_t exhaustive : {std::size_t{64}, std::size_t{0}}) {
      const auto choice = plan::choose(model, machine, base, grid, {.exhaustive = exhaustive});
      REQUIRE(choice.has_value());
      CHECK(choice->step_seconds == best.value());
      REQUIRE(choice->setting.groups.has_value());
      CHECK(choice->setting.groups->ranks == 2);
    }
  }
}

TEST_CASE("the largest model, and the smallest machine, are at the edge of what fits") {
  const plan::Grid grid = small_grid();
  const plan::Setting base = on_disk();
  const plan::Machine machine{
      .topology = fast().topology(), .device_budget = 1_MiB, .host_budget = 3_MiB, .disk = {.capacity = 12_MiB}};
  const auto family = [](std::size_t n) { return layers(n, 1); };
  const std::size_t n = plan::largest_that_fits(family, 1000, machine, base, grid);
  CHECK(n > 0);
  CHECK(n < 1000);
  CHECK(plan::fits(layers(n, 1), machine, base, grid));
  CHECK(!plan::fits(layers(n + 1, 1), machine, base, grid));

  std::vector<plan::Machine> machines(3, machine);
  machines[0].disk.capacity = 6_MiB;
  machines[2].disk.capacity = 64_MiB;
  CHECK(plan::smallest_that_fits(layers(n, 1), machines, base, grid) == 1);
  CHECK(plan::smallest_that_fits(layers(n + 1, 1), machines, base, grid) == 2);
  CHECK(plan::smallest_that_fits(layers(1000, 1), machines, base, grid) == 3);
}

TEST_CASE("advice is what the change itself is predicted to do") {
  Rates rates = fast();
  rates.disk = {4 * shard};
  const plan::Model model = layers(12, 0.1);
  const plan::Setting setting = on_disk();
  const std::vector<plan::Advice> all = plan::advice(model, setting, rates.topology());
  const double now = plan::predict(model, setting, rates.topology()).step_seconds;
  rates.disk.bytes_per_second *= 2;
  const double then = plan::predict(model, setting, rates.topology()).step_seconds;
  const auto found = std::ranges::find(all, "twice the disk's bytes a second", &plan::Advice::change);
  REQUIRE(found != all.end());
  CHECK(found->seconds.value() == then);
  CHECK(found->ratio == now / then);
  CHECK(found->ratio > 1.5);
  const auto network = std::ranges::find(all, "twice the network's bytes a second", &plan::Advice::change);
  REQUIRE(network != all.end());
  CHECK(network->ratio == doctest::Approx(1).epsilon(0.01));
  CHECK(std::ranges::is_sorted(all, std::ranges::greater{}, &plan::Advice::ratio));
}

}  // namespace
