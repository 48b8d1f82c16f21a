/// @file
/// CachedTier: a part of a slower tier's bytes kept in memory, by next use.
#pragma once

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/when_all.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/tier/detail/cached_transfer.hpp>
#include <zerospan/tier/detail/extents.hpp>
#include <zerospan/tier/detail/next_use.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

struct CachedTierOptions {
  Bytes bytes;         ///< Of memory.
  Bytes line = 1_MiB;  ///< What is kept or given up as a whole; a multiple of the other tier's alignment.

  /// How long transfers may take that the destructor, or the removal of their extent, waits for.
  std::chrono::milliseconds drain_timeout = std::chrono::seconds{10};
};

/// Exact counts since the tier was made.
struct CacheCounters {
  Bytes hits;       ///< Read from memory.
  Bytes misses;     ///< Read from the other tier.
  Bytes evictions;  ///< Given up in memory to make room.
};

/// Passes extents on to another tier, which outlives it, and keeps a part of their lines in memory by Belady's rule:
/// whatever is read next stays. (Where accesses are cyclic, keeping what was used last hits nothing; this hits what
/// fits.) When a line is read next is predicted from when it was read before, in counts of reads; as long as it was
/// read once alone, recency decides. What is resident depends on the order of the reads alone, and neither on writes
/// nor on time.
///
/// Writes change what is resident and pass by the rest; what is resident reaches the other tier when it is evicted, and
/// never if its extent is removed first. A write that is lost on the way fails the read that made room, and from then
/// on whatever touches its bytes until the extent is removed. A read or write that throws, for want of memory say, has
/// changed nothing. Ranges that are contiguous on the other tier are one transfer there. Transfers of the same line run
/// in the order of the calls; none blocks its caller. Not addressable.
/// @tparam Copies How it copies between its memory and the host's. @see CachedTier
template <class Copies>
class BasicCachedTier {
 public:
  /// @param memory Lends the cache its bytes, rounded down to whole lines; outlives the tier.
  /// @throws ConfigurationError if the options contradict the other tier, BudgetError if the memory is not there.
  BasicCachedTier(TierRef inner, Arena& memory, const CachedTierOptions& options, Copies copies = {})
      : inner_{inner},
        name_{"cache of " + std::string{inner.name()}},
        line_{checked_line(options)},
        drain_timeout_{options.drain_timeout},
        memory_{memory.allocate(Bytes{options.bytes.count / line_ * line_}, "the " + name_)},
        slots_{options.bytes.count / line_},
        owners_(slots_.size()),
        store_{std::make_shared<Store>(inner, std::move(copies))} {}

  BasicCachedTier(const BasicCachedTier&) = delete;
  BasicCachedTier& operator=(const BasicCachedTier&) = delete;

  ~BasicCachedTier() {
    if (!store_->close(drain_timeout_)) memory_.forfeit();
  }

  std::string_view name() const noexcept { return name_; }
  std::size_t alignment() const { return inner_.alignment(); }
  Addressable addressable() const noexcept { return Addressable::nowhere; }

  void reserve(Bytes bytes, std::string_view what) { inner_.reserve(bytes, what); }
  void cancel(Bytes bytes) noexcept { inner_.cancel(bytes); }

  Extent place(std::size_t bytes) {
    const Extent extent = inner_.place(bytes);
    if (extent.bytes == 0) return extent;
    try {
      auto lines = std::make_shared<Lines>((extent.bytes - 1) / line_ + 1);
      for (std::size_t i = 0; i < lines->size(); ++i) {
        (*lines)[i].extent = extent;
        (*lines)[i].range = {i * line_, std::min((i + 1) * line_, extent.bytes)};
      }
      const std::scoped_lock lock{mutex_};
      placed_.insert(extent, std::move(lines));
    } catch (...) {
      inner_.remove(extent);
      throw;
    }
    return extent;
  }

  /// Forgets what is resident of an extent and gives it back, when its last write-back has ended (blocking). An extent
  /// that something may still write to remains taken; one that `place` did not deal is ignored.
  void remove(const Extent& extent) noexcept {
    const std::shared_ptr<Lines> lines = withdraw(extent);
    if (!lines) return;
    const auto deadline = std::chrono::steady_clock::now() + drain_timeout_;
    if (!std::ranges::all_of(*lines, [&](const Line& line) { return line.last.wait_until(deadline); })) return;
    const std::scoped_lock lock{mutex_};
    for (const Line& line : *lines) {
      if (line.slot != detail::NextUseSlots::none) slots_.release(line.slot);
    }
    inner_.remove(extent);
  }

  std::byte* view(const Extent&) const noexcept { return nullptr; }

  /// @throws ConfigurationError if the range leaves the extent, or is not aligned.
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    return transfer(Direction::read, extent, offset, data, bytes);
  }

  /// @throws ConfigurationError if the range leaves the extent, or is not aligned.
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) {
    return transfer(Direction::write, extent, offset, const_cast<std::byte*>(data), bytes);
  }

  /// What is placed on the other tier, and transferred there.
  TierCounters counters() const { return inner_.counters(); }

  CacheCounters cache_counters() const noexcept {
    return {.hits = Bytes{store_->hits}, .misses = Bytes{store_->misses}, .evictions = Bytes{store_->evictions}};
  }

 private:
  using Line = detail::CachedLine;
  using Lines = std::vector<Line>;
  using Store = detail::CacheStore<Copies>;
  using Transfer = detail::CachedTransfer<Copies>;
  using Piece = typename Transfer::Piece;
  using Direction = typename Transfer::Direction;

  std::size_t checked_line(const CachedTierOptions& options) const {
    const std::size_t line = options.line.count;
    if (line == 0 || line % inner_.alignment() != 0 || Arena::alignment % inner_.alignment() != 0) {
      throw_configuration_error("lines of " + std::to_string(line) + " bytes do not suit the " + name_ +
                                ": its alignment is " + std::to_string(inner_.alignment()) +
                                " bytes, of which 4096 and lines must be multiples");
    }
    if (options.bytes.count < line) {
      throw_configuration_error("the " + name_ + " has " + std::to_string(options.bytes.count) +
                                " bytes, less than a line of " + std::to_string(line));
    }
    return line;
  }

  Completion transfer(Direction direction, const Extent& extent, std::size_t offset, std::byte* data,
                      std::size_t bytes) {
    const std::string_view operation = direction == Direction::read ? "read" : "write";
    const detail::TransferName name{operation, extent, offset, bytes, name_};
    name.check_inside();
    name.check_aligned(extent.offset | offset | bytes | std::bit_cast<std::uintptr_t>(data), alignment());
    if (extent.bytes == 0) return {};
    std::vector<Completion> former;
    std::optional<detail::PreparedJoin<typename Transfer::Start>> start;
    Completion end;
    {
      const std::scoped_lock lock{mutex_};
      const auto* placed = placed_.holder(extent);
      if (!placed) name.refuse_unplaced();
      if (bytes == 0) return {};
      const std::size_t begin = static_cast<std::size_t>(extent.offset - placed->extent.offset) + offset;
      const detail::ByteRange range{begin, begin + bytes};
      const auto planned = std::make_shared<Transfer>(store_, direction, range, data, name.text());
      cut(*planned, placed->value, range);
      start = Transfer::prepare(planned);
      former.reserve(2 * planned->pieces.size());
      end = planned->completion();
      commit(*planned, direction, former);
    }
    start->join(former);
    return end;
  }

  /// Cuts a transfer into lines.
  void cut(Transfer& transfer, const std::shared_ptr<Lines>& lines, const detail::ByteRange& range) const {
    for (std::size_t i = range.begin / line_; i <= (range.end - 1) / line_; ++i) {
      const std::shared_ptr<Line> line{lines, &(*lines)[i]};
      transfer.pieces.push_back({line, detail::common(range, line->range), nullptr});
    }
  }

  /// Decides which of the lines that are read have slots from now on, and makes the transfer the last of its lines.
  /// @param former Gets the end of what was the last. It has room for all of them: nothing can fail from here on.
  void commit(Transfer& transfer, Direction direction, std::vector<Completion>& former) noexcept {
    if (direction == Direction::read) decide(transfer);
    for (Piece& piece : transfer.pieces) piece.slot = memory_of(*piece.line);
    join_queues(transfer, former);
  }

  void decide(Transfer& transfer) noexcept {
    for (const Piece& piece : transfer.pieces) {
      if (piece.line->reads.last() != reads_) piece.line->reads.record(++reads_);  // a line read in parts is one use
      if (piece.line->slot != detail::NextUseSlots::none) slots_.hold(piece.line->slot);
    }
    for (const Piece& piece : transfer.pieces) {
      if (piece.line->slot == detail::NextUseSlots::none) admit(piece.line, transfer.victims);
    }
    for (const Piece& piece : transfer.pieces) {
      if (piece.line->slot != detail::NextUseSlots::none) slots_.offer(piece.line->slot, piece.line->reads.next());
    }
  }

  void admit(const std::shared_ptr<Line>& line, std::vector<Piece>& victims) noexcept {
    const std::size_t slot = slots_.claim(line->reads.next(), line->reads.last());
    if (slot == detail::NextUseSlots::none) return;
    if (const std::shared_ptr<Line> victim = std::exchange(owners_[slot], line)) {
      victims.push_back({victim, victim->range, memory_of(*victim)});
      victim->slot = detail::NextUseSlots::none;
    }
    line->slot = slot;
  }

  std::byte* memory_of(const Line& line) const noexcept {
    return line.slot == detail::NextUseSlots::none ? nullptr : memory_.data() + line.slot * line_;
  }

  static void join_queues(const Transfer& transfer, std::vector<Completion>& former) noexcept {
    for (const std::vector<Piece>* pieces : {&transfer.victims, &transfer.pieces}) {
      for (const Piece& piece : *pieces) {
        Completion before = std::exchange(piece.line->last, transfer.completion());
        if (!before.done()) former.push_back(std::move(before));
      }
    }
  }

  /// Takes an extent out of reach of further transfers; nullptr if there is none like it.
  std::shared_ptr<Lines> withdraw(const Extent& extent) noexcept {
    const std::scoped_lock lock{mutex_};
    const auto* taken = placed_.find(extent);
    if (!taken) return nullptr;
    std::shared_ptr<Lines> lines = taken->value;
    for (const Line& line : *lines) {
      if (line.slot == detail::NextUseSlots::none) continue;
      slots_.hold(line.slot);
      owners_[line.slot] = nullptr;
    }
    placed_.erase(*taken);
    return lines;
  }

  TierRef inner_;
  std::string name_;
  std::size_t line_;
  std::chrono::milliseconds drain_timeout_;
  std::mutex mutex_;  // of what follows: what is resident, and the order of transfers
  Allocation memory_;
  detail::NextUseSlots slots_;
  std::vector<std::shared_ptr<Line>> owners_;  // by slot
  detail::ExtentMap<std::shared_ptr<Lines>> placed_;
  std::uint64_t reads_ = 0;  ///< Uses of lines so far.
  std::shared_ptr<Store> store_;
};

/// The cache of bytes that are there.
using CachedTier = BasicCachedTier<detail::MemoryCopies>;

static_assert(OffloadTier<CachedTier>);

}  // namespace zerospan::inline v0
