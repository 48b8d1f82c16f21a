/// @file
/// Programs from outside: what they say, how they end, and what they take.
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
#include <vector>

#include <doctest/doctest.h>

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

/// A program while it runs; killed, if that is not over before the object is.
class RunningProgram {
 public:
  /// @param program Its path. @param scratch Gets what it says.
  RunningProgram(const std::string& program, const ScratchDirectory& scratch, std::vector<std::string> arguments)
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
  RunningProgram(const RunningProgram&) = delete;
  RunningProgram& operator=(const RunningProgram&) = delete;
  ~RunningProgram() {
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

}  // namespace zerospan_test
