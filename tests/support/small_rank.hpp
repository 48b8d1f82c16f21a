/// @file
/// SmallRank: one rank of a training of a few parameters, in memory or on a disk.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "any_engine.hpp"
#include "toy_model.hpp"
#include "training_run.hpp"

namespace zerospan_test {

struct Declared {
  std::string name;
  zerospan::Shape shape;
  zerospan::Training training = zerospan::Training::trainable;
};

inline const std::vector<Declared> large_and_small{{"large", {100, 51}}, {"small", {7}}};

struct SmallRankOptions {
  std::string disk{};  ///< The directory of an NvmeTier that all states rest on; none: they rest in memory.
  zerospan::Bytes budget{std::size_t{1} << 20};
  std::size_t sub_group_elements = zerospan::EngineOptions{}.sub_group_elements;
  std::optional<zerospan::Bytes> prefetch = std::nullopt;
};

/// An engine with a few parameters, and gradients that depend on everything.
class SmallRank {
 public:
  using Parameter = zerospan::PartitionedParameter<Array<float>>;
  using Disk = zerospan::NvmeTier<zerospan::ThreadedIoEngine>;

  template <class Communicator, class Optimizer = zerospan::AdamW>
  explicit SmallRank(Communicator& communicator, const std::vector<Declared>& model = large_and_small,
                     const Optimizer& optimizer = {}, const SmallRankOptions& options = {})
      : device_{{.device_budget = options.budget, .host_budget = options.budget}},
        tier_{device_},
        rank_{communicator.rank().value},
        engine_{3,
                communicator,
                device_,
                placement(options.disk),
                optimizer,
                {.persistence_threshold = zerospan::Bytes{0},
                 .prefetch = options.prefetch,
                 .sub_group_elements = options.sub_group_elements}} {
    for (const Declared& declared : model) {
      parameters_.emplace_back(engine_, declared.name, declared.shape, zerospan::init::normal(1.0F),
                               zerospan::ParameterOptions{.group = {}, .training = declared.training});
    }
  }

  AnyEngine& engine() { return engine_; }
  std::uint64_t hash() { return hash_masters(engine_); }
  const std::vector<Parameter>& parameters() const { return parameters_; }

  /// Where its states rest, if that is a disk.
  Disk& disk() { return disk_.value(); }

  void step() {
    const auto step = engine_.progress().step;
    for (const Parameter& parameter : parameters_) {
      if (!parameter.trains()) continue;
      const auto full = parameter.gather(zerospan::calling_thread);
      auto gradient = parameter.gradient(zerospan::calling_thread);
      for (std::size_t k = 0; k < full->size; ++k) {
        gradient->data[k] = full->data[k] + noise(0, {rank_, step, 0}, k);
      }
      gradient.commit();
    }
    engine_.step();
  }

 private:
  zerospan::Placement placement(const std::string& directory) {
    if (directory.empty()) return {tier_, tier_, tier_};
    Disk& disk = disk_.emplace(io_.emplace(), zerospan::NvmeTierOptions{.directory = directory});
    return {disk, disk, disk};
  }

  zerospan::HostDevice device_;
  zerospan::DeviceTier tier_;
  std::optional<zerospan::ThreadedIoEngine> io_;
  std::optional<Disk> disk_;
  int rank_;
  AnyEngine engine_;
  std::vector<Parameter> parameters_;
};

template <class F>
auto on_small_ranks(int ranks, F f, const std::vector<Declared>& model = large_and_small,
                    const SmallRankOptions& options = {}) {
  return zerospan::run_ranks(ranks,
                             [&](zerospan::ThreadCommunicator communicator) {
                               SmallRank rank{communicator, model, zerospan::AdamW{}, options};
                               return f(rank, communicator);
                             },
                             {.timeout = std::chrono::seconds{30}});
}

}  // namespace zerospan_test
