/// @file
/// Training runs of the toy model on engines of any stage, placement and budget.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <zerospan/tier/cached_tier.hpp>
#include <zerospan/tier/striped_tier.hpp>
#include <zerospan/zerospan.hpp>

#if defined(ZEROSPAN_HAS_XXHASH)
#include <zerospan/tier/checked_tier.hpp>
#endif

#include "replicated_training.hpp"
#include "toy_model.hpp"

namespace zerospan_test {

enum class Place : std::uint8_t { device, host, nvme };

constexpr std::string_view to_string(Place place) {
  return place == Place::device ? "device" : place == Place::host ? "host" : "nvme";
}

/// What a rank trains on: a device and its three tiers.
template <zerospan::IoEngine Io, zerospan::Device D = zerospan::HostDevice>
class Memory {
 public:
  Memory(Io& io, zerospan::Bytes device_budget, zerospan::Bytes host_budget)
      : Memory{io, [&] { return D{{.device_budget = device_budget, .host_budget = host_budget}}; }} {}

  /// @param make_device Returns the device.
  template <class MakeDevice>
    requires std::is_invocable_r_v<D, MakeDevice&>
  Memory(Io& io, MakeDevice make_device)
      : device{make_device()},
        on_device{device},
        on_host{device},
        on_nvme{io,
                {.directory = std::filesystem::temp_directory_path().string(),
                 .drain_timeout = std::chrono::milliseconds{200}}} {}

  zerospan::TierRef tier(Place place) {
    switch (place) {
      case Place::device:
        return on_device;
      case Place::host:
        return on_host;
      case Place::nvme:
        break;
    }
    return on_nvme;
  }

  zerospan::Placement placement(Place parameters, Place gradients, Place optimizer) {
    return {tier(parameters), tier(gradients), tier(optimizer)};
  }

  D device;
  zerospan::DeviceTier on_device;
  zerospan::HostTier on_host;
  zerospan::NvmeTier<Io> on_nvme;
};

/// Calls `f` with the stage of that number.
template <class F>
auto with_stage(int stage, F f) {
  switch (stage) {
    case 0:
      return f(zerospan::Stage0{});
    case 1:
      return f(zerospan::Stage1{});
    case 2:
      return f(zerospan::Stage2{});
    default:
      return f(zerospan::Stage3{});
  }
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

/// A hash of the master weights (a collective). @throws if pieces are out of order.
template <class Engine>
std::uint64_t hash_masters(Engine& engine) {
  ValueHash hash;
  std::string current;
  std::uint64_t next = 0;
  engine.for_each_master([&](std::string_view name, std::uint64_t first, std::span<const float> values) {
    if (name != current) {
      hash.add(name);
      current = name;
      next = 0;
    }
    if (first != next) throw std::logic_error{"master weights out of order in " + current};
    next += values.size();
    hash.add(values);
  });
  return hash.value();
}

/// What stands where the disk is: the disk itself, two striped, one with a part of it cached in host memory, or one
/// with checksums (none, without xxHash).
enum class Disk : std::uint8_t { plain, striped, cached, checked };

template <zerospan::IoEngine Io>
class DiskStack {
 public:
  static constexpr zerospan::Bytes cache{std::size_t{48} << 10};

  template <class D>
  DiskStack(Io& io, Memory<Io, D>& memory, Disk kind) : disk_{memory.on_nvme} {
    if (kind == Disk::striped) {
      second_.emplace(io, zerospan::NvmeTierOptions{.directory = std::filesystem::temp_directory_path().string()});
      const std::vector<zerospan::TierRef> both{memory.on_nvme, *second_};
      disk_ = striped_.emplace(
          both, zerospan::StripedTierOptions{.stripe = zerospan::Bytes{std::size_t{8} << 10}, .weights = {2, 1}});
    } else if (kind == Disk::cached) {
      disk_ =
          cached_.emplace(memory.on_nvme, memory.device.host_memory(),
                          zerospan::CachedTierOptions{.bytes = cache, .line = zerospan::Bytes{std::size_t{8} << 10}});
    } else if (kind == Disk::checked) {
#if defined(ZEROSPAN_HAS_XXHASH)
      disk_ = checked_.emplace(memory.on_nvme,
                               zerospan::CheckedTierOptions{.drain_timeout = std::chrono::milliseconds{200}});
#endif
    }
  }

  zerospan::TierRef tier() const { return disk_; }

 private:
  zerospan::TierRef disk_;
  std::optional<zerospan::NvmeTier<Io>> second_;
  std::optional<zerospan::StripedTier> striped_;
  std::optional<zerospan::CachedTier> cached_;
#if defined(ZEROSPAN_HAS_XXHASH)
  std::optional<zerospan::CheckedTier> checked_;
#endif
};

enum class Budget : std::uint8_t { roomy, tight };
enum class Prefetch : std::uint8_t { off, on };

/// When the tensors' element type is known.
enum class Typing : std::uint8_t { compile_time, run_time };

/// One way to train the toy model. What does not stand in `training`, `type` and `steps` must not matter.
struct Configuration {
  TrainingOptions training{};
  zerospan::ElementType type = zerospan::ElementType::float32;
  int steps = 3;
  int stage = 3;
  Place parameters = Place::device;
  Place gradients = Place::device;
  Place optimizer = Place::device;
  Prefetch prefetch = Prefetch::on;
  Budget budget = Budget::roomy;
  Typing typing = Typing::compile_time;
  Disk disk = Disk::plain;
  zerospan::Bytes persistence_threshold = zerospan::EngineOptions{}.persistence_threshold;
  zerospan::AnyPartitioner partition = zerospan::Slices{};
  std::optional<Place> group_copies = std::nullopt;
  std::chrono::milliseconds timeout = std::chrono::seconds{30};  ///< Of the engine's waits.

  /// Below stage 3 parameters stay on the device and have no owners, below stage 2 gradients are addressable.
  bool is_possible() const {
    const bool has_disk = parameters == Place::nvme || gradients == Place::nvme || optimizer == Place::nvme;
    if (disk != Disk::plain && !has_disk) return false;
    const bool partitions = parameters != Place::device || partition.is<zerospan::Owners>();
    return (stage == 3 || !partitions) && (stage >= 2 || gradients != Place::nvme);
  }

  std::string describe() const {
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
    text.append(std::to_string(training.ranks)).append(" ranks, ");
    text.append(std::to_string(training.micro_batches)).append(" micro-batches, norm up to ");
    text.append(std::to_string(training.max_gradient_norm)).append(", threshold ");
    text.append(std::to_string(persistence_threshold.count));
    if (group_copies) text.append(", group copies on ").append(to_string(*group_copies));
    text.append(", ").append(partition.name()).append(", seed ").append(std::to_string(training.seed));
    return text;
  }
};

/// Bytes of each memory that a rank of a configuration cannot do without.
class Needs {
 public:
  explicit Needs(const Configuration& configuration, zerospan::Rank rank = {}) : c_{configuration}, rank_{rank} {
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
    if (layers[l].options.training == zerospan::Training::trainable) add(c_.optimizer, shard(l) * 12);
    count_gradient(l);
    const bool sums_apart = c_.training.ranks > 1 && c_.training.micro_batches > 1;
    const std::size_t sum = sums_apart ? summed(l, partitions_[l].shard_elements) * sizeof(float) : 0;
    working_ = std::max(working_, 2 * whole + sum);
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

inline zerospan::EngineOptions engine_options(const Configuration& c) {
  return {
      .micro_batches = c.training.micro_batches,
      .max_gradient_norm = c.training.max_gradient_norm,
      .seed = c.training.seed,
      .partition = c.partition,
      .persistence_threshold = c.persistence_threshold,
      .prefetch = c.prefetch == Prefetch::on ? zerospan::Bytes{std::size_t{256} << 20} : zerospan::Bytes{0},
      .staging = c.budget == Budget::tight ? zerospan::Bytes{std::size_t{64} << 10} : zerospan::EngineOptions{}.staging,
      .timeout = c.timeout};
}

/// Trains along a route, the same in each step. @return what this rank saw; the norms and the hash are everybody's.
template <zerospan::Element E, zerospan::HostTensor T, class Engine, class Communicator, class Compute>
TrainingResult train_rank(Engine& engine, const Communicator& communicator, const Configuration& c, const Route& route,
                          const Compute& compute) {
  TrainingResult result;
  const ToyModel<E, T, Compute> model{engine, compute};
  for (std::int64_t step = 0; step < c.steps; ++step) {
    for (std::size_t micro = 0; micro < c.training.micro_batches; ++micro) {
      const Position at{communicator.rank().value, step, micro};
      result.losses.push_back(std::bit_cast<std::uint64_t>(model.forward(route, at)));
      model.backward(route, at);
    }
    result.norms.push_back(engine.step().gradient_norm);
  }
  result.hash = hash_masters(engine);
  return result;
}

template <zerospan::Element E, class Engine, class Communicator, class Compute = ThreadCompute>
TrainingResult train_rank(Engine& engine, const Communicator& communicator, const Configuration& c, const Route& route,
                          const Compute& compute = {}) {
  if (c.typing == Typing::run_time) return train_rank<E, RuntimeArray>(engine, communicator, c, route, compute);
  return train_rank<E, Array<E>>(engine, communicator, c, route, compute);
}

/// One rank of a training run, on memory of its own. @throws if a peak passes a budget.
/// @param communicator The engine's. @param data By whose rank the data are told.
template <class Io, class D, class Communicator, class Data, class Compute>
TrainingResult train_on(Io& io, Memory<Io, D>& memory, Communicator& communicator, const Data& data,
                        const Configuration& c, const Compute& compute) {
  const DiskStack<Io> disk{io, memory, c.disk};
  const auto tier = [&](Place place) { return place == Place::nvme ? disk.tier() : memory.tier(place); };
  zerospan::Placement placement{tier(c.parameters), tier(c.gradients), tier(c.optimizer)};
  if (c.group_copies) placement.group_copies = tier(*c.group_copies);
  const TrainingResult result = with_stage(c.stage, [&](auto stage) {
    zerospan::ZeroEngine engine{stage, communicator, memory.device, placement, c.training.optimizer, engine_options(c)};
    return with_element(
        c.type, [&](auto element) { return train_rank<decltype(element)>(engine, data, c, full_route(), compute); });
  });
  if (memory.device.memory().peak() > memory.device.memory().capacity() ||
      memory.device.host_memory().peak() > memory.device.host_memory().capacity()) {
    throw std::logic_error{"a peak passes its budget"};
  }
  return result;
}

template <class Io, class D, class Communicator, class Compute>
TrainingResult train_on(Io& io, Memory<Io, D>& memory, Communicator& communicator, const Configuration& c,
                        const Compute& compute) {
  return train_on(io, memory, communicator, communicator, c, compute);
}

/// The same, on the host.
template <zerospan::IoEngine Io = zerospan::ThreadedIoEngine, class Communicator, class Data>
TrainingResult train_on(Communicator& communicator, const Data& data, const Configuration& c) {
  Io io{};
  const Needs needs{c, communicator.rank()};
  const bool is_tight = c.budget == Budget::tight;
  const zerospan::Bytes roomy{std::size_t{64} << 20};
  Memory<Io> memory{io, is_tight ? needs.device() : roomy, is_tight ? needs.host() : roomy};
  return train_on(io, memory, communicator, data, c, ThreadCompute{});
}

template <zerospan::IoEngine Io = zerospan::ThreadedIoEngine, class Communicator>
TrainingResult train_on(Communicator& communicator, const Configuration& c) {
  return train_on<Io>(communicator, communicator, c);
}

/// Joins the ranks' results. @throws if the ranks do not agree on what all of them should see.
inline TrainingResult join_results(const std::vector<TrainingResult>& ranks) {
  TrainingResult result{ranks[0].hash, ranks[0].norms, {}};
  for (const TrainingResult& rank : ranks) {
    if (rank.hash != result.hash || rank.norms != result.norms) throw std::logic_error{"ranks disagree"};
    result.losses.insert(result.losses.end(), rank.losses.begin(), rank.losses.end());
  }
  return result;
}

/// A training run on threads.
template <zerospan::IoEngine Io = zerospan::ThreadedIoEngine>
TrainingResult train(const Configuration& c) {
  return join_results(zerospan::run_ranks(
      c.training.ranks, [&](zerospan::ThreadCommunicator communicator) { return train_on<Io>(communicator, c); },
      {.timeout = std::chrono::seconds{30}}));
}

/// The same training, written down without an engine.
inline TrainingResult train_replicated(const TrainingOptions& options, zerospan::ElementType type, int steps) {
  return with_element(type, [&](auto element) {
    ReplicatedTraining<decltype(element)> training{options};
    for (int step = 0; step < steps; ++step) training.step(full_route());
    return training.result();
  });
}

}  // namespace zerospan_test
