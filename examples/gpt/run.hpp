/// @file
/// One rank's run, on whatever it computes.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/engine/zero_engine.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/optimizer/adamw8bit.hpp>

#include "directory_use.hpp"
#include "engine.hpp"
#include "figures.hpp"
#include "job.hpp"
#include "matrix_products.hpp"
#include "options.hpp"
#include "reports.hpp"
#include "result.hpp"
#include "states.hpp"
#include "storage.hpp"

namespace gpt {

namespace detail {

/// @param storage A RankStorage.
template <class Storage>
Figures figures_of(const zerospan::Statistics& statistics, Storage& storage) {
  const auto count = [](zerospan::Bytes bytes) { return static_cast<double>(bytes.count); };
  const auto disk = storage.disk();
  const auto* checkpoints = storage.checkpoints();
  const auto activations = checkpoints ? checkpoints->counters() : zerospan::ActivationCounters{};
  const auto& memory = storage.device().memory();
  const auto& host_memory = storage.device().host_memory();
  return {.bytes_read = static_cast<double>(statistics.bytes_read),
          .bytes_written = static_cast<double>(statistics.bytes_written),
          .transfer_seconds = statistics.transfer_seconds(),
          .exposed_seconds = statistics.exposed_seconds(),
          .prefetch_hits = static_cast<double>(statistics.prefetch.hits),
          .prefetch_misses = static_cast<double>(statistics.prefetch.misses),
          .prefetch_kept = static_cast<double>(statistics.prefetch.kept),
          .prefetch_dropped = static_cast<double>(statistics.prefetch.dropped),
          .passes_mended = static_cast<double>(statistics.prefetch.mended),
          .device_bytes = count(memory.used()),
          .peak_device_bytes = count(memory.peak()),
          .host_bytes = count(host_memory.used()),
          .peak_host_bytes = count(host_memory.peak()),
          .disk_bytes = count(disk.used),
          .peak_disk_bytes = count(disk.peak),
          .activation_bytes_offloaded = static_cast<double>(activations.bytes_offloaded),
          .activation_bytes_fetched = static_cast<double>(activations.bytes_fetched)};
}

/// fp16 alone needs one.
inline std::optional<zerospan::DynamicLossScale> loss_scale(Precision precision) {
  std::optional<zerospan::DynamicLossScale> scale;
  if (precision == Precision::fp16) scale.emplace();
  return scale;
}

/// @tparam AdamW Or AdamW8bit.
template <class AdamW>
AdamW optimizer_of(const Options& options) {
  return {.learning_rate = static_cast<float>(options.schedule.maximum),
          .beta1 = options.beta1,
          .beta2 = options.beta2,
          .weight_decay = options.weight_decay};
}

/// Activations that rest in host memory take it after the engine does: then the rest is left to them.
inline std::optional<zerospan::Bytes> staging_of(const Options& options) {
  constexpr std::uint64_t beside_activations = std::uint64_t{64} << 20;
  if (options.staging_bytes) return zerospan::Bytes{*options.staging_bytes};
  if (options.checkpoint_every > 0 && options.activations == TierKind::host) return zerospan::Bytes{beside_activations};
  return std::nullopt;
}

inline zerospan::EngineOptions engine_options(const Job& job) {
  const Options& options = job.options;
  return {.micro_batches = options.micro_batches,
          .max_gradient_norm = options.clip,
          .updates = options.updates,
          .early_share = options.early_share,
          .master_weights = options.master_weights,
          .loss_scale = loss_scale(options.precision),
          .seed = options.seed,
          .persistence_threshold = zerospan::Bytes{resident_bytes},
          .prefetch = zerospan::Bytes{options.prefetch_bytes},
          .staging = staging_of(options),
          .timeout = timeout_of(options),
          .timeline = &job.timeline};
}

template <class Stage, class AdamW, class Platform>
class EngineOf final : public Engine {
 public:
  EngineOf(Platform& platform, const Job& job)
      : options_{job.options},
        storage_{platform.storage()},
        engine_{Stage{},
                platform.communicator(),
                storage_.device(),
                storage_.placement(job.options),
                optimizer_of<AdamW>(job.options),
                engine_options(job)} {}

  void set_learning_rate(float rate) override { engine_.optimizer().learning_rate = rate; }
  zerospan::StepOutcome step() override {
    return engine_.step({.commits = zerospan::Commits::in_every_micro_batch});
  }
  void begin(zerospan::Pass pass) override { engine_.begin(pass); }
  void synchronize() override { engine_.synchronize(); }
  float loss_scale() const override { return engine_.loss_scale(); }
  void for_each_master(const zerospan::MasterVisitor& visitor) override { engine_.for_each_master(visitor); }
  zerospan::Statistics statistics() const override { return engine_.statistics(); }
  std::shared_ptr<zerospan::ParameterStore> store() const override { return engine_.store(); }
  zerospan::ActivationCheckpoints* checkpoints() override { return storage_.checkpoints(); }
  std::vector<DirectoryUse> directories() const override { return storage_.directories(options_); }
  Figures figures() override { return figures_of(engine_.statistics(), storage_); }

 private:
  using Storage = typename Platform::Storage;

  const Options& options_;
  Storage& storage_;
  zerospan::ZeroEngine<Stage, zerospan::AnyCommunicator, typename Storage::Device, AdamW> engine_;
};

template <class Stage, class AdamW, class Platform>
Result run_engine(Platform& platform, const Job& job) {
  EngineOf<Stage, AdamW, Platform> engine{platform, job};
  MatrixProducts products;
  if (Reports* reports = job.reports_of(platform.ranks().rank())) {
    products = platform.products(job.options);
    reports->begin(job.options, job.text, products);
  }
  Result result = platform.train(engine, job);
  result.summary.products = std::move(products);
  return result;
}

template <class Stage, class Platform>
Result run_stage(Platform& platform, const Job& job) {
  if (job.options.moments == Moments::fp32) return run_engine<Stage, zerospan::AdamW>(platform, job);
  return run_engine<Stage, zerospan::AdamW8bit>(platform, job);
}

}  // namespace detail

/// Trains, validates and writes, as one of the ranks.
/// @param platform What the rank computes on: `ranks()` is a communicator for the host, `communicator()` the engine's,
/// whose ranks may have other numbers, `storage()` a RankStorage of type `Storage`, `train(engine, job)` trains with
/// its arithmetic, `products(options)` is what computes its matrix products.
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
