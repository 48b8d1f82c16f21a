/// @file
/// The lines of a CachedTier, and its transfers: each has its lines to itself from its begin to its end.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/when_all.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/tier/detail/next_use.hpp>
#include <zerospan/tier/detail/transfer_gate.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

/// A range of an extent's bytes.
struct ByteRange {
  std::size_t begin = 0;
  std::size_t end = 0;

  std::size_t bytes() const noexcept { return end > begin ? end - begin : 0; }
  bool empty() const noexcept { return bytes() == 0; }
};

inline ByteRange common(const ByteRange& a, const ByteRange& b) noexcept {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

/// The smallest range that holds both.
inline ByteRange hull(const ByteRange& a, const ByteRange& b) noexcept {
  if (a.empty() || b.empty()) return a.empty() ? b : a;
  return {std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

/// True if the two make one range, because they touch or one of them is empty.
inline bool adjoin(const ByteRange& a, const ByteRange& b) noexcept {
  return a.empty() || b.empty() || (a.begin <= b.end && b.begin <= a.end);
}

/// What must be read to have all of `wanted`, in one piece, where `valid` is there.
inline ByteRange missing(ByteRange wanted, const ByteRange& valid) noexcept {
  if (common(wanted, valid).empty()) return wanted;
  if (valid.begin <= wanted.begin) wanted.begin = std::min(valid.end, wanted.end);
  if (valid.end >= wanted.end) wanted.end = std::max(valid.begin, wanted.begin);
  return wanted;
}

/// Its slot and its history change in the order of the calls; the rest belongs to one transfer after the other.
struct CachedLine {
  Extent extent;    ///< The whole one.
  ByteRange range;  ///< The line's own.

  UseHistory reads;
  std::size_t slot = NextUseSlots::none;
  Completion last;  ///< The end of the last transfer that touches it; the next one waits for that.

  ByteRange valid;  ///< In memory.
  ByteRange dirty;  ///< In memory and newer than on the other tier; in `valid`.
  ByteRange lost;   ///< Could not be written back.
  std::exception_ptr loss;
};

/// How a cache copies between its memory and the host's.
struct MemoryCopies {
  static void copy(std::byte* to, const std::byte* from, std::size_t bytes) noexcept { std::memcpy(to, from, bytes); }
};

/// What a tier shares with its transfers, so that a late completion finds it, whatever became of the tier. The other
/// tier and the memory are used only between `enter` and `leave`: they may end with the tier.
template <class Copies>
struct CacheStore : TransferGate {
  CacheStore(TierRef tier, Copies by) : inner{tier}, copies{std::move(by)} {}

  const TierRef inner;
  const Copies copies;
  std::atomic<std::size_t> hits = 0;
  std::atomic<std::size_t> misses = 0;
  std::atomic<std::size_t> evictions = 0;
};

/// Planned by the tier in the order of the calls; runs when all that touched its lines before has ended. What it needs
/// of memory it gets before lines are told of it: neither its start nor its end fails for want of it.
/// @tparam Copies As MemoryCopies.
template <class Copies>
class CachedTransfer {
 public:
  using Store = CacheStore<Copies>;

  enum class Direction : std::uint8_t { read, write };

  /// A line's part in the transfer.
  struct Piece {
    std::shared_ptr<CachedLine> line;
    ByteRange range;  ///< What is transferred of it.
    std::byte* slot;  ///< Its memory in this transfer, or nullptr.

    std::byte* memory(std::size_t begin) const noexcept { return slot + (begin - line->range.begin); }
  };

  CachedTransfer(std::shared_ptr<Store> store, Direction direction, ByteRange range, std::byte* data, std::string label)
      : store_{std::move(store)}, direction_{direction}, range_{range}, data_{data}, promise_{std::move(label)} {}

  Completion completion() const noexcept { return promise_.completion(); }

  /// Ends the transfer.
  struct Finish {
    std::shared_ptr<CachedTransfer> transfer;
    void operator()(const std::exception_ptr& error) const noexcept { transfer->finish(error); }
  };

  /// Runs the transfer.
  struct Start {
    std::shared_ptr<CachedTransfer> transfer;
    PreparedJoin<Finish> end;
    void operator()(const std::exception_ptr&) noexcept { transfer->run(end); }
  };

  /// What joins the completions of whatever touched a transfer's lines before, and starts it. The transfer has its
  /// pieces, and at most as many victims.
  static PreparedJoin<Start> prepare(const std::shared_ptr<CachedTransfer>& transfer) {
    const std::size_t pieces = transfer->pieces.size();
    const std::size_t most = 2 * pieces;
    transfer->victims.reserve(pieces);
    transfer->write_backs_.reserve(pieces);
    transfer->passing_.reserve(pieces);
    transfer->parts_.reserve(most);
    return {most, Start{transfer, {most, Finish{transfer}}}};
  }

  std::vector<Piece> pieces;   ///< In order, without gaps.
  std::vector<Piece> victims;  ///< Lines that give their slots to pieces of a read.

 private:
  /// The end of a victim's write-back.
  struct WriteBack {
    Completion end;
    std::exception_ptr refusal;  ///< What was thrown instead.

    std::exception_ptr error() const noexcept { return refusal ? refusal : end.error(); }
  };

  void run(PreparedJoin<Finish>& end) noexcept {
    if (!store_->enter()) return abandon();
    const std::size_t evicted = write_back();
    if (const auto known = loss()) {
      refusal_ = known;
    } else {
      direction_ == Direction::read ? find_missing() : put();
      for (const ByteRange& part : passing_) begin([&] { return pass(part); });
    }
    store_->evictions += evicted;
    store_->leave();
    end.join(parts_);
  }

  /// Starts a part of the transfer. @return its completion, or what it threw.
  template <class F>
  WriteBack begin(F start) noexcept {
    try {
      parts_.push_back(start());
      return {parts_.back(), nullptr};
    } catch (...) {
      refusal_ = std::current_exception();
      return {{}, refusal_};
    }
  }

  /// Starts to write what victims alone have to the other tier. @return how many bytes they keep no longer.
  std::size_t write_back() noexcept {
    std::size_t evicted = 0;
    for (const Piece& victim : victims) {
      const CachedLine& line = *victim.line;
      evicted += line.valid.bytes();
      if (line.dirty.empty()) {
        write_backs_.emplace_back();
        continue;
      }
      write_backs_.push_back(begin([&] {
        return store_->inner.write(line.extent, line.dirty.begin, victim.memory(line.dirty.begin), line.dirty.bytes());
      }));
    }
    return evicted;
  }

  std::exception_ptr loss() const {
    for (const Piece& piece : pieces) {
      if (!common(piece.range, piece.line->lost).empty()) return piece.line->loss;
    }
    return nullptr;
  }

  Completion pass(const ByteRange& part) const {
    const Extent& extent = pieces.front().line->extent;
    std::byte* data = data_at(part.begin);
    if (direction_ == Direction::read) return store_->inner.read(extent, part.begin, data, part.bytes());
    return store_->inner.write(extent, part.begin, data, part.bytes());
  }

  /// Lists what a read needs from the other tier, contiguous ranges as one.
  void find_missing() noexcept {
    std::size_t bytes = 0;
    for (const Piece& piece : pieces) {
      const ByteRange range = missing(piece.range, piece.line->valid);
      append(passing_, range);
      bytes += range.bytes();
    }
    store_->misses += bytes;
    store_->hits += range_.bytes() - bytes;
  }

  /// Updates what is resident, and lists what passes by, contiguous ranges as one.
  void put() noexcept {
    for (const Piece& piece : pieces) {
      CachedLine& line = *piece.line;
      if (piece.slot && adjoin(line.valid, piece.range)) {
        store_->copies.copy(piece.memory(piece.range.begin), data_at(piece.range.begin), piece.range.bytes());
        line.valid = hull(line.valid, piece.range);
        line.dirty = hull(line.dirty, piece.range);
      } else {
        append(passing_, piece.range);
      }
    }
  }

  static void append(std::vector<ByteRange>& ranges, const ByteRange& range) {
    if (range.empty()) return;
    if (!ranges.empty() && ranges.back().end == range.begin) {
      ranges.back().end = range.end;
    } else {
      ranges.push_back(range);
    }
  }

  /// Settles the victims, then the pieces of a read that has all its bytes.
  void finish(const std::exception_ptr& first_error) noexcept {
    if (!store_->enter()) return abandon();
    const std::exception_ptr error = refusal_ ? refusal_ : first_error;
    for (std::size_t i = 0; i < victims.size(); ++i) {
      CachedLine& line = *victims[i].line;
      if (const auto loss = write_backs_[i].error()) {
        line.lost = hull(line.lost, line.dirty);
        line.loss = loss;
      }
      line.valid = line.dirty = {};
    }
    if (!error && direction_ == Direction::read) {
      for (const Piece& piece : pieces) settle(piece);
    }
    store_->leave();
    if (error) return promise_.fail(error);
    promise_.succeed();
  }

  /// What is in memory counts, wherever it was read from; what is not is kept there, if it leaves no gap.
  void settle(const Piece& piece) const {
    if (!piece.slot) return;
    CachedLine& line = *piece.line;
    const ByteRange before = line.valid;
    const ByteRange known = common(piece.range, before);
    if (!known.empty()) store_->copies.copy(data_at(known.begin), piece.memory(known.begin), known.bytes());
    if (!adjoin(before, piece.range)) return;
    line.valid = hull(before, piece.range);
    if (before.empty()) return keep(piece, piece.range);
    keep(piece, {piece.range.begin, std::min(piece.range.end, before.begin)});
    keep(piece, {std::max(piece.range.begin, before.end), piece.range.end});
  }

  void keep(const Piece& piece, const ByteRange& range) const {
    if (!range.empty()) store_->copies.copy(piece.memory(range.begin), data_at(range.begin), range.bytes());
  }

  void abandon() noexcept {
    try {
      promise_.fail(std::make_exception_ptr(
          Error{promise_.completion().label() + " was given up: its tier is gone", std::source_location::current()}));
    } catch (...) {  // no memory for the words
      promise_.fail(std::current_exception());
    }
  }

  std::byte* data_at(std::size_t begin) const noexcept { return data_ + (begin - range_.begin); }

  UnderWay<Store> store_;
  Direction direction_;
  ByteRange range_;  ///< Of the whole transfer.
  std::byte* data_;
  std::vector<WriteBack> write_backs_;  ///< One for each victim.
  std::vector<ByteRange> passing_;      ///< What is transferred between the host and the other tier.
  std::vector<Completion> parts_;       ///< What has been started.
  std::exception_ptr refusal_;          ///< Of a part that could not be.
  Promise promise_;
};

}  // namespace zerospan::inline v0::detail
