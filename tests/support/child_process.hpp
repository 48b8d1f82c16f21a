/// @file
/// A part of a test in a process of its own.
#pragma once

#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <exception>
#include <string>
#include <system_error>

namespace zerospan_test {

/// Runs `f`, which returns a text, in a child process that is killed after a minute. @return the text; where `f`
/// throws, "threw: " and what; where the child does not come to its end, how it ended instead.
template <class F>
std::string in_child(F f) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) throw std::system_error{errno, std::generic_category(), "pipe"};
  const ::pid_t child = ::fork();
  if (child == -1) throw std::system_error{errno, std::generic_category(), "fork"};
  if (child == 0) {
    ::alarm(60);
    std::string text;
    try {
      text = f();
    } catch (const std::exception& error) {
      text = std::string{"threw: "} + error.what();
    }
    const ::ssize_t written = ::write(ends[1], text.data(), text.size());
    ::_exit(written == static_cast<::ssize_t>(text.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  std::string text;
  std::array<char, 4096> buffer{};
  for (::ssize_t bytes = 0; (bytes = ::read(ends[0], buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<std::size_t>(bytes));
  }
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) return "ended by signal " + std::to_string(WTERMSIG(status));
  if (WEXITSTATUS(status) != 0) return "ended with code " + std::to_string(WEXITSTATUS(status));
  return text;
}

}  // namespace zerospan_test
