/// @file
/// PieceMemory: host memory that states pass through, outside of a step.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/detail/huge_pages.hpp>
#include <zerospan/optimizer/state_array.hpp>

namespace zerospan::inline v0::detail {

/// Host memory for a piece: as many master weights as elements of each array of states, one after the other.
class PieceMemory {
 public:
  /// Pieces begin at multiples of so many elements of a shard: at transfers' boundaries on any tier.
  static constexpr std::size_t unit = 4096;

  /// @param arrays Outlive it. @throws ConfigurationError if not even `unit` elements fit into `bytes`.
  PieceMemory(std::span<const StateArray> arrays, Bytes bytes) : arrays_{arrays} {
    std::size_t of_unit = unit * sizeof(float);
    for (const StateArray& array : arrays) of_unit += array.width().of(unit);
    elements_ = bytes.count / of_unit * unit;
    if (elements_ == 0) {
      throw_configuration_error("a buffer of " + std::to_string(bytes.count) + " bytes for pieces of " +
                                std::to_string(unit) + " elements with their states; it must have " +
                                std::to_string(of_unit));
    }
    memory_ = transfer_memory(Bytes{elements_ / unit * of_unit});
  }

  std::span<const StateArray> arrays() const noexcept { return arrays_; }

  /// Elements of the largest piece.
  std::size_t elements() const noexcept { return elements_; }

  /// In a piece of so many elements.
  std::span<float> master(std::size_t elements) const noexcept {
    return {reinterpret_cast<float*>(memory_.get()), elements};
  }
  std::vector<std::span<std::byte>> states(std::size_t elements) const {
    std::vector<std::span<std::byte>> spans;
    std::byte* next = memory_.get() + elements_ * sizeof(float);
    for (const StateArray& array : arrays_) {
      spans.emplace_back(std::exchange(next, next + array.width().of(elements_)), array.width().of(elements));
    }
    return spans;
  }

 private:
  std::span<const StateArray> arrays_;
  std::size_t elements_;
  std::shared_ptr<std::byte> memory_;
};

}  // namespace zerospan::inline v0::detail
