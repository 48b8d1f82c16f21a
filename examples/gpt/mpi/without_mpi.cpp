/// @file
/// What a train_gpt without MPI says to --comm mpi.
#include <vector>

#include <zerospan/core/error.hpp>

#include "run_on_mpi.hpp"

namespace gpt {

namespace {

[[noreturn]] void refuse() {
  zerospan::throw_configuration_error(
      "this train_gpt was built without MPI: --comm thread is what it has; configure with -DZEROSPAN_WITH_MPI=ON for "
      "--comm mpi");
}

}  // namespace

MpiProcess::MpiProcess(int&, char**&) { refuse(); }
MpiProcess::~MpiProcess() = default;
bool MpiProcess::reports() const { return true; }
int MpiProcess::ranks() const { return 1; }
void MpiProcess::abort(int) { refuse(); }

std::vector<Result> run_on_mpi(const Job&) { refuse(); }

}  // namespace gpt
