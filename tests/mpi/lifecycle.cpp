/// @file
/// What an MpiCommunicator says of an MPI that is not there yet, serves too few threads, or is there no more:
/// `lifecycle <single|multiple>`.
#include <mpi.h>

#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>

namespace {

/// Makes a communicator. @return Whether it is refused in words that begin so.
bool is_refused(std::string_view words) {
  try {
    zerospan::MpiCommunicator{MPI_COMM_WORLD};
  } catch (const zerospan::ConfigurationError& error) {
    if (std::string_view{error.what()}.substr(0, words.size()) == words) return true;
    std::printf("refused in other words: %s\n", error.what());
    return false;
  }
  std::printf("not refused: %s\n", std::string{words}.c_str());
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  const bool serves_one_thread = argc > 1 && std::string_view{argv[1]} == "single";
  bool well = is_refused("MPI is not initialized");

  std::optional<zerospan::MpiCommunicator> communicator;
  int provided = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, serves_one_thread ? MPI_THREAD_SINGLE : MPI_THREAD_MULTIPLE, &provided);
  if (serves_one_thread) {
    well = is_refused("an MpiCommunicator needs MPI_THREAD_MULTIPLE") && well;
  } else {
    communicator.emplace(MPI_COMM_WORLD);
    communicator->barrier({zerospan::calling_thread, "all are here"});
  }
  MPI_Finalize();
  communicator.reset();  // too late, and harmless

  well = is_refused("MPI is finalized") && well;
  return well ? 0 : 1;
}
