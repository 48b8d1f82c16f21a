/// @file
/// run_mpi_rank: runs a function as one rank of an MPI job, all of which ends when one rank fails.
#pragma once

#include <mpi.h>

#include <concepts>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <type_traits>
#include <utility>

#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/comm/mpi_options.hpp>
#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

struct RunMpiRankOptions {
  MpiOptions communicator{};
  /// What the process ends with if it fails; not zero.
  int exit_code = 1;
};

namespace detail {

/// Says on standard error why this rank fails, and ends the job.
[[noreturn]] inline void end_mpi_job(MPI_Comm host, const char* reason, int exit_code) noexcept {
  int rank = 0;
  MPI_Comm_rank(host, &rank);
  std::fprintf(stderr, "zerospan: rank %d failed: %s\n", rank, reason);
  std::fflush(nullptr);
  MPI_Abort(host, exit_code);
  std::abort();
}

}  // namespace detail

/// Makes an MpiCommunicator from the host's communicator, on every rank of it, and returns `f(communicator)`. An
/// exception that leaves `f` on any rank ends the whole job, as MPI cannot go on without a rank: its words go to
/// standard error, after which MPI_Abort ends every process.
///
/// @param f Takes an MpiCommunicator by value or rvalue reference.
/// @note Never throws what `f` throws. Refusals of the communicator itself (MPI is not initialized) are thrown.
template <class F>
auto run_mpi_rank(MPI_Comm host, F&& f, const RunMpiRankOptions& options = {}) {
  static_assert(std::invocable<F&, MpiCommunicator>,
                "run_mpi_rank gives its function a communicator to keep: it takes that by value, as in "
                "[](zerospan::MpiCommunicator ranks) { ... }, not by reference");
  using Result = std::invoke_result_t<F&, MpiCommunicator>;
  static_assert(!std::is_reference_v<Result>,
                "a rank returns a value: what it refers to may end with the communicator");
  MpiCommunicator communicator{host, options.communicator};
  try {
    return std::invoke(f, std::move(communicator));
  } catch (const std::exception& error) {
    detail::end_mpi_job(host, error.what(), options.exit_code);
  } catch (...) {
    detail::end_mpi_job(host, "an exception that is not a std::exception", options.exit_code);
  }
}

}  // namespace zerospan::inline v0
