/// @file
/// What one pass of the model is given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace gpt {

/// Equally long sequences, one after the other, and the byte that follows each of their bytes.
struct Batch {
  std::span<const std::uint8_t> tokens;
  std::span<const std::uint8_t> targets;
  std::size_t length;  ///< Of each sequence.
};

/// A batch's bytes, in memory that is reused.
class BatchBuffer {
 public:
  explicit BatchBuffer(std::size_t length) : length_{length} {}

  void clear() {
    tokens_.clear();
    targets_.clear();
  }

  /// Appends the sequence that begins at `first`.
  void append(std::span<const std::uint8_t> text, std::size_t first) {
    const auto begin = text.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = begin + static_cast<std::ptrdiff_t>(length_);
    tokens_.insert(tokens_.end(), begin, end);
    targets_.insert(targets_.end(), begin + 1, end + 1);
  }

  Batch batch() const { return {tokens_, targets_, length_}; }

 private:
  std::size_t length_;
  std::vector<std::uint8_t> tokens_;
  std::vector<std::uint8_t> targets_;
};

}  // namespace gpt
