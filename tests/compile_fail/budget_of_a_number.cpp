// Expected: could not convert|no viable conversion from .int. to .Bytes
#include "setting.hpp"

zerospan::HostDeviceOptions budgets() {
#if defined(FIXED)
  return {.device_budget = zerospan::Bytes{64}, .host_budget = zerospan::Bytes{64}};
#else
  return {.device_budget = 64, .host_budget = zerospan::Bytes{64}};
#endif
}
