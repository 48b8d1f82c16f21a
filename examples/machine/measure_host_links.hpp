/// @file
/// Measures the links between ranks that are processes.
#pragma once

#include <optional>
#include <vector>

#include <zerospan/core/element.hpp>

#include "host_links.hpp"

namespace machine {

struct LinkOptions {
  std::vector<zerospan::ElementType> types{zerospan::ElementType::float32};  ///< Of gradients.
  int ranks_per_group = 0;                                                   ///< 0: no groups.
};

/// Starts MPI and ends it: for a process that mpirun has started, and does nothing else with MPI. Every rank calls it.
/// Defined in mpi/measure_host_links.cpp; where MPI was not found at build time, in mpi/without_mpi.cpp.
/// @return On rank 0; on the others nothing.
/// @throws zerospan::ConfigurationError if the program was built without MPI; where a rank fails, the job ends.
std::optional<HostLinks> measure_host_links(int argc, char** argv, const LinkOptions& options);

}  // namespace machine
