// Expected: say which stream
#include "setting.hpp"

void read(const Parameter& weight) {
#if defined(FIXED)
  const auto full = weight.gather(zerospan::calling_thread);
#else
  const auto full = weight.gather(0);
#endif
}
