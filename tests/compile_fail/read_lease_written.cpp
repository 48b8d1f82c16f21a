// Expected: read-only object|returns a const value
#include "setting.hpp"

void change(const Parameter& weight) {
#if defined(FIXED)
  auto full = weight.write(zerospan::calling_thread);
#else
  auto full = weight.gather(zerospan::calling_thread);
#endif
  full->data = nullptr;
}
