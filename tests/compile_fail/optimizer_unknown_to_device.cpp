// Expected: no update\(stream, optimizer, runs\) for the device's streams here: include zerospan/cuda.hpp
#include "setting.hpp"

namespace my {

struct Stream {};

struct Lanes {
  using stream_type = Stream;
};

struct Device {
  using lanes_type = Lanes;
};

#if defined(FIXED)
void update(Stream& stream, const zerospan::AdamW& optimizer, std::span<const zerospan::ShardUpdate> runs);
#endif

}  // namespace my

static_assert(zerospan::detail::require_updatable<zerospan::AdamW, my::Device>());
