// Expected: a gradient lease ends with commit\(\) or discard\(\)
#include "setting.hpp"

void skip(const Parameter& weight) {
  auto gradient = weight.gradient(zerospan::calling_thread);
#if defined(FIXED)
  gradient.discard();
#else
  gradient.release();
#endif
}
