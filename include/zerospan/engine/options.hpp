/// @file
/// What an engine is told: how a step is made, and how far it may look ahead.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/engine/loss_scale.hpp>
#include <zerospan/engine/placement.hpp>
#include <zerospan/partition/partitioner.hpp>

namespace zerospan::inline v0 {

class Timeline;

/// When parameters are updated.
enum class UpdateTime : std::uint8_t {
  after_step,       ///< Behind the pass that follows the step.
  during_backward,  ///< A sub-group when all of its gradients are there, and each of its parameters was gathered since
                    ///< as often as in any step before; in the first step, and what is not partitioned, after the step.
                    ///< For where updates take longer than a forward pass. What is decided on after the backward pass
                    ///< cannot be: no clipping, no loss scale, and a gradient that is infinite or NaN spoils the model,
                    ///< which `step()` tells by a ConfigurationError. The optimizer's settings are those at the first
                    ///< update. A gradient that an update reads at once is not written to its tier, if that is not
                    ///< addressable and staging memory has room for both.
};

/// How the fp32 master weights of bfloat16 parameters that train are kept. (An fp32 parameter that rests with them is
/// its own.)
enum class MasterWeights : std::uint8_t {
  whole,  ///< Beside the parameter, which is rounded to nearest, ties to even: 4 bytes an element.

  /// In two halves: the parameter is one, the other is 2 bytes an element, that many less at rest and written in each
  /// step. Nothing is lost; but where a master weight lies halfway between two parameters, its parameter is not the
  /// even one of them, but the one away from zero: another one in 131,072 updates (kernels/split_float.hpp). The host
  /// makes the updates.
  split,
};

struct EngineOptions {
  /// Micro-batches a step: how often each gradient may be committed between steps. With one, gradients keep their own
  /// type until the update; with more, they accumulate in fp32.
  std::size_t micro_batches = 1;

  /// Clips the global norm of the mean gradient.
  float max_gradient_norm = std::numeric_limits<float>::infinity();

  /// When parameters are updated: the bits are the same.
  UpdateTime updates = UpdateTime::after_step;

  /// The share of the sub-groups that UpdateTime::during_backward means, in (0, 1]: the others, which are spread evenly
  /// among them, are updated behind the next forward pass, so that either pass has a part of the transfers.
  double early_share = 2.0 / 3;

  MasterWeights master_weights = MasterWeights::whole;

  /// Where given, gradients are those of the loss multiplied by `ZeroEngine::loss_scale()`; the step divides by it. For
  /// float16; the other types have the range of a float. None: gradients are those of the loss.
  std::optional<DynamicLossScale> loss_scale = std::nullopt;

  /// Seeds the initializers.
  std::uint64_t seed = 0;

  /// How the parameters that stage 3 partitions are divided among the ranks, their gradients and states with them.
  AnyPartitioner partition = Slices{};

  /// Parameters of at most this size stay gathered in device memory; their states are partitioned all the same.
  Bytes persistence_threshold = 32_KiB;

  /// How many bytes of device memory prefetched parameters may occupy before they are used. 0: fetch on demand. None:
  /// 256 MiB, or what three of the largest gathers take if that is more (two on the host, where nothing is copied).
  std::optional<Bytes> prefetch = std::nullopt;

  /// Host memory for transfers to and from tiers that are not addressable, at most; taken from the device's host arena
  /// when the engine is made. None: 64 MiB; and where nothing of the model rests in host memory, twice what the update of
  /// its largest parameter passes through it if that is more, but no more than half of what there is: what else shall
  /// be there has the other half. That is taken at the end of declaration.
  std::optional<Bytes> staging = std::nullopt;

  /// The largest sub-group, in elements: one read and one write of the optimizer's tier. It is lowered to what a
  /// twelfth of the staging memory holds, or a third of it if that is less than 4 MiB; and to a twelfth of what a rank
  /// trains of the model, but no further than to 1 MiB of staging memory.
  std::size_t sub_group_elements = std::size_t{8} << 20;

  /// How long a transfer may take before it is an error. Collectives have the deadline of their communicator.
  std::chrono::milliseconds timeout = std::chrono::minutes{5};

  /// Records every operation, where given; it outlives the engine.
  Timeline* timeline = nullptr;
};

/// In which micro-batches of a step a parameter that is used in it has a gradient.
enum class Commits : std::uint8_t {
  in_any_micro_batch,    ///< In some of them at least: a part of the model that few batches use.
  in_every_micro_batch,  ///< In each of them: what was committed less often is an error.
};

/// What a single step is told.
struct StepOptions {
  /// Micro-batches of this step, at most as many as `EngineOptions::micro_batches`: for a last batch that is short.
  /// None: as many as the engine's options say.
  std::optional<std::size_t> micro_batches = std::nullopt;

  /// A host that runs micro-batches layer by layer has a loop over them for each layer, and says here that none of
  /// these loops may end early. A parameter without any gradient is, as always, not updated; `skip()` counts as a
  /// commit.
  Commits commits = Commits::in_any_micro_batch;
};

}  // namespace zerospan::inline v0
