/// @file
/// The memory that encoded operands go through.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/kernels/quantized_block.hpp>

namespace zerospan::inline v0::detail {

/// A fixed piece of device memory, cut into areas of equal size.
class QuantizationScratch {
 public:
  QuantizationScratch() = default;
  explicit QuantizationScratch(Allocation memory) noexcept : memory_{std::move(memory)} {}

  std::byte* data() const noexcept { return memory_.data(); }

  /// Elements, whole blocks, that each of `areas` areas holds when they are encoded.
  /// @throws ConfigurationError if that is not one block.
  std::size_t elements_of(std::size_t areas, QuantizedType type) const {
    const std::size_t blocks = memory_.bytes() / areas / encoded_block_bytes(type);
    if (blocks > 0) return blocks * quantized_block_elements;
    throw_configuration_error("the scratch memory of quantized collectives, " + std::to_string(memory_.bytes()) +
                              " bytes, holds no block of " + to_string(type) +
                              " for every rank: " + std::to_string(areas * encoded_block_bytes(type)) + " bytes would");
  }

 private:
  Allocation memory_;
};

}  // namespace zerospan::inline v0::detail
