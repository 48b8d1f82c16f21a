#include <zerospan/zerospan.hpp>

/// The library, and whichever parts of it were asked for, without an engine.
int main() {
  zerospan::HostDevice device;
  const zerospan::HostTier tier{device};
  return zerospan::Shape{3, 5}.elements() == 15 ? 0 : 1;
}
