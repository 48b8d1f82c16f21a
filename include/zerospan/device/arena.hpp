/// @file
/// Arena: one range of memory under a hard byte budget, from which everything else takes its share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

class Arena;

/// A range of an arena that returns when the object dies. Move-only. It keeps the arena's storage alive.
class Allocation {
 public:
  Allocation() noexcept = default;
  Allocation(Allocation&& other) noexcept { swap(other); }
  Allocation& operator=(Allocation&& other) noexcept {
    Allocation{std::move(other)}.swap(*this);
    return *this;
  }
  inline ~Allocation();

  /// Leaves the range taken for as long as the arena lives: something may still write to it.
  void forfeit() noexcept { ranges_ = nullptr; }

  /// Counts so much more, or less, of working memory as used; the rest of it returns when the object dies.
  inline void charge(Bytes bytes) noexcept;
  inline void discharge(Bytes bytes) noexcept;

  std::byte* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  friend class Arena;
  struct Ranges;
  Allocation(std::shared_ptr<Ranges> ranges, std::byte* data, std::size_t bytes) noexcept
      : ranges_{std::move(ranges)}, data_{data}, bytes_{bytes} {}
  void swap(Allocation& other) noexcept {
    std::swap(ranges_, other.ranges_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(charged_, other.charged_);
  }

  std::shared_ptr<Ranges> ranges_;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::size_t charged_ = 0;
};

struct Allocation::Ranges {
  std::shared_ptr<std::byte> storage;
  std::size_t capacity = 0;
  std::size_t used = 0;
  std::size_t peak = 0;
  std::map<std::size_t, std::size_t> taken;  // offset -> bytes
};

/// A contiguous range of memory of fixed capacity: the byte budget. Allocation is first-fit by address, so that it
/// depends on the order of the calls alone.
///
/// @note Not synchronized: it is used by the thread that drives the engine.
class Arena {
 public:
  static constexpr std::size_t alignment = 4096;

  /// @param name Names the arena in errors ("device memory").
  /// @param storage At least `capacity` bytes, aligned to `alignment`.
  Arena(std::string name, std::shared_ptr<std::byte> storage, Bytes capacity)
      : name_{std::move(name)}, ranges_{std::make_shared<Allocation::Ranges>()} {
    ranges_->storage = std::move(storage);
    ranges_->capacity = capacity.count;
  }

  /// A range of `bytes`, aligned to `alignment`, counted as used. Of zero bytes there is none: it is empty.
  /// @param what Names the purpose in the error.
  /// @throws BudgetError if no range of that size is free.
  Allocation allocate(Bytes bytes, std::string_view what) {
    if (bytes.count == 0) return {};
    const auto offset = find(bytes.count);
    if (offset == npos) {
      throw_budget_error(std::string{what} + " in " + name_, bytes, Bytes{largest_free()}, "raise its budget");
    }
    Allocation result = take(offset, bytes.count);
    result.charge(bytes);
    return result;
  }

  /// The largest free range, or `limit` bytes of it: memory that its owner deals out further. It is counted as used
  /// only as far as the owner says so (`Allocation::charge`, `discharge`). It may be empty.
  Allocation allocate_working(Bytes limit) {
    const std::size_t bytes = std::min(limit.count, largest_free());
    return bytes == 0 ? Allocation{} : take(find(bytes), bytes);
  }

  const std::string& name() const noexcept { return name_; }
  std::byte* data() const noexcept { return ranges_->storage.get(); }
  Bytes capacity() const noexcept { return Bytes{ranges_->capacity}; }
  Bytes used() const noexcept { return Bytes{ranges_->used}; }
  Bytes peak() const noexcept { return Bytes{ranges_->peak}; }

  /// Bytes of the largest range that could be allocated now.
  std::size_t largest_free() const {
    std::size_t largest = 0;
    visit_gaps([&](std::size_t, std::size_t bytes) {
      largest = std::max(largest, bytes);
      return false;
    });
    return largest;
  }

 private:
  static constexpr std::size_t npos = static_cast<std::size_t>(-1);

  /// Calls `f(offset, bytes)` for each free gap, in address order, until it returns true.
  template <class F>
  void visit_gaps(F f) const {
    std::size_t begin = 0;
    for (const auto& [offset, bytes] : ranges_->taken) {
      if (offset > begin && f(begin, offset - begin)) return;
      begin = std::max(begin, round_up(offset + bytes, alignment));
    }
    if (ranges_->capacity > begin) f(begin, ranges_->capacity - begin);
  }

  std::size_t find(std::size_t bytes) const {
    std::size_t found = npos;
    visit_gaps([&](std::size_t offset, std::size_t gap) {
      if (gap < bytes) return false;
      found = offset;
      return true;
    });
    return found;
  }

  Allocation take(std::size_t offset, std::size_t bytes) {
    ranges_->taken.emplace(offset, bytes);
    return Allocation{ranges_, ranges_->storage.get() + offset, bytes};
  }

  std::string name_;
  std::shared_ptr<Allocation::Ranges> ranges_;
};

inline void Allocation::charge(Bytes bytes) noexcept {
  charged_ += bytes.count;
  ranges_->used += bytes.count;
  ranges_->peak = std::max(ranges_->peak, ranges_->used);
}

inline void Allocation::discharge(Bytes bytes) noexcept {
  charged_ -= bytes.count;
  ranges_->used -= bytes.count;
}

inline Allocation::~Allocation() {
  if (!ranges_) return;
  ranges_->taken.erase(static_cast<std::size_t>(data_ - ranges_->storage.get()));
  ranges_->used -= charged_;
}

}  // namespace zerospan::inline v0
