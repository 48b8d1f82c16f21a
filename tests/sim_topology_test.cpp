#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/comm/counted_communicator.hpp>
#include <zerospan/comm/grouped_communicator.hpp>
#include <zerospan/comm/hybrid_communicator.hpp>
#include <zerospan/comm/quantized_communicator.hpp>
#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/sim/communicator.hpp>
#include <zerospan/sim/detail/fluid_links.hpp>
#include <zerospan/sim/detail/make_engine.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/sim/tier.hpp>
#include <zerospan/zerospan.hpp>

#include "support/ghost.hpp"

namespace {

namespace sim = zerospan::sim;
using zerospan::bfloat16;
using zerospan::calling_thread;
using zerospan::Completion;
using zerospan::Lane;
using zerospan::OperationKind;
using zerospan::Rank;
using namespace zerospan::literals;
using zerospan_test::Ghost;

/// What posts on the lanes of one simulated rank, as an engine would.
template <class D>
class Poster {
 public:
  Poster(sim::Cluster& cluster, Rank rank)
      : device{cluster, rank, {.device_budget = 1_GiB, .host_budget = 1_GiB}}, lanes{device, {}} {}

  Completion transfer(OperationKind kind, std::string_view name, std::size_t bytes,
                      const std::vector<Completion>& after = {}, const void* tier = nullptr) {
    const Lane lane = kind == OperationKind::read ? Lane::read : Lane::write;
    return lanes.post_host(lane, after, {kind, name, bytes, tier}, {});
  }
  Completion read(std::string_view name, std::size_t bytes, const std::vector<Completion>& after = {}) {
    return transfer(OperationKind::read, name, bytes, after);
  }
  Completion write(std::string_view name, std::size_t bytes, const std::vector<Completion>& after = {}) {
    return transfer(OperationKind::write, name, bytes, after);
  }

  /// From host to device memory, or back.
  Completion copy(std::string_view name, std::size_t bytes, bool to_device = true,
                  const std::vector<Completion>& after = {}) {
    std::byte* const host = device.host_memory().data();
    std::byte* const own = device.memory().data();
    return lanes.post(Lane::copy, after, {OperationKind::copy, name, bytes}, [=](sim::Stream& stream) -> Completion {
      copy_bytes(stream, to_device ? own : host, to_device ? host : own, bytes);
      return {};
    });
  }

  /// The update of some states by the host, or by a kernel of the device.
  Completion update_by_host(std::string_view name, std::size_t bytes) {
    return lanes.post_host(Lane::update, {}, {OperationKind::update, name, bytes}, {});
  }
  Completion update_by_device(std::string_view name, std::size_t bytes) {
    return lanes.post(Lane::update, {}, {OperationKind::update, name, bytes}, {});
  }

  template <class Call>
  Completion communicate(OperationKind kind, std::string_view name, Call call) {
    return lanes.post(Lane::communicate, {}, {kind, name}, [&](sim::Stream& stream) -> Completion {
      call(zerospan::Collective{zerospan::StreamRef{stream}, name});
      return {};
    });
  }

  D device;
  typename D::lanes_type lanes;
};

using Cpu = Poster<sim::HostDevice>;
using Gpu = Poster<sim::Device>;

double end_of(const sim::Schedule& schedule, std::string_view name, int rank = 0) {
  for (const sim::Event& e : schedule) {
    if (e.rank == Rank{rank} && e.name == name) return e.end;
  }
  FAIL("nothing is called " << std::string{name});
  return 0;
}

double begin_of(const sim::Schedule& schedule, std::string_view name, int rank = 0) {
  for (const sim::Event& e : schedule) {
    if (e.rank == Rank{rank} && e.name == name) return e.begin;
  }
  FAIL("nothing is called " << std::string{name});
  return 0;
}

// Max-min fairness, by hand.

using sim::detail::FluidLinks;

/// Ends of flows that all begin at 0, by simulation.
std::vector<double> ends(const std::vector<sim::detail::LinkSpeed>& links,
                         const std::vector<std::pair<double, std::vector<std::uint32_t>>>& flows) {
  FluidLinks fluid{links};
  std::map<std::uint32_t, std::size_t> numbers;
  std::vector<double> next(flows.size());
  for (std::size_t f = 0; f < flows.size(); ++f) {
    std::vector<sim::detail::LinkUse> uses;
    for (const std::uint32_t link : flows[f].second) uses.push_back({link, sim::detail::to_weight(1)});
    numbers[fluid.start(0, flows[f].first, uses, sim::instant)] = f;
  }
  std::vector<double> ended(flows.size());
  double now = 0;
  while (!numbers.empty()) {
    fluid.settle(now, [&](std::uint32_t flow, double end) { next[numbers.at(flow)] = end; });
    now = sim::instant;
    for (const auto& [flow, number] : numbers) now = std::min(now, next[number]);
    for (auto flow = numbers.begin(); flow != numbers.end();) {
      if (next[flow->second] > now) {
        ++flow;
        continue;
      }
      ended[flow->second] = now;
      fluid.end(now, flow->first);
      flow = numbers.erase(flow);
    }
  }
  return ended;
}

TEST_CASE("flows share a link evenly, and what one leaves the others get") {
  // 1 and 1 until the first has its 4 bytes, then 2.
  CHECK((ends({{2, 2}}, {{4, {0}}, {8, {0}}}) == std::vector{4.0, 6.0}));
}

TEST_CASE("shares are max-min fair: who is held up elsewhere leaves its share to the others") {
  // Link 0 of 12 bytes a second has flows a, b and c; link 1 of 2 has c and d. c and d get 1 each; a and b 5.5.
  const std::vector<double> times = ends({{12, 12}, {2, 2}}, {{11, {0}}, {11, {0}}, {2, {0, 1}}, {2, {1}}});
  CHECK((times == std::vector{2.0, 2.0, 2.0, 2.0}));
}

TEST_CASE("a flow over a chain of links is as fast as the narrowest share") {
  // The parking lot: one flow over all three links, one over each. Every link gives each of its two flows 1; when the
  // short ones have ended the long one has 2.
  const std::vector<double> times = ends({{2, 2}, {2, 2}, {2, 2}}, {{6, {0, 1, 2}}, {2, {0}}, {2, {1}}, {4, {2}}});
  CHECK((times == std::vector{5.0, 2.0, 2.0, 4.0}));
}

// Links of a topology.

TEST_CASE("ranks below one switch share its host link; each direction is a link of its own") {
  sim::Cluster cluster{sim::Topology{.ranks_per_node = 4, .host_link = {.to_device = {8}, .to_host = {8}, .ranks = 2}}};
  for (int r = 0; r < 4; ++r) {
    Gpu rank{cluster, Rank{r}};
    if (r != 3) rank.copy("copy", 8, r != 2);
  }
  const sim::Schedule schedule = cluster.resolve();
  CHECK(end_of(schedule, "copy", 0) == 2);
  CHECK(end_of(schedule, "copy", 1) == 2);
  CHECK(end_of(schedule, "copy", 2) == 1);  // has its switch alone
}

TEST_CASE("copies in both directions do not slow each other") {
  sim::Cluster cluster{sim::Topology{.host_link = {.to_device = {8}, .to_host = {4}}}};
  Gpu rank{cluster, Rank{0}};
  rank.copy("in", 8);
  const std::byte* const from = rank.device.memory().data();
  std::byte* const to = rank.device.host_memory().data();
  rank.lanes.post(Lane::write, {}, {OperationKind::copy, "out", 8}, [=](sim::Stream& stream) -> Completion {
    copy_bytes(stream, to, from, 8);
    return {};
  });
  const sim::Schedule schedule = cluster.resolve();
  CHECK(end_of(schedule, "in") == 1);
  CHECK(end_of(schedule, "out") == 2);
}

TEST_CASE("the disk of a node is shared by its ranks, that of a rank is its own") {
  for (const sim::Scope scope : {sim::Scope::rank, sim::Scope::node}) {
    sim::Cluster cluster{
        sim::Topology{.nodes = 2, .ranks_per_node = 4, .disk = {.read = 8, .write = 4, .scope = scope}}};
    for (int r = 0; r < 8; ++r) {
      Cpu rank{cluster, Rank{r}};
      rank.write("write", 8, {rank.read("read", 8)});
    }
    const double sharers = scope == sim::Scope::node ? 4 : 1;
    const sim::Schedule schedule = cluster.resolve();
    CHECK(end_of(schedule, "read", 5) == sharers);
    CHECK(end_of(schedule, "write", 5) == sharers + 2 * sharers);
  }
}

TEST_CASE("where a switch is not full, its ranks are no equals of the others") {
  // Of five ranks two and two are below a switch, and one is alone.
  const sim::Topology topology{.nodes = 2, .ranks_per_node = 5, .host_link = {.to_device = {8}, .ranks = 2}};
  sim::Cluster cluster{topology, {.simulate = sim::Simulate::one_of_equals}};
  REQUIRE(cluster.ranks() == std::vector{Rank{0}, Rank{4}});
  CHECK(cluster.representative(Rank{8}) == Rank{0});
  CHECK(cluster.representative(Rank{9}) == Rank{4});
  for (const Rank r : cluster.ranks()) Gpu{cluster, r}.copy("copy", 8);
  const sim::Schedule schedule = cluster.resolve();
  CHECK(end_of(schedule, "copy", 0) == 2);
  CHECK(end_of(schedule, "copy", 4) == 1);
}

TEST_CASE("links tell what has gone over them, and how long they were busy") {
  sim::Topology topology{.ranks_per_node = 4, .disk = {.read = 8, .write = 4, .scope = sim::Scope::node}};
  for (const sim::Simulate simulate : {sim::Simulate::every_rank, sim::Simulate::one_of_equals}) {
    sim::Cluster cluster{topology, {.simulate = simulate}};
    for (const Rank r : cluster.ranks()) {
      Cpu rank{cluster, r};
      const Completion read = rank.read("read", 16);
      rank.device.compute("compute", 1);
      rank.write("write", 4, {rank.read("again", 16), read});
    }
    const sim::Schedule schedule = cluster.resolve();
    REQUIRE(schedule.links().size() == 2);
    CHECK(schedule.links()[0].name == "disk reads of ranks 0 to 3");
    CHECK(schedule.links()[0].bytes == 4 * 32);
    CHECK(schedule.links()[0].busy == 16);
    CHECK(schedule.links()[1].name == "disk writes of ranks 0 to 3");
    CHECK(schedule.links()[1].bytes == 4 * 4);
    CHECK(schedule.links()[1].busy == 4);
  }
}

TEST_CASE("a disk is slower while it is read and written at once") {
  sim::Cluster cluster{sim::Topology{}};
  Cpu rank{cluster, Rank{0}};
  sim::Tier disk{rank.device, {.capacity = 1_GiB, .own = sim::Disk{.read = 8, .write = 4, .mixed = 2}}};
  rank.transfer(OperationKind::read, "read", 16, {}, &disk);
  rank.transfer(OperationKind::write, "write", 8, {}, &disk);
  // 2 bytes a second each, until the write has its 8; then the read has 8 for the rest of its 16.
  const sim::Schedule schedule = cluster.resolve();
  CHECK(end_of(schedule, "write") == 4);
  CHECK(end_of(schedule, "read") == 4 + (16.0 - 8) / 8);
}

TEST_CASE("two lanes that read one disk share it; one lane reads one piece after the other") {
  sim::Cluster cluster{sim::Topology{.disk = {.read = 8, .write = 8}}};
  Cpu rank{cluster, Rank{0}};
  rank.read("first", 8);
  rank.read("second", 8);
  sim::HostDevice::lanes_type others{rank.device, {}};
  others.post_host(Lane::read, {}, {OperationKind::read, "other", 16}, {});
  const sim::Schedule schedule = cluster.resolve();
  CHECK(end_of(schedule, "first") == 2);
  CHECK(begin_of(schedule, "second") == 2);
  CHECK(end_of(schedule, "second") == 4);
  CHECK(end_of(schedule, "other") == 4);
}

TEST_CASE("latency delays a transfer's end, and keeps neither its link nor its lane") {
  sim::Cluster cluster{sim::Topology{.disk = {.read = 8, .write = 8, .latency = 10}}};
  Cpu rank{cluster, Rank{0}};
  std::vector<Completion> reads;
  for (const char* name : {"a", "b", "c", "d"}) reads.push_back(rank.read(name, 8));
  rank.write("after d", 8, {reads.back()});
  const sim::Schedule schedule = cluster.resolve();
  CHECK(end_of(schedule, "a") == 11);
  CHECK(end_of(schedule, "b") == 12);
  CHECK(end_of(schedule, "d") == 14);
  CHECK(end_of(schedule, "after d") == 14 + 1 + 10);
}

TEST_CASE("the memory of a node is shared by the updates of its ranks and by copies") {
  sim::Topology topology{.ranks_per_node = 2};
  topology.host_memory.bytes_per_second = 16;
  topology.host_memory.traffic = {.update = 2, .copy = 1};
  topology.host_link.to_device.bytes_per_second = 8;
  sim::Cluster cluster{topology};
  Gpu updates{cluster, Rank{0}};
  updates.update_by_host("update", 16);  // 32 bytes of memory
  Gpu copies{cluster, Rank{1}};
  copies.copy("copy", 16);
  // 8 bytes of memory a second each, until the copy has ended; then the update has 16 for the rest of its 32.
  const sim::Schedule schedule = cluster.resolve();
  CHECK(end_of(schedule, "copy", 1) == 2);
  CHECK(end_of(schedule, "update") == 3);
}

TEST_CASE("an update takes what its side of the host link is able to: the processors of a rank, or its device") {
  sim::Topology topology{};
  topology.host_memory.update = 2;
  topology.host_memory.traffic.update = 1;
  topology.device_memory.bytes_per_second = 16;
  topology.device_memory.traffic.update = 2;
  sim::Cluster cluster{topology};
  Gpu rank{cluster, Rank{0}};
  rank.update_by_host("by host", 16);
  rank.lanes.post(Lane::copy, {}, {OperationKind::update, "by device", 16}, {});
  const sim::Schedule schedule = cluster.resolve();
  CHECK(end_of(schedule, "by host") == 8);
  CHECK(end_of(schedule, "by device") == 2);
}

TEST_CASE("fills, accumulations and updates have rates of their own") {
  sim::Topology topology{};
  topology.host_memory = {sim::instant, {}, 16, 8, 4};
  sim::Cluster cluster{topology};
  Cpu rank{cluster, Rank{0}};
  for (const OperationKind kind : {OperationKind::fill, OperationKind::accumulate, OperationKind::update}) {
    rank.lanes.post_host(Lane::update, {}, {kind, to_string(kind), 16}, {});
  }
  const sim::Schedule schedule = cluster.resolve();
  CHECK(end_of(schedule, "fill") == 1);
  CHECK(end_of(schedule, "accumulate") == 1 + 2);
  CHECK(end_of(schedule, "update") == 1 + 2 + 4);
}

// Devices.

TEST_CASE("on a stream of its own the host runs ahead of the device; on its thread it does not") {
  const auto posted_at = [](auto make_stream) {
    sim::Cluster cluster{sim::Topology{.disk = {.read = 8, .write = 8}, .flops_per_second = 1}};
    Gpu rank{cluster, Rank{0}};
    const zerospan::StreamRef stream = make_stream(rank.device);
    rank.device.compute(stream, "first", {4});
    rank.device.compute(stream, "second", {4});
    rank.write("after", 8);
    rank.write("after compute", 8, {rank.lanes.record(stream)});
    const sim::Schedule schedule = cluster.resolve();
    CHECK(end_of(schedule, "second") == 8);
    CHECK(end_of(schedule, "after compute") == (stream.is_calling_thread() ? 10 : 9));
    return begin_of(schedule, "after");
  };
  CHECK(posted_at([](sim::Device& device) { return device.stream(); }) == 0);
  CHECK(posted_at([](sim::Device&) { return calling_thread; }) == 8);
}

TEST_CASE("a stream waits for what the device does, and the host's thread only until that is enqueued") {
  sim::Topology topology{.host_link = {.to_device = {8}, .to_host = {8}}, .disk = {.read = 8, .write = 8}};
  topology.flops_per_second = 1;
  sim::Cluster cluster{topology};
  Gpu rank{cluster, Rank{0}};
  const Completion read = rank.read("read", 16);
  const Completion copy = rank.copy("copy", 32, true, {read});
  rank.lanes.wait(rank.device.stream(), copy, {OperationKind::copy, "wait"});
  rank.device.compute("compute", 1);
  rank.update_by_host("posted", 0);
  const sim::Schedule schedule = cluster.resolve();
  CHECK(end_of(schedule, "read") == 2);
  CHECK(begin_of(schedule, "posted") == 2);  // the copy is enqueued when its lane has waited for the disk
  CHECK(end_of(schedule, "copy") == 6);
  CHECK(begin_of(schedule, "compute") == 6);
  CHECK(end_of(schedule, "compute") == 7);
}

TEST_CASE("the speed of compute is a constant, a function or that of the nearest measured shape") {
  const auto seconds = [](const sim::ComputeSpeed& speed, const sim::Work& work) {
    sim::Cluster cluster{sim::Topology{.flops_per_second = 2}};
    sim::HostDevice device{cluster, Rank{0}, {.device_budget = 1_MiB, .host_budget = 1_MiB, .compute = speed}};
    device.compute("compute", work);
    return end_of(cluster.resolve(), "compute");
  };
  const sim::Work small = sim::matrix_product(2, 2, 2);
  const sim::Work large = sim::matrix_product(512, 512, 512);
  CHECK(seconds({}, small) == 8);
  CHECK(seconds([](const sim::Work& work) { return work.m < 4 ? 1.0 : 16.0; }, small) == 16);
  const sim::MeasuredSpeed measured{{{1, 1, 1, 1.0}, {1024, 1024, 1024, 1048576.0}}};
  CHECK(seconds(measured, small) == 16);
  CHECK(seconds(measured, large) == 256);
}

// Collectives.

constexpr std::size_t shard = 64;

/// Two nodes of two ranks, over which one collective is made. @return When it ends.
template <class Call>
double collective(sim::Topology topology, Call call) {
  topology.nodes = 2;
  topology.ranks_per_node = 2;
  sim::Cluster cluster{topology};
  for (const Rank r : cluster.ranks()) {
    Gpu rank{cluster, r};
    sim::Communicator communicator{cluster, r};
    rank.communicate(OperationKind::all_gather, "collective",
                     [&](zerospan::Collective what) { call(communicator, what, rank); });
  }
  return end_of(cluster.resolve(), "collective");
}

constexpr auto gather = [](auto& communicator, zerospan::Collective what, Gpu& rank) {
  const zerospan::GatherPart part{rank.device.memory().data(), shard};
  communicator.all_gather(what, {&part, 1});
};

TEST_CASE("a gather sends each rank all shards: directly each byte crosses between nodes for each rank there") {
  // Within: one shard. Between: both ranks of a node get two shards each.
  CHECK(collective({.within = {64}}, gather) == 1);
  CHECK(collective({.between = {64}}, gather) == 4);
  CHECK(collective({.within = {16}, .between = {64}}, gather) == 4);
  CHECK(collective({.between = {.bytes_per_second = 256}, .adapter = 64}, gather) == 2);
}

TEST_CASE("along a ring each byte enters a node once") {
  // Each rank sends three shards; of the two of a node, one sends them to the other node.
  CHECK(collective({.between = {64}, .collectives = sim::Algorithm::ring}, gather) == 3);
  CHECK(collective({.within = {64}, .collectives = sim::Algorithm::ring}, gather) == 1.5);
  // Of the three hops two are between nodes.
  CHECK(collective({.within = {.latency = 1}, .between = {.latency = 8}, .collectives = sim::Algorithm::ring},
                   gather) == 1 + 2 * 8);
}

TEST_CASE("in groups each byte crosses between nodes once: a gather across, then one within") {
  const auto grouped = [](sim::Communicator& communicator, zerospan::Collective what, Gpu& rank) {
    zerospan::GroupedCommunicator groups{split_into_groups(communicator, 2)};
    gather(groups, what, rank);
  };
  CHECK(collective({.between = {64}}, grouped) == 2);  // one shard for each of the two ranks
  CHECK(collective({.within = {64}}, grouped) == 2);   // two shards
  CHECK(collective({.within = {64}, .between = {64}}, grouped) == 4);
}

TEST_CASE("a rank whose program ends before a collective is named") {
  sim::Cluster cluster{sim::Topology{.ranks_per_node = 2}};
  for (const Rank r : cluster.ranks()) {
    Gpu rank{cluster, r};
    sim::Communicator communicator{cluster, r};
    if (r == Rank{0}) rank.communicate(OperationKind::barrier, "end", [&](auto what) { communicator.barrier(what); });
  }
  CHECK_THROWS_WITH_AS(cluster.resolve(), "rank 0: barrier of end (0 bytes); rank 1: nothing more",
                       zerospan::DivergenceError);
}

TEST_CASE("the root of a reduction receives what all others send, the one of a broadcast sends it") {
  const auto seconds = [](auto call) {
    sim::Cluster cluster{sim::Topology{.ranks_per_node = 4, .within = {64}}};
    for (const Rank r : cluster.ranks()) {
      Gpu rank{cluster, r};
      sim::Communicator communicator{cluster, r};
      rank.communicate(OperationKind::reduce, "rooted", [&](auto what) { call(communicator, what, rank); });
    }
    return end_of(cluster.resolve(), "rooted", 2);
  };
  CHECK(seconds([](sim::Communicator& communicator, zerospan::Collective what, Gpu& rank) {
          std::byte* const data = rank.device.memory().data();
          const auto type = zerospan::ElementType::float32;
          communicator.reduce(what, {type, data, type, data, 16}, Rank{1});
        }) == 3);
  CHECK(seconds([](sim::Communicator& communicator, zerospan::Collective what, Gpu& rank) {
          communicator.broadcast(what, {rank.device.memory().data(), 64}, Rank{1});
        }) == 3);
}

TEST_CASE("a collective on the calling thread keeps the host until it ends") {
  sim::Cluster cluster{sim::Topology{.ranks_per_node = 2, .within = {64}, .flops_per_second = 1}};
  for (const Rank r : cluster.ranks()) {
    sim::HostDevice device{cluster, r, {.device_budget = 1_MiB, .host_budget = 1_MiB}};
    sim::Communicator communicator{cluster, r};
    device.compute("before", r.value);
    const zerospan::GatherPart part{device.memory().data(), 64};
    communicator.all_gather({calling_thread, "gather"}, {&part, 1});
    device.compute("after", 1);
  }
  const sim::Schedule schedule = cluster.resolve();
  CHECK(begin_of(schedule, "after", 0) == 2);
  CHECK(begin_of(schedule, "after", 1) == 2);
}

TEST_CASE("collectives of two communicators share links") {
  sim::Cluster cluster{sim::Topology{.ranks_per_node = 2, .within = {64}}};
  for (const Rank r : cluster.ranks()) {
    Gpu rank{cluster, r};
    sim::Communicator one{cluster, r};
    sim::Communicator other = one.duplicate();
    rank.communicate(OperationKind::all_gather, "one", [&](auto what) { gather(one, what, rank); });
    sim::Device::lanes_type lanes{rank.device, {}};
    lanes.post(Lane::communicate, {}, {OperationKind::all_gather, "other"}, [&](sim::Stream& stream) -> Completion {
      gather(other, zerospan::Collective{zerospan::StreamRef{stream}, "other"}, rank);
      return {};
    });
  }
  const sim::Schedule schedule = cluster.resolve();
  CHECK(end_of(schedule, "one") == 2);
  CHECK(end_of(schedule, "other") == 2);
}

// The engine on a topology.

constexpr std::size_t few_layers = 3;
constexpr std::size_t small_layer = std::size_t{6} * 2048;  // elements: no padding on six ranks

struct Model {
  std::size_t layers = few_layers;
  std::size_t elements = small_layer;
  std::size_t micro_batches = 1;
  bool keeps_copies = false;  ///< Of what groups have gathered.
  bool on_disk = false;       ///< Otherwise all states are in device memory.
  int steps = 2;
  zerospan::Bytes prefetch = 0_KiB;
  zerospan::Bytes memory = 8_MiB;  ///< Of the device, and of the host.
  zerospan::AnyPartitioner partition = zerospan::Slices{};
};

/// Trains on one simulated rank. `before_last()` is called before the last step.
template <class D, class Communicator, class Before>
void train(D& device, Communicator& communicator, const Model& model, Before before_last) {
  zerospan::DeviceTier memory{device};
  sim::Tier disk{device, {.capacity = 1_GiB}};
  const zerospan::TierRef tier = model.on_disk ? zerospan::TierRef{disk} : zerospan::TierRef{memory};
  zerospan::Placement placement{.parameters = tier, .gradients = tier, .optimizer = tier};
  if (model.keeps_copies) placement.group_copies = memory;
  zerospan::ZeroEngine engine{zerospan::Stage3{},
                              communicator,
                              device,
                              placement,
                              zerospan::AdamW{},
                              {.micro_batches = model.micro_batches,
                               .partition = model.partition,
                               .persistence_threshold = 0_KiB,
                               .prefetch = model.prefetch}};
  std::vector<zerospan::PartitionedParameter<Ghost<bfloat16>>> weights;
  for (std::size_t l = 0; l < model.layers; ++l) {
    weights.emplace_back(engine, "layer " + std::to_string(l), zerospan::Shape{model.elements},
                         zerospan::init::normal(1));
  }
  for (int step = 0; step < model.steps; ++step) {
    if (step + 1 == model.steps) before_last();
    for (std::size_t micro = 0; micro < model.micro_batches; ++micro) {
      device.compute("forward begins", 0);
      for (const auto& weight : weights) {
        const auto full = weight.gather(device.stream());
        device.compute("forward", 1);
      }
      for (auto weight = weights.rbegin(); weight != weights.rend(); ++weight) {
        const auto full = weight->gather(device.stream());
        auto gradient = weight->gradient(device.stream());
        device.compute("backward", 2);
        gradient.commit();
      }
    }
    engine.step();
  }
  engine.synchronize();
  device.compute("end", 0);
}

using Levels = zerospan::CommunicatorLevels<sim::Communicator>;

/// Makes communicators of any kind of the two levels that ranks are split into.
constexpr auto grouped = [](Levels levels, auto&) { return zerospan::GroupedCommunicator{std::move(levels)}; };
constexpr auto hybrid = [](Levels levels, auto&) { return zerospan::HybridCommunicator{std::move(levels)}; };
constexpr auto quantized = []<class D>(Levels levels, D& device) {
  using Across = zerospan::QuantizedCommunicator<sim::Communicator, D>;
  return zerospan::GroupedCommunicator{zerospan::CommunicatorLevels<sim::Communicator, Across>{
      std::move(levels.within),
      Across{std::move(levels.across),
             device,
             {.gather = zerospan::QuantizedType::int8, .reduce = zerospan::QuantizedType::int4, .scratch = 64_KiB}}}};
};

constexpr int groups = 3;
constexpr int ranks_per_group = 2;
constexpr std::size_t psi = few_layers * small_layer * sizeof(bfloat16);

/// What each rank receives in the second of two steps, on nodes that are its groups.
template <class D, class Join>
std::vector<sim::Traffic> traffic(const Model& model, Join join) {
  sim::Cluster cluster{sim::Topology{.nodes = groups, .ranks_per_node = ranks_per_group}};
  std::vector<sim::Traffic> result;
  for (const Rank rank : cluster.ranks()) {
    D device{cluster, rank, {.device_budget = model.memory, .host_budget = model.memory}};
    sim::Communicator ranks{cluster, rank};
    auto communicator = join(split_into_groups(ranks, ranks_per_group), device);
    sim::Traffic before;
    train(device, communicator, model, [&] { before = cluster.traffic(rank); });
    const sim::Traffic after = cluster.traffic(rank);
    result.push_back({after.within - before.within, after.between - before.between});
  }
  CHECK(cluster.resolve().back().end >= 0);
  return result;
}

/// Checks what all ranks of a group receive together, in units of the parameters' bytes.
void check(const std::vector<sim::Traffic>& received, double within, double between) {
  for (const sim::Traffic& rank : received) {
    CHECK(rank.between * ranks_per_group == between * static_cast<double>(psi * (groups - 1) / groups));
    CHECK(rank.within * ranks_per_group == within * static_cast<double>(psi * (ranks_per_group - 1)));
  }
}

TEST_CASE_TEMPLATE("what crosses between groups is what the same communicators send on threads, to the byte", D,
                   sim::HostDevice, sim::Device) {
  check(traffic<D>({}, grouped), 3, 3);
  check(traffic<D>({.micro_batches = 4}, grouped), 12, 12);
  check(traffic<D>({.keeps_copies = true}, grouped), 3, 2);
  check(traffic<D>({.micro_batches = 4, .keeps_copies = true}, grouped), 12, 5);
  check(traffic<D>({}, hybrid), 3, 2);
  constexpr std::size_t scales = psi / sizeof(bfloat16) / zerospan::quantized_block_elements * sizeof(float);
  constexpr std::size_t encoded = psi / 2 + scales + psi / 4 + scales;
  check(traffic<D>({.keeps_copies = true}, quantized), 3, static_cast<double>(encoded) / static_cast<double>(psi));
}

/// A cluster on which everything is shared, by two, by four or by all, and takes about as long as compute.
constexpr sim::Topology shared_links() {
  sim::Topology topology{.nodes = 3,
                         .ranks_per_node = 4,
                         .within = {.bytes_per_second = 9e3, .latency = 1e-3},
                         .between = {.bytes_per_second = 17e3, .latency = 2e-3},
                         .host_link = {.to_device = {13e3, 1e-4}, .to_host = {11e3, 1e-4}, .ranks = 2},
                         .disk = {.read = 31e3, .write = 29e3, .mixed = 17e3, .latency = 3e-3},
                         .flops_per_second = 1};
  topology.disk.scope = sim::Scope::node;
  topology.host_memory.bytes_per_second = 140e3;
  topology.device_memory.bytes_per_second = 70e3;
  return topology;
}

/// Trains in groups, or not, everything on disk.
template <class D>
sim::Schedule on_shared_links(const sim::ClusterOptions& options, int in_group = 0,
                              const zerospan::AnyPartitioner& partition = zerospan::Slices{}) {
  const Model model{.layers = 5, .elements = 12 * 1024, .on_disk = true, .prefetch = 64_KiB, .partition = partition};
  sim::Cluster cluster{shared_links(), options};
  for (const Rank rank : cluster.ranks()) {
    D device{cluster, rank, {.device_budget = model.memory, .host_budget = model.memory}};
    sim::Communicator ranks{cluster, rank};
    if (in_group > 0) {
      zerospan::GroupedCommunicator communicator{split_into_groups(ranks, in_group)};
      train(device, communicator, model, [] {});
    } else {
      train(device, ranks, model, [] {});
    }
  }
  return cluster.resolve();
}

/// The same, each rank's program on a thread of its own.
sim::Schedule on_threads() {
  const Model model{.layers = 5, .elements = 12 * 1024, .on_disk = true, .prefetch = 64_KiB};
  sim::Cluster cluster{shared_links()};
  std::vector<std::jthread> threads;
  for (const Rank rank : cluster.ranks()) {
    threads.emplace_back([&cluster, &model, rank] {
      sim::Device device{cluster, rank, {.device_budget = model.memory, .host_budget = model.memory}};
      sim::Communicator ranks{cluster, rank};
      zerospan::GroupedCommunicator communicator{split_into_groups(ranks, 4)};
      train(device, communicator, model, [] {});
    });
  }
  threads.clear();
  return cluster.resolve();
}

/// What happened on each rank, and when.
std::map<int, std::vector<sim::Event>> by_rank(const sim::Schedule& schedule) {
  std::map<int, std::vector<sim::Event>> events;
  for (const sim::Event& e : schedule) events[e.rank.value].push_back(e);
  return events;
}

/// Whether each rank that stands for others has the very times that it has among all of them. @return How many do.
std::size_t check_same_times(const sim::Schedule& few, const sim::Schedule& all) {
  const auto expected = by_rank(all);
  const auto simulated = by_rank(few);
  for (const auto& [rank, events] : simulated) {
    CAPTURE(rank);
    const auto& others = expected.at(rank);
    REQUIRE(events.size() == others.size());
    const auto same = [](const sim::Event& a, const sim::Event& b) {
      return a.name == b.name && a.kind == b.kind && a.begin == b.begin && a.end == b.end;
    };
    CHECK(std::ranges::equal(events, others, same));
  }
  return simulated.size();
}

TEST_CASE_TEMPLATE("equal ranks are simulated once, with exactly the times that all of them have", D, sim::HostDevice,
                   sim::Device) {
  for (const int in_group : {0, 4, 2}) {
    CAPTURE(in_group);
    const sim::Schedule all = on_shared_links<D>({}, in_group);
    const sim::Schedule one = on_shared_links<D>({.simulate = sim::Simulate::one_of_equals}, in_group);
    CHECK(check_same_times(one, all) == 1);
    CHECK(end_of(all, "end", 0) == end_of(all, "end", 11));
  }
}

TEST_CASE("programs of ranks may run on threads of their own: the times are the same") {
  CHECK(check_same_times(on_threads(), on_shared_links<sim::Device>({}, 4)) == 12);
}

TEST_CASE_TEMPLATE("stragglers and slow disks are simulated apart, and everybody waits for them", D, sim::HostDevice,
                   sim::Device) {
  for (const int in_group : {0, 4}) {
    CAPTURE(in_group);
    const double usual = end_of(on_shared_links<D>({}, in_group), "end");
    for (const sim::Slower& slower :
         {sim::Slower{.rank = Rank{5}, .compute = 3}, sim::Slower{.rank = Rank{2}, .disk = 2},
          sim::Slower{.rank = Rank{9}, .network = 4}}) {
      sim::ClusterOptions options{.slower = {slower}, .ranks_per_group = in_group};
      const sim::Schedule all = on_shared_links<D>(options, in_group);
      options.simulate = sim::Simulate::one_of_equals;
      const sim::Schedule few = on_shared_links<D>(options, in_group);
      CHECK(check_same_times(few, all) < 9);
      CHECK(end_of(few, "end") > usual);
    }
  }
}

/// Seconds of the engine's updates of states in memory, by memories of different speeds.
template <class MakeTier>
double update_seconds(MakeTier make_tier) {
  sim::Topology topology{};
  topology.host_memory.update = 1000;
  topology.device_memory.update = 8000;
  sim::Cluster cluster{topology};
  sim::Device device{cluster, Rank{0}, {.device_budget = 8_MiB, .host_budget = 8_MiB}};
  sim::Communicator communicator{cluster, Rank{0}};
  auto tier = make_tier(device);
  zerospan::DeviceTier memory{device};
  zerospan::ZeroEngine engine{zerospan::Stage3{}, communicator, device,
                              zerospan::Placement{.parameters = memory, .gradients = memory, .optimizer = tier},
                              zerospan::AdamW{}};
  const zerospan::PartitionedParameter<Ghost<float>> weight{engine, "weight", {4096}, zerospan::init::zeros()};
  {
    auto gradient = weight.gradient(device.stream());
    gradient.commit();
  }
  engine.step();
  engine.synchronize();
  for (const sim::Event& e : cluster.resolve()) {
    if (e.kind == OperationKind::update) return (e.end - e.begin) / static_cast<double>(e.bytes);
  }
  return 0;
}

TEST_CASE("the engine's updates take the time of the side that makes them") {
  CHECK(update_seconds([](sim::Device& device) { return zerospan::DeviceTier{device}; }) ==
        doctest::Approx(1.0 / 8000));
  CHECK(update_seconds([](sim::Device& device) { return zerospan::HostTier{device}; }) == doctest::Approx(1.0 / 1000));
}

TEST_CASE("owners run programs of their own, and all of them are simulated") {
  const sim::Schedule all = on_shared_links<sim::Device>({}, 0, zerospan::Owners{});
  std::vector<int> kinds;
  for (int r = 0; r < 12; ++r) kinds.push_back(std::min(r, 5));  // five layers, of an owner each
  const sim::Schedule few =
      on_shared_links<sim::Device>({.simulate = sim::Simulate::one_of_equals, .kinds = kinds}, 0, zerospan::Owners{});
  CHECK(check_same_times(few, all) < 12);
}

TEST_CASE(
    "twenty trillion parameters on 512 GPUs: one rank of a node stands for all, and shares its disk with fifteen") {
  sim::Topology topology{.nodes = 32,
                         .ranks_per_node = 16,
                         .within = {150e9, 5e-6},
                         .between = {100e9, 10e-6},
                         .host_link = {.to_device = {12e9}, .to_host = {12e9}, .ranks = 2},
                         .flops_per_second = 70e12};
  topology.disk = {.read = 25.6e9, .write = 25.6e9, .scope = sim::Scope::node};
  sim::Cluster cluster{topology, {.simulate = sim::Simulate::one_of_equals}};
  REQUIRE(cluster.ranks() == std::vector{Rank{0}});
  constexpr std::size_t hidden = std::size_t{88} * 1024;
  constexpr std::size_t layers = 205;
  std::uint64_t bytes_read = 0;
  {
    sim::Device device{cluster, Rank{0}, {.device_budget = 320_GiB, .host_budget = 90_GiB}};
    sim::Communicator ranks{cluster, Rank{0}};
    zerospan::GroupedCommunicator communicator{split_into_groups(ranks, topology.ranks_per_node)};
    sim::Tier disk{device, {.capacity = 1024_GiB}};
    zerospan::ZeroEngine engine{
        zerospan::Stage3{},
        communicator,
        device,
        zerospan::Placement{.parameters = disk, .gradients = disk, .optimizer = disk},
        zerospan::AdamW{},
        zerospan::EngineOptions{.prefetch = 128_GiB, .staging = 64_GiB, .sub_group_elements = std::size_t{1} << 30}};
    std::vector<zerospan::PartitionedParameter<Ghost<bfloat16>>> model;
    std::size_t parameters = 0;
    for (std::size_t l = 0; l < layers; ++l) {
      for (const std::size_t width : {3U, 1U, 4U, 4U}) {
        model.emplace_back(engine, std::to_string(l) + "." + std::to_string(model.size()),
                           zerospan::Shape{width * hidden, hidden}, zerospan::init::zeros());
        parameters += width * hidden * hidden;
      }
    }
    CHECK(parameters > std::size_t{19'900'000'000'000});
    for (const auto& weight : model) {
      const auto full = weight.gather(device.stream());
      device.compute("forward", sim::matrix_product(4096, hidden, 4 * hidden));
    }
    engine.synchronize();
    bytes_read = engine.statistics().bytes_read;
    CHECK(bytes_read >= parameters * sizeof(bfloat16) / 512);
  }
  const sim::Schedule schedule = cluster.resolve();
  const auto reads = std::ranges::find(schedule.links(), "disk reads of ranks 0 to 15", &sim::LinkLoad::name);
  REQUIRE(reads != schedule.links().end());
  CHECK(reads->bytes == doctest::Approx(16.0 * static_cast<double>(bytes_read)));
  CHECK(reads->busy >= reads->bytes / reads->bytes_per_second * 0.999);
}

TEST_CASE("groups of ranks that are no equals any more are refused, unless the cluster knows of them") {
  const sim::ClusterOptions options{.simulate = sim::Simulate::one_of_equals,
                                    .slower = {{.rank = Rank{5}, .compute = 3}}};
  CHECK_THROWS_AS(on_shared_links<sim::Device>(options, 4), zerospan::ConfigurationError);
}

TEST_CASE("what makes no sense is refused") {
  CHECK_THROWS_AS(sim::Cluster{sim::Topology{.nodes = 0}}, zerospan::ConfigurationError);
  CHECK_THROWS_AS((sim::Cluster{sim::Topology{.ranks_per_node = 2}, {.kinds = {1}}}), zerospan::ConfigurationError);
  CHECK_THROWS_AS((sim::Cluster{sim::Topology{}, {.slower = {{.rank = Rank{1}}}}}), zerospan::ConfigurationError);
  sim::Cluster cluster{sim::Topology{.ranks_per_node = 3}};
  sim::Communicator communicator{cluster, Rank{0}};
  CHECK_THROWS_AS(static_cast<void>(split_into_groups(communicator, 2)), zerospan::ConfigurationError);
  CHECK_THROWS_AS((sim::Communicator{cluster, Rank{3}}), zerospan::ConfigurationError);
  sim::Device device{cluster, Rank{0}, {.device_budget = 1_MiB, .host_budget = 1_MiB}};
  sim::Device other{cluster, Rank{1}, {.device_budget = 1_MiB, .host_budget = 1_MiB}};
  CHECK_THROWS_AS(device.compute(other.stream(), "compute", {1}), zerospan::ConfigurationError);
  CHECK_THROWS_AS(sim::MeasuredSpeed{{}}, zerospan::ConfigurationError);
  CHECK_THROWS_AS((sim::Tier{device, {.capacity = 1_MiB, .own = sim::Disk{.read = 0}}}), zerospan::ConfigurationError);
}

}  // namespace
