/// @file
/// Law 1 on a GPU, through the program train_gpt: whatever the stage, placement and tiers, training gives the same
/// bits; and it learns as on the CPU.
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "support/scratch.hpp"
#include "support/train_gpt.hpp"

namespace {

using Arguments = std::vector<std::string>;
using zerospan_test::ScratchDirectory;

std::vector<nlohmann::json> train(const ScratchDirectory& scratch, Arguments arguments, const char* device = "cuda") {
  arguments.insert(arguments.end(), {"--device", device});
  return zerospan_test::train_small(scratch, arguments);
}

Arguments placed(const char* stage, const char* parameters, const char* gradients, const char* optimizer) {
  return {"--stage", stage, "--parameters", parameters, "--gradients", gradients, "--optimizer", optimizer};
}

Arguments operator+(Arguments left, const Arguments& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

}  // namespace

TEST_CASE("stages and placements change no bits on a GPU, in any precision") {
  const ScratchDirectory scratch;
  const std::vector<Arguments> runs{placed("1", "device", "host", "host"), placed("2", "device", "device", "host"),
                                    placed("2", "device", "host", "nvme"), placed("3", "device", "device", "device"),
                                    placed("3", "host", "host", "host"),   placed("3", "host", "nvme", "device"),
                                    placed("3", "nvme", "nvme", "nvme")};
  for (const char* precision : {"fp32", "bf16", "fp16"}) {
    CAPTURE(std::string{precision});
    const auto oracle = train(scratch, placed("0", "device", "device", "device") + Arguments{"--precision", precision});
    REQUIRE(oracle.size() == 5);
    for (const Arguments& run : runs) {
      CAPTURE(run[1] + " " + run[3] + " " + run[5] + " " + run[7]);
      CHECK(train(scratch, run + Arguments{"--precision", precision}).back() == oracle.back());
    }
  }
}

TEST_CASE("activation checkpoints, prefetching and the vertical schedule change no bits on a GPU") {
  const ScratchDirectory scratch;
  const auto kept = train(scratch, {"--precision", "bf16"});
  for (const char* place : {"device", "host", "nvme"}) {
    CAPTURE(std::string{place});
    CHECK(train(scratch, {"--precision", "bf16", "--activations", place, "--checkpoint-every", "1"}).back() ==
          kept.back());
  }
  CHECK(train(scratch, {"--precision", "bf16", "--prefetch-bytes", "0"}).back() == kept.back());
  const Arguments vertical{"--precision", "bf16", "--schedule", "vertical"};
  CHECK(train(scratch, vertical).back() == kept.back());
  CHECK(train(scratch, vertical + Arguments{"--checkpoint-every", "1"}).back() == kept.back());
}

TEST_CASE("a GPU's losses are those of the CPU, as far as its arithmetic goes") {
  const ScratchDirectory scratch;
  const auto here = train(scratch, {}, "cpu");
  for (const char* precision : {"fp32", "bf16", "fp16"}) {
    CAPTURE(std::string{precision});
    const auto there = train(scratch, {"--precision", precision});
    const double tolerance = std::string{precision} == "fp32" ? 1e-5 : 5e-3;
    REQUIRE(there.size() == here.size());
    for (std::size_t step = 0; step + 1 < here.size(); ++step) {
      if (there[step]["skipped"]) continue;
      const double loss = here[step]["loss"].get<double>();
      CHECK(std::abs(there[step]["loss"].get<double>() - loss) < tolerance * loss);
    }
  }
}

TEST_CASE("tiles train alike on a GPU") {
  const ScratchDirectory scratch;
  const auto whole = train(scratch, {});
  const auto tiled = train(scratch, {"--tiles", "3"});
  for (std::size_t step = 0; step < 4; ++step) {
    const double loss = whole[step]["loss"].get<double>();
    CHECK(std::abs(tiled[step]["loss"].get<double>() - loss) < 1e-5 * loss);
  }
}
