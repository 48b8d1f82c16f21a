// Expected: a lease is held once: move it
#include <utility>

#include "setting.hpp"

void use(const Parameter& weight) {
  auto full = weight.gather(zerospan::calling_thread);
#if defined(FIXED)
  const auto moved = std::move(full);
#else
  const auto copied = full;
#endif
}
