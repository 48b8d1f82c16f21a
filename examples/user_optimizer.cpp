// An optimizer written here, trained with ZeRO-3 on two ranks: to the bits that it gives in a plain loop.
#include <cmath>
#include <cstdio>
#include <vector>

#include <zerospan/optimizer/block_update.hpp>
#include <zerospan/zerospan.hpp>

struct Adagrad {  // Duchi et al., JMLR 2011: a learning rate for each element
  float learning_rate;

  std::size_t state_bytes(std::size_t elements) const { return sizeof(float) * elements; }
  void update(const zerospan::ShardUpdate& shard) const {
    zerospan::update_blocks(shard, [this](const zerospan::BlockUpdate& block) {
      for (std::size_t i = 0; i < block.elements; ++i) step(block.master[i], block.state[i], block.gradient[i]);
    });
  }
  void step(float& weight, float& sum, float gradient) const {
    sum = std::fma(gradient, gradient, sum);
    weight -= learning_rate * gradient / (std::sqrt(sum) + 1e-10F);
  }
};

using Vector = std::vector<float>;
struct Tensor {
  float* data;
};
template <>
struct zerospan::TensorTraits<Tensor> {
  using element_type = float;
  static Tensor unbound(const Shape&) { return {nullptr}; }
  static void bind(Tensor& tensor, float* data) { tensor.data = data; }
  static float* data(const Tensor& tensor) { return tensor.data; }
};

constexpr Adagrad adagrad{.learning_rate = 0.5F};
constexpr std::size_t elements = 10'000;
constexpr int steps = 20;

float slope(float weight, std::size_t i, int rank) {
  return weight - std::sin(static_cast<float>(i) * static_cast<float>(1 + rank));
}

Vector train(zerospan::ThreadCommunicator communicator) {
  zerospan::HostDevice device{{.device_budget = {1 << 20}, .host_budget = {1 << 20}}};
  zerospan::HostTier host{device};
  zerospan::ZeroEngine engine{zerospan::Stage3{}, communicator, device, zerospan::Placement{host, host, host}, adagrad};
  const zerospan::PartitionedParameter<Tensor> parameter{engine, "weight", {elements}, zerospan::init::ones()};
  for (int step = 0; step < steps; ++step, engine.step()) {
    const auto weight = parameter.gather(zerospan::calling_thread);
    auto gradient = parameter.gradient(zerospan::calling_thread);
    for (std::size_t i = 0; i < elements; ++i) gradient->data[i] = slope(weight->data[i], i, communicator.rank().value);
    gradient.commit();
  }
  const auto weight = parameter.gather(zerospan::calling_thread);
  return {weight->data, weight->data + elements};
}

int main() {
  Vector plain(elements, 1.0F), sums(elements);
  for (int step = 0; step < steps; ++step) {
    for (std::size_t i = 0; i < elements; ++i) {
      adagrad.step(plain[i], sums[i], (slope(plain[i], i, 0) + slope(plain[i], i, 1)) * 0.5F);
    }
  }
  const bool equal = zerospan::run_ranks(2, train) == std::vector<Vector>{plain, plain};
  std::printf("partitioned and plain training give %s weights\n", equal ? "the same" : "DIFFERENT");
  return equal ? 0 : 1;
}
