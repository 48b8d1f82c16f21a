/// @file
/// Ranks that are processes, started by mpirun, and compute on the CPU.
#pragma once

#include <vector>

#include "../job.hpp"
#include "../result.hpp"

namespace gpt {

/// MPI, for as long as this lives. Defined, like the rest, in run_on_mpi.cpp; where MPI was not found at build time, in
/// without_mpi.cpp.
class MpiProcess {
 public:
  /// @throws zerospan::ConfigurationError if the program was built without MPI.
  MpiProcess(int& argc, char**& argv);
  MpiProcess(const MpiProcess&) = delete;
  MpiProcess& operator=(const MpiProcess&) = delete;
  ~MpiProcess();

  /// Whether this process is the one that reports.
  bool reports() const;
  int ranks() const;

  /// Ends every process of the job. @param code What this one returns.
  [[noreturn]] void abort(int code);
};

/// Runs this process's rank. If it fails, it says so and ends every process of the job.
/// @return Of this rank alone.
std::vector<Result> run_on_mpi(const Job& job);

}  // namespace gpt
