/// @file
/// The tests' main for processes that mpirun starts: MPI lives as long as the tests.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <mpi.h>

int main(int argc, char** argv) {
  int provided = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  doctest::Context context{argc, argv};
  const int result = context.run();
  if (result != 0) MPI_Abort(MPI_COMM_WORLD, result);  // the others may be waiting for this one
  MPI_Finalize();
  return result;
}
