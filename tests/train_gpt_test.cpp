// The program that users run first, from outside: what it says, what it leaves behind, and what it takes.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <zerospan/kernels/cpu.hpp>

#include "support/sample.hpp"
#include "support/scratch.hpp"
#include "support/train_gpt.hpp"
#include "support/unnamed_files.hpp"

namespace {

using zerospan_test::content;
using zerospan_test::lines;
using zerospan_test::Run;
using zerospan_test::train_gpt;
using zerospan_test::train_layers;
using zerospan_test::train_small;
using zerospan_test::write_text;

/// In all steps of a metrics file.
double bytes_written(const std::vector<nlohmann::json>& metrics) {
  double bytes = 0;
  for (const nlohmann::json& line : metrics) bytes += line.value("bytes_written", 0.0);
  return bytes;
}

bool says(const std::string& text, const std::string& words) { return text.find(words) != std::string::npos; }

TEST_CASE("a wrong flag is one clear line, and exit code 2") {
  const zerospan_test::ScratchDirectory scratch;
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"--no-such-flag"},
                                                    {"--stage", "4"},
                                                    {"--ranks", "none"},
                                                    {"--stage", "1", "--parameters", "nvme"},
                                                    {"--tiles", "129", "--width", "128"},
                                                    {"--comm", "nccl"},
                                                    {"--ranks", "3", "--ranks-per-group", "2"},
                                                    {"--group-copies", "host"},
                                                    {"--quantize", "both"},
                                                    {"--schedule", "diagonal"},
                                                    {"--update", "during-backward"},
                                                    {"--master-weights", "split"},
                                                    {"--products", "bf16"},
                                                    {"--products", "fp32"},
                                                    {"--resume"},
                                                    {"--save-every", "2"},
                                                    {"--stop-after", "0"},
                                                    {"--heads", "3", "--width", "128"}}) {
    std::vector<std::string> all{"--text", write_text(scratch)};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const Run run = train_gpt(scratch, all);
    CHECK(run.exit_code == 2);
    CHECK(run.output.empty());
    CHECK(run.errors.find('\n') == run.errors.size() - 1);
    CHECK(run.errors.size() > std::string{"train_gpt: "}.size() + 10);
  }
}

TEST_CASE("without a GPU, or without CUDA, --device cuda is refused in one clear line, with exit code 2") {
  const zerospan_test::ScratchDirectory scratch;
  const Run run = train_gpt(scratch, {"--text", write_text(scratch), "--device", "cuda", "--steps", "1", "--sample",
                                      "0", "--eval-every", "0", "--trace", scratch.path() + "/trace"});
  if (run.exit_code == 0) return;  // there is one
  CHECK(run.exit_code == 2);
  CHECK(run.errors.find("--device cuda") != std::string::npos);
  CHECK(run.errors.find('\n') == run.errors.size() - 1);
}

TEST_CASE(
    "by default states of ten times the memory are trained, and every phase says what it does and how far it is") {
  const zerospan_test::ScratchDirectory scratch;
  const Run run = train_gpt(scratch, {"--text", write_text(scratch), "--steps", "3", "--sample", "3", "--eval-every",
                                      "2", "--trace", scratch.path() + "/trace"});
  INFO(run.errors);
  INFO(run.output);
  REQUIRE(run.exit_code == 0);
  const std::size_t trained = run.output.find("\nstates ");
  REQUIRE(trained != std::string::npos);
  std::istringstream summary{run.output.substr(run.output.find(" MiB: ", trained) + 6)};
  double ratio = 0;
  summary >> ratio;
  CHECK(ratio >= 10);
  std::size_t from = 0;
  for (const char* said : {"model     GPT of ", "states    ", "memory    ", "training  stage 3, 3 steps of ",
                           "products  OpenBLAS", "initializing block 0/8\n", "step 0/3\n", "step 1/3  loss",
                           "estimating the validation loss 0/", "step 3/3  loss", "validating 0/", "writing 0/3\n"}) {
    CAPTURE(std::string{said});
    const std::size_t found = run.errors.find(said, from);
    REQUIRE(found != std::string::npos);
    from = found;
  }
  CHECK(says(run.output, " ms, by the last 3 steps: "));
  from = 0;
  for (const char* said : {"a step of rank 0 takes ", "disk read", " of its time\nbottleneck of a step: ",
                           "% of the transfer time was hidden\n"}) {
    CAPTURE(std::string{said});
    from = run.output.find(said, from);
    REQUIRE(from != std::string::npos);
  }
}

TEST_CASE("models of all kinds train in the little memory that is theirs by default") {
  const zerospan_test::ScratchDirectory scratch;
  zerospan_test::Sample sample{4};
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"--ranks", "1", "--width", "128"},
                                                    {"--ranks", "1", "--width", "32", "--layers", "20"},
                                                    {"--ranks", "2", "--width", "64", "--layers", "9"},
                                                    {"--ranks", "3", "--width", "200", "--layers", "2"},
                                                    {"--ranks", "4", "--width", "96", "--precision", "bf16"},
                                                    {"--ranks", "8", "--width", "48", "--precision", "fp16"}}) {
    if (!sample.takes()) continue;
    std::vector<std::string> all{"--text",       write_text(scratch),
                                 "--steps",      "1",
                                 "--batch",      "1",
                                 "--context",    "8",
                                 "--sample",     "0",
                                 "--eval-every", "0",
                                 "--trace",      scratch.path() + "/trace"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const Run run = train_gpt(scratch, all);
    INFO(run.errors);
    CHECK(run.exit_code == 0);
  }
}

TEST_CASE("the final validation is bounded, and whole where that is asked for") {
  const zerospan_test::ScratchDirectory scratch;
  const auto validate = [&](const std::vector<std::string>& how) {
    return train_small(scratch, how).back()["validation_loss"].get<double>();
  };
  const double some = validate({});
  CHECK(validate({"--validation-tokens", "1"}) == some);  // a round at least
  const double all = validate({"--validation-tokens", "0"});
  CHECK(all != some);
  CHECK(validate({"--validation-tokens", "1000000"}) == all);
}

TEST_CASE("nothing is validated where that is not wanted") {
  const zerospan_test::ScratchDirectory scratch;
  const auto lines = train_small(scratch, {"--skip-validation"});
  REQUIRE(lines.size() == 5);
  CHECK(!lines.back().contains("validation_loss"));
  CHECK(!lines.back().contains("parameter_hash"));
  CHECK(lines.back()["parameters"] > 0);
}

TEST_CASE("an impossible budget is refused: what, how many bytes short, what would help") {
  const zerospan_test::ScratchDirectory scratch;
  const Run run = train_gpt(scratch, {"--text", write_text(scratch), "--device-budget", "100KiB", "--steps", "1"});
  CHECK(run.exit_code == 2);
  CHECK(run.errors.find("bytes short; raise the device budget") != std::string::npos);
}

TEST_CASE("stages agree, and the metrics, the sample and the timeline are there") {
  const zerospan_test::ScratchDirectory scratch;
  const auto oracle = train_small(
      scratch, {"--stage", "0", "--parameters", "device", "--gradients", "device", "--optimizer", "device"});
  REQUIRE(oracle.size() == 5);
  for (const char* key : {"step", "loss", "skipped", "loss_scale", "seconds", "tokens_per_second", "bytes_read",
                          "bytes_written", "hidden_transfer_share", "peak_device_bytes", "peak_host_bytes"}) {
    CHECK(oracle[0].contains(key));
  }
  const auto disk =
      train_small(scratch, {"--stage", "3", "--parameters", "nvme", "--gradients", "nvme", "--optimizer", "nvme"});
  CHECK(disk.back() == oracle.back());
  CHECK(disk[3]["loss"] == oracle[3]["loss"]);
  CHECK(disk[3]["bytes_read"] > 0);
  CHECK(oracle[3]["bytes_read"] == 0);

  const auto events = nlohmann::json::parse(content(scratch.path() + "/trace"))["traceEvents"];
  for (const char* kind : {"read", "copy", "all-gather", "compute", "reduce-scatter", "update", "write"}) {
    INFO(kind);
    CHECK(std::ranges::any_of(events, [&](const nlohmann::json& e) { return e.contains("cat") && e["cat"] == kind; }));
  }

  const auto half = train_small(
      scratch, {"--precision", "fp16"});  // the same losses, as far as 16 bits go; the scale was divided out
  CHECK(half[0]["loss_scale"] == 65536);
  for (std::size_t step = 0; step < 4; ++step) {
    if (half[step]["skipped"]) continue;
    CHECK(half[step]["gradient_norm"].get<double>() ==
          doctest::Approx(oracle[step]["gradient_norm"].get<double>()).epsilon(0.05));
  }
}

TEST_CASE("initial values are written before the first step, and the last step's figures have all that it writes") {
  const zerospan_test::ScratchDirectory scratch;
  const auto written_in = [&](const char* steps) {
    std::uint64_t bytes = 0;
    for (const auto& line : train_small(scratch, {"--ranks", "1", "--prefetch-bytes", "0", "--stop-after", steps})) {
      if (line.contains("step")) bytes += line["bytes_written"].get<std::uint64_t>();
    }
    return bytes;
  };
  const std::uint64_t of_one = written_in("1");
  CHECK(of_one > 0);
  CHECK(written_in("2") == 2 * of_one);
  CHECK(written_in("3") == 3 * of_one);
}

/// Runs a small training, with variables in its environment.
Run train_in(const zerospan_test::ScratchDirectory& scratch, const std::map<std::string, std::string>& variables) {
  ::unsetenv("OPENBLAS_CORETYPE");  // whatever is said to the tests themselves
  for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
  const Run run = train_gpt(scratch, {"--text", write_text(scratch), "--ranks", "1", "--layers", "1", "--width", "32",
                                      "--heads", "2", "--context", "8", "--batch", "1", "--steps", "1", "--threads",
                                      "2", "--sample", "0", "--eval-every", "0", "--metrics",
                                      scratch.path() + "/metrics", "--trace", scratch.path() + "/trace"});
  for (const auto& [name, value] : variables) ::unsetenv(name.c_str());
  INFO(run.errors);
  REQUIRE(run.exit_code == 0);
  return run;
}

TEST_CASE("the matrix kernels, their threads and their rate are in the summary and in the metrics") {
  const zerospan_test::ScratchDirectory scratch;
  const Run run = train_in(scratch, {});
  const auto step = lines(scratch.path() + "/metrics").front();
  CHECK(step["matrix_library"] == "OpenBLAS");
  CHECK(step["matrix_threads"] == 2);
  CHECK(step["matrix_gflops"] > 0);
  const auto kernels = step["matrix_kernels"].get<std::string>();
  CHECK(says(run.errors, "products  OpenBLAS with its kernels for " + kernels + ", 2 threads: "));
  CHECK(says(run.output, "matrix products of a rank: OpenBLAS with its kernels for " + kernels + ", 2 threads: "));
  CHECK(!says(run.output, "WARNING"));
}

TEST_CASE("what somebody has set for OpenBLAS stays, and kernels that are too old for the processor are warned of") {
  if (zerospan::best_instruction_set() == zerospan::InstructionSet::scalar) return;
  const zerospan_test::ScratchDirectory scratch;
  const Run run = train_in(scratch, {{"OPENBLAS_CORETYPE", "Prescott"}});
  CHECK(lines(scratch.path() + "/metrics").front()["matrix_kernels"] == "Prescott");
  for (const std::string& text : {run.errors, run.output}) {
    CHECK(says(text, "OpenBLAS with its kernels for Prescott, 2 threads: "));
    CHECK(says(text, "WARNING: OPENBLAS_CORETYPE=Prescott is set, and this processor has AVX"));
  }
}

#if defined(OLD_OPENBLAS)
TEST_CASE("where OpenBLAS does not know the processor, the program starts again with the kernels that serve it") {
  if (zerospan::best_instruction_set() == zerospan::InstructionSet::scalar) return;
  const zerospan_test::ScratchDirectory scratch;
  const Run run = train_in(scratch, {{"LD_PRELOAD", OLD_OPENBLAS}});
  const auto kernels = lines(scratch.path() + "/metrics").front()["matrix_kernels"].get<std::string>();
  CHECK((kernels == "Haswell" || kernels == "SkylakeX"));
  CHECK(says(run.output, "by itself it takes those for Prescott: it does not know this processor"));
  CHECK(!says(run.output, "WARNING"));

  // What stays old whatever it is asked for is asked twice at the most.
  const Run stubborn = train_in(scratch, {{"LD_PRELOAD", OLD_OPENBLAS}, {"OLD_OPENBLAS_STAYS", "1"}});
  CHECK(says(stubborn.output, "OpenBLAS with its kernels for Prescott"));
  CHECK(says(stubborn.output, "WARNING: it does not know this processor"));

  // Who has set the variable is not overruled.
  const Run asked = train_in(scratch, {{"LD_PRELOAD", OLD_OPENBLAS}, {"OPENBLAS_CORETYPE", "Nehalem"}});
  CHECK(says(asked.output, "WARNING: OPENBLAS_CORETYPE=Nehalem is set"));
}
#endif

TEST_CASE("linear layers in tiles train alike, within what the order of additions changes, and repeatably") {
  const zerospan_test::ScratchDirectory scratch;
  const auto whole = train_small(scratch, {});
  const auto tiled = train_small(scratch, {"--tiles", "4"});
  CHECK(train_small(scratch, {"--tiles", "1"}).back() == whole.back());
  CHECK(train_small(scratch, {"--tiles", "4"}).back() == tiled.back());
  CHECK(tiled.back()["parameters"] == whole.back()["parameters"]);
  for (std::size_t step = 0; step < 4; ++step) {
    const double loss = whole[step]["loss"].get<double>();
    CHECK(std::abs(tiled[step]["loss"].get<double>() - loss) < 1e-6 * loss);
  }
}

/// The metrics of a training of three layers and three micro-batches a step.
std::vector<nlohmann::json> train_by(const zerospan_test::ScratchDirectory& scratch, const std::string& schedule,
                                     const std::vector<std::string>& how) {
  const std::string metrics = scratch.path() + "/metrics";
  std::vector<std::string> arguments{"--text",          write_text(scratch),
                                     "--schedule",      schedule,
                                     "--layers",        "3",
                                     "--heads",         "2",
                                     "--width",         "128",
                                     "--context",       "16",
                                     "--batch",         "2",
                                     "--micro-batches", "3",
                                     "--steps",         "2",
                                     "--sample",        "0",
                                     "--warmup",        "1",
                                     "--eval-every",    "1",
                                     "--trace",         scratch.path() + "/trace",
                                     "--metrics",       metrics};
  arguments.insert(arguments.end(), how.begin(), how.end());
  const Run run = train_gpt(scratch, arguments);
  INFO(run.errors);
  REQUIRE(run.exit_code == 0);
  CHECK(says(run.errors, "3 micro-batches layer by layer") == (schedule == "vertical"));
  return lines(metrics);
}

struct Schedules {
  std::vector<nlohmann::json> horizontal;
  std::vector<nlohmann::json> vertical;
};

/// Trains by both, and checks that they agree to the bit.
Schedules train_by_both(const std::vector<std::string>& how) {
  const zerospan_test::ScratchDirectory scratch;
  std::string text;
  for (const std::string& word : how) text += word + " ";
  CAPTURE(text);
  const Schedules metrics{train_by(scratch, "horizontal", how), train_by(scratch, "vertical", how)};
  REQUIRE(metrics.horizontal.size() == 3);
  REQUIRE(metrics.vertical.size() == 3);
  for (std::size_t step = 0; step < 2; ++step) {
    for (const char* figure : {"step", "loss", "validation_loss", "gradient_norm", "loss_scale", "skipped"}) {
      CHECK(metrics.vertical[step].value(figure, nlohmann::json{}) ==
            metrics.horizontal[step].value(figure, nlohmann::json{}));
    }
  }
  CHECK(metrics.vertical.back().contains("parameter_hash"));
  CHECK(metrics.vertical.back() == metrics.horizontal.back());
  return metrics;
}

TEST_CASE("by both schedules a training has equal bits; vertically a step reads weights as often as a micro-batch") {
  zerospan_test::Sample sample{3};
  for (const std::uint64_t element : {4U, 2U}) {
    for (const int ranks : {1, 2}) {
      for (const std::size_t checkpoint_every : {0U, 2U}) {
        if (!sample.takes()) continue;
        // Nothing but parameters is on the disk, and nothing of them in memory: what was fetched ahead, or what an
        // update has left, which the evaluation after each step waits for.
        const Schedules metrics = train_by_both(
            {"--ranks", std::to_string(ranks), "--precision", element == 4 ? "fp32" : "bf16", "--checkpoint-every",
             std::to_string(checkpoint_every), "--stage", "3", "--parameters", "nvme", "--gradients", "host",
             "--optimizer", "host", "--prefetch-bytes", "0"});
        // Matrices above 32 KiB are partitioned. A layer's are read in forward and in backward, and once more where it
        // is recomputed; the token embedding once for itself, and twice as the head.
        constexpr std::uint64_t square = 128 * 128;
        std::uint64_t of_a_layer = 0;
        for (const std::uint64_t elements : {3 * square, square, 4 * square, 4 * square}) {
          if (elements * element > 32 * 1024) of_a_layer += elements * element;
        }
        const std::uint64_t recomputed = checkpoint_every == 0 ? 0 : 2;  // all but those of the last segment
        const std::uint64_t once = (2 * 3 + recomputed) * of_a_layer + 3 * 256 * 128 * element;
        for (std::size_t step = 0; step < 2; ++step) {
          CHECK(metrics.horizontal[step]["bytes_read"] == 3 * once);
          CHECK(metrics.vertical[step]["bytes_read"] == once);
        }
      }
    }
  }
}

/// Trains a small model on two ranks. Below stage 3 parameters and gradients stay in memory.
std::vector<nlohmann::json> train_in_stage(const zerospan_test::ScratchDirectory& scratch, const std::string& stage,
                                           std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--ranks", "2", "--stage", stage});
  if (stage != "3") arguments.insert(arguments.end(), {"--parameters", "device", "--gradients", "device"});
  return train_small(scratch, std::move(arguments));
}

/// @return What stage 3 comes to, as the other stages do.
std::vector<nlohmann::json> train_in_each_stage(const zerospan_test::ScratchDirectory& scratch,
                                                const std::vector<std::string>& arguments) {
  const auto expected = train_in_stage(scratch, "3", arguments);
  for (const std::string stage : {"0", "1", "2"}) {
    CHECK(train_in_stage(scratch, stage, arguments).back()["parameter_hash"] == expected.back()["parameter_hash"]);
  }
  return expected;
}

TEST_CASE("master weights in halves have equal bits in every stage, and take two bytes less") {
  const zerospan_test::ScratchDirectory scratch;
  const auto split = train_in_each_stage(scratch, {"--precision", "bf16", "--master-weights", "split"});
  const auto whole = train_in_stage(scratch, "3", {"--precision", "bf16", "--master-weights", "whole"});
  CHECK(bytes_written(split) < bytes_written(whole));
}

TEST_CASE("moments of 8 bits have equal bits in every stage, and take six bytes less") {
  const zerospan_test::ScratchDirectory scratch;
  const auto small = train_in_each_stage(scratch, {"--moments", "8bit"});
  const auto full = train_in_stage(scratch, "3", {"--moments", "fp32"});
  CHECK(small.back()["parameter_hash"] != full.back()["parameter_hash"]);
  CHECK(bytes_written(small) < bytes_written(full));
}

TEST_CASE("updates during the backward pass change no bits, by either schedule") {
  const zerospan_test::ScratchDirectory scratch;
  for (const std::string precision : {"fp32", "bf16"}) {
    const auto hash = [&](const std::string& update, const std::string& schedule) {
      return train_small(scratch, {"--ranks", "2", "--precision", precision, "--clip", "inf",
                                   "--checkpoint-every", "1", "--update", update, "--schedule", schedule})
          .back()["parameter_hash"];
    };
    const auto after = hash("after-step", "horizontal");
    CHECK(hash("during-backward", "horizontal") == after);
    CHECK(hash("during-backward", "vertical") == after);
  }
}

TEST_CASE("the vertical schedule goes with loss scaling, tiles, groups, lower stages, prefetching and disks") {
  zerospan_test::Sample sample{3};
  for (const std::vector<std::string>& how :
       {std::vector<std::string>{"--precision", "fp16"},
        {"--tiles", "4", "--activations", "nvme"},
        {"--checkpoint-every", "2", "--activations", "host", "--precision", "bf16"},
        {"--ranks", "4", "--ranks-per-group", "2", "--group-copies", "host"},
        {"--stage", "1", "--gradients", "host"},
        {"--clip", "0.1", "--ranks", "3", "--device-budget", "4MiB"}}) {
    if (!sample.takes()) continue;
    const Schedules metrics = train_by_both(how);
    // What stays in memory, or is copied there within a group, is read once a step by either schedule.
    CHECK(metrics.vertical[1]["bytes_read"] <= metrics.horizontal[1]["bytes_read"]);
  }
}

TEST_CASE("several directories share the bytes by their bandwidths, and change no bits") {
  const zerospan_test::ScratchDirectory scratch;
  const zerospan_test::ScratchDirectory other;
  const auto train = [&](const std::string& directories) {
    const Run run = train_gpt(scratch, {"--text",       write_text(scratch),
                                        "--layers",     "8",
                                        "--heads",      "2",
                                        "--width",      "96",
                                        "--context",    "16",
                                        "--batch",      "1",
                                        "--steps",      "2",
                                        "--sample",     "0",
                                        "--eval-every", "0",
                                        "--nvme-path",  directories,
                                        "--trace",      scratch.path() + "/trace",
                                        "--metrics",    scratch.path() + "/metrics"});
    INFO(run.errors);
    REQUIRE(run.exit_code == 0);
    return std::pair{run.output, lines(scratch.path() + "/metrics")};
  };
  const auto one = train(scratch.path());
  CHECK(!says(one.first, "by their bandwidths"));
  const auto two = train(scratch.path() + "," + other.path());
  REQUIRE(two.second.size() == 3);
  for (std::size_t step = 0; step < 2; ++step) CHECK(two.second[step]["loss"] == one.second[step]["loss"]);
  CHECK(two.second.back() == one.second.back());
  CAPTURE(two.first);
  for (const auto& directory : {scratch.path(), other.path()}) CHECK(says(two.first, "iB in " + directory));
  CHECK(says(two.first, ", by their bandwidths\n"));
}

#if defined(ZEROSPAN_HAS_XXHASH)
/// Everything on disk, with checksums.
std::vector<std::string> checked(const std::string& directories) {
  return {"--stage",       "3",    "--parameters", "nvme",      "--gradients", "nvme", "--optimizer", "nvme",
          "--activations", "nvme", "--nvme-path",  directories, "--checksums", "on"};
}

TEST_CASE("checksums of what is on disk change no bits") {
  const zerospan_test::ScratchDirectory scratch;
  const zerospan_test::ScratchDirectory other;
  const auto oracle = train_small(scratch, {"--activations", "device"});
  const auto one = train_small(scratch, checked(scratch.path()));
  CHECK(one.back() == oracle.back());
  CHECK(one[3]["bytes_read"] > 0);
  CHECK(train_small(scratch, checked(scratch.path() + "," + other.path())).back() == oracle.back());
}

TEST_CASE("bits that flip on the disk between steps are found and named, in one line") {
  const zerospan_test::ScratchDirectory scratch;
  const zerospan_test::ScratchDirectory disk;
  const std::string metrics = scratch.path() + "/metrics";
  std::vector<std::string> arguments = checked(disk.path());
  arguments.insert(arguments.end(), {"--text",       write_text(scratch),
                                     "--ranks",      "2",
                                     "--layers",     "2",
                                     "--width",      "64",
                                     "--context",    "16",
                                     "--batch",      "2",
                                     "--steps",      "1000000",
                                     "--sample",     "0",
                                     "--eval-every", "0",
                                     "--metrics",    metrics,
                                     "--trace",      scratch.path() + "/trace"});
  zerospan_test::RunningTrainGpt running{scratch, arguments};
  while (!running.has_ended() && content(metrics).find('\n') == std::string::npos) std::this_thread::yield();
  std::size_t flipped = 0;
  while (!running.has_ended()) {
    for (const std::string& file : zerospan_test::unnamed_files(running.process(), disk.path())) {
      flipped += zerospan_test::flip_bits(file);
    }
  }
  const Run run = running.wait();
  CHECK(flipped > 0);
  CHECK(run.exit_code == 1);
  CHECK(run.errors.find("of the checked NVMe tier") != std::string::npos);
  CHECK(run.errors.find(" in " + disk.path() + " are not those that were written there") != std::string::npos);
  CHECK(run.errors.find("\ntrain_gpt: ") == run.errors.rfind('\n', run.errors.size() - 2));
  MESSAGE(run.errors);
}
#else
TEST_CASE("without xxHash --checksums on is refused in one clear line, with exit code 2") {
  const zerospan_test::ScratchDirectory scratch;
  const Run run = train_gpt(scratch, {"--text", write_text(scratch), "--checksums", "on"});
  CHECK(run.exit_code == 2);
  CHECK(run.errors.find("without xxHash: --checksums off") != std::string::npos);
  CHECK(run.errors.find('\n') == run.errors.size() - 1);
}
#endif

#if !defined(ZEROSPAN_SANITIZED)
TEST_CASE("several directories make one striped tier, and change no bits") {
  const zerospan_test::ScratchDirectory scratch;
  const zerospan_test::ScratchDirectory other;
  const std::vector<std::string> on_disk{"--stage", "3",           "--parameters", "nvme",       "--gradients",
                                         "nvme",    "--optimizer", "nvme",         "--nvme-path"};
  std::vector<std::string> one = on_disk;
  one.push_back(scratch.path());
  std::vector<std::string> two = on_disk;
  two.push_back(scratch.path() + "," + other.path());
  const auto striped = train_small(scratch, two);
  CHECK(striped.back() == train_small(scratch, one).back());
  CHECK(striped[3]["bytes_read"] > 0);
}

#if defined(ZEROSPAN_HAS_CHECKPOINT)
TEST_CASE("a training that stops and goes on ends with the bits of one that does not") {
  const zerospan_test::ScratchDirectory scratch;
  const zerospan_test::ScratchDirectory saves;
  const auto in = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--ranks", "2", "--checkpoint", saves.path() + "/here", "--keep", "2"});
    return train_small(scratch, arguments);
  };
  const auto oracle = train_small(scratch, {"--ranks", "2"});
  const auto first = in({"--stop-after", "1", "--resume", "--stage", "2"});
  const auto second = in({"--stop-after", "2", "--resume", "--save-every", "1"});
  const auto last = in({"--resume", "--parameters", "device"});
  REQUIRE(first.size() == 2);
  REQUIRE(second.size() == 3);
  REQUIRE(last.size() == 2);
  CHECK(last.back()["parameter_hash"] == oracle.back()["parameter_hash"]);
  CHECK(last.back()["validation_loss"] == oracle.back()["validation_loss"]);
  for (const char* figure : {"step", "loss", "learning_rate", "gradient_norm"}) {
    CHECK(first[0][figure] == oracle[0][figure]);
    CHECK(second[0][figure] == oracle[1][figure]);
    CHECK(second[1][figure] == oracle[2][figure]);
    CHECK(last[0][figure] == oracle[3][figure]);
  }
  CHECK(std::filesystem::exists(saves.path() + "/here/step-3"));
  CHECK(std::filesystem::exists(saves.path() + "/here/step-4"));
  CHECK(!std::filesystem::exists(saves.path() + "/here/step-2"));
}

TEST_CASE("a checkpoint is resumed by another number of ranks, and by nobody who did not ask for it") {
  const zerospan_test::ScratchDirectory scratch;
  const zerospan_test::ScratchDirectory saves;
  const auto arguments = [&](const char* ranks, const std::vector<std::string>& more) {
    std::vector<std::string> all{"--text",       write_text(scratch),
                                 "--ranks",      ranks,
                                 "--layers",     "2",
                                 "--width",      "64",
                                 "--context",    "16",
                                 "--batch",      "2",
                                 "--steps",      "3",
                                 "--sample",     "0",
                                 "--trace",      scratch.path() + "/trace",
                                 "--checkpoint", saves.path()};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const Run begun = train_gpt(scratch, arguments("2", {"--resume", "--stop-after", "2"}));
  CHECK(begun.exit_code == 0);
  CHECK(begun.errors.find("begins at step 0: there is no checkpoint in " + saves.path()) != std::string::npos);
  CHECK(begun.errors.find("step 2 is saved in " + saves.path() + "/step-2") != std::string::npos);
  const Run resumed = train_gpt(scratch, arguments("3", {"--resume"}));
  CHECK(resumed.exit_code == 0);
  CHECK(resumed.errors.find("resumes after step 2, from " + saves.path()) != std::string::npos);
  const Run refused = train_gpt(scratch, arguments("2", {}));
  CHECK(refused.exit_code == 2);
  CHECK(refused.errors.find("has a checkpoint of step 3 already: --resume goes on from it") != std::string::npos);
  const Run seeded = train_gpt(scratch, arguments("2", {"--resume", "--seed", "5"}));
  CHECK(seeded.exit_code == 2);
  CHECK(seeded.errors.find("--seed is 5, and 1337 in ") != std::string::npos);
}

TEST_CASE("a training that is asked to end saves, and ends without an error") {
  for (const int signal : {SIGINT, SIGTERM}) {
    const zerospan_test::ScratchDirectory scratch;
    const std::string metrics = scratch.path() + "/metrics";
    const std::string saves = scratch.path() + "/saves";
    const std::vector<std::string> arguments{"--text",       write_text(scratch),
                                             "--ranks",      "2",
                                             "--layers",     "2",
                                             "--width",      "64",
                                             "--context",    "16",
                                             "--batch",      "2",
                                             "--sample",     "0",
                                             "--eval-every", "0",
                                             "--metrics",    metrics,
                                             "--steps",      "1000000",
                                             "--trace",      scratch.path() + "/trace",
                                             "--checkpoint", saves,
                                             "--resume"};
    std::size_t steps = 0;
    for (int runs = 0; runs < 2; ++runs) {
      std::filesystem::remove(metrics);
      zerospan_test::RunningTrainGpt running{scratch, arguments};
      while (!running.has_ended() && std::ranges::count(content(metrics), '\n') < 3) std::this_thread::yield();
      ::kill(std::stoi(running.process()), signal);
      const Run run = running.wait();
      CHECK(run.exit_code == 0);
      CHECK(run.output.empty());
      const std::vector<nlohmann::json> made = lines(metrics);
      REQUIRE(!made.empty());
      CHECK(made.front()["step"] == steps + 1);
      steps = made.back()["step"].get<std::size_t>();
      CHECK(run.errors.find("step " + std::to_string(steps) + " is saved in " + saves) != std::string::npos);
    }
  }
}
#endif

#if defined(ZEROSPAN_HAS_SAFETENSORS)
TEST_CASE("a model that is exported begins another training, on other ranks and in tiles") {
  const zerospan_test::ScratchDirectory scratch;
  const std::string path = scratch.path() + "/exported";
  const std::vector<std::string> unchanging{"--learning-rate", "0", "--min-learning-rate", "0"};
  const auto first = train_small(scratch, {"--ranks", "2", "--validation-tokens", "0", "--export", path});
  const auto train_from = [&](const std::string& init, std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), unchanging.begin(), unchanging.end());
    arguments.insert(arguments.end(), {"--init", init, "--seed", "5", "--validation-tokens", "0"});
    return train_small(scratch, arguments);
  };
  const auto same = train_from(path, {"--ranks", "3", "--stage", "2", "--export", scratch.path() + "/a.safetensors"});
  CHECK(same.back()["parameter_hash"] == first.back()["parameter_hash"]);
  CHECK(same.back()["validation_loss"].get<double>() ==
        doctest::Approx(first.back()["validation_loss"].get<double>()).epsilon(1e-4));
  const auto tiled = train_from(scratch.path() + "/a.safetensors", {"--ranks", "1", "--tiles", "3"});
  CHECK(tiled.back()["parameter_hash"] == first.back()["parameter_hash"]);
  CHECK(std::filesystem::exists(path + "/config.json"));
}

TEST_CASE("a model that cannot be imported, or written, is one clear line") {
  const zerospan_test::ScratchDirectory scratch;
  const std::string path = scratch.path() + "/exported";
  train_small(scratch, {"--ranks", "1", "--export", path});
  const auto fail = [&](std::vector<std::string> arguments, int code, const std::string& words) {
    arguments.insert(arguments.end(),
                     {"--text", write_text(scratch), "--layers", "2", "--context", "16", "--batch", "2", "--steps", "1",
                      "--sample", "0", "--eval-every", "0", "--trace", scratch.path() + "/trace"});
    const Run run = train_gpt(scratch, arguments);
    INFO(run.errors);
    CHECK(run.exit_code == code);
    CHECK(run.errors.find(words) != std::string::npos);
  };
  fail({"--init", scratch.path() + "/none"}, 2, "does not exist");
  fail({"--init", path, "--width", "32", "--heads", "2"}, 2, "config.json has n_embd 64, and this model's is 32");
  fail({"--init", path + "/model.safetensors", "--width", "64", "--heads", "4"}, 2, "config.json has n_head 2");
  std::filesystem::remove(path + "/config.json");
  fail({"--init", path, "--width", "32", "--heads", "2"}, 1, "transformer.wte.weight in " + path);
  fail({"--init", scratch.path() + "/text", "--width", "32"}, 1, "/text: claims a header");
  fail({"--export", scratch.path() + "/none/a.safetensors"}, 1, "/none/a.safetensors");
}
#endif

TEST_CASE("activation checkpoints, wherever they rest, change no bits") {
  const zerospan_test::ScratchDirectory scratch;
  const std::vector<std::string> layers{"--layers", "5"};
  const auto kept = train_layers(scratch, layers);
  for (const auto& [place, every] : {std::pair{"device", "5"}, std::pair{"host", "2"}, std::pair{"nvme", "1"}}) {
    CAPTURE(std::string{place});
    std::vector<std::string> arguments = layers;
    arguments.insert(arguments.end(), {"--activations", place, "--checkpoint-every", every});
    CHECK(train_layers(scratch, arguments).back() == kept.back());
  }
}

TEST_CASE("ranks in groups of two end with the same bits, whatever the groups keep") {
  const zerospan_test::ScratchDirectory scratch;
  const auto train = [&](const std::vector<std::string>& how) {
    std::vector<std::string> arguments{"--ranks", "4", "--ranks-per-group", "2", "--nvme-path", scratch.path()};
    arguments.insert(arguments.end(), how.begin(), how.end());
    return train_small(scratch, arguments).back();
  };
  const auto expected = train({});
  CHECK(train({"--sharding", "group"}) == expected);
  for (const char* place : {"device", "nvme"}) {
    CAPTURE(std::string{place});
    CHECK(train({"--group-copies", place}) == expected);
  }
}

TEST_CASE("states ten times the memory train within the memory") {
  const zerospan_test::ScratchDirectory scratch;
  const std::string metrics = scratch.path() + "/metrics";
  constexpr std::uint64_t mebibyte = 1 << 20;
  constexpr std::uint64_t budgets = (16 + 24) * mebibyte;
  constexpr int steps = 2;
  const Run run = train_gpt(scratch, {"--text",           write_text(scratch),
                                      "--ranks",          "1",
                                      "--stage",          "3",
                                      "--parameters",     "nvme",
                                      "--gradients",      "nvme",
                                      "--optimizer",      "nvme",
                                      "--device-budget",  "16MiB",
                                      "--host-budget",    "24MiB",
                                      "--prefetch-bytes", "6MiB",
                                      "--layers",         "9",
                                      "--heads",          "8",
                                      "--width",          "512",
                                      "--context",        "32",
                                      "--batch",          "1",
                                      "--steps",          std::to_string(steps),
                                      "--sample",         "0",
                                      "--eval-every",     "0",
                                      "--metrics",        metrics});
  INFO(run.errors);
  REQUIRE(run.exit_code == 0);
  const std::uint64_t parameters = lines(metrics).back()["parameters"].get<std::uint64_t>();
  // fp32: parameter, which is the master weight, gradient and two moments.
  CHECK(parameters * 16 >= 10 * budgets);
  CHECK(run.peak_bytes <= budgets + 160 * mebibyte);
  // A step reads parameters twice for the passes, and gradients, parameters and moments once; and writes all of them.
  CHECK(run.bytes_read >= steps * parameters * (2 * 4 + 4 + 12) * 95 / 100);
  CHECK(run.bytes_written >= steps * parameters * (4 + 4 + 8) * 95 / 100);
  MESSAGE("states: ", parameters * 16 / mebibyte, " MiB, peak of the process: ", run.peak_bytes / mebibyte,
          " MiB, read: ", run.bytes_read / mebibyte, " MiB, written: ", run.bytes_written / mebibyte, " MiB");
}
#endif

}  // namespace
