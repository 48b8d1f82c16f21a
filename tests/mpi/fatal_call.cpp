/// @file
/// What a program of MPI preloads to be killed at a certain call, or to be asked to end. Of one rank, calls count that
/// read, write or change what is in a directory; before one of them is carried out, a signal goes to whom the
/// environment says:
///   FATAL_DIRECTORY  the directory, an absolute path
///   FATAL_RANK       the rank whose calls count
///   FATAL_CALL       the call's number, counted from 1
///   FATAL_SIGNAL     the signal's number
///   FATAL_TO         `rank`: this process; `all`: all ranks; `launcher`: the process that started them
///   FATAL_COUNT      where how many calls there were is written, if the process comes to its end
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace {

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value ? value : "";
}

/// The signal goes to this process last.
void strike(const std::string& to, int signal) {
  const ::pid_t launcher = ::getppid();
  if (to == "launcher") {
    ::kill(launcher, signal);
    return;
  }
  const std::string tasks = "/proc/" + std::to_string(launcher) + "/task";
  if (to == "all") {
    for (const auto& task : std::filesystem::directory_iterator{tasks}) {
      std::ifstream children{task.path() / "children"};
      for (::pid_t child = 0; children >> child;) {
        if (child != ::getpid()) ::kill(child, signal);
      }
    }
  }
  ::kill(::getpid(), signal);
}

class Calls {
 public:
  Calls() {
    std::string rank = environment("OMPI_COMM_WORLD_RANK");
    if (rank.empty()) rank = environment("PMI_RANK");
    counts_ = !rank.empty() && rank == environment("FATAL_RANK");
  }
  Calls(const Calls&) = delete;
  Calls& operator=(const Calls&) = delete;

  void come() {
    if (counts_ && ++made_ == fatal_) strike(to_, signal_);
  }
  void come(std::string_view path) {
    if (path.starts_with(directory_)) come();
  }
  void come(int descriptor) {
    if (!counts_) return;
    std::array<char, 4096> path{};
    const std::string link = "/proc/self/fd/" + std::to_string(descriptor);
    const ::ssize_t length = ::readlink(link.c_str(), path.data(), path.size());
    if (length > 0) come(std::string_view{path.data(), static_cast<std::size_t>(length)});
  }

  void write_count() const {
    if (counts_ && !count_.empty()) std::ofstream{count_} << made_ << '\n';
  }

 private:
  std::string directory_ = environment("FATAL_DIRECTORY") + "/";
  std::string to_ = environment("FATAL_TO");
  std::string count_ = environment("FATAL_COUNT");
  long fatal_ = std::atol(environment("FATAL_CALL").c_str());
  int signal_ = std::atoi(environment("FATAL_SIGNAL").c_str());
  bool counts_ = false;
  std::atomic<long> made_ = 0;
};

/// Of the process, which may make calls until its very end.
Calls& calls() {
  static Calls& all = *[] {
    std::atexit([] { calls().write_count(); });
    return new Calls;
  }();
  return all;
}

/// Calls what has the name in the libraries behind this one.
template <class Function, class... Arguments>
auto carry_out(Function*, const char* name, Arguments... arguments) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name))(arguments...);
}

}  // namespace

// The calls of the system, of libaio and of liburing, as their headers declare them.
extern "C" {

int open(const char* path, int flags, ...) {
  ::mode_t mode = 0;
  if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) {
    std::va_list rest;
    va_start(rest, flags);
    mode = va_arg(rest, ::mode_t);
    va_end(rest);
  }
  calls().come(path);
  return carry_out(&::open, "open", path, flags, mode);
}

int mkdir(const char* path, ::mode_t mode) noexcept {
  calls().come(path);
  return carry_out(&::mkdir, "mkdir", path, mode);
}

::ssize_t read(int descriptor, void* data, std::size_t bytes) {
  calls().come(descriptor);
  return carry_out(&::read, "read", descriptor, data, bytes);
}

::ssize_t pread(int descriptor, void* data, std::size_t bytes, ::off_t offset) {
  calls().come(descriptor);
  return carry_out(&::pread, "pread", descriptor, data, bytes, offset);
}

::ssize_t write(int descriptor, const void* data, std::size_t bytes) {
  calls().come(descriptor);
  return carry_out(&::write, "write", descriptor, data, bytes);
}

::ssize_t pwrite(int descriptor, const void* data, std::size_t bytes, ::off_t offset) {
  calls().come(descriptor);
  return carry_out(&::pwrite, "pwrite", descriptor, data, bytes, offset);
}

int io_submit(void* context, long count, void** requests) {
  calls().come();
  return carry_out(&::io_submit, "io_submit", context, count, requests);
}

int io_uring_submit(void* ring) {
  calls().come();
  return carry_out(&::io_uring_submit, "io_uring_submit", ring);
}

int fsync(int descriptor) {
  calls().come(descriptor);
  return carry_out(&::fsync, "fsync", descriptor);
}

int flock(int descriptor, int operation) noexcept {
  calls().come(descriptor);
  return carry_out(&::flock, "flock", descriptor, operation);
}

int linkat(int from_directory, const char* from, int to_directory, const char* to, int flags) noexcept {
  calls().come(to);
  return carry_out(&::linkat, "linkat", from_directory, from, to_directory, to, flags);
}

int rename(const char* from, const char* to) noexcept {
  calls().come(to);
  return carry_out(&::rename, "rename", from, to);
}

int remove(const char* path) noexcept {
  calls().come(path);
  return carry_out(&::remove, "remove", path);
}
}
