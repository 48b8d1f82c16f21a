/// @file
/// The program train_gpt from outside: runs of small models, and what they leave behind. TRAIN_GPT is its path.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "scratch.hpp"

namespace zerospan_test {

struct Run {
  int exit_code;
  std::string output;
  std::string errors;
  std::uint64_t peak_bytes;  // the kernel's counts
  std::uint64_t bytes_read;
  std::uint64_t bytes_written;
};

inline std::string content(const std::filesystem::path& path) {
  std::ifstream file{path};
  return {std::istreambuf_iterator<char>{file}, {}};
}

inline Run train_gpt(const ScratchDirectory& scratch, std::vector<std::string> arguments) {
  const std::string output = scratch.path() + "/output";
  const std::string errors = scratch.path() + "/errors";
  arguments.insert(arguments.begin(), TRAIN_GPT);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  const ::pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const auto redirect = [](const std::string& path, int to) {
      ::dup2(::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600), to);
    };
    redirect(output, STDOUT_FILENO);
    redirect(errors, STDERR_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 0;
  ::rusage usage{};
  REQUIRE(::wait4(child, &status, 0, &usage) == child);
  REQUIRE(WIFEXITED(status));
  return {WEXITSTATUS(status),
          content(output),
          content(errors),
          static_cast<std::uint64_t>(usage.ru_maxrss) * 1024,
          static_cast<std::uint64_t>(usage.ru_inblock) * 512,
          static_cast<std::uint64_t>(usage.ru_oublock) * 512};
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
