/// @file
/// The tests' main for processes that mpirun starts: MPI lives as long as the tests.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

/// @return The level of thread support that the test's command line asks for: serialized, or multiple.
static int wanted_level(int argc, char** argv) {
  const bool serialized = std::find(argv, argv + argc, std::string_view{"serialized"}) != argv + argc;
  return serialized ? MPI_THREAD_SERIALIZED : MPI_THREAD_MULTIPLE;
}

int main(int argc, char** argv) {
  int provided = MPI_THREAD_SINGLE;
  const int wanted = wanted_level(argc, argv);
  MPI_Init_thread(&argc, &argv, wanted, &provided);
  if (provided != wanted) MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
  doctest::Context context{argc, argv};
  const int result = context.run();
  if (result != 0) MPI_Abort(MPI_COMM_WORLD, result);  // the others may be waiting for this one
  MPI_Finalize();
  return result;
}
