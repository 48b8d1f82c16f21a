// Expected: this is no Optimizer: it lacks state_bytes\(elements\)
#include "setting.hpp"

namespace my {

struct Descent {
#if defined(FIXED)
  std::size_t state_bytes(std::size_t elements) const;
#endif
  void update(const zerospan::ShardUpdate& shard) const;
};

}  // namespace my

void train(zerospan::SelfCommunicator& self, zerospan::HostDevice& device, const zerospan::Placement& placement) {
  zerospan::ZeroEngine engine{zerospan::Stage3{}, self, device, placement, my::Descent{}};
}
