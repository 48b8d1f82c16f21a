/// @file
/// Ranks that are processes, each with a GPU, connected by NCCL, which they set up over MPI: mpirun -n <GPUs>.
/// Ends with 77 where there are fewer GPUs than processes.
#include <mpi.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <stdexcept>
#include <utility>

#include <cuda_runtime_api.h>

#include "support/collective_exercise.hpp"
#include "support/cuda_place.hpp"

#include <zerospan/comm/byte_exchange.hpp>
#include <zerospan/comm/communicator_exchange.hpp>
#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/comm/nccl_communicator.hpp>
#include <zerospan/comm/run_mpi_rank.hpp>

namespace {

using zerospan::MpiCommunicator;
using zerospan::NcclCommunicator;
using MpiExchange = zerospan::CommunicatorExchange<MpiCommunicator>;
static_assert(zerospan::DuplicatesExchange<MpiExchange> && zerospan::SplitsExchange<MpiExchange> &&
              zerospan::AbortsExchange<MpiExchange>);

constexpr int skipped = 77;

/// This process's among those of its host.
int local_rank() {
  MPI_Comm host = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
  int rank = 0;
  MPI_Comm_rank(host, &rank);
  MPI_Comm_free(&host);
  return rank;
}

/// Every collective has the bits of the same on the CPU, in the whole and in groups of two.
int compare(MpiCommunicator ranks, int gpu) {
  MpiCommunicator host = ranks.duplicate();
  zerospan_test::CudaPlace place{gpu};
  exercise::HostPlace host_place;
  NcclCommunicator communicator{MpiExchange{std::move(ranks)}, {}};
  const auto compare_on = [&](NcclCommunicator& gpus, MpiCommunicator& cpus) {
    const auto outcome = exercise::Exercise<NcclCommunicator, zerospan_test::CudaPlace>{gpus, place}.run();
    const auto expected = exercise::Exercise<MpiCommunicator, exercise::HostPlace>{cpus, host_place}.run();
    if (outcome.results != expected.results || outcome.integers != expected.integers) {
      throw std::runtime_error{"GPUs have other bits than CPUs"};
    }
  };
  compare_on(communicator, host);

  const zerospan::SplitPlace pair{host.rank().value / 2, host.rank().value};
  NcclCommunicator gpu_pair = communicator.split(pair);
  MpiCommunicator host_pair = host.split(pair);
  compare_on(gpu_pair, host_pair);
  communicator.verify();
  return EXIT_SUCCESS;
}

}  // namespace

int main(int argc, char** argv) {
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) {
    std::printf("skipped, for there is no GPU\n");
    return skipped;
  }
  int provided = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  const int gpu = local_rank();
  int fits = gpu < gpus ? 1 : 0;
  MPI_Allreduce(MPI_IN_PLACE, &fits, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  int result = skipped;
  if (fits != 0) {
    result = zerospan::run_mpi_rank(
        MPI_COMM_WORLD, [gpu](MpiCommunicator ranks) { return compare(std::move(ranks), gpu); });
  }
  MPI_Finalize();
  return result;
}
