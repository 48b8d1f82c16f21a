#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/plan/setting.hpp>

#include "cluster/cluster_file.hpp"
#include "cluster/cluster_plan.hpp"
#include "support/running_program.hpp"
#include "support/scratch.hpp"

namespace {

using cluster::Answer;
using cluster::Cluster;
using cluster::Question;
using doctest::Approx;
using zerospan::plan::Place;
using zerospan::plan::Placing;

constexpr double mebi = 0x1p20;
constexpr Placing on_device{Place::device, Place::device, Place::device};
constexpr Placing on_disk{Place::nvme, Place::nvme, Place::nvme};

/// A node of GPUs that compute an operation in a picosecond; nothing else takes time.
Cluster instant_cluster(int gpus) {
  Cluster c{.name = "a node", .source = "made up"};
  c.topology = {.nodes = 1, .ranks_per_node = gpus, .flops_per_second = 1e12};
  c.topology.disk.scope = zerospan::sim::Scope::node;
  c.gpu_memory = 512 * mebi;
  c.framework_memory = 32 * mebi;
  c.host_memory = 512 * mebi * gpus;
  c.disk_capacity = 4096 * mebi * gpus;
  return c;
}

Question small_question() {
  Question q;
  q.cluster = instant_cluster(2);
  q.training.model = {.layers = 4, .hidden = 256, .sequence = 64, .batch = 2};
  q.placing = on_device;
  q.activations = Place::device;
  return q;
}

constexpr double small_parameters = 4.0 * 12 * 256 * 256;

/// Forward, again, and backward, of which that has twice as much: 8 operations a token and parameter.
constexpr double small_flops = 8 * 128 * small_parameters;

double ratio_of(const Answer& a, const std::string& change) {
  const auto found = std::ranges::find(a.gains, change, &cluster::Gain::change);
  REQUIRE(found != a.gains.end());
  return found->ratio;
}

TEST_CASE("what a block's activations and the framework take of a GPU is not there for states") {
  Question q = small_question();
  q.training.heads = 4;
  const auto budget = [&] { return static_cast<double>(cluster::answer(q).machine.device_budget.count); };
  constexpr double tokens = 128;
  CHECK(budget() == 480 * mebi - tokens * 16 * 256);
  q.training.keeps_scores = true;
  CHECK(budget() == 480 * mebi - tokens * (16 * 256 + 2 * 4 * 64));
  q.training.model.vocabulary = 16384;  // the logits and their gradients are more
  CHECK(budget() == 480 * mebi - tokens * 8 * 16384);
}

TEST_CASE("a step that is bound by compute has the speed of the GPUs") {
  Question q = small_question();
  const Answer a = cluster::answer(q);
  REQUIRE(a.ways.front().choice.has_value());
  CHECK(a.parameters == static_cast<std::size_t>(small_parameters));
  CHECK(a.prediction.step_seconds == Approx(small_flops / 1e12).epsilon(1e-3));
  CHECK(a.flops_per_second == Approx(1e12).epsilon(1e-3));
  CHECK(a.tokens_per_second == Approx(2 * 128 / (small_flops / 1e12)).epsilon(1e-3));
  CHECK(a.prediction.bottleneck() == "compute on stream");
  CHECK(ratio_of(a, "twice the operations a second") == Approx(2).epsilon(1e-3));
  CHECK(ratio_of(a, "twice the batch") == Approx(1).epsilon(1e-3));

  q.training.micro_batches = 4;
  const Answer four = cluster::answer(q);
  CHECK(four.prediction.step_seconds == Approx(4 * small_flops / 1e12).epsilon(1e-3));
  CHECK(four.tokens_per_second == Approx(a.tokens_per_second).epsilon(1e-3));
}

TEST_CASE("the path that a step waits for is whole, and drawn with all that is done") {
  Question q = small_question();
  q.placing = on_disk;
  q.cluster.topology.disk.read = q.cluster.topology.disk.write = 1e9;
  const Answer a = cluster::answer(q);
  double until = 0;
  for (const auto& span : a.prediction.critical_path) {
    CHECK(span.begin == Approx(until).epsilon(1e-9));
    until = span.end;
  }
  CHECK(until == Approx(a.prediction.step_seconds));
  double reads = 0;
  for (const auto& span : a.prediction.spans) {
    CHECK(span.begin >= 0);
    CHECK(span.end <= a.prediction.step_seconds * (1 + 1e-9));
    if (span.kind == zerospan::OperationKind::read) reads += static_cast<double>(span.bytes);
  }
  CHECK(reads >= 12 * small_parameters / 2);  // of a rank: master weights and moments, at least
}

TEST_CASE("a step that is bound by a node's disks takes what they take for the states of all its GPUs") {
  Question q = small_question();
  q.placing = on_disk;
  q.cluster.topology.disk.read = q.cluster.topology.disk.write = 1e6;
  const Answer a = cluster::answer(q);
  REQUIRE(a.ways.front().choice.has_value());
  CHECK(a.prediction.step_seconds >= 12 * small_parameters / 1e6);
  CHECK(ratio_of(a, "twice the disk's bytes a second") == Approx(2).epsilon(0.01));
  CHECK(ratio_of(a, "twice the batch") == Approx(2).epsilon(0.01));
  CHECK(std::ranges::is_sorted(a.gains, std::ranges::greater{}, &cluster::Gain::ratio));

  q.choose = true;
  const Answer chosen = cluster::answer(q);
  REQUIRE(chosen.ways.front().choice.has_value());
  CHECK(chosen.prediction.step_seconds == Approx(small_flops / 1e12).epsilon(1e-3));
}

TEST_CASE("what fits, and how much of it, is at the edge") {
  Question q = small_question();
  q.cluster.disk_capacity = 0;
  q.training.model.hidden = 1024;
  q.activations.reset();
  q.choose = true;
  const std::size_t most = cluster::answer(q).most_layers;
  CHECK(most > 4);
  CHECK(most < 4 * cluster::most_times);
  const auto fits = [&](std::size_t layers, int gpus) {
    Question other = q;
    other.training.model.layers = layers;
    other.cluster = cluster::with_gpus(q.cluster, gpus);
    const Answer a = cluster::answer(other);
    for (const cluster::Way& way : a.ways) CHECK(way.choice.has_value() == way.refusal.empty());
    return a.ways.front().choice.has_value();
  };
  CHECK(fits(most, 2));
  CHECK(!fits(most + 1, 2));

  q.training.model.layers = most + 1;
  const int fewest = cluster::answer(q).fewest_gpus;
  CHECK(fewest == 4);
  CHECK(fits(most + 1, fewest));
}

TEST_CASE("groups of a node's GPUs are chosen where links between nodes are slow") {
  Question q = small_question();
  q.cluster = cluster::with_gpus(q.cluster, 8);
  q.cluster.topology.between = {.bytes_per_second = 1e6};
  q.placing = {Place::host, Place::host, Place::host};
  const double asked = cluster::answer(q).prediction.step_seconds;
  q.choose = true;
  const Answer a = cluster::answer(q);
  REQUIRE(a.ways.front().choice.has_value());
  CHECK(a.ways.front().choice->setting.groups.has_value());
  CHECK(a.prediction.step_seconds < 0.6 * asked);
}

TEST_CASE("GPUs are those of one node, or whole nodes") {
  const Cluster node = instant_cluster(8);
  CHECK(cluster::with_gpus(node, 4).topology.ranks() == 4);
  CHECK(cluster::with_gpus(node, 32).topology.nodes == 4);
  CHECK(cluster::with_gpus(node, 32).topology.ranks() == 32);
  CHECK_THROWS_WITH_AS(cluster::with_gpus(node, 12), "12 GPUs are no whole nodes of 8", zerospan::ConfigurationError);
}

nlohmann::json read(const std::filesystem::path& path) {
  std::ifstream stream{path};
  return nlohmann::json::parse(stream);
}

const std::filesystem::path examples = std::filesystem::path{ZEROSPAN_SOURCE_DIR} / "examples" / "clusters";

TEST_CASE("the clusters of the examples can be read") {
  std::size_t read = 0;
  for (const auto& entry : std::filesystem::directory_iterator{examples}) {
    CAPTURE(entry.path().string());
    CHECK(cluster::read_cluster(entry.path()).topology.ranks() >= 1);
    ++read;
  }
  CHECK(read >= 3);
}

TEST_CASE("a file that lacks something, or has what makes no sense, is refused by the name of it") {
  const nlohmann::json whole = read(examples / "dgx2.json");
  CHECK_NOTHROW(cluster::cluster_from_json(whole, "file"));
  std::size_t fields = 0;
  const nlohmann::json flat = whole.flatten();
  for (const auto& [path, value] : flat.items()) {
    nlohmann::json without = whole;
    const nlohmann::json::json_pointer pointer{path};
    without.at(pointer.parent_pointer()).erase(pointer.back());
    std::string name = path.substr(1);
    std::ranges::replace(name, '/', '.');
    CHECK_THROWS_WITH_AS(cluster::cluster_from_json(without, "file"), ("file: " + name + " is missing").c_str(),
                         zerospan::ConfigurationError);
    ++fields;
  }
  CHECK(fields > 20);
  const auto refuse = [&](const char* pointer, const nlohmann::json& value, const char* message) {
    nlohmann::json wrong = whole;
    wrong[nlohmann::json::json_pointer{pointer}] = value;
    CHECK_THROWS_WITH_AS(cluster::cluster_from_json(wrong, "file"), message, zerospan::ConfigurationError);
  };
  refuse("/format", "zerospan rates", "file: format is not that of clusters");
  refuse("/version", 2, "file: version is not 1");
  refuse("/nodes", 0, "file: nodes is not above zero");
  refuse("/gpus_per_node", 1.5, "file: gpus_per_node is no count");
  refuse("/nodes", 2'000'000, "file: nodes is more than a million");
  refuse("/gpu/flops_per_second", "fast", "file: gpu.flops_per_second is no number");
  refuse("/nvme/latency_seconds", -1, "file: nvme.latency_seconds is negative, or not finite");
  refuse("/gpus_per_host_link", 17, "file: gpus_per_host_link is more than the GPUs of a node");
}

#if defined(PLAN)

zerospan_test::Run run(const zerospan_test::ScratchDirectory& scratch, std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--cluster", (examples / "dgx_h100.json").string(), "--layers", "4", "--heads",
                                     "16", "--width", "1024", "--context", "16", "--batch", "16"});
  return zerospan_test::RunningProgram{PLAN, scratch, std::move(arguments)}.wait();
}

TEST_CASE("plan --cluster says what a step takes, and writes figures, a picture and a trace") {
  const zerospan_test::ScratchDirectory scratch;
  const std::filesystem::path directory = scratch.path();
  const auto planned = run(scratch, {"--gpus", "16", "--json", directory / "json", "--svg", directory / "svg",
                                     "--trace", directory / "trace"});
  INFO(planned.errors);
  REQUIRE(planned.exit_code == 0);
  CHECK(planned.output.find("16 GPUs in 2 nodes") != std::string::npos);

  Question q;
  q.cluster = cluster::with_gpus(cluster::read_cluster(examples / "dgx_h100.json"), 16);
  q.training.model = {.layers = 4, .hidden = 1024, .vocabulary = 50257, .sequence = 16, .batch = 16};
  q.training.heads = 16;
  const Answer a = cluster::answer(q);
  const nlohmann::json json = read(directory / "json");
  CHECK(json["step_seconds"] == Approx(a.prediction.step_seconds).epsilon(1e-12));
  CHECK(json["parameters"] == 4 * 12 * 1024 * 1024 + 50257 * 1024);
  CHECK(json["ways"].size() == 1);
  CHECK(json["peak_bytes"]["parameters"]["NVMe"].get<std::size_t>() >= 2 * a.parameters / 16);

  CHECK(zerospan_test::content(directory / "svg").find("critical path") != std::string::npos);
  CHECK(read(directory / "trace").at("traceEvents").size() >= a.prediction.spans.size());
}

TEST_CASE("plan --model takes the vocabulary of a config.json, unless another is asked for") {
  const zerospan_test::ScratchDirectory scratch;
  const std::filesystem::path directory = scratch.path();
  std::ofstream{directory / "config.json"}
      << R"({"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 16, "vocab_size": 1000})";
  const auto parameters = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"--cluster", examples / "dgx2.json", "--model", directory / "config.json", "--json",
                             directory / "json"});
    const auto planned = zerospan_test::RunningProgram{PLAN, scratch, std::move(more)}.wait();
    INFO(planned.errors);
    REQUIRE(planned.exit_code == 0);
    return read(directory / "json")["parameters"].get<std::size_t>();
  };
  constexpr std::size_t blocks = 2 * 12 * 64 * 64;
  CHECK(parameters({}) == blocks + 64 * 1000);
  CHECK(parameters({"--vocabulary", "500"}) == blocks + 64 * 500);
}

TEST_CASE("plan --cluster says in one line what it cannot plan") {
  const zerospan_test::ScratchDirectory scratch;
  const auto nodes = run(scratch, {"--gpus", "12"});
  CHECK(nodes.exit_code == 2);
  CHECK(nodes.errors == "plan: 12 GPUs are no whole nodes of 8\n");
  const auto here = zerospan_test::RunningProgram{PLAN, scratch, {"--gpus", "65"}}.wait();
  CHECK(here.exit_code == 2);
  CHECK(here.errors == "plan: more than 64 GPUs are planned with --cluster alone\n");
  const auto memory = run(scratch, {"--gpu-memory", "2200MiB"});  // of which a framework has 2048
  CHECK(memory.exit_code == 3);
  CHECK(memory.output.find("bytes short") != std::string::npos);
}

#endif

}  // namespace
