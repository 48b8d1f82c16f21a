/// @file
/// ToyRank: one rank of a toy training that may stop, be saved, and go on.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "any_engine.hpp"
#include "toy_model.hpp"
#include "training_run.hpp"

namespace zerospan_test {

/// An engine with the toy model in it, as a configuration says.
template <class D = zerospan::HostDevice, class Communicator = zerospan::ThreadCommunicator>
class ToyRank {
 public:
  using Rig = Memory<zerospan::ThreadedIoEngine, D>;

  /// @param rig Outlives it. @param compute Likewise.
  ToyRank(zerospan::ThreadedIoEngine& io, Rig& rig, Communicator& communicator, const Configuration& c,
          const Compute& compute = at_once)
      : ToyRank{io, rig, communicator, c, compute, c.training.optimizer} {}

  /// The same, by another optimizer than the configuration's.
  template <zerospan::Optimizer O>
  ToyRank(zerospan::ThreadedIoEngine& io, Rig& rig, Communicator& communicator, const Configuration& c,
          const Compute& compute, const O& optimizer)
      : c_{c},
        rank_{communicator.rank()},
        disk_{io, rig, c.disk},
        engine_{c.stage, communicator, rig.device, placement(rig), optimizer, engine_options(c)} {
    if (c.type == zerospan::ElementType::float32) model_.template emplace<ToyModel<float>>(engine_, compute);
    if (c.type == zerospan::ElementType::bfloat16)
      model_.template emplace<ToyModel<zerospan::bfloat16>>(engine_, compute);
    if (c.type == zerospan::ElementType::float16)
      model_.template emplace<ToyModel<zerospan::float16>>(engine_, compute);
  }

  zerospan::Rank rank() const { return rank_; }
  AnyEngine& engine() { return engine_; }

  /// Makes the steps [first, last).
  void train(std::int64_t first, std::int64_t last) {
    std::visit(
        [&](auto& model) {
          if constexpr (!std::is_same_v<std::remove_cvref_t<decltype(model)>, std::monostate>) {
            for (std::int64_t step = first; step < last; ++step) {
              for (std::size_t micro = 0; micro < c_.training.micro_batches; ++micro) {
                const Position at{rank_.value, step, micro};
                model.forward(full_route(), at);
                model.backward(full_route(), at);
              }
              engine_.step();
            }
          }
        },
        model_);
  }

  std::uint64_t hash() { return hash_masters(engine_); }

 private:
  zerospan::Placement placement(Rig& rig) {
    const auto tier = [&](Place place) { return place == Place::nvme ? disk_.tier() : rig.tier(place); };
    zerospan::Placement result{tier(c_.parameters), tier(c_.gradients), tier(c_.optimizer)};
    if (c_.group_copies) result.group_copies = tier(*c_.group_copies);
    return result;
  }

  Configuration c_;
  zerospan::Rank rank_;
  DiskStack<zerospan::ThreadedIoEngine> disk_;
  AnyEngine engine_;
  std::variant<std::monostate, ToyModel<float>, ToyModel<zerospan::bfloat16>, ToyModel<zerospan::float16>> model_;
};

/// Calls `f(rank)` with a ToyRank on each of the configuration's ranks, which are threads. @return What `f` returns, by
/// rank.
template <class F, zerospan::Optimizer O>
auto on_toy_ranks(const Configuration& c, F f, const O& optimizer) {
  return zerospan::run_ranks(c.training.ranks,
                             [&](zerospan::ThreadCommunicator communicator) {
                               zerospan::ThreadedIoEngine io;
                               const zerospan::Bytes budget{std::size_t{16} << 20};
                               Memory<zerospan::ThreadedIoEngine> rig{io, budget, budget};
                               ToyRank<> rank{io, rig, communicator, c, at_once, optimizer};
                               return f(rank);
                             },
                             {.timeout = std::chrono::seconds{30}});
}
template <class F>
auto on_toy_ranks(const Configuration& c, F f) {
  return on_toy_ranks(c, std::move(f), c.training.optimizer);
}

/// Stage 3 with all states on one tier.
inline Configuration everything_on(Place place, int ranks,
                                   zerospan::ElementType type = zerospan::ElementType::float32) {
  return {.training = {.ranks = ranks},
          .type = type,
          .parameters = place,
          .gradients = place,
          .optimizer = place,
          .persistence_threshold = zerospan::Bytes{0}};
}

/// Ways to keep a model.
inline std::vector<Configuration> ways(int ranks, zerospan::ElementType type) {
  const Configuration below{.training = {.ranks = ranks}, .type = type, .optimizer = Place::host};
  std::vector<Configuration> result(3, below);
  for (int stage = 0; stage < 3; ++stage) result[static_cast<std::size_t>(stage)].stage = stage;
  result.push_back(everything_on(Place::nvme, ranks, type));
  result.push_back(everything_on(Place::host, ranks, type));
  result.push_back(everything_on(Place::device, ranks, type));
  result.back().persistence_threshold = zerospan::EngineOptions{}.persistence_threshold;  // most are replicated
  result.push_back(everything_on(Place::nvme, ranks, type));
  result.back().partition = zerospan::Owners{};
  return result;
}

/// All that training knows of a parameter.
struct WholeStates {
  std::vector<float> master;
  std::vector<std::vector<float>> states;
  std::int64_t updates = 0;
  std::vector<int> seen;  ///< How often each element was shown.

  friend bool operator==(const WholeStates&, const WholeStates&) = default;
};

using ModelStates = std::map<std::string, WholeStates, std::less<>>;

/// Adds a piece to what is known.
inline void collect(ModelStates& model, const zerospan::StatesPiece& piece) {
  WholeStates& whole = model[std::string{piece.parameter}];
  const std::size_t elements = piece.shape.elements();
  whole.master.resize(elements);
  whole.seen.resize(elements);
  whole.states.resize(piece.states.size());
  whole.updates = piece.updates;
  for (std::size_t i = 0; i < piece.master.size(); ++i) {
    whole.master.at(piece.first + i) = piece.master[i];
    ++whole.seen[piece.first + i];
  }
  for (std::size_t s = 0; s < piece.states.size(); ++s) {
    whole.states[s].resize(elements);
    const auto* values = reinterpret_cast<const float*>(piece.states[s].data());
    if (piece.states[s].size() != piece.master.size_bytes()) throw std::logic_error{"states of another size"};
    std::copy_n(values, piece.master.size(), whole.states[s].begin() + static_cast<std::ptrdiff_t>(piece.first));
  }
}

/// Gives a piece what is known.
inline zerospan::EditOutcome restore(const ModelStates& model, const zerospan::StatesEdit& edit) {
  const WholeStates& whole = model.at(std::string{edit.parameter});
  const auto first = static_cast<std::ptrdiff_t>(edit.first);
  const auto count = static_cast<std::ptrdiff_t>(edit.master.size());
  std::copy_n(whole.master.begin() + first, count, edit.master.begin());
  for (std::size_t s = 0; s < edit.states.size(); ++s) {
    std::copy_n(whole.states.at(s).begin() + first, count, reinterpret_cast<float*>(edit.states[s].data()));
  }
  edit.updates = whole.updates;
  return zerospan::EditOutcome::changed;
}

}  // namespace zerospan_test
