/// @file
/// The bodies of kernels that this processor can run, for tests that compare them.
#pragma once

#include <vector>

#include <zerospan/kernels/cpu.hpp>

namespace zerospan_test {

/// The scalar one first, and the best one last.
inline std::vector<zerospan::InstructionSet> instruction_sets() {
  using enum zerospan::InstructionSet;
  std::vector<zerospan::InstructionSet> sets;
  for (const zerospan::InstructionSet set : {scalar, avx2, avx512}) {
    if (set <= zerospan::best_instruction_set()) sets.push_back(set);
  }
  return sets;
}

}  // namespace zerospan_test
