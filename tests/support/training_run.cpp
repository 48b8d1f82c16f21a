#include "training_run.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#if defined(ZEROSPAN_HAS_LIBAIO)
#include <zerospan/io/libaio_engine.hpp>
#endif
#if defined(ZEROSPAN_HAS_URING)
#include <zerospan/io/uring_engine.hpp>
#endif

#include "any_engine.hpp"
#include "replicated_training.hpp"
#include "toy_model.hpp"

namespace zerospan_test {

template std::unique_ptr<EngineInterface> make_engine(int, zerospan::SelfCommunicator&, zerospan::HostDevice&,
                                                      const zerospan::Placement&, const zerospan::AdamW&,
                                                      const zerospan::EngineOptions&);
template std::unique_ptr<EngineInterface> make_engine(int, zerospan::ThreadCommunicator&, zerospan::HostDevice&,
                                                      const zerospan::Placement&, const zerospan::AdamW&,
                                                      const zerospan::EngineOptions&);

template class DiskStack<zerospan::ThreadedIoEngine>;

namespace {

/// Counts the bytes of each memory that a rank cannot do without.
class Count {
 public:
  Count(const Configuration& configuration, zerospan::Rank rank) : c_{configuration}, rank_{rank} {
    for (const Layer& layer : layers) partitions_.push_back(partition(layer));
    for (std::size_t l = 0; l < layers.size(); ++l) count(l);
    for (const TiedUse& tied : tied_uses) count_gradient(tied.layer);
    device_ += working_;
    host_ += std::size_t{64} << 10;
    if (c_.disk == Disk::cached) host_ += DiskStack<zerospan::ThreadedIoEngine>::cache.count;
  }

  zerospan::Bytes device() const { return zerospan::Bytes{device_}; }
  zerospan::Bytes host() const { return zerospan::Bytes{host_}; }

 private:
  static constexpr std::size_t page = 4096;

  void add(Place place, std::size_t bytes) {
    if (place == Place::device) device_ += zerospan::round_up(bytes, page);
    if (place == Place::host) host_ += zerospan::round_up(bytes, page);
  }

  std::size_t shards() const { return c_.stage > 0 ? static_cast<std::size_t>(c_.training.ranks) : 1; }

  bool is_replicated(const Layer& layer) const {
    const bool is_whole_anyway = c_.stage < 3 || (c_.training.ranks == 1 && c_.parameters == Place::device);
    return is_whole_anyway || layer.elements * zerospan::element_bytes(c_.type) <= c_.persistence_threshold.count;
  }

  zerospan::Partition partition(const Layer& layer) {
    return (is_replicated(layer) ? replica_cutter_ : cutter_).cut(layer.name, layer.elements);
  }

  /// Elements that this rank holds of a layer.
  std::size_t shard(std::size_t layer) const {
    const zerospan::Partition& p = partitions_[layer];
    return p.owner.value_or(rank_) == rank_ ? zerospan::round_up(p.shard_elements, unit()) : 0;
  }

  /// Elements at whose multiples shards begin, so that each is aligned on the disk in every type.
  std::size_t unit() const { return c_.disk == Disk::checked ? page / 2 : 1; }

  void count(std::size_t l) {
    const std::size_t width = zerospan::element_bytes(c_.type);
    const std::size_t whole = partitions_[l].padded_elements() * width;
    if (is_replicated(layers[l])) {
      add(Place::device, whole);
    } else {
      add(c_.parameters, shard(l) * width);
    }
    if (layers[l].options.training == zerospan::Training::trainable) {
      add(c_.optimizer, shard(l) * (master_width(layers[l]) + 8));
    }
    count_gradient(l);
    const bool sums_apart = c_.training.ranks > 1 && c_.training.micro_batches > 1;
    const std::size_t sum = sums_apart ? summed(l, partitions_[l].shard_elements) * sizeof(float) : 0;
    working_ = std::max(working_, 2 * whole + sum);
  }

  /// Bytes of a master weight beside the parameter. What is replicated may be its own: not on every device.
  std::size_t master_width(const Layer& layer) const {
    const bool is_split = c_.training.master_weights == zerospan::MasterWeights::split;
    if (c_.type == zerospan::ElementType::bfloat16 && is_split) return 2;
    const bool rests_with_states = !is_replicated(layer) && c_.parameters == c_.optimizer;
    return c_.type == zerospan::ElementType::float32 && rests_with_states ? 0 : 4;
  }

  void count_gradient(std::size_t l) {
    if (layers[l].options.training == zerospan::Training::frozen) return;
    const std::size_t width = c_.training.micro_batches > 1 ? sizeof(float) : zerospan::element_bytes(c_.type);
    add(c_.gradients, summed(l, shard(l)) * width);
  }

  /// Elements of a gradient's sum, where the shard has so many.
  std::size_t summed(std::size_t l, std::size_t shard) const {
    return c_.stage >= 2 ? shard : zerospan::round_up(partitions_[l].padded_elements(), unit());
  }

  Configuration c_;
  zerospan::Rank rank_;
  zerospan::AnyPartitioner::Cutter cutter_ = c_.partition.make(static_cast<std::size_t>(c_.training.ranks));
  zerospan::AnyPartitioner::Cutter replica_cutter_ = zerospan::AnyPartitioner{zerospan::Slices{}}.make(shards());
  std::vector<zerospan::Partition> partitions_;  // of each layer
  std::size_t device_ = 0;
  std::size_t host_ = 0;
  std::size_t working_ = 0;
};

/// Trains a model that is typed as it says.
template <zerospan::Element E, zerospan::HostTensor T>
TrainingResult train_model(AnyEngine& engine, zerospan::Rank rank, const Configuration& c, const Route& route,
                           const Compute& compute) {
  TrainingResult result;
  const ToyModel<E, T> model{engine, compute};
  for (std::int64_t step = 0; step < c.steps; ++step) {
    std::vector<Position> positions;
    for (std::size_t micro = 0; micro < c.training.micro_batches; ++micro) {
      positions.push_back({rank.value, step, micro});
    }
    const std::size_t at_once = c.order == MicroBatchOrder::layer_by_layer ? positions.size() : 1;
    for (std::size_t first = 0; first < positions.size(); first += at_once) {
      const auto together = std::span{positions}.subspan(first, at_once);
      for (const double loss : model.forward(route, together)) {
        result.losses.push_back(std::bit_cast<std::uint64_t>(loss));
      }
      model.backward(route, together);
    }
    result.norms.push_back(engine.step({.commits = zerospan::Commits::in_every_micro_batch}).gradient_norm);
  }
  result.hash = hash_masters(engine);
  return result;
}

/// A training run on threads.
template <zerospan::IoEngine Io>
TrainingResult train_with(const Configuration& c) {
  return join_results(zerospan::run_ranks(
      c.training.ranks, [&](zerospan::ThreadCommunicator communicator) { return train_on<Io>(communicator, c); },
      {.timeout = std::chrono::seconds{30}}));
}

/// Calls `f` with an element of that type.
template <class F>
auto with_element(zerospan::ElementType type, F f) {
  switch (type) {
    case zerospan::ElementType::float32:
      return f(float{});
    case zerospan::ElementType::bfloat16:
      return f(zerospan::bfloat16{});
    default:
      return f(zerospan::float16{});
  }
}

}  // namespace

void MasterHash::operator()(std::string_view name, std::uint64_t first, std::span<const float> values) {
  if (name != current_) {
    hash_.add(name);
    current_ = name;
    next_ = 0;
  }
  if (first != next_) throw std::logic_error{"master weights out of order in " + current_};
  next_ += values.size();
  hash_.add(values);
}

bool Configuration::is_possible() const {
  const bool has_disk = parameters == Place::nvme || gradients == Place::nvme || optimizer == Place::nvme;
  if (disk != Disk::plain && !has_disk) return false;
  const bool partitions = parameters != Place::device || partition.is<zerospan::Owners>();
  return (stage == 3 || !partitions) && (stage >= 2 || gradients != Place::nvme);
}

std::string Configuration::describe() const {
  std::string text = "stage ";
  text.append(std::to_string(stage)).append(", ").append(zerospan::to_string(type));
  text.append(", parameters on ").append(to_string(parameters));
  text.append(", gradients on ").append(to_string(gradients));
  text.append(", optimizer on ").append(to_string(optimizer));
  text.append(prefetch == Prefetch::on ? ", prefetching, " : ", on demand, ");
  text.append(budget == Budget::tight ? "tight" : "roomy").append(", ");
  if (disk == Disk::striped) text.append("striped disks, ");
  if (disk == Disk::cached) text.append("cached disk, ");
  if (disk == Disk::checked) text.append("checked disk, ");
  if (typing == Typing::run_time) text.append("typed at run time, ");
  if (order == MicroBatchOrder::layer_by_layer) text.append("layer by layer, ");
  text.append(std::to_string(training.ranks)).append(" ranks, ");
  text.append(std::to_string(training.micro_batches)).append(" micro-batches, norm up to ");
  text.append(std::to_string(training.max_gradient_norm)).append(", threshold ");
  text.append(std::to_string(persistence_threshold.count));
  if (group_copies) text.append(", group copies on ").append(to_string(*group_copies));
  text.append(", ").append(partition.name()).append(", seed ").append(std::to_string(training.seed));
  return text;
}

Needs::Needs(const Configuration& configuration, zerospan::Rank rank) {
  const Count count{configuration, rank};
  device_ = count.device();
  host_ = count.host();
}

zerospan::EngineOptions engine_options(const Configuration& c) {
  return {
      .micro_batches = c.training.micro_batches,
      .max_gradient_norm = c.training.max_gradient_norm,
      .master_weights = c.training.master_weights,
      .seed = c.training.seed,
      .partition = c.partition,
      .persistence_threshold = c.persistence_threshold,
      .prefetch = c.prefetch == Prefetch::on ? zerospan::Bytes{std::size_t{256} << 20} : zerospan::Bytes{0},
      .staging = c.budget == Budget::tight ? std::optional{zerospan::Bytes{std::size_t{64} << 10}} : std::nullopt,
      .timeout = c.timeout};
}

TrainingResult train_rank(AnyEngine& engine, zerospan::Rank rank, const Configuration& c, const Route& route,
                          const Compute& compute) {
  return with_element(c.type, [&](auto element) {
    using E = decltype(element);
    return c.typing == Typing::run_time ? train_model<E, RuntimeArray>(engine, rank, c, route, compute)
                                        : train_model<E, Array<E>>(engine, rank, c, route, compute);
  });
}

TrainingResult join_results(const std::vector<TrainingResult>& ranks) {
  TrainingResult result{ranks[0].hash, ranks[0].norms, {}};
  for (const TrainingResult& rank : ranks) {
    if (rank.hash != result.hash || rank.norms != result.norms) throw std::logic_error{"ranks disagree"};
    result.losses.insert(result.losses.end(), rank.losses.begin(), rank.losses.end());
  }
  return result;
}

TrainingResult train(const Configuration& c) { return train_with<zerospan::ThreadedIoEngine>(c); }

#if defined(ZEROSPAN_HAS_LIBAIO)
TrainingResult train_with_libaio(const Configuration& c) { return train_with<zerospan::LibaioEngine>(c); }
#endif
#if defined(ZEROSPAN_HAS_URING)
TrainingResult train_with_uring(const Configuration& c) { return train_with<zerospan::UringEngine>(c); }
#endif

TrainingResult train_replicated(const TrainingOptions& options, zerospan::ElementType type, int steps) {
  return with_element(type, [&](auto element) {
    ReplicatedTraining<decltype(element)> training{options};
    for (int step = 0; step < steps; ++step) training.step(full_route());
    return training.result();
  });
}

}  // namespace zerospan_test
