/// @file
/// Prices: what a rank's operations cost on a machine.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include <zerospan/core/element.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/kernels/gradient_operations.hpp>
#include <zerospan/optimizer/adamw8bit.hpp>

#include "../../machine/library_work.hpp"
#include "../../machine/links.hpp"
#include "../../machine/rates.hpp"
#include "../options.hpp"
#include "link_prices.hpp"
#include "recorder.hpp"

namespace gpt::forecast {

inline zerospan::ElementType element_type(Precision precision) {
  return precision == Precision::fp32   ? zerospan::ElementType::float32
         : precision == Precision::bf16 ? zerospan::ElementType::bfloat16
                                        : zerospan::ElementType::float16;
}

/// Of the engine's operations in a training with given options.
class Prices {
 public:
  /// @throws zerospan::ConfigurationError if the rates have nothing of links or products that the options ask for.
  Prices(const machine::Rates& rates, const Options& options)
      : rates_{rates},
        ranks_{options.ranks},
        within_{options.ranks_per_group > 0 ? options.ranks_per_group : options.ranks},
        shards_{options.sharding == Sharding::group ? within_ : options.ranks},
        micro_batches_{static_cast<double>(options.micro_batches)},
        parameter_{element_type(options.precision)},
        sum_{options.micro_batches > 1 ? zerospan::ElementType::float32 : parameter_},
        optimizer_{options.moments == Moments::fp32 ? "AdamW" : "AdamW8bit"},
        is_split_{options.master_weights == zerospan::MasterWeights::split},
        has_narrow_products_{multiplies_in_bf16(rates, options)},
        disk_{options.checksums == Checksums::on ? rates.checked_disk : rates.disk} {
    if (needs_links(options)) links_.emplace(rates, options, parameter_, sum_);
  }

  const machine::Rates& rates() const { return rates_; }
  const machine::DiskRates& disk() const { return disk_; }

  /// Whether weights are multiplied in bf16.
  bool has_narrow_products() const { return has_narrow_products_; }

  /// Of the host's threads.
  Meetings meetings() const {
    if (links_) return links_->meetings();
    const Cost one = collective(machine::WorkKind::copy, 0);
    return {one, one, one};
  }

  Cost of(const zerospan::Operation& operation) const {
    using zerospan::OperationKind;
    const auto bytes = static_cast<double>(operation.bytes);
    switch (operation.kind) {
      case OperationKind::read:
        return {.latency = disk_.read_latency, .read = bytes};
      case OperationKind::write:
        return {.latency = disk_.write_latency, .written = bytes};
      case OperationKind::copy:
        return {machine::WorkKind::copy, rates_.seconds("copy", bytes)};
      case OperationKind::fill:
        return {machine::WorkKind::copy, rates_.seconds("fill", bytes)};
      case OperationKind::accumulate:
        return {machine::WorkKind::sum, seconds_of_sum(bytes / static_cast<double>(element_bytes(sum_)))};
      case OperationKind::update:
        return {machine::WorkKind::update,
                rates_.seconds(machine::update_name(optimizer_, parameter_, is_split_), bytes / state_bytes())};
      case OperationKind::all_gather:
      case OperationKind::broadcast:
      case OperationKind::reduce_scatter:
      case OperationKind::reduce:
      case OperationKind::all_reduce:
      case OperationKind::barrier:
        return links_ ? links_->of(operation.kind, bytes) : of_threads(operation.kind, bytes);
      case OperationKind::compute:
      case OperationKind::wait:
        break;
    }
    return {};
  }

 private:
  static bool multiplies_in_bf16(const machine::Rates& rates, const Options& o) {
    if (o.precision != Precision::bf16 || o.products == Products::fp32) return false;
    if (o.products == Products::fastest) return rates.narrow_products_are_faster();
    if (rates.bf16_products.empty()) {
      zerospan::throw_configuration_error(
          "no time is foretold of --products bf16 by the rates of a processor that has none");
    }
    return true;
  }

  /// Of ranks that are threads.
  Cost of_threads(zerospan::OperationKind kind, double bytes) const {
    using zerospan::OperationKind;
    switch (kind) {
      case OperationKind::all_gather:
      case OperationKind::broadcast:
        return collective(machine::WorkKind::copy, gather_seconds(kind, bytes));
      case OperationKind::reduce_scatter:
      case OperationKind::reduce:
        return collective(machine::WorkKind::sum, reduce_seconds(bytes));
      case OperationKind::all_reduce:
        return collective(machine::WorkKind::sum, rates_.collective_seconds("all-reduce " + types(), ranks_, bytes));
      default:
        return collective(machine::WorkKind::copy, 0);
    }
  }

  Cost collective(machine::WorkKind kind, double core_seconds) const {
    return {.kind = kind, .core_seconds = core_seconds, .latency = rates_.rendezvous_seconds(ranks_), .meets = true};
  }

  std::string types() const { return machine::reduction_types(parameter_, sum_); }

  /// The first micro-batch's gradients replace what was there, the others are added.
  double seconds_of_sum(double elements) const {
    using zerospan::Addition;
    const zerospan::ElementType source = ranks_ > 1 ? sum_ : parameter_;
    const auto seconds = [&](Addition addition) {
      return rates_.seconds(machine::sum_name(addition, source, sum_), elements);
    };
    if (micro_batches_ <= 1) return seconds(Addition::replace);
    return (seconds(Addition::replace) + (micro_batches_ - 1) * seconds(Addition::add)) / micro_batches_;
  }

  /// Bytes of master weights and states that an operation has for each element.
  double state_bytes() const {
    constexpr std::size_t elements = 1 << 20;
    if (optimizer_ == "AdamW") return 12;
    return 4 + static_cast<double>(zerospan::AdamW8bit{}.state_bytes(elements)) / elements;
  }

  /// @param bytes That the rank receives; of a broadcast, all of them.
  double gather_seconds(zerospan::OperationKind kind, double bytes) const {
    if (shards_ < 2) return 0;
    const double whole = kind == zerospan::OperationKind::broadcast ? bytes : bytes * shards_ / (shards_ - 1);
    return rates_.collective_seconds("all-gather", shards_, whole);
  }

  /// In two hops, where there are groups.
  double reduce_seconds(double bytes) const {
    if (within_ == ranks_) return rates_.collective_seconds("reduce-scatter " + types(), ranks_, bytes);
    const std::string across = ranks_ == shards_ ? "reduce-scatter " : "all-reduce ";
    return rates_.collective_seconds("reduce-scatter " + types(), within_, bytes) +
           rates_.collective_seconds(across + types(), ranks_ / within_, bytes / within_);
  }

  const machine::Rates& rates_;
  int ranks_;
  int within_;  ///< Ranks of a group.
  int shards_;
  double micro_batches_;
  zerospan::ElementType parameter_;
  zerospan::ElementType sum_;
  std::string optimizer_;
  bool is_split_;
  bool has_narrow_products_;
  machine::DiskRates disk_;
  std::optional<LinkPrices> links_;  ///< Where ranks are processes.
};

}  // namespace gpt::forecast
