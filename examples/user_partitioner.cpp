// A partitioner of one's own: large parameters are sliced over all ranks, small ones rest whole with a rank each, in
// turn. A small one is not padded to a block on every rank then, and one rank moves it instead of all.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <zerospan/zerospan.hpp>

using namespace zerospan;

struct SmallInTurn {
  std::size_t small;  // in elements

  struct Cutter {
    std::size_t small, ranks, next;
    Partition cut(std::string_view, std::size_t elements) {
      if (elements > small) return Partition::sliced(elements, ranks);
      return Partition::owned(elements, Rank{static_cast<int>(next++ % ranks)});
    }
  };
  Cutter make(std::size_t ranks) const { return {small, ranks, 0}; }
  std::string_view name() const { return "small in turn"; }
  std::size_t fingerprint() const { return small; }  // ranks with different settings are told so
};
static_assert(Partitioner<SmallInTurn>);

template <>
struct zerospan::TensorTraits<float*> {  // the host's tensor is a pointer
  using element_type = float;
  static float* unbound(const Shape&) { return nullptr; }
  static void bind(float*& tensor, float* data) { tensor = data; }
  static float* data(float* const& tensor) { return tensor; }
};

float train(ThreadCommunicator ranks) {
  HostDevice device{{.device_budget = 16_MiB, .host_budget = 16_MiB}};
  HostTier host{device};
  const EngineOptions options{.partition = SmallInTurn{.small = 5000}, .persistence_threshold = 0_KiB};
  ZeroEngine engine{Stage3{}, ranks, device, Placement{host, host, host}, AdamW{.learning_rate = 0.1F}, options};
  std::vector<PartitionedParameter<float*>> model;
  for (const std::size_t size : std::vector<std::size_t>{100'000, 1000, 100'000, 2000, 1000}) {
    model.emplace_back(engine, "layer " + std::to_string(model.size()), Shape{size}, init::normal(1.0F));
  }
  for (int step = 0; step < 5; ++step, engine.step()) {
    for (const auto& layer : model) {
      auto gradient = layer.gradient(calling_thread);  // of half the squared norm: the weight itself
      std::copy_n(*layer.gather(calling_thread), layer.shape().elements(), *gradient);
      gradient.commit();
    }
  }
  std::printf("rank %d holds %zu bytes\n", ranks.rank().value, host.counters().used.count);
  return **model[3].gather(calling_thread);
}

int main() {
  const std::vector<float> weights = run_ranks(3, train);
  return weights[0] == weights[1] && weights[1] == weights[2] ? 0 : 1;
}
