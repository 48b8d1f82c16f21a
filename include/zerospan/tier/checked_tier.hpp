/// @file
/// CheckedTier: any tier, with checksums of what was written to it. Needs xxHash.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <source_location>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <xxhash.h>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/tier/detail/extents.hpp>
#include <zerospan/tier/detail/transfer_gate.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

struct CheckedTierOptions {
  /// Bytes that have a checksum of 8 bytes, in memory: a power of two and a multiple of the other tier's alignment.
  /// It is the alignment of this tier, so that whatever is written is whole lines. Engines take up to 4096.
  Bytes line = 4_KiB;

  /// How long the destructor waits for transfers whose end the other tier has not reported.
  std::chrono::milliseconds drain_timeout = std::chrono::seconds{10};
};

/// Exact counts since the tier was made.
struct CheckCounters {
  Bytes table;     ///< Of memory, for the checksums of what is placed now. No budget holds it.
  Bytes written;   ///< Whose checksums were taken.
  Bytes verified;  ///< Read, and found to be what was written.
};

namespace detail {

/// The checksums of one extent.
/// One a line (XXH3, 64 bits). Ranges of an extent begin at lines and are whole lines, but for the last one of
/// the extent. Thread-safe; what a line has that is written and read at the same time is undefined, as its bytes are.
class CheckedLines {
 public:
  /// A line that is not what was written.
  struct Mismatch {
    std::size_t begin;  ///< In the extent.
    std::size_t bytes;
    std::uint64_t expected;
    std::uint64_t found;
  };

  struct Verified {
    std::size_t bytes = 0;               ///< Of lines that were written before, up to the first that does not match.
    std::optional<Mismatch> mismatch{};  ///< The first one.
  };

  CheckedLines(const Extent& extent, std::size_t line)
      : extent_{extent}, line_{line}, checksums_((extent.bytes + line - 1) / line) {}

  const Extent& extent() const noexcept { return extent_; }
  std::size_t table_bytes() const noexcept { return checksums_.size() * sizeof(std::uint64_t); }

  /// From now on these bytes are expected from `begin` on.
  void expect(std::size_t begin, const std::byte* data, std::size_t bytes) noexcept {
    for (std::size_t done = 0; done < bytes; done += line_) {
      checksums_[(begin + done) / line_] = checksum(data + done, std::min(line_, bytes - done));
    }
  }

  /// Compares what was read from `begin` on with what is expected. Lines that were never written pass.
  Verified verify(std::size_t begin, const std::byte* data, std::size_t bytes) const noexcept {
    Verified result;
    for (std::size_t done = 0; done < bytes; done += line_) {
      const std::uint64_t expected = checksums_[(begin + done) / line_];
      if (expected == unknown) continue;
      const std::size_t size = std::min(line_, bytes - done);
      if (const std::uint64_t found = checksum(data + done, size); found != expected) {
        result.mismatch = Mismatch{begin + done, size, expected, found};
        return result;
      }
      result.bytes += size;
    }
    return result;
  }

 private:
  static constexpr std::uint64_t unknown = 0;  // of a line that was never written; no checksum

  static std::uint64_t checksum(const std::byte* data, std::size_t bytes) noexcept {
    return std::max<std::uint64_t>(::XXH3_64bits(data, bytes), 1);
  }

  Extent extent_;
  std::size_t line_;
  std::vector<std::atomic<std::uint64_t>> checksums_;  // relaxed: completions order transfers of the same line
};

/// What a CheckedTier shares with its transfers.
struct CheckedStore : TransferGate {
  explicit CheckedStore(std::string tier_name) : name{std::move(tier_name)} {}

  const std::string name;
  std::atomic<std::size_t> written = 0;
  std::atomic<std::size_t> verified = 0;
};

}  // namespace detail

/// Passes everything on to another tier, which outlives it, and checks that what is read is what was written: a read
/// whose bytes are others ends in an IntegrityError that names the first line of them. So storage that loses a write or
/// changes a bit, on the disk or on the way, cannot change a model unseen.
///
/// A read gives what was last handed to `write`, whether that write ended well or not, or fails; bytes that were never
/// written are not checked. What is written is hashed by the caller while the other tier writes it, what is read by the
/// thread that ends the read, before its completion is done. Sizes of extents are rounded up to lines. Not addressable.
class CheckedTier {
 public:
  /// @throws ConfigurationError if the other tier is addressable, which would pass by the checks, or if its alignment
  /// contradicts the options.
  explicit CheckedTier(TierRef inner, const CheckedTierOptions& options = {})
      : inner_{inner},
        line_{options.line.count},
        drain_timeout_{options.drain_timeout},
        store_{std::make_shared<detail::CheckedStore>("checked " + std::string{inner.name()})} {
    if (inner.addressable() != Addressable::nowhere) {
      throw_configuration_error(std::string{inner.name()} + " is addressable: its bytes are not checked by transfers");
    }
    if (!std::has_single_bit(line_) || line_ % inner.alignment() != 0) {
      throw_configuration_error("lines of " + std::to_string(line_) + " bytes do not suit the " + store_->name +
                                ": they are powers of two and multiples of " + std::to_string(inner.alignment()) +
                                " bytes");
    }
  }

  CheckedTier(const CheckedTier&) = delete;
  CheckedTier& operator=(const CheckedTier&) = delete;

  ~CheckedTier() { store_->close(drain_timeout_); }

  std::string_view name() const noexcept { return store_->name; }
  std::size_t alignment() const noexcept { return line_; }
  Addressable addressable() const noexcept { return Addressable::nowhere; }

  void reserve(Bytes bytes, std::string_view what) { inner_.reserve(bytes, what); }
  void cancel(Bytes bytes) noexcept { inner_.cancel(bytes); }

  Extent place(std::size_t bytes) {
    const bool is_too_large = bytes > std::numeric_limits<std::size_t>::max() - line_;  // the other tier says so
    const Extent extent = inner_.place(is_too_large ? bytes : round_up(bytes, line_));
    if (extent.bytes == 0) return extent;
    try {
      auto lines = std::make_shared<Lines>(extent, line_);
      const std::scoped_lock lock{mutex_};
      table_bytes_ += placed_.insert(extent, std::move(lines)).value->table_bytes();
    } catch (...) {
      inner_.remove(extent);
      throw;
    }
    return extent;
  }

  /// Gives an extent back; one that `place` did not deal is ignored.
  void remove(const Extent& extent) noexcept {
    {
      const std::scoped_lock lock{mutex_};
      const auto* taken = placed_.find(extent);
      if (!taken) return;
      table_bytes_ -= taken->value->table_bytes();
      placed_.erase(*taken);
    }
    inner_.remove(extent);
  }

  std::byte* view(const Extent&) const noexcept { return nullptr; }

  /// @throws ConfigurationError if the range leaves the extent, or is not aligned.
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    const detail::TransferName name{"read", extent, offset, bytes, store_->name};
    const Range range = locate(name);
    if (bytes == 0) return inner_.read(extent, offset, data, bytes);
    const auto promise = std::make_shared<Promise>(name.text());
    const auto under_way = std::make_shared<detail::UnderWay<detail::CheckedStore>>(store_);
    inner_.read(extent, offset, data, bytes).then([under_way, range, data, bytes, promise](std::exception_ptr error) {
      if (!error) error = verify(**under_way, range, data, bytes);
      if (error) return promise->fail(error);
      promise->succeed();
    });
    return promise->completion();
  }

  /// @throws as `read`.
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) {
    const Range range = locate({"write", extent, offset, bytes, store_->name});
    Completion transfer = inner_.write(extent, offset, data, bytes);
    if (bytes != 0) range.lines->expect(range.begin, data, bytes);
    store_->written += bytes;
    return transfer;
  }

  /// What is placed on the other tier, and transferred there.
  TierCounters counters() const { return inner_.counters(); }

  CheckCounters check_counters() const {
    const std::scoped_lock lock{mutex_};
    return {.table = Bytes{table_bytes_}, .written = Bytes{store_->written}, .verified = Bytes{store_->verified}};
  }

 private:
  using Lines = detail::CheckedLines;

  /// Where a transfer begins in an extent that was placed; of an empty extent there are no lines.
  struct Range {
    std::shared_ptr<Lines> lines;
    std::size_t begin = 0;
  };

  Range locate(const detail::TransferName& transfer) const {
    transfer.check_inside();
    const Extent& extent = transfer.extent;
    if (extent.bytes == 0) return {};
    const std::scoped_lock lock{mutex_};
    const auto* taken = placed_.holder(extent);
    if (!taken) transfer.refuse_unplaced();
    const std::size_t begin = static_cast<std::size_t>(extent.offset - taken->extent.offset) + transfer.offset;
    transfer.check_aligned(begin | transfer.bytes, line_);
    return {taken->value, begin};
  }

  static std::exception_ptr verify(detail::CheckedStore& store, const Range& range, const std::byte* data,
                                   std::size_t bytes) {
    const auto where = std::source_location::current();
    if (!store.enter()) return std::make_exception_ptr(Error{"a read of the " + store.name + " ended after it", where});
    const auto [verified, mismatch] = range.lines->verify(range.begin, data, bytes);
    store.verified += verified;
    store.leave();
    if (!mismatch) return nullptr;
    return std::make_exception_ptr(IntegrityError{store.name, range.lines->extent().offset + mismatch->begin,
                                                  mismatch->bytes, mismatch->expected, mismatch->found, where});
  }

  TierRef inner_;
  std::size_t line_;
  std::chrono::milliseconds drain_timeout_;
  std::shared_ptr<detail::CheckedStore> store_;
  mutable std::mutex mutex_;  // of what follows
  detail::ExtentMap<std::shared_ptr<Lines>> placed_;
  std::size_t table_bytes_ = 0;
};

static_assert(OffloadTier<CheckedTier>);

}  // namespace zerospan::inline v0
