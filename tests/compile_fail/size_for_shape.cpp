// Expected: a shape is extents in braces
#include "setting.hpp"

void declare(Engine& engine) {
#if defined(FIXED)
  const Parameter weight{engine, "weight", {100}, zerospan::init::ones()};
#else
  const Parameter weight{engine, "weight", 100, zerospan::init::ones()};
#endif
}
