// Expected: could not convert|no viable conversion|cannot convert
#include "setting.hpp"

zerospan::HostDevice make() {
#if defined(FIXED)
  return zerospan::HostDevice{{.device_budget = zerospan::Bytes{64}, .host_budget = zerospan::Bytes{64}}};
#else
  return zerospan::HostDevice{{.device_budget = 64, .host_budget = zerospan::Bytes{64}}};
#endif
}
