/// @file
/// Limits that a test sets for its own process, and rights that it gives up.
#pragma once

#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <system_error>
#include <thread>

namespace zerospan_test {

/// A soft limit of the process (`RLIMIT_...`), until the object ends.
class ProcessLimit {
 public:
  ProcessLimit(int resource, ::rlim_t limit) : resource_{resource} {
    if (::getrlimit(resource_, &before_) != 0) throw std::system_error{errno, std::generic_category(), "getrlimit"};
    const ::rlimit lowered{limit, before_.rlim_max};
    if (::setrlimit(resource_, &lowered) != 0) throw std::system_error{errno, std::generic_category(), "setrlimit"};
  }
  ProcessLimit(const ProcessLimit&) = delete;
  ProcessLimit& operator=(const ProcessLimit&) = delete;
  ~ProcessLimit() { ::setrlimit(resource_, &before_); }

 private:
  int resource_;
  ::rlimit before_{};
};

/// No thread can be started until the object ends: there is no memory for its stack.
class NoMoreThreads {
 public:
  NoMoreThreads() {
    ::pthread_attr_t huge;
    if (::pthread_getattr_default_np(&before_) != 0 || ::pthread_getattr_default_np(&huge) != 0 ||
        ::pthread_attr_setstacksize(&huge, std::size_t{1} << 50) != 0 || ::pthread_setattr_default_np(&huge) != 0) {
      throw std::system_error{errno, std::generic_category(), "pthread_setattr_default_np"};
    }
  }
  NoMoreThreads(const NoMoreThreads&) = delete;
  NoMoreThreads& operator=(const NoMoreThreads&) = delete;
  ~NoMoreThreads() { ::pthread_setattr_default_np(&before_); }

 private:
  ::pthread_attr_t before_{};
};

/// A signal is ignored until the object ends.
class IgnoredSignal {
 public:
  explicit IgnoredSignal(int signal) : signal_{signal}, before_{std::signal(signal, SIG_IGN)} {}
  IgnoredSignal(const IgnoredSignal&) = delete;
  IgnoredSignal& operator=(const IgnoredSignal&) = delete;
  ~IgnoredSignal() { std::signal(signal_, before_); }

 private:
  int signal_;
  void (*before_)(int);
};

inline std::size_t entries_in(const char* directory) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator{directory}) ++count;
  return count;
}

inline std::size_t open_descriptors() { return entries_in("/proc/self/fd"); }

/// The lowest number of descriptors that the process may have without being able to open another.
inline ::rlim_t descriptors_in_use() {
  ::rlim_t lowest_free = 0;
  while (::fcntl(static_cast<int>(lowest_free), F_GETFD) != -1) ++lowest_free;
  return lowest_free;
}

inline std::size_t threads_in_use() { return entries_in("/proc/self/task"); }

/// Whether the process comes to so many threads; the kernel shows one for a moment after it was joined.
inline bool comes_to_threads(std::size_t count) {
  for (int patience = 5000; threads_in_use() != count; --patience) {
    if (patience == 0) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
  return true;
}

/// Bytes of addresses that the process has taken.
inline ::rlim_t address_space_in_use() {
  ::rlim_t pages = 0;
  std::ifstream{"/proc/self/statm"} >> pages;
  return pages * static_cast<::rlim_t>(::sysconf(_SC_PAGESIZE));
}

/// The calling thread, and the threads that it starts, no longer have these rights (`CAP_...`), root's though they be.
inline void give_up(std::initializer_list<unsigned> capabilities) {
  ::__user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<::__user_cap_data_struct, 2> sets{};
  if (::syscall(SYS_capget, &header, sets.data()) != 0) {
    throw std::system_error{errno, std::generic_category(), "capget"};
  }
  for (const unsigned capability : capabilities) sets[capability / 32].effective &= ~(1U << capability % 32);
  if (::syscall(SYS_capset, &header, sets.data()) != 0) {
    throw std::system_error{errno, std::generic_category(), "capset"};
  }
}

}  // namespace zerospan_test
