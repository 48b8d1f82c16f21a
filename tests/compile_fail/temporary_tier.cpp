// Expected: a temporary tier is gone before the engine that would use it
#include "setting.hpp"

zerospan::Placement place(zerospan::HostDevice& device) {
#if defined(FIXED)
  static zerospan::HostTier host{device};
  return {.parameters = host, .gradients = host, .optimizer = host};
#else
  return {.parameters = zerospan::HostTier{device},
          .gradients = zerospan::HostTier{device},
          .optimizer = zerospan::HostTier{device}};
#endif
}
