// Expected: ignoring return value
#include "setting.hpp"

void read(const Parameter& weight) {
#if defined(FIXED)
  const auto full =
#endif
      weight.gather(zerospan::calling_thread);
}
