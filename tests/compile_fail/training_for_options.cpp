// Expected: say ParameterOptions\{.training = Training::frozen\}
#include "setting.hpp"

void declare(Engine& engine) {
#if defined(FIXED)
  const Parameter weight{engine, "weight", {10, 10}, zerospan::init::ones(), {.training = zerospan::Training::frozen}};
#else
  const Parameter weight{engine, "weight", {10, 10}, zerospan::init::ones(), zerospan::Training::frozen};
#endif
}
