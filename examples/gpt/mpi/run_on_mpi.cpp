/// @file
/// Ranks that are processes.
#include "run_on_mpi.hpp"

#include <cblas.h>
#include <mpi.h>

#include <cstdlib>
#include <utility>
#include <vector>

#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/comm/run_mpi_rank.hpp>

#include "../run_on_cpu.hpp"

namespace gpt {

MpiProcess::MpiProcess(int& argc, char**& argv) {
  int provided = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
}

MpiProcess::~MpiProcess() { MPI_Finalize(); }

bool MpiProcess::reports() const {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank == 0;
}

int MpiProcess::ranks() const {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

void MpiProcess::abort(int code) {
  MPI_Abort(MPI_COMM_WORLD, code);
  std::exit(code);
}

std::vector<Result> run_on_mpi(const Job& job) {
  ::openblas_set_num_threads(job.options.threads);
  const auto run = [&job](zerospan::MpiCommunicator communicator) {
    CpuPlatform platform{std::move(communicator), job};
    return run_rank_on_cpu(platform, job);
  };
  return {zerospan::run_mpi_rank(MPI_COMM_WORLD, run, {.communicator = {.timeout = timeout_of(job.options)}})};
}

}  // namespace gpt
