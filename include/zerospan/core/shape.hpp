/// @file
/// The extents of a tensor.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0 {

/// Up to six extents, slowest first (row-major). A shape without extents is a scalar of one element.
class Shape {
 public:
  static constexpr std::size_t max_rank = 6;

  /// @throws ConfigurationError for more than `max_rank` extents, an extent of zero, or a product past std::size_t.
  Shape(std::initializer_list<std::size_t> extents) : Shape{std::span{extents.begin(), extents.size()}} {}

  explicit Shape(std::span<const std::size_t> extents) : rank_{extents.size()} {
    if (rank_ > max_rank) throw_configuration_error("a shape has at most 6 extents, not " + std::to_string(rank_));
    for (std::size_t i = 0; i < rank_; ++i) {
      if (extents[i] == 0) throw_configuration_error("extent " + std::to_string(i) + " of a shape is zero");
      if (elements_ > std::numeric_limits<std::size_t>::max() / extents[i]) {
        throw_configuration_error("a shape has more elements than std::size_t counts");
      }
      extents_[i] = extents[i];
      elements_ *= extents[i];
    }
  }

  std::size_t rank() const noexcept { return rank_; }
  std::size_t operator[](std::size_t i) const noexcept { return extents_[i]; }
  std::size_t elements() const noexcept { return elements_; }
  std::span<const std::size_t> extents() const noexcept { return {extents_.data(), rank_}; }

  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::array<std::size_t, max_rank> extents_{};
  std::size_t rank_ = 0;
  std::size_t elements_ = 1;
};

}  // namespace zerospan::inline v0
