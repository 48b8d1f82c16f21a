// The showcase of bench/large.sh: which model it chooses, what it predicts, and a small one from outside.
#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>

#include "large/prediction.hpp"
#include "large/showcase.hpp"
#include "support/scratch.hpp"
#include "support/train_gpt.hpp"

namespace {

using zerospan_test::Run;
using zerospan_test::ScratchDirectory;

gpt::Options options_for(double parameters) { return large::options_of(large::model_of(parameters, 64), 3, 2, true); }

TEST_CASE("the model has as many parameters as are wanted, in the memory that does not grow with them") {
  for (const double parameters : {1.0, 20e6, 50e6, 5e8, 4e9, 1e10}) {
    CAPTURE(parameters);
    const gpt::Options o = options_for(parameters);
    CHECK(static_cast<double>(o.model.parameters()) >= parameters);
    CHECK(static_cast<double>(o.model.parameters()) < 2 * parameters + 13e6);  // a layer more at the most
    CHECK(o.model.width % (o.model.heads * 128) == 0);
    CHECK(o.tokens_a_step() == 64);
    CHECK(large::disk_bytes(o) / o.model.parameters() <= 14);
  }
  const gpt::Options o = options_for(4e9);
  CHECK(o.model.width == 4096);
  CHECK(large::memory_bound(o) < std::uint64_t{2} << 30);
  gpt::Options deeper = o;
  deeper.model.layers *= 2;
  const std::uint64_t of_a_layer = 64 * (18 * 4096 + 32 * 64 + 1024) * sizeof(float);  // activations
  CHECK(large::memory_bound(deeper) < large::memory_bound(o) + o.model.layers * of_a_layer);
}

TEST_CASE("a disk with too little room gets fewer layers, and one without room for a layer is refused") {
  const gpt::Dimensions whole = large::model_of(5e8, 64);
  const std::uint64_t bytes = large::disk_bytes(options_for(5e8));
  CHECK(large::scaled_to(whole, bytes).layers == whole.layers);
  CHECK(large::scaled_to(whole, bytes - 1).layers == whole.layers - 1);
  const gpt::Dimensions half = large::scaled_to(whole, bytes / 2);
  CHECK(half.layers < whole.layers);
  CHECK(half.width == whole.width);
  CHECK(large::disk_bytes(large::options_of(half, 3, 2, true)) <= bytes / 2);
  CHECK_THROWS_AS(large::scaled_to(whole, 1 << 20), zerospan::BudgetError);
}

TEST_CASE("each part of a step takes as long as its slowest lane") {
  const gpt::Options o = options_for(4e9);
  const auto p = static_cast<double>(o.model.parameters());
  constexpr double slow = 1e9;
  constexpr double fast = 1e18;
  const auto near = [](double value) { return doctest::Approx(value).epsilon(0.01); };
  const large::Prediction disk = large::predict(o, {slow, slow, fast, fast, fast, fast, fast});
  CHECK(disk.forward == near(14 * p / slow));
  CHECK(disk.backward == near(2 * p / slow));
  const large::Prediction products = large::predict(o, {fast, fast, slow, slow, fast, fast, fast});
  CHECK(products.forward == near(2 * 64 * p / slow));
  CHECK(products.backward == near(4 * 64 * p / slow));
  const large::Prediction copies = large::predict(o, {fast, fast, fast, fast, slow, fast, fast});
  CHECK(copies.forward == near(2 * p / slow));
  CHECK(copies.backward == near(2 * p / slow));
  CHECK(large::predict(o, {fast, fast, fast, fast, fast, slow, fast}).backward == near(p / slow));
  CHECK(large::predict(o, {fast, fast, fast, fast, fast, fast, slow}).seconds() == near(p / slow));
  const large::Rates even{slow, slow, slow, slow, slow, slow, slow};
  CHECK(large::predict(o, even).backward == near(4 * 64 * p / slow + 2 * p / slow + p / slow));
}

#if defined(LARGE)

Run run(const ScratchDirectory& scratch, std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--parameters", "20e6", "--threads", "1", "--leave", "0", "--directory",
                                     scratch.path(), "--results", scratch.path()});
  return zerospan_test::RunningProgram{LARGE, scratch, std::move(arguments)}.wait();
}

nlohmann::json last_line(const Run& run) {
  REQUIRE(run.output.ends_with('\n'));
  const std::string lines = run.output.substr(0, run.output.size() - 1);
  return nlohmann::json::parse(lines.substr(lines.rfind('\n') + 1));
}

TEST_CASE("the last line is JSON: every byte is accounted for, and the memory is within its bound") {
  const ScratchDirectory scratch;
  const Run on_demand = run(scratch, {"--without-prefetch"});
  INFO(on_demand.errors);
  REQUIRE(on_demand.exit_code == 0);
  const auto line = last_line(on_demand);
  CHECK(line["parameters"].get<double>() >= 20e6);
  CHECK(line["steps"] == 3);
  CHECK(line["scaled"] == false);
  // What a forward pass finds in staging memory has not to be read, but for the first; nor has what is still there when
  // the backward pass begins.
  const gpt::Options small = options_for(20e6);
  const std::uint64_t found = 2 * (large::traffic_of(small).forward.read + small.host_budget);
  CHECK(line["bytes_read"] <= line["predicted_bytes_read"]);
  CHECK(line["bytes_read"] >= line["predicted_bytes_read"].get<std::uint64_t>() - found);
  CHECK(line["bytes_written"] == line["predicted_bytes_written"]);
  CHECK(line["seconds_per_step"] > 0);
  CHECK(line["predicted_seconds_per_step"] > 0);
  CHECK(line["peak_rss_bytes"] > line["budget_bytes"].get<std::uint64_t>() / 4);
  CHECK(line["peak_rss_bytes"] <= line["rss_bound_bytes"]);

  const Run ahead = run(scratch, {});
  INFO(ahead.errors);
  REQUIRE(ahead.exit_code == 0);
  const auto other = last_line(ahead);
  CHECK(other["bytes_written"] == line["bytes_written"]);
  // What is fetched for a step that is never made comes on top, and what stays in memory has not to be read again.
  const gpt::Options o = options_for(20e6);
  CHECK(other["bytes_read"] <= line["bytes_read"].get<std::uint64_t>() + o.prefetch_bytes);
  CHECK(other["bytes_read"] >= line["bytes_read"].get<std::uint64_t>() - 3 * o.device_budget);
  CHECK(other["peak_rss_bytes"] <= other["rss_bound_bytes"]);
  CHECK(std::filesystem::exists(scratch.path() + "/large.trace.json"));
}

TEST_CASE("a disk with too little room: the model is smaller, it says so, and the exit code is 3; with none it is 1") {
  const ScratchDirectory scratch;
  const Run scaled = run(scratch, {"--disk", "250e6", "--steps", "1"});
  INFO(scaled.errors);
  CHECK(scaled.exit_code == 3);
  CHECK(scaled.output.starts_with("SCALED: 1 of 2 layers"));
  CHECK(last_line(scaled)["scaled"] == true);
  const Run none = run(scratch, {"--disk", "1e6"});
  CHECK(none.exit_code == 1);
  CHECK(none.errors.starts_with("large: one layer of width 1024 needs "));
  CHECK(none.errors.find('\n') == none.errors.size() - 1);
}

TEST_CASE("a training that fails is one clear line, and exit code 1") {
  const ScratchDirectory scratch;
  std::filesystem::create_directories(scratch.path() + "/large.trace.json/in the way");
  const Run failed = run(scratch, {"--steps", "1"});
  CHECK(failed.exit_code == 1);
  CHECK(failed.errors.find("\nlarge: ") != std::string::npos);
  CHECK(failed.errors.find("train_gpt ended with exit code 1") != std::string::npos);
}

TEST_CASE("a showcase that is ended in the middle takes the training with it, and leaves nothing on the disk") {
  const ScratchDirectory scratch;
  const ScratchDirectory disk;
  zerospan_test::RunningProgram running{LARGE,
                                        scratch,
                                        {"--parameters", "20e6", "--steps", "1000", "--threads", "1", "--directory",
                                         disk.path(), "--results", scratch.path()}};
  const std::string metrics = scratch.path() + "/large.jsonl";
  while (!running.has_ended() && zerospan_test::content(metrics).find('\n') == std::string::npos) {
    std::this_thread::yield();
  }
  std::string training;
  std::ifstream{"/proc/" + running.process() + "/task/" + running.process() + "/children"} >> training;
  REQUIRE(!training.empty());
  ::kill(std::stoi(running.process()), SIGTERM);
  while (!running.has_ended()) std::this_thread::yield();
  const auto is_running = [&] {  // whoever adopts it may not have taken note of its end
    const std::string status = zerospan_test::content("/proc/" + training + "/stat");
    return !status.empty() && status.find(") Z ") == std::string::npos && status.find(") X ") == std::string::npos;
  };
  while (is_running()) std::this_thread::yield();
  CHECK(disk.is_empty());
}

#endif

}  // namespace
