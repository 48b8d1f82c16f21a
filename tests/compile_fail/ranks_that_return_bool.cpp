// Expected: a rank that has a bool to tell returns an int or an enumeration
#include <zerospan/comm/run_ranks.hpp>

#if defined(FIXED)
using HasLearned = int;
#else
using HasLearned = bool;
#endif

auto train() {
  return zerospan::run_ranks(2, [](zerospan::ThreadCommunicator ranks) -> HasLearned { return ranks.size() == 2; })[0];
}
