/// @file
/// The batches to train on, and the windows to validate on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <zerospan/core/philox.hpp>

#include "batch.hpp"

namespace gpt {

/// Draws sequences from anywhere in a text. What is drawn depends on the seed and the sequence's coordinates alone.
class BatchSampler {
 public:
  /// @param rank,ranks Sequence i of all that are ever drawn is rank i mod ranks'.
  BatchSampler(std::span<const std::uint8_t> text, std::size_t length, std::uint64_t seed, std::size_t rank,
               std::size_t ranks)
      : text_{text}, length_{length}, seed_{seed}, rank_{rank}, ranks_{ranks}, buffer_{length} {}

  /// Sequences that all ranks have drawn so far.
  std::uint64_t drawn() const { return drawn_ * ranks_; }

  /// Goes on where all ranks, however many they were, had drawn so many.
  void go_on_after(std::uint64_t sequences) { drawn_ = (sequences + ranks_ - 1) / ranks_; }

  /// The rank's next `sequences` sequences, valid until the next call.
  Batch next(std::size_t sequences) {
    buffer_.clear();
    for (std::size_t i = 0; i < sequences; ++i) buffer_.append(text_, offset(drawn_++ * ranks_ + rank_));
    return buffer_.batch();
  }

 private:
  static constexpr std::uint64_t data_stream = 0x64617461;  // keeps clear of the initializers' counters

  std::size_t offset(std::uint64_t sequence) const {
    const auto word = zerospan::philox(seed_, data_stream << 32, sequence);
    const std::uint64_t random = (std::uint64_t{word[1]} << 32) | word[0];
    return static_cast<std::size_t>(random % (text_.size() - length_));
  }

  std::span<const std::uint8_t> text_;
  std::size_t length_;
  std::uint64_t seed_;
  std::size_t rank_;
  std::size_t ranks_;
  std::uint64_t drawn_ = 0;
  BatchBuffer buffer_;
};

/// The non-overlapping windows of a text, dealt to the ranks in chunks. A tail shorter than a window is left out.
class Windows {
 public:
  /// @param chunk How many windows a rank evaluates at once.
  Windows(std::span<const std::uint8_t> text, std::size_t length, std::size_t chunk)
      : text_{text}, length_{length}, chunk_{chunk}, buffer_{length} {}

  std::size_t count() const { return (text_.size() - 1) / length_; }

  /// How many chunks each rank evaluates. Where they do not come out even, some ranks get a chunk that is `spare`.
  std::size_t rounds(std::size_t ranks) const { return (chunks() + ranks - 1) / ranks; }

  struct Chunk {
    Batch batch;
    bool spare;  ///< Another rank's: evaluated to keep step, not counted.
  };

  /// The rank's chunk of a round, valid until the next call.
  Chunk chunk(std::size_t round, std::size_t rank, std::size_t ranks) {
    const std::size_t wanted = round * ranks + rank;
    const std::size_t chosen = std::min(wanted, chunks() - 1);
    const std::size_t end = std::min((chosen + 1) * chunk_, count());
    buffer_.clear();
    for (std::size_t window = chosen * chunk_; window < end; ++window) buffer_.append(text_, window * length_);
    return {buffer_.batch(), chosen != wanted};
  }

 private:
  std::size_t chunks() const { return (count() + chunk_ - 1) / chunk_; }

  std::span<const std::uint8_t> text_;
  std::size_t length_;
  std::size_t chunk_;
  BatchBuffer buffer_;
};

}  // namespace gpt
