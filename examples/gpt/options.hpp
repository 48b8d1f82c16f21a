/// @file
/// What train_gpt is told.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <zerospan/engine/options.hpp>

#include "dimensions.hpp"
#include "schedule.hpp"

namespace gpt {

enum class TierKind { device, host, nvme };
enum class Precision { fp32, bf16, fp16 };

/// In what the CPU multiplies weights in bf16: in bf16, where the processor has instructions for it; in fp32, once they
/// are widened; or in what takes less time there.
enum class Products { fastest, bf16, fp32 };

enum class DeviceKind { cpu, cuda };
enum class CommunicatorKind { thread, nccl, mpi };
enum class Sharding { world, group };
enum class Quantization { none, gather, reduce, both };
enum class Moments { fp32, eight_bits };
enum class Checksums { off, on };

/// How the micro-batches of a step go through the model: one after the other, or all together, layer by layer.
enum class MicroBatchOrder { horizontal, vertical };

/// Whether the program was built with xxHash.
#if defined(ZEROSPAN_HAS_XXHASH)
inline constexpr bool has_checksums = true;
#else
inline constexpr bool has_checksums = false;
#endif

/// Whether it was built with what checkpoints need.
#if defined(ZEROSPAN_HAS_CHECKPOINT)
inline constexpr bool can_save = true;
#else
inline constexpr bool can_save = false;
#endif

/// Whether it was built with what models of others need.
#if defined(ZEROSPAN_HAS_SAFETENSORS)
inline constexpr bool can_exchange = true;
#else
inline constexpr bool can_exchange = false;
#endif

/// Byte counts are a rank's. The defaults train a small model for two minutes on two cores, all of its states on disk.
struct Options {
  std::vector<std::filesystem::path> text;

  DeviceKind device = DeviceKind::cpu;
  CommunicatorKind communicator = CommunicatorKind::thread;
  int ranks = 2;
  int threads = 1;
  double timeout = 300;  ///< Seconds.

  int ranks_per_group = 0;  ///< 0: no groups.
  Sharding sharding = Sharding::world;
  std::optional<TierKind> group_copies;
  Quantization quantization = Quantization::none;  ///< Of what goes across groups.

  int stage = 3;
  TierKind parameters = TierKind::nvme;
  TierKind gradients = TierKind::nvme;
  TierKind optimizer = TierKind::nvme;
  TierKind activations = TierKind::device;  ///< Of checkpoints; what is kept besides is in ordinary memory.
  std::size_t checkpoint_every = 0;         ///< Layers from one checkpoint to the next; 0: all activations are kept.
  std::vector<std::filesystem::path> nvme_path;  ///< Each rank's nvme tier is striped over all, by bandwidth.
  Checksums checksums = Checksums::off;          ///< Of what is on the disks.
  std::uint64_t device_budget = std::uint64_t{64} << 20;
  std::uint64_t host_budget = std::uint64_t{128} << 20;
  std::optional<std::uint64_t> staging_bytes{};  ///< Of the host budget, at most; none: what an engine takes.
  std::uint64_t prefetch_bytes = std::uint64_t{16} << 20;

  Dimensions model{.layers = 8, .heads = 4, .width = 96, .context = 64};
  Precision precision = Precision::fp32;
  Products products = Products::fastest;  ///< Of weights in bf16.
  std::size_t batch = 4;
  std::size_t micro_batches = 1;
  MicroBatchOrder micro_batch_order = MicroBatchOrder::horizontal;

  Schedule schedule{.maximum = 4e-3, .minimum = 3e-4, .warmup = 40, .steps = 600};
  float weight_decay = 0.1F;
  float beta1 = 0.9F;
  float beta2 = 0.99F;
  float clip = 1.0F;
  zerospan::UpdateTime updates = zerospan::UpdateTime::after_step;
  double early_share = zerospan::EngineOptions{}.early_share;  ///< Of the sub-groups, where updates come early.
  zerospan::MasterWeights master_weights = zerospan::MasterWeights::whole;  ///< Of bf16.
  Moments moments = Moments::fp32;
  std::uint64_t seed = 1337;

  std::filesystem::path checkpoint;  ///< Where empty, nothing is saved.
  std::size_t save_every = 0;        ///< Steps; 0: in the end alone.
  std::size_t keep = 2;              ///< Checkpoints; 0: all.
  bool resume = false;
  std::optional<std::size_t> stop_after;  ///< Steps of this run.

  std::size_t eval_every = 200;
  std::optional<std::size_t> validation_tokens;  ///< Of the final validation. 0: all there are.
  bool skip_validation = false;                  ///< In the end, and the hash over all parameters with it.
  std::size_t sample = 500;
  std::filesystem::path trace;    ///< Where empty, a file in the directory for temporary ones.
  std::filesystem::path metrics;  ///< Where empty, none are written.

  bool plan = false;            ///< Says beforehand how long a step will take.
  std::filesystem::path rates;  ///< What this machine does; where empty, it is measured if there is a plan.

  std::filesystem::path init;       ///< A model to begin with; where empty, the seed's.
  std::filesystem::path export_to;  ///< Where empty, the model is not exported.

  static constexpr std::size_t evaluation_tokens = 4096;

  /// Micro-batches that go through the model together, each with activations of its own.
  std::size_t micro_batches_at_once() const {
    return micro_batch_order == MicroBatchOrder::vertical ? micro_batches : 1;
  }

  /// Blocks whose activations are in memory at once, of each of them.
  std::size_t segment() const { return checkpoint_every > 0 ? checkpoint_every : model.layers; }

  /// Sequences of a rank that are evaluated at once: on the CPU a few thousand tokens, as far as they have room in the
  /// memory of a step's activations without checkpoints.
  std::size_t evaluation_batch() const {
    if (device != DeviceKind::cpu) return batch;
    return std::clamp(evaluation_tokens / model.context, batch, batch * model.layers);
  }

  /// Where nobody says how many: enough for a good estimate, but not more than a tenth of what is trained on, as
  /// validation is not to take longer than training.
  std::size_t tokens_to_validate() const {
    if (validation_tokens == std::size_t{0}) return std::numeric_limits<std::size_t>::max();
    return validation_tokens.value_or(std::min(std::size_t{65536}, schedule.steps * tokens_a_step() / 10));
  }

  std::size_t tokens_a_step() const { return static_cast<std::size_t>(ranks) * micro_batches * batch * model.context; }
};

}  // namespace gpt
