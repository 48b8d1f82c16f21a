// Expected: this communicator lacks a collective that ZeroEngine needs
#include <span>
#include <string>

#include "setting.hpp"

namespace my {

class Communicator {
 public:
  zerospan::Rank rank() const;
  int size() const;
  Communicator duplicate();
  void abort(const std::string& reason) noexcept;
  void all_gather(zerospan::Collective what, std::span<const zerospan::GatherPart> parts);
#if defined(FIXED)
  void reduce_scatter(zerospan::Collective what, const zerospan::Reduction& reduction);
#endif
  void reduce(zerospan::Collective what, const zerospan::Reduction& reduction, zerospan::Rank root);
  void all_reduce(zerospan::Collective what, const zerospan::Reduction& reduction);
  void all_reduce(zerospan::Collective what, std::span<std::int64_t> integers);
  void broadcast(zerospan::Collective what, std::span<std::byte> bytes, zerospan::Rank root);
  void barrier(zerospan::Collective what);
};

}  // namespace my

void train(my::Communicator& communicator, zerospan::HostDevice& device, const zerospan::Placement& placement) {
  zerospan::ZeroEngine engine{zerospan::Stage3{}, communicator, device, placement, zerospan::AdamW{}};
}
