/// @file
/// The program train_gpt from outside: runs of small models, and what they leave behind. TRAIN_GPT is its path.
#pragma once

#include <fcntl.h>
#include <signal.h>
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

/// The program while it runs.
class RunningTrainGpt {
 public:
  /// @param program Another that is to be run so.
  RunningTrainGpt(const ScratchDirectory& scratch, std::vector<std::string> arguments,
                  const std::string& program = TRAIN_GPT)
      : output_{scratch.path() + "/output"}, errors_{scratch.path() + "/errors"} {
    arguments.insert(arguments.begin(), program);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);

    child_ = ::fork();
    REQUIRE(child_ >= 0);
    if (child_ > 0) return;
    const auto redirect = [](const std::string& path, int to) {
      ::dup2(::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600), to);
    };
    redirect(output_, STDOUT_FILENO);
    redirect(errors_, STDERR_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  RunningTrainGpt(const RunningTrainGpt&) = delete;
  RunningTrainGpt& operator=(const RunningTrainGpt&) = delete;
  ~RunningTrainGpt() {
    if (has_ended_) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }

  std::string process() const { return std::to_string(child_); }

  bool has_ended() { return ask(WNOHANG); }

  Run wait() {
    REQUIRE(ask(0));
    REQUIRE(WIFEXITED(status_));
    return {WEXITSTATUS(status_),
            content(output_),
            content(errors_),
            static_cast<std::uint64_t>(usage_.ru_maxrss) * 1024,
            static_cast<std::uint64_t>(usage_.ru_inblock) * 512,
            static_cast<std::uint64_t>(usage_.ru_oublock) * 512};
  }

 private:
  bool ask(int flags) {
    if (!has_ended_) has_ended_ = ::wait4(child_, &status_, flags, &usage_) == child_;
    return has_ended_;
  }

  std::string output_;
  std::string errors_;
  ::pid_t child_ = -1;
  int status_ = 0;
  ::rusage usage_{};
  bool has_ended_ = false;
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
