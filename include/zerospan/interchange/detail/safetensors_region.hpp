/// @file
/// SafetensorsRegion: which elements of a tensor are a parameter's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/interchange/safetensors_place.hpp>
#include <zerospan/interchange/safetensors_tensor.hpp>

namespace zerospan::inline v0::detail {

/// A parameter's place in a tensor, in numbers.
class SafetensorsRegion {
 public:
  /// @throws ConfigurationError if the place has no sense for a parameter of this shape.
  SafetensorsRegion(SafetensorsPlace place, std::string_view parameter, const Shape& shape)
      : place_{std::move(place)},
        own_rows_{shape.rank() > 0 ? shape[0] : 1},
        rows_{place_.rows > 0 ? place_.rows : own_rows_},
        columns_{shape.elements() / own_rows_},
        shape_{shape.extents().begin(), shape.extents().end()} {
    const std::string subject = "parameter " + std::string{parameter} + " in " + FormatError::printable(place_.tensor);
    if (own_rows_ > rows_ || place_.first_row > rows_ - own_rows_) {
      throw_configuration_error(subject + ": its " + std::to_string(own_rows_) + " rows from " +
                                std::to_string(place_.first_row) + " on leave the tensor's " + std::to_string(rows_));
    }
    if (shape.rank() == 0 && rows_ > 1) throw_configuration_error(subject + ": a scalar has no rows");
    if (!shape_.empty()) shape_[0] = rows_;
    if (place_.order == StoredOrder::transposed) {
      if (shape.rank() != 2) {
        throw_configuration_error(subject + ": a shape of " + std::to_string(shape.rank()) +
                                  " extents is not transposed, matrices are");
      }
      std::swap(shape_[0], shape_[1]);
    }
  }

  const std::string& tensor() const noexcept { return place_.tensor; }
  std::uint64_t first_row() const noexcept { return place_.first_row; }
  std::uint64_t end_row() const noexcept { return place_.first_row + own_rows_; }
  std::uint64_t rows() const noexcept { return rows_; }

  /// Where an element of the parameter is in the tensor, if those after it follow it there; otherwise nothing.
  std::optional<std::uint64_t> in_tensor(std::uint64_t element) const noexcept {
    if (!is_same_order()) return std::nullopt;
    return place_.first_row * columns_ + element;
  }

  /// Of the tensor, as it is stored.
  const std::vector<std::uint64_t>& shape() const noexcept { return shape_; }

  /// Has `transfer(first, elements)` read, or write, what a piece of the parameter is in the tensor: elements from
  /// `first` on, one after the other.
  /// @param first The piece's first element, in the parameter.
  template <class Transfer>
  void read(std::uint64_t first, std::span<float> piece, Transfer transfer) {
    walk(first, piece, transfer, [&](std::uint64_t at, std::span<float> column, std::size_t from) {
      transfer(at, column);
      for (std::size_t i = 0; i < column.size(); ++i) piece[from + i * columns_] = column[i];
    });
  }

  template <class Transfer>
  void write(std::uint64_t first, std::span<const float> piece, Transfer transfer) {
    walk(first, piece, transfer, [&](std::uint64_t at, std::span<float> column, std::size_t from) {
      for (std::size_t i = 0; i < column.size(); ++i) column[i] = piece[from + i * columns_];
      transfer(at, std::span<const float>{column});
    });
  }

 private:
  static constexpr std::size_t most_gathered = std::size_t{1} << 14;  // stays in a core's cache

  bool is_same_order() const noexcept { return place_.order == StoredOrder::as_it_is || columns_ == 1 || rows_ == 1; }

  /// @param transfer_column Called with the first element in the tensor, memory for some of a column, and where the
  /// first of them is in the piece; the others follow a row apart.
  template <class E, class Transfer, class TransferColumn>
  void walk(std::uint64_t first, std::span<E> piece, Transfer& transfer, TransferColumn transfer_column) {
    if (piece.empty()) return;
    if (const auto begin = in_tensor(first)) return transfer(*begin, piece);
    const std::uint64_t last = first + piece.size() - 1;
    for (std::uint64_t column = 0; column < columns_; ++column) {
      std::uint64_t row = first / columns_ + (column < first % columns_ ? 1 : 0);
      const std::uint64_t end = last / columns_ + (column <= last % columns_ ? 1 : 0);
      while (row < end) {
        const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(end - row, most_gathered));
        column_.resize(std::max(column_.size(), count));
        transfer_column(column * rows_ + place_.first_row + row, std::span{column_}.first(count),
                        static_cast<std::size_t>(row * columns_ + column - first));
        row += count;
      }
    }
  }

  SafetensorsPlace place_;
  std::uint64_t own_rows_;
  std::uint64_t rows_;
  std::uint64_t columns_;
  std::vector<std::uint64_t> shape_;
  std::vector<float> column_;
};

}  // namespace zerospan::inline v0::detail
