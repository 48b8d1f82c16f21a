/// @file
/// Ranks that are processes.
#include "run_on_mpi.hpp"

#include <cblas.h>
#include <mpi.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/comm/run_mpi_rank.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>

#include "../cpu_platform.hpp"
#include "../hash.hpp"
#include "../text.hpp"

namespace gpt {

namespace {

/// A collective. @throws zerospan::ConfigurationError on every rank, unless all have the same text.
void require_same(const Text& text, zerospan::MpiCommunicator& ranks) {
  Hash hash;
  hash.update(std::as_bytes(text.train()));
  hash.update(std::as_bytes(text.validation()));
  std::vector<std::uint64_t> hashes(static_cast<std::size_t>(ranks.size()));
  hashes[static_cast<std::size_t>(ranks.rank().value)] = hash.digest();
  const zerospan::GatherPart part{std::as_writable_bytes(std::span{hashes}).data(), sizeof(std::uint64_t)};
  ranks.all_gather({zerospan::calling_thread, "the text's hash"}, std::span{&part, 1});
  const auto other = std::ranges::find_if(hashes, [&](std::uint64_t each) { return each != hashes.front(); });
  if (other == hashes.end()) return;
  zerospan::throw_configuration_error("rank " + std::to_string(other - hashes.begin()) +
                                      " has another text than rank 0: every host has the same files");
}

}  // namespace

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
    require_same(job.text, communicator);
    CpuPlatform platform{std::move(communicator), job};
    return run_rank_on_cpu(platform, job);
  };
  return {zerospan::run_mpi_rank(MPI_COMM_WORLD, run, {.communicator = {.timeout = timeout_of(job.options)}})};
}

}  // namespace gpt
