// A tier of one's own: states rest in mirrored memory, and every read compares the copies.
#include <cstdio>
#include <cstring>
#include <memory>

#include <zerospan/zerospan.hpp>

using namespace zerospan;

struct MirroredTier {
  std::string_view name() const { return "mirrored memory"; }
  std::size_t alignment() const { return 1; }
  Addressable addressable() const { return Addressable::nowhere; }  // transfers alone reach it
  void reserve(Bytes, std::string_view) {}                          // there is always room
  void cancel(Bytes) noexcept {}
  Extent place(std::size_t bytes) {
    placed.peak = placed.used = placed.used + Bytes{bytes};
    return {reinterpret_cast<std::uintptr_t>(std::make_unique<std::byte[]>(2 * bytes).release()), bytes};
  }
  void remove(const Extent& extent) noexcept {
    placed.used.count -= extent.bytes;
    const std::unique_ptr<std::byte[]> given_back{at(extent, 0)};
  }
  std::byte* view(const Extent&) { return nullptr; }
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    std::memcpy(data, at(extent, offset), bytes);
    if (std::memcmp(data, at(extent, extent.bytes + offset), bytes) != 0) throw std::runtime_error{"copies differ"};
    return {};  // it is done; a slower tier would return the completion of a Promise
  }
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t n) {
    for (const std::size_t mirror : {std::size_t{0}, extent.bytes}) std::memcpy(at(extent, mirror + offset), data, n);
    return {};
  }
  TierCounters counters() const { return placed; }
  std::byte* at(const Extent& e, std::size_t n) const { return reinterpret_cast<std::byte*>(e.offset) + n; }
  TierCounters placed;
};

template <>
struct zerospan::TensorTraits<float*> {
  using element_type = float;
  static float* unbound(const Shape&) { return nullptr; }
  static void bind(float*& tensor, float* data) { tensor = data; }
  static float* data(float* const& tensor) { return tensor; }
};

int main() {
  HostDevice device;
  MirroredTier tier;
  SelfCommunicator self;
  ZeroEngine engine{Stage3{}, self, device, Placement{tier, tier, tier}, AdamW{.learning_rate = 0.1F}};
  const PartitionedParameter<float*> weight{engine, "weight", {100'000}, init::normal(1.0F)};
  for (int step = 0; step < 5; ++step) {
    auto gradient = weight.gradient(calling_thread);
    std::memcpy(*gradient, *weight.gather(calling_thread), 100'000 * sizeof(float));  // of half the squared norm
    gradient.commit();
    std::printf("step %d: norm %.3f\n", step, engine.step().gradient_norm);
  }
}
