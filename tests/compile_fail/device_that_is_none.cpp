// Expected: this is no Device: it lacks memory
#include "setting.hpp"

namespace my {

struct Gpu {
  int number = 0;
};

}  // namespace my

#if defined(FIXED)
using Device = zerospan::HostDevice;
#else
using Device = my::Gpu;
#endif

void train(zerospan::SelfCommunicator& self, Device& device, const zerospan::Placement& placement) {
  zerospan::ZeroEngine engine{zerospan::Stage3{}, self, device, placement, zerospan::AdamW{}};
}
