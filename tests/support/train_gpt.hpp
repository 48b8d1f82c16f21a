/// @file
/// The program train_gpt from outside: runs of small models, and what they leave behind. TRAIN_GPT is its path.
#pragma once

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "running_program.hpp"
#include "scratch.hpp"

namespace zerospan_test {

/// The program while it runs.
class RunningTrainGpt : public RunningProgram {
 public:
  RunningTrainGpt(const ScratchDirectory& scratch, std::vector<std::string> arguments)
      : RunningProgram{TRAIN_GPT, scratch, std::move(arguments)} {}
};

inline Run train_gpt(const ScratchDirectory& scratch, std::vector<std::string> arguments) {
  return RunningTrainGpt{scratch, std::move(arguments)}.wait();
}

/// A text of a few thousand bytes.
inline std::string write_text(const ScratchDirectory& scratch) {
  const std::string path = scratch.path() + "/text";
  std::ofstream file{path};
  for (int i = 0; i < 400; ++i) file << "line " << i * i << " of some text\n";
  return path;
}

inline std::vector<nlohmann::json> lines(const std::string& path) {
  std::vector<nlohmann::json> result;
  std::ifstream file{path};
  for (std::string line; std::getline(file, line);) result.push_back(nlohmann::json::parse(line));
  return result;
}

/// Trains a small model, of any number of layers. @return its metrics.
inline std::vector<nlohmann::json> train_layers(const ScratchDirectory& scratch, std::vector<std::string> arguments) {
  const std::string metrics = scratch.path() + "/metrics";
  arguments.insert(arguments.end(), {"--text",          write_text(scratch),
                                     "--heads",         "2",
                                     "--width",         "64",
                                     "--context",       "16",
                                     "--batch",         "2",
                                     "--steps",         "4",
                                     "--micro-batches", "2",
                                     "--sample",        "20",
                                     "--warmup",        "1",
                                     "--eval-every",    "2",
                                     "--trace",         scratch.path() + "/trace",
                                     "--metrics",       metrics});
  const Run run = train_gpt(scratch, arguments);
  INFO(run.errors);
  REQUIRE(run.exit_code == 0);
  return lines(metrics);
}

inline std::vector<nlohmann::json> train_small(const ScratchDirectory& scratch, std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--layers", "2"});
  return train_layers(scratch, std::move(arguments));
}

}  // namespace zerospan_test
