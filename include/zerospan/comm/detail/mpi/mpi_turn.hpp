/// @file
/// Whose turn it is to call MPI, where MPI serves one thread at a time.
#pragma once

#include <mpi.h>

#include <atomic>
#include <cstdint>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0::detail {

/// The level of thread support of the host's MPI: MPI_THREAD_SERIALIZED or MPI_THREAD_MULTIPLE.
/// @throws ConfigurationError if it is less, or if MPI is not initialized, or finalized.
inline int usable_thread_level() {
  int yes = 0;
  MPI_Initialized(&yes);
  if (yes == 0) {
    throw_configuration_error(
        "MPI is not initialized: call MPI_Init_thread with MPI_THREAD_MULTIPLE before an MpiCommunicator is made");
  }
  MPI_Finalized(&yes);
  if (yes != 0) throw_configuration_error("MPI is finalized: an MpiCommunicator is made and destroyed before that");
  int level = MPI_THREAD_SINGLE;
  MPI_Query_thread(&level);
  if (level < MPI_THREAD_SERIALIZED) {
    throw_configuration_error(
        "an MpiCommunicator needs MPI_THREAD_MULTIPLE (or MPI_THREAD_SERIALIZED, with the host's own calls inside "
        "exclusive()): pass it to MPI_Init_thread and look at what that provides");
  }
  return level;
}

/// A lock that is served in the order of arrival, so that threads that poll starve none; nothing at all under
/// MPI_THREAD_MULTIPLE.
class MpiTurn {
 public:
  explicit MpiTurn(int thread_level) noexcept : serializes_{thread_level < MPI_THREAD_MULTIPLE} {}

  void lock() noexcept {
    if (!serializes_) return;
    const std::uint32_t ticket = arrived_.fetch_add(1, std::memory_order_relaxed);
    for (std::uint32_t now = serving_.load(std::memory_order_acquire); now != ticket;
         now = serving_.load(std::memory_order_acquire)) {
      serving_.wait(now, std::memory_order_acquire);
    }
  }

  void unlock() noexcept {
    if (!serializes_) return;
    serving_.fetch_add(1, std::memory_order_release);
    serving_.notify_all();
  }

 private:
  bool serializes_;
  std::atomic<std::uint32_t> arrived_ = 0;
  std::atomic<std::uint32_t> serving_ = 0;
};

}  // namespace zerospan::inline v0::detail
