/// @file
/// A training by train_gpt, in a process of its own, and what it has measured.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "gpt/options.hpp"

namespace large {

/// What the training has done. Totals are of all steps.
struct Trained {
  std::size_t steps = 0;
  double seconds_per_step = 0;  ///< The mean of all steps but the first, which cannot fetch ahead, and the last, whose
                                ///< updates hide behind no further one; of all, if there are no others.
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
  std::uint64_t peak_rss_bytes = 0;  ///< The kernel's count, of the process.
};

inline std::vector<std::string> arguments_of(const gpt::Options& o) {
  const auto number = [](auto value) { return fmt::format("{}", value); };
  const std::vector<std::pair<std::string, std::string>> options{{"--ranks", number(o.ranks)},
                                                                 {"--threads", number(o.threads)},
                                                                 {"--timeout", number(o.timeout)},
                                                                 {"--precision", "bf16"},
                                                                 {"--master-weights", "split"},
                                                                 {"--stage", "3"},
                                                                 {"--parameters", "nvme"},
                                                                 {"--gradients", "nvme"},
                                                                 {"--optimizer", "nvme"},
                                                                 {"--nvme-path", o.nvme_path.front().string()},
                                                                 {"--device-budget", number(o.device_budget)},
                                                                 {"--host-budget", number(o.host_budget)},
                                                                 {"--staging-bytes", number(o.staging_bytes.value())},
                                                                 {"--prefetch-bytes", number(o.prefetch_bytes)},
                                                                 {"--layers", number(o.model.layers)},
                                                                 {"--heads", number(o.model.heads)},
                                                                 {"--width", number(o.model.width)},
                                                                 {"--context", number(o.model.context)},
                                                                 {"--tiles", number(o.model.tiles)},
                                                                 {"--batch", number(o.batch)},
                                                                 {"--steps", number(o.schedule.steps)},
                                                                 {"--learning-rate", number(o.schedule.maximum)},
                                                                 {"--min-learning-rate", number(o.schedule.minimum)},
                                                                 {"--warmup", number(o.schedule.warmup)},
                                                                 {"--eval-every", "0"},
                                                                 {"--sample", "0"},
                                                                 {"--trace", o.trace.string()},
                                                                 {"--metrics", o.metrics.string()}};
  std::vector<std::string> arguments{"--skip-validation"};
  for (const auto& [name, value] : options) arguments.insert(arguments.end(), {name, value});
  return arguments;
}

/// The process ends when this one does, however that is, and what it has on disk goes with it: it has no name there.
/// @return The process's peak of resident memory. @throws std::runtime_error if it fails.
inline std::uint64_t run_to_the_end(const std::string& program, std::vector<std::string> arguments) {
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
    if (::getppid() == parent) ::execv(argv[0], argv.data());
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

/// @throws std::runtime_error if there are not as many steps in the metrics as there should be.
inline Trained read_metrics(const std::filesystem::path& path, std::size_t steps) {
  Trained trained;
  std::vector<double> seconds;
  std::ifstream file{path};
  for (std::string line; std::getline(file, line);) {
    const auto metrics = nlohmann::json::parse(line);
    if (!metrics.contains("step")) continue;
    seconds.push_back(metrics.at("seconds").get<double>());
    ++trained.steps;
    trained.bytes_read += metrics.at("bytes_read").get<std::uint64_t>();
    trained.bytes_written += metrics.at("bytes_written").get<std::uint64_t>();
  }
  if (trained.steps != steps) {
    throw std::runtime_error{path.string() + " has " + std::to_string(trained.steps) + " steps, not " +
                             std::to_string(steps)};
  }
  const std::span all{seconds};
  const std::span steady = steps > 2 ? all.subspan(1, steps - 2) : all;
  trained.seconds_per_step =
      std::accumulate(steady.begin(), steady.end(), 0.0) / static_cast<double>(std::max<std::size_t>(steady.size(), 1));
  return trained;
}

inline Trained train(const std::string& program, const gpt::Options& options) {
  std::filesystem::remove(options.metrics);  // of a run before
  const std::uint64_t peak = run_to_the_end(program, arguments_of(options));
  Trained trained = read_metrics(options.metrics, options.schedule.steps);
  trained.peak_rss_bytes = peak;
  return trained;
}

}  // namespace large
