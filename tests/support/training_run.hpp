/// @file
/// Training runs of the toy model on engines of any stage, placement and budget. What they have in common is compiled
/// once, in training_run.cpp.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
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

#include "any_engine.hpp"
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
  requires std::is_invocable_r_v<D, MakeDevice&> Memory(Io& io, MakeDevice make_device)
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

/// Adds the master weights' names and values up. @throws if pieces are out of order.
class MasterHash {
 public:
  void operator()(std::string_view name, std::uint64_t first, std::span<const float> values);
  std::uint64_t value() const { return hash_.value(); }

 private:
  ValueHash hash_;
  std::string current_;
  std::uint64_t next_ = 0;
};

/// A hash of the master weights (a collective). @throws if pieces are out of order.
template <class Engine>
std::uint64_t hash_masters(Engine& engine) {
  MasterHash hash;
  engine.for_each_master(std::ref(hash));
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
  DiskStack(Io& io, Memory<Io, D>& memory, Disk kind)
      : DiskStack{io, memory.on_nvme, memory.device.host_memory(), kind} {}

  DiskStack(Io& io, zerospan::NvmeTier<Io>& disk, zerospan::Arena& host_memory, Disk kind) : disk_{disk} {
    if (kind == Disk::striped) {
      second_.emplace(io, zerospan::NvmeTierOptions{.directory = std::filesystem::temp_directory_path().string()});
      const std::vector<zerospan::TierRef> both{disk, *second_};
      disk_ = striped_.emplace(
          both, zerospan::StripedTierOptions{.stripe = zerospan::Bytes{std::size_t{8} << 10}, .weights = {2, 1}});
    } else if (kind == Disk::cached) {
      disk_ =
          cached_.emplace(disk, host_memory,
                          zerospan::CachedTierOptions{.bytes = cache, .line = zerospan::Bytes{std::size_t{8} << 10}});
    } else if (kind == Disk::checked) {
#if defined(ZEROSPAN_HAS_XXHASH)
      disk_ = checked_.emplace(disk, zerospan::CheckedTierOptions{.drain_timeout = std::chrono::milliseconds{200}});
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

extern template class DiskStack<zerospan::ThreadedIoEngine>;

enum class Budget : std::uint8_t { roomy, tight };
enum class Prefetch : std::uint8_t { off, on };

/// How the micro-batches of a step go through the model.
enum class MicroBatchOrder : std::uint8_t { one_by_one, layer_by_layer };

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
  MicroBatchOrder order = MicroBatchOrder::one_by_one;
  Disk disk = Disk::plain;
  zerospan::Bytes persistence_threshold = zerospan::EngineOptions{}.persistence_threshold;
  zerospan::AnyPartitioner partition = zerospan::Slices{};
  std::optional<Place> group_copies = std::nullopt;
  std::chrono::milliseconds timeout = std::chrono::seconds{30};  ///< Of the engine's waits.

  /// Below stage 3 parameters stay on the device and have no owners, below stage 2 gradients are addressable.
  bool is_possible() const;
  std::string describe() const;
};

/// Bytes of each memory that a rank of a configuration cannot do without.
class Needs {
 public:
  explicit Needs(const Configuration& configuration, zerospan::Rank rank = {});

  zerospan::Bytes device() const { return device_; }
  zerospan::Bytes host() const { return host_; }

 private:
  zerospan::Bytes device_;
  zerospan::Bytes host_;
};

zerospan::EngineOptions engine_options(const Configuration& c);

/// Trains along a route, the same in each step. @param rank By which the data are told.
/// @return What this rank saw; the norms and the hash are everybody's.
TrainingResult train_rank(AnyEngine& engine, zerospan::Rank rank, const Configuration& c,
                          const Route& route = full_route(), const Compute& compute = at_once);

/// One rank of a training run, on memory of its own. @throws if a peak passes a budget.
/// @param communicator The engine's. @param rank By which the data are told.
template <class Io, class D, class Communicator>
TrainingResult train_on(Io& io, Memory<Io, D>& memory, Communicator& communicator, zerospan::Rank rank,
                        const Configuration& c, const Compute& compute = at_once) {
  const DiskStack<Io> disk{io, memory, c.disk};
  const auto tier = [&](Place place) { return place == Place::nvme ? disk.tier() : memory.tier(place); };
  zerospan::Placement placement{tier(c.parameters), tier(c.gradients), tier(c.optimizer)};
  if (c.group_copies) placement.group_copies = tier(*c.group_copies);
  TrainingResult result;
  {
    AnyEngine engine{c.stage, communicator, memory.device, placement, c.training.optimizer, engine_options(c)};
    result = train_rank(engine, rank, c, full_route(), compute);
  }
  for (const zerospan::Arena* arena : {&memory.device.memory(), &memory.device.host_memory()}) {
    if (arena->peak() > arena->capacity()) throw std::logic_error{"a peak passes its budget"};
  }
  return result;
}

template <class Io, class D, class Communicator>
TrainingResult train_on(Io& io, Memory<Io, D>& memory, Communicator& communicator, const Configuration& c,
                        const Compute& compute = at_once) {
  return train_on(io, memory, communicator, communicator.rank(), c, compute);
}

/// The same, on the host.
template <zerospan::IoEngine Io = zerospan::ThreadedIoEngine, class Communicator>
TrainingResult train_on(Communicator& communicator, zerospan::Rank rank, const Configuration& c) {
  Io io{};
  const Needs needs{c, communicator.rank()};
  const bool is_tight = c.budget == Budget::tight;
  const zerospan::Bytes roomy{std::size_t{64} << 20};
  Memory<Io> memory{io, is_tight ? needs.device() : roomy, is_tight ? needs.host() : roomy};
  return train_on(io, memory, communicator, rank, c);
}

template <zerospan::IoEngine Io = zerospan::ThreadedIoEngine, class Communicator>
TrainingResult train_on(Communicator& communicator, const Configuration& c) {
  return train_on<Io>(communicator, communicator.rank(), c);
}

/// Joins the ranks' results. @throws if the ranks do not agree on what all of them should see.
TrainingResult join_results(const std::vector<TrainingResult>& ranks);

/// A training run on threads.
TrainingResult train(const Configuration& c);

#if defined(ZEROSPAN_HAS_LIBAIO)
/// With another I/O engine.
TrainingResult train_with_libaio(const Configuration& c);
#endif
#if defined(ZEROSPAN_HAS_URING)
TrainingResult train_with_uring(const Configuration& c);
#endif

/// The same training, written down without an engine.
TrainingResult train_replicated(const TrainingOptions& options, zerospan::ElementType type, int steps);

}  // namespace zerospan_test
