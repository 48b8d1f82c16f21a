/// @file
/// What a function does in a process that is forked from this one.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace zerospan_test {

/// Whether `f()` is true there. The child does nothing else, and ends without cleaning up.
template <class F>
bool is_true_in_fork(F f) {
  const ::pid_t child = ::fork();
  if (child == -1) throw std::system_error{errno, std::generic_category(), "fork"};
  if (child == 0) {
    ::alarm(20);  // a child that waits for ever is ended
    bool is_true = false;
    try {
      is_true = f();
    } catch (...) {  // something else than was expected
    }
    ::_exit(is_true ? 0 : 1);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) == -1 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace zerospan_test
