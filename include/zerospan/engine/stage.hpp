/// @file
/// The stages of ZeRO (arXiv 1910.02054, section 5), one type each.
#pragma once

#include <concepts>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// Plain data parallelism: every rank holds everything. The oracle of the other stages.
struct Stage0 {
  static constexpr bool partitions_optimizer = false;
  static constexpr bool partitions_gradients = false;
  static constexpr bool partitions_parameters = false;
};

/// Optimizer states are partitioned: 4 N + 12 N / P bytes a rank in mixed precision.
struct Stage1 : Stage0 {
  static constexpr bool partitions_optimizer = true;
};

/// Gradients as well: 2 N + 14 N / P bytes a rank.
struct Stage2 : Stage1 {
  static constexpr bool partitions_gradients = true;
};

/// Parameters as well: 16 N / P bytes a rank. With tiers, ZeRO-Infinity.
struct Stage3 : Stage2 {
  static constexpr bool partitions_parameters = true;
};

/// Which of the model states are partitioned. Each stage partitions what the one before it does.
template <class S>
concept Stage = requires {
  { S::partitions_optimizer } -> std::convertible_to<bool>;
  { S::partitions_gradients } -> std::convertible_to<bool>;
  { S::partitions_parameters } -> std::convertible_to<bool>;
  requires S::partitions_gradients <= S::partitions_optimizer&& S::partitions_parameters <= S::partitions_gradients;
};

static_assert(Stage<Stage0> && Stage<Stage1> && Stage<Stage2> && Stage<Stage3>);

/// What a stage partitions, as values: one engine serves all stages.
struct StageRules {
  bool partitions_optimizer;
  bool partitions_gradients;
  bool partitions_parameters;

  template <Stage S>
  static constexpr StageRules of() noexcept {
    return {S::partitions_optimizer, S::partitions_gradients, S::partitions_parameters};
  }
};

}  // namespace zerospan::inline v0
