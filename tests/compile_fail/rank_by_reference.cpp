// Expected: its function takes that by value, as in \[\]\(zerospan::ThreadCommunicator ranks\)
#include <zerospan/comm/run_ranks.hpp>

#if defined(FIXED)
using Ranks = zerospan::ThreadCommunicator;
#else
using Ranks = zerospan::ThreadCommunicator&;
#endif

void train() {
  zerospan::run_ranks(2, [](Ranks ranks) { ranks.barrier({.stream = zerospan::calling_thread, .name = "start"}); });
}
