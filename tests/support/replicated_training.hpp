/// @file
/// ReplicatedTraining: the toy model's training written down without an engine: every rank's gradients, one after the
/// other, in one thread's memory.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/element.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/optimizer/adamw.hpp>

#include "toy_model.hpp"

namespace zerospan_test {

/// FNV-1a over names and values.
class ValueHash {
 public:
  void add(std::string_view name) {
    for (const char c : name) mix(static_cast<unsigned char>(c));
  }
  void add(std::span<const float> values) {
    for (const float value : values) mix(std::bit_cast<std::uint32_t>(value));
  }
  std::uint64_t value() const { return state_; }

 private:
  void mix(std::uint64_t x) { state_ = (state_ ^ x) * 1099511628211U; }

  std::uint64_t state_ = 14695981039346656037U;
};

/// What a training run showed of itself.
struct TrainingResult {
  std::uint64_t hash = 0;             ///< Of the master weights.
  std::vector<double> norms;          ///< One a step.
  std::vector<std::uint64_t> losses;  ///< The bits of each micro-batch's loss: rank by rank.

  friend bool operator==(const TrainingResult&, const TrainingResult&) = default;
};

struct TrainingOptions {
  int ranks = 1;
  std::size_t micro_batches = 1;
  float max_gradient_norm = std::numeric_limits<float>::infinity();
  std::uint64_t seed = 3;
  zerospan::AdamW optimizer{.learning_rate = 0.03F, .weight_decay = 0.1F};
  zerospan::MasterWeights master_weights = zerospan::MasterWeights::whole;
};

template <zerospan::Element E>
class ReplicatedTraining {
 public:
  /// Which use has a gradient on a rank at a position; a use without one on any rank is not updated.
  using HasGradient = bool (*)(std::size_t use, const Position& at);

  explicit ReplicatedTraining(
      const TrainingOptions& options, HasGradient contributes = [](std::size_t, const Position&) { return true; })
      : options_{options}, contributes_{contributes}, states_(layers.size()) {
    for (std::size_t l = 0; l < layers.size(); ++l) {
      states_[l].master.resize(layers[l].elements);
      states_[l].m.resize(layers[l].elements);
      states_[l].v.resize(layers[l].elements);
      toy_initializer()({options.seed, zerospan::name_stream(layers[l].name)}, 0, states_[l].master);
      publish(l);
    }
    result_losses_.resize(static_cast<std::size_t>(options.ranks));
  }

  /// One step along a route, the same on every rank and in every micro-batch.
  void step(const Route& route) {
    std::vector<std::vector<float>> sums(use_count);
    for (std::size_t micro = 0; micro < options_.micro_batches; ++micro) {
      for (int rank = 0; rank < options_.ranks; ++rank) add_loss(route, {rank, step_, micro});
      for (const std::size_t use : route) {
        if (has_gradient(use, step_)) accumulate(sums[use], use, micro);
      }
    }
    for (std::size_t use = layers.size(); use < use_count; ++use) join(sums[layer_of(use)], sums[use]);
    const double mean = 1.0 / (static_cast<double>(options_.ranks) * static_cast<double>(options_.micro_batches));
    const double norm = gradient_norm(sums) * mean;
    norms_.push_back(norm);
    const double limit{options_.max_gradient_norm};
    const auto scale = static_cast<float>((norm > limit ? limit / norm : 1.0) * mean);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      if (!sums[l].empty()) update(l, sums[l], scale);
    }
    ++step_;
  }

  /// Replaces a layer's values.
  void assign(std::size_t layer, std::span<const E> values) {
    for (std::size_t k = 0; k < values.size(); ++k) states_[layer].master[k] = static_cast<float>(values[k]);
    publish(layer);
  }

  std::span<const E> weights(std::size_t layer) const { return states_[layer].weights; }

  TrainingResult result() const {
    ValueHash hash;
    for (std::size_t l = 0; l < layers.size(); ++l) {
      hash.add(layers[l].name);
      if (layers[l].options.training == zerospan::Training::trainable) {
        hash.add(states_[l].master);
      } else {
        for (const E weight : states_[l].weights) hash.add(std::array{static_cast<float>(weight)});
      }
    }
    TrainingResult result{hash.value(), norms_, {}};
    for (const auto& losses : result_losses_) result.losses.insert(result.losses.end(), losses.begin(), losses.end());
    return result;
  }

 private:
  struct State {
    std::vector<float> master, m, v;
    std::vector<E> weights;
    int updates = 0;
  };

  void publish(std::size_t layer) {
    State& state = states_[layer];
    state.weights.clear();
    const bool trains = layers[layer].options.training == zerospan::Training::trainable;
    for (const float value : state.master) state.weights.push_back(trains ? rounded(value) : E{value});
  }

  /// A master weight that is split is rounded half away from zero.
  E rounded(float value) const {
    if constexpr (std::same_as<E, zerospan::bfloat16>) {
      const bool is_half = (std::bit_cast<std::uint32_t>(value) & 0xffffU) == 0x8000U;
      if (options_.master_weights == zerospan::MasterWeights::split && is_half) {
        return E{std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) + 1)};
      }
    }
    return E{value};
  }

  void add_loss(const Route& route, const Position& at) {
    double loss = 0;
    for (const std::size_t use : route) loss += loss_of(states_[layer_of(use)].weights.data(), use, at);
    result_losses_[static_cast<std::size_t>(at.rank)].push_back(std::bit_cast<std::uint64_t>(loss));
  }

  /// Sums the ranks' gradients of a use in rank order, and adds them to what earlier micro-batches gave.
  void accumulate(std::vector<float>& total, std::size_t use, std::size_t micro) {
    const State& state = states_[layer_of(use)];
    const bool is_first = total.empty();
    total.resize(state.weights.size());
    for (std::size_t k = 0; k < total.size(); ++k) {
      float sum = 0;
      for (int rank = 0; rank < options_.ranks; ++rank) {
        const Position at{rank, step_, micro};
        const float weight{static_cast<float>(state.weights[k])};
        const E gradient{contributes_(use, at) ? gradient_of(weight, noise(use, at, k)) : 0.0F};
        sum = rank == 0 ? static_cast<float>(gradient) : sum + static_cast<float>(gradient);
      }
      total[k] = is_first ? round(sum) : total[k] + sum;
    }
  }

  /// With one micro-batch, accumulated gradients keep the parameter's type.
  float round(float value) const { return options_.micro_batches == 1 ? static_cast<float>(E{value}) : value; }

  void join(std::vector<float>& total, const std::vector<float>& tied) const {
    if (tied.empty()) return;
    if (total.empty()) {
      total = tied;
      return;
    }
    for (std::size_t k = 0; k < total.size(); ++k) total[k] = round(total[k] + tied[k]);
  }

  /// Squares in double, block by block in 16 lanes that are folded by halves; blocks are added exactly.
  static double gradient_norm(const std::vector<std::vector<float>>& sums) {
    zerospan::detail::ExactSum total;
    for (std::size_t l = 0; l < layers.size(); ++l) {
      for (std::size_t begin = 0; begin < sums[l].size(); begin += 1024) {
        std::array<double, 16> lanes{};
        for (std::size_t k = begin; k < std::min(begin + 1024, sums[l].size()); ++k) {
          const double x{sums[l][k]};
          lanes[(k - begin) % 16] += x * x;
        }
        for (std::size_t width = 8; width > 0; width /= 2) {
          for (std::size_t j = 0; j < width; ++j) lanes[j] += lanes[j + width];
        }
        total.add(lanes[0]);
      }
    }
    return std::sqrt(total.value());
  }

  void update(std::size_t layer, const std::vector<float>& gradient, float scale) {
    State& state = states_[layer];
    const zerospan::AdamW& o = options_.optimizer;
    const zerospan::ParameterGroup& group = layers[layer].options.group;
    const double rate = double{o.learning_rate} * double{group.learning_rate_factor};
    const double decay = double{o.weight_decay} * double{group.weight_decay_factor};
    const int t = ++state.updates;
    const auto step_size = static_cast<float>(rate / (1.0 - std::pow(double{o.beta1}, t)));
    const auto correction = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(double{o.beta2}, t)));
    const auto keep = static_cast<float>(std::fma(-rate, decay, 1.0));
    const auto rest1 = static_cast<float>(1.0 - double{o.beta1});
    const auto rest2 = static_cast<float>(1.0 - double{o.beta2});
    for (std::size_t k = 0; k < gradient.size(); ++k) {
      const float g = gradient[k] * scale;
      state.m[k] = std::fma(o.beta1, state.m[k], rest1 * g);
      state.v[k] = std::fma(o.beta2, state.v[k], rest2 * g * g);
      const float direction = state.m[k] / std::fma(std::sqrt(state.v[k]), correction, o.epsilon);
      state.master[k] = std::fma(-step_size, direction, state.master[k] * keep);
    }
    publish(layer);
  }

  TrainingOptions options_;
  HasGradient contributes_;
  std::int64_t step_ = 0;
  std::vector<State> states_;
  std::vector<double> norms_;
  std::vector<std::vector<std::uint64_t>> result_losses_;
};

}  // namespace zerospan_test
