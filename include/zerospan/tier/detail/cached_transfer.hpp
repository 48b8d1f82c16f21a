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

/// What a tier shares with its transfers, so that a late completion finds it, whatever became of the tier. The other
/// tier and the memory are used only between `enter` and `leave`: they may end with the tier.
struct CacheStore : TransferGate {
  explicit CacheStore(TierRef tier) : inner{tier} {}

  const TierRef inner;
  std::atomic<std::size_t> hits = 0;
  std::atomic<std::size_t> misses = 0;
  std::atomic<std::size_t> evictions = 0;
};

/// Planned by the tier in the order of the calls; runs when all that touched its lines before has ended.
class CachedTransfer {
 public:
  enum class Direction : std::uint8_t { read, write };

  /// A line's part in the transfer.
  struct Piece {
    std::shared_ptr<CachedLine> line;
    ByteRange range;  ///< What is transferred of it.
    std::byte* slot;  ///< Its memory in this transfer, or nullptr.

    std::byte* memory(std::size_t begin) const noexcept { return slot + (begin - line->range.begin); }
  };

  CachedTransfer(std::shared_ptr<CacheStore> store, Direction direction, ByteRange range, std::byte* data,
                 std::string label)
      : store_{std::move(store)}, direction_{direction}, range_{range}, data_{data}, promise_{std::move(label)} {}

  Completion completion() const noexcept { return promise_.completion(); }

  static void start_after(const std::vector<Completion>& former, const std::shared_ptr<CachedTransfer>& self) {
    when_all(former, [self](const std::exception_ptr&) { run(self); });
  }

  std::vector<Piece> pieces;   ///< In order, without gaps.
  std::vector<Piece> victims;  ///< Lines that give their slots to pieces of a read.

 private:
  static void run(const std::shared_ptr<CachedTransfer>& self) {
    if (!self->store_->enter()) return self->abandon();
    const std::size_t evicted = self->write_back();
    std::vector<Completion> parts{self->write_backs_};
    if (const auto loss = self->loss()) {
      parts.push_back(started([&]() -> Completion { std::rethrow_exception(loss); }));
    } else {
      for (const ByteRange& part : self->direction_ == Direction::read ? self->missing_ranges() : self->put()) {
        parts.push_back(started([&] { return self->pass(part); }));
      }
    }
    self->store_->evictions += evicted;
    self->store_->leave();
    when_all(parts, [self](const std::exception_ptr& error) { self->finish(error); });
  }

  /// Starts to write what victims alone have to the other tier. @return how many bytes they keep no longer.
  std::size_t write_back() {
    std::size_t evicted = 0;
    for (const Piece& victim : victims) {
      const CachedLine& line = *victim.line;
      evicted += line.valid.bytes();
      if (line.dirty.empty()) {
        write_backs_.emplace_back();
        continue;
      }
      write_backs_.push_back(started([&] {
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

  /// What a read needs from the other tier, contiguous ranges as one.
  std::vector<ByteRange> missing_ranges() const {
    std::vector<ByteRange> ranges;
    std::size_t bytes = 0;
    for (const Piece& piece : pieces) {
      const ByteRange range = missing(piece.range, piece.line->valid);
      append(ranges, range);
      bytes += range.bytes();
    }
    store_->misses += bytes;
    store_->hits += range_.bytes() - bytes;
    return ranges;
  }

  /// Updates what is resident. @return what passes by, contiguous ranges as one.
  std::vector<ByteRange> put() const {
    std::vector<ByteRange> ranges;
    for (const Piece& piece : pieces) {
      CachedLine& line = *piece.line;
      if (piece.slot && adjoin(line.valid, piece.range)) {
        std::memcpy(piece.memory(piece.range.begin), data_at(piece.range.begin), piece.range.bytes());
        line.valid = hull(line.valid, piece.range);
        line.dirty = hull(line.dirty, piece.range);
      } else {
        append(ranges, piece.range);
      }
    }
    return ranges;
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
  void finish(const std::exception_ptr& error) {
    if (!store_->enter()) return abandon();
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
    if (!known.empty()) std::memcpy(data_at(known.begin), piece.memory(known.begin), known.bytes());
    if (!adjoin(before, piece.range)) return;
    line.valid = hull(before, piece.range);
    if (before.empty()) return keep(piece, piece.range);
    keep(piece, {piece.range.begin, std::min(piece.range.end, before.begin)});
    keep(piece, {std::max(piece.range.begin, before.end), piece.range.end});
  }

  void keep(const Piece& piece, const ByteRange& range) const {
    if (!range.empty()) std::memcpy(piece.memory(range.begin), data_at(range.begin), range.bytes());
  }

  void abandon() {
    promise_.fail(std::make_exception_ptr(
        Error{promise_.completion().label() + " was given up: its tier is gone", std::source_location::current()}));
  }

  std::byte* data_at(std::size_t begin) const noexcept { return data_ + (begin - range_.begin); }

  UnderWay<CacheStore> store_;
  Direction direction_;
  ByteRange range_;  ///< Of the whole transfer.
  std::byte* data_;
  std::vector<Completion> write_backs_;  ///< One for each victim.
  Promise promise_;
};

}  // namespace zerospan::inline v0::detail
