/// @file
/// Rates: what a machine does by itself, as measured, and what work takes by them. Seconds, bytes, elements,
/// operations.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/core/error.hpp>

#include "host_links.hpp"
#include "work_rate.hpp"

namespace machine {

/// A disk, through a tier of the library, with as much under way as the engine has.
struct DiskRates {
  double read = 0;                ///< Bytes a second, while nothing is written and the processor is idle.
  double written = 0;             ///< Likewise, while nothing is read.
  double mixed_read = 0;          ///< Bytes a second that are read while as many transfers write.
  double mixed_written = 0;       ///< Likewise written.
  double busy_read = 0;           ///< As `read`, while every core computes.
  double busy_written = 0;        ///< As `written`, likewise.
  double read_latency = 0;        ///< Seconds of a smallest request alone.
  double write_latency = 0;       ///< Likewise.
  double busy_read_latency = 0;   ///< As `read_latency`, while every core computes.
  double busy_write_latency = 0;  ///< Likewise; Linux may end a write on a thread of its own, which must get a core.
  WorkRate read_alone{};          ///< Of one transfer by itself, by its bytes: a second of each.
  WorkRate write_alone{};         ///< Likewise.
  double read_core_time = 0;      ///< Core-seconds that a byte read takes from what computes meanwhile.
  double write_core_time = 0;     ///< Likewise written.
  double alignment = 0;           ///< Bytes of which transfers are multiples.
};

/// What two factors of a product look like: which of them is transposed.
enum class ProductKind : std::size_t { forward, input, weight };

inline constexpr std::array<std::string_view, 3> product_kinds{"forward", "input", "weight"};

/// [m x k] times [k x n]. As a linear layer has them: forward y = x W^T, the gradients dx = dy W and dW = dy^T x.
struct ProductShape {
  ProductKind kind = ProductKind::forward;
  std::size_t m = 0;
  std::size_t n = 0;
  std::size_t k = 0;

  double flops() const { return 2 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k); }
  friend bool operator==(const ProductShape&, const ProductShape&) = default;
};

/// How fast a product is.
struct ProductRate {
  ProductShape shape;
  double flops_per_second = 0;  ///< On one thread.
};

/// Causal attention of one head of one sequence.
struct AttentionRate {
  std::size_t length = 0;
  std::size_t head = 0;  ///< Elements of a head.
  double forward = 0;    ///< Seconds.
  double backward = 0;
};

/// What threads of one process, a rank each, need for a collective: core-seconds of each rank.
struct CollectiveRate {
  int ranks = 0;
  WorkRate work;  ///< Bytes of the whole tensor.
};

/// Sorts of work that get in each other's way differently.
enum class WorkKind : std::size_t { product, elementwise, copy, sum, update };

inline constexpr std::array<std::string_view, 5> work_kinds{"product", "elementwise", "copy", "sum", "update"};

/// What was measured, all of it.
struct Rates {
  std::string processor;
  int cores = 1;
  std::string matrix_kernels;

  DiskRates disk;
  DiskRates checked_disk;  ///< With checksums; the same as `disk` where there are none.

  std::map<std::string, WorkRate> work;
  std::vector<ProductRate> products;       ///< In fp32.
  std::vector<ProductRate> bf16_products;  ///< Of weights in bf16 with activations that are rounded; or none.
  std::vector<AttentionRate> attention;
  std::map<std::string, std::vector<CollectiveRate>> collectives;

  std::map<int, double> rendezvous;  ///< Seconds that ranks take to meet, by their number.
  double post = 0;                   ///< Seconds of the host for one piece of work that is posted on a lane.
  double handoff = 0;  ///< Seconds until a thread that has slept for a while goes on, after what it waits for.

  std::optional<HostLinks> host_links;  ///< Between ranks that are processes, where that was measured.

  /// How many times as long a kind of work takes while every other core does another.
  std::array<std::array<double, work_kinds.size()>, work_kinds.size()> slowdown{};

  /// Seconds of one piece of named work alone. @throws zerospan::ConfigurationError if it was not measured.
  double seconds(const std::string& name, double size) const {
    const auto found = work.find(name);
    if (found == work.end()) zerospan::throw_configuration_error("the rates have no work '" + name + "'");
    return found->second.seconds(size);
  }

  /// Seconds of a product alone: its own rate where it was measured, and else one between those nearest to it.
  /// @param rates `products` or `bf16_products`.
  static double seconds(const ProductShape& shape, const std::vector<ProductRate>& rates) {
    double weights = 0;
    double inverse_rates = 0;
    for (const ProductRate& each : rates) {
      if (each.shape == shape) return shape.flops() / each.flops_per_second;
      if (each.shape.kind != shape.kind) continue;
      const double away =
          distance(each.shape.m, shape.m) + distance(each.shape.n, shape.n) + distance(each.shape.k, shape.k);
      const double weight = 1 / (away * away);
      weights += weight;
      inverse_rates += weight / each.flops_per_second;
    }
    if (weights == 0) zerospan::throw_configuration_error("the rates have no matrix products");
    return shape.flops() * inverse_rates / weights;
  }

  /// Whether the products that were measured in fp32 and in bf16 take less time in bf16.
  bool narrow_products_are_faster() const {
    double narrow = 0;
    double wide = 0;
    for (const ProductRate& each : bf16_products) {
      narrow += each.shape.flops() / each.flops_per_second;
      wide += seconds(each.shape, products);
    }
    return narrow < wide;
  }

  /// Seconds of one head of one sequence, forward or backward, in proportion to its operations where it was not
  /// measured.
  double attention_seconds(std::size_t length, std::size_t head, double AttentionRate::*direction) const {
    double weights = 0;
    double seconds_per_operation = 0;
    const auto operations = [](std::size_t l, std::size_t h) {
      return static_cast<double>(l) * static_cast<double>(l) * static_cast<double>(h);
    };
    for (const AttentionRate& each : attention) {
      if (each.length == length && each.head == head) return each.*direction;
      const double away = distance(each.length, length) + distance(each.head, head);
      const double weight = 1 / (away * away);
      weights += weight;
      seconds_per_operation += weight * (each.*direction) / operations(each.length, each.head);
    }
    if (weights == 0) zerospan::throw_configuration_error("the rates have no attention");
    return operations(length, head) * seconds_per_operation / weights;
  }

  /// Core-seconds of each rank in a collective of `bytes`. @throws zerospan::ConfigurationError if it was not measured.
  double collective_seconds(const std::string& name, int ranks, double bytes) const {
    if (ranks < 2) return 0;
    const auto found = collectives.find(name);
    if (found == collectives.end() || found->second.empty()) {
      zerospan::throw_configuration_error("the rates have no collective '" + name + "'");
    }
    const auto nearest = std::ranges::min_element(
        found->second, {}, [ranks](const CollectiveRate& each) { return std::abs(each.ranks - ranks); });
    return nearest->work.seconds(bytes);
  }

  /// Seconds that so many ranks take to meet: of the nearest number that was measured.
  double rendezvous_seconds(int ranks) const {
    if (ranks < 2 || rendezvous.empty()) return 0;
    const auto nearest =
        std::ranges::min_element(rendezvous, {}, [ranks](const auto& each) { return std::abs(each.first - ranks); });
    return nearest->second;
  }

 private:
  static double distance(std::size_t a, std::size_t b) {
    return std::abs(std::log(static_cast<double>(a)) - std::log(static_cast<double>(b)));
  }
};

}  // namespace machine
