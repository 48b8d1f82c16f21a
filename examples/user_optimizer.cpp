// An optimizer written here, trained with ZeRO-3 on two ranks: to the bits that it gives in a plain loop.
#include <array>
#include <cmath>
#include <cstdio>
#include <vector>

#include <zerospan/optimizer/block_update.hpp>
#include <zerospan/zerospan.hpp>

struct Adagrad {      // Duchi et al., JMLR 2011: steps shrink where gradients were large
  float rate = 0.5F;  // checked before every step, and compared over ranks
  auto settings() const { return std::array{zerospan::NamedSetting{"rate", rate, zerospan::SettingRange::positive}}; }
  std::size_t state_bytes(std::size_t elements) const { return sizeof(float) * elements; }
  void update(const zerospan::ShardUpdate& shard) const {
    zerospan::update_blocks(shard, [this](const zerospan::BlockUpdate& block) {
      for (std::size_t i = 0; i < block.elements; ++i) step(block.master[i], block.state[i], block.gradient[i]);
    });
  }
  void step(float& weight, float& sum, float gradient) const {
    sum = std::fma(gradient, gradient, sum);
    weight -= rate * gradient / (std::sqrt(sum) + 1e-10F);
  }
};

template <>
struct zerospan::TensorTraits<float*> {  // the host's tensor is a pointer
  using element_type = float;
  static float* unbound(const Shape&) { return nullptr; }
  static void bind(float*& tensor, float* data) { tensor = data; }
  static float* data(float* tensor) { return tensor; }
};
constexpr std::size_t size = 10'000, steps = 20;
float slope(float w, std::size_t i, int rank) { return w - std::sin(static_cast<float>(i) + static_cast<float>(rank)); }

std::vector<float> train(zerospan::ThreadCommunicator ranks) {
  zerospan::HostDevice device{{.device_budget = zerospan::Bytes{1 << 20}, .host_budget = zerospan::Bytes{1 << 20}}};
  zerospan::HostTier host{device};
  zerospan::ZeroEngine engine{zerospan::Stage3{}, ranks, device, zerospan::Placement{host, host, host}, Adagrad{}};
  const zerospan::PartitionedParameter<float*> parameter{engine, "weight", {size}, zerospan::init::ones()};
  for (std::size_t step = 0; step < steps; ++step, engine.step()) {
    const auto weight = parameter.gather(zerospan::calling_thread);
    auto gradient = parameter.gradient(zerospan::calling_thread);
    for (std::size_t i = 0; i < size; ++i) (*gradient)[i] = slope((*weight)[i], i, ranks.rank().value);
    gradient.commit();
  }
  const auto weight = parameter.gather(zerospan::calling_thread);
  return {*weight, *weight + size};
}

int main() {
  std::vector<float> weights(size, 1.0F), sums(size);
  for (std::size_t i = 0; i < steps * size; ++i) {
    float& weight = weights[i % size];
    Adagrad{}.step(weight, sums[i % size], (slope(weight, i % size, 0) + slope(weight, i % size, 1)) * 0.5F);
  }
  const bool equal = zerospan::run_ranks(2, train) == std::vector{weights, weights};
  std::printf("partitioned and plain training give %s weights\n", equal ? "the same" : "DIFFERENT");
  return equal ? 0 : 1;
}
