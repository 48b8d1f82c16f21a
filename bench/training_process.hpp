/// @file
/// A training by train_gpt in a process of its own, and the steps that it has made.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>

namespace bench {

/// The process ends when this one does, however that is, and what it has on disk goes with it: it has no name there.
/// @param output A file for what it prints; empty: it prints where this process does.
/// @return The process's peak of resident memory. @throws std::runtime_error if it fails.
inline std::uint64_t run_to_the_end(const std::string& program, std::vector<std::string> arguments,
                                    const std::filesystem::path& output = {}) {
  arguments.insert(arguments.begin(), program);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::fflush(nullptr);
  const ::pid_t parent = ::getpid();
  const ::pid_t child = ::fork();
  if (child < 0) throw std::system_error{errno, std::generic_category(), "cannot start " + program};
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const bool is_ready = output.empty() || std::freopen(output.c_str(), "w", stdout) != nullptr;
    if (is_ready && ::getppid() == parent) ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 0;
  ::rusage usage{};
  while (::wait4(child, &status, 0, &usage) != child) {
    if (errno != EINTR) throw std::system_error{errno, std::generic_category(), "cannot wait for " + program};
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw std::runtime_error{program + (WIFEXITED(status)
                                            ? " ended with exit code " + std::to_string(WEXITSTATUS(status))
                                            : " was ended by signal " + std::to_string(WTERMSIG(status)))};
  }
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

/// One step, of all ranks.
struct MadeStep {
  double seconds = 0;
  double loss = 0;
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
};

/// Of a training's metrics. @throws std::runtime_error if there are not as many steps as there should be.
inline std::vector<MadeStep> read_steps(const std::filesystem::path& path, std::size_t steps) {
  std::vector<MadeStep> made;
  std::ifstream file{path};
  for (std::string line; std::getline(file, line);) {
    const auto metrics = nlohmann::json::parse(line);
    if (!metrics.contains("step")) continue;
    made.push_back({metrics.at("seconds").get<double>(), metrics.at("loss").get<double>(),
                    metrics.at("bytes_read").get<std::uint64_t>(), metrics.at("bytes_written").get<std::uint64_t>()});
  }
  if (made.size() != steps) {
    throw std::runtime_error{path.string() + " has " + std::to_string(made.size()) + " steps, not " +
                             std::to_string(steps)};
  }
  return made;
}

}  // namespace bench
