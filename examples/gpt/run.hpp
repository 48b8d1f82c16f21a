/// @file
/// One rank's run, on whatever it computes.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "announcement.hpp"
#include "figures.hpp"
#include "job.hpp"
#include "math.hpp"
#include "options.hpp"
#include "reports.hpp"
#include "result.hpp"
#include "storage.hpp"
#include "trainer.hpp"
#include "zerospan_adapter.hpp"

namespace gpt {

namespace detail {

inline std::vector<TimeSpent> time_spent(const zerospan::LaneCounters& operations) {
  std::vector<TimeSpent> spent;
  for (std::size_t i = 0; i < zerospan::operation_kinds; ++i) {
    const auto kind = static_cast<zerospan::OperationKind>(i);
    if (operations[kind].count > 0) spent.push_back({zerospan::to_string(kind), operations[kind].seconds});
  }
  return spent;
}

template <class Element, class Engine, class Platform>
Result train(Engine& engine, Platform& platform, const Job& job) {
  using Parameter = zerospan::PartitionedParameter<Tensor<Element>>;
  Reports* reports = platform.ranks().rank() == zerospan::Rank{0} ? &job.reports : nullptr;
  if (reports) reports->begin(announce(job.options, job.text, platform.products(job.options)));
  auto math = platform.template make_math<Element>(job.options);
  Trainer<Parameter, decltype(math), Engine, typename Platform::Ranks, typename Platform::Storage> trainer{
      engine, math, platform.ranks(), platform.storage(), job.options, job.text, reports};
  const auto begin = std::chrono::steady_clock::now();
  trainer.train();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto statistics = engine.statistics();
  auto figures = trainer.figures();
  if (reports) reports->trained();
  const double validation_loss = trainer.validate();
  const std::uint64_t hash = trainer.parameter_hash();
  std::string sample = trainer.write_text();
  if (!reports) return {};
  reports->end(FinalMetrics{hash, validation_loss, statistics.parameters});
  return {std::move(sample),
          {statistics.parameters, validation_loss, seconds, trainer.skipped_steps(), std::move(figures),
           time_spent(statistics.operations)}};
}

/// fp16 alone needs one.
inline std::optional<zerospan::DynamicLossScale> loss_scale(Precision precision) {
  if (precision != Precision::fp16) return std::nullopt;
  return zerospan::DynamicLossScale{};
}

inline zerospan::AdamW optimizer_of(const Options& options) {
  return {.learning_rate = static_cast<float>(options.schedule.maximum),
          .beta1 = options.beta1,
          .beta2 = options.beta2,
          .weight_decay = options.weight_decay};
}

inline zerospan::EngineOptions engine_options(const Job& job) {
  const Options& options = job.options;
  return {.micro_batches = options.micro_batches,
          .max_gradient_norm = options.clip,
          .loss_scale = loss_scale(options.precision),
          .seed = options.seed,
          .prefetch = zerospan::Bytes{options.prefetch_bytes},
          .timeout = timeout_of(options),
          .timeline = &job.timeline};
}

template <class Stage, class Platform>
Result run_stage(Platform& platform, const Job& job) {
  const Options& options = job.options;
  auto& storage = platform.storage();
  zerospan::ZeroEngine engine{Stage{},
                              platform.communicator(),
                              storage.device(),
                              storage.placement(options),
                              optimizer_of(options),
                              engine_options(job)};
  if (options.precision == Precision::bf16) return train<BFloat16>(engine, platform, job);
  if (options.precision == Precision::fp16) return train<Float16>(engine, platform, job);
  return train<float>(engine, platform, job);
}

}  // namespace detail

/// Trains, validates and writes, as one of the ranks.
/// @param platform What the rank computes on: `ranks()` is a communicator of type `Ranks` for the host,
/// `communicator()` the engine's, whose ranks may have other numbers, `storage()` a RankStorage of type `Storage`,
/// `make_math<E>(options)` the arithmetic of parameters of `E`, `products(options)` what computes its matrix products.
template <class Platform>
Result run_rank(Platform& platform, const Job& job) {
  switch (job.options.stage) {
    case 0:
      return detail::run_stage<zerospan::Stage0>(platform, job);
    case 1:
      return detail::run_stage<zerospan::Stage1>(platform, job);
    case 2:
      return detail::run_stage<zerospan::Stage2>(platform, job);
    default:
      return detail::run_stage<zerospan::Stage3>(platform, job);
  }
}

}  // namespace gpt
