/// @file
/// What an engine tells: the outcome of a step, and totals.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/lane_options.hpp>
#include <zerospan/pipeline/pipeline_counters.hpp>

namespace zerospan::inline v0 {

/// The kinds of passes through the model; each has traces of its own.
enum class Pass : std::uint8_t { training, evaluation };

/// Told master weights of a parameter, from logical element `first` on.
using MasterVisitor =
    std::function<void(std::string_view parameter, std::uint64_t first, std::span<const float> values)>;

struct StepOutcome {
  std::int64_t step;     ///< Steps made, this one included.
  double gradient_norm;  ///< Of the mean gradient, unscaled, over all ranks and parameters, before clipping; or NaN.
  bool skipped;          ///< A gradient was infinite or NaN on some rank: nothing was updated, on any rank.
  std::int64_t skipped_in_a_row;  ///< Steps skipped since the last good one, this one included.
  float loss_scale;               ///< By which this step's gradients were multiplied; 1 without loss scaling.
  float next_loss_scale;          ///< By which the next step's are to be.
};

/// What a model that was declared needs on this rank at the least: with these budgets it trains, one lease at a time,
/// or one parameter together with its gradient. More than that is what prefetching works in.
struct Requirements {
  /// What is placed on a tier, in declaration's end.
  struct TierBytes {
    std::string tier;
    Bytes bytes;
  };

  Bytes device_forward;   ///< The least device budget for passes that gather one parameter at a time.
  Bytes device_backward;  ///< The least device budget for passes that hold a gradient beside its parameter.
  Bytes host;             ///< The least host budget.
  std::vector<TierBytes> tiers;
};

/// Totals since the engine was made, of this rank.
struct Statistics {
  std::size_t parameters;       ///< Elements of all parameters, tied ones once.
  std::uint64_t bytes_read;     ///< From tiers that are not addressable.
  std::uint64_t bytes_written;  ///< To them.
  PipelineCounters prefetch;
  LaneCounters operations;

  /// What moves bytes: transfers and collectives.
  static constexpr std::array transfers{OperationKind::read,           OperationKind::write,  OperationKind::copy,
                                        OperationKind::all_gather,     OperationKind::reduce, OperationKind::all_reduce,
                                        OperationKind::reduce_scatter, OperationKind::broadcast};

  /// Seconds of transfers and collectives: the busy time of the lanes that move bytes.
  double transfer_seconds() const {
    double seconds = 0;
    for (const OperationKind kind : transfers) seconds += operations[kind].seconds;
    return seconds;
  }

  /// Seconds that the host's thread waited for transfers: in a step, beyond the time that the updates themselves took.
  double exposed_seconds() const {
    double seconds =
        std::max(0.0, operations.waited_for(OperationKind::update) - operations[OperationKind::update].seconds);
    for (const OperationKind kind : transfers) seconds += operations.waited_for(kind);
    return seconds;
  }

  /// The share of the transfer time that nobody waited for, in [0, 1].
  double hidden_transfer_share() const {
    const double transfer = transfer_seconds();
    return transfer > 0 ? std::clamp(1.0 - exposed_seconds() / transfer, 0.0, 1.0) : 1.0;
  }
};

}  // namespace zerospan::inline v0
