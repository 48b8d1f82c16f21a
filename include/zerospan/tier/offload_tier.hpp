/// @file
/// The concept OffloadTier, and TierRef, through which an engine uses a tier chosen at run time.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

class Arena;
class FileBackedExtents;
class LinkableExtents;

/// A range of bytes at rest on a tier. Its meaning is the tier's own.
struct Extent {
  std::uint64_t offset = 0;
  std::size_t bytes = 0;
};

/// Which memory a tier's extents are addressable in, if any.
enum class Addressable : std::uint8_t { nowhere, on_host, on_device };

/// Exact counts since the tier was made.
struct TierCounters {
  Bytes used;     ///< Placed now.
  Bytes peak;     ///< The most that was placed at once.
  Bytes read;     ///< Transferred from storage (0 for memory).
  Bytes written;  ///< Transferred to storage (0 for memory).
};

/// Where extents of bytes rest, and how they are read and written.
///
/// @concept
/// - `tier.name()` names it in errors and summaries;
/// - `tier.alignment()` is what offsets, sizes and buffers of transfers must be multiples of (a power of two);
/// - `tier.addressable()` tells whether `tier.view(extent)` is memory that kernels may use directly, and which;
/// - `tier.reserve(bytes, what)` sets space aside (blocking): what was reserved can be placed later;
///   throws BudgetError, or IoError when the disk is full;
/// - `tier.cancel(bytes)` gives up reserved space that will not be placed; never throws;
/// - `tier.place(bytes)` deals an aligned extent out of the reserved space, growing it where rounding demands it;
///   its content is undefined;
/// - `tier.remove(extent)` gives it back; never throws;
/// - `tier.view(extent)` is its memory, nullptr where not addressable;
/// - `tier.read(extent, offset, data, bytes)` and `tier.write(extent, offset, data, bytes)` start a transfer between
///   the extent, from `offset` on, and `data`; they are asynchronous, and `data` stays until the completion is done.
///   Errors (IoError, IntegrityError) are the completion's. Called from lanes, on any thread; the rest by the engine's
///   caller alone;
/// - `tier.counters()` counts exactly; it may be called at any time;
/// - `tier.arena()`, which a tier may lack, is the arena that `view` points into, nullptr where there is none. It tells
///   whose memory an addressable tier is in: an engine uses the memory of its own device alone;
/// - `tier.linkable()`, which a tier may lack, gives names to the files that its extents are in, nullptr where they are
///   in none;
/// - `tier.file_backed()`, which a tier may lack, has extents rest in files of others, nullptr where they cannot.
///
/// Tiers outlive the engines that use them.
template <class T>
concept OffloadTier = requires(T& tier, const T& constant, std::size_t n, std::string_view what, const Extent& extent,
                               std::byte* data, const std::byte* source) {
  { constant.name() } -> std::convertible_to<std::string_view>;
  { constant.alignment() } -> std::same_as<std::size_t>;
  { constant.addressable() } -> std::same_as<Addressable>;
  tier.reserve(Bytes{n}, what);
  { tier.cancel(Bytes{n}) }
  noexcept;
  { tier.place(n) } -> std::same_as<Extent>;
  { tier.remove(extent) }
  noexcept;
  { tier.view(extent) } -> std::same_as<std::byte*>;
  { tier.read(extent, n, data, n) } -> std::same_as<Completion>;
  { tier.write(extent, n, source, n) } -> std::same_as<Completion>;
  { constant.counters() } -> std::same_as<TierCounters>;
};

/// A non-owning reference to any tier: one indirect call an extent.
class TierRef {
 public:
  /// Refers to `tier`, which must outlive every engine that is given this reference.
  template <OffloadTier T>
    requires(!std::same_as<T, TierRef>)
  TierRef(T& tier) noexcept : tier_{&tier}, calls_{&calls_of<T>} {}

  template <OffloadTier T>
    requires(!std::same_as<T, TierRef>)
  TierRef(const T&& tier) = delete;  // zerospan: a temporary tier is gone before the engine that would use it

  template <class T>
    requires(!OffloadTier<T>)
  TierRef(T& tier) = delete;  // zerospan: this is no OffloadTier; static_assert(OffloadTier<...>) says what it lacks

  std::string_view name() const { return calls_->name(tier_); }
  std::size_t alignment() const { return calls_->alignment(tier_); }
  Addressable addressable() const { return calls_->addressable(tier_); }
  void reserve(Bytes bytes, std::string_view what) const { calls_->reserve(tier_, bytes, what); }
  void cancel(Bytes bytes) const noexcept { calls_->cancel(tier_, bytes); }
  Extent place(std::size_t bytes) const { return calls_->place(tier_, bytes); }
  void remove(const Extent& extent) const noexcept { calls_->remove(tier_, extent); }
  std::byte* view(const Extent& extent) const { return calls_->view(tier_, extent); }
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) const {
    return calls_->read(tier_, extent, offset, data, bytes);
  }
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) const {
    return calls_->write(tier_, extent, offset, data, bytes);
  }
  TierCounters counters() const { return calls_->counters(tier_); }

  /// The arena that `view` points into; nullptr where the tier is not addressable or does not tell.
  const Arena* arena() const { return calls_->arena(tier_); }

  /// What gives names to the files that the extents are in; nullptr where there is none, or the tier does not tell.
  LinkableExtents* linkable() const { return calls_->linkable(tier_); }

  /// What has extents rest in files of others; nullptr where they cannot, or the tier does not tell.
  FileBackedExtents* file_backed() const { return calls_->file_backed(tier_); }

  /// The identity of the tier: equal for references to the same one.
  const void* identity() const noexcept { return tier_; }

 private:
  struct Calls {
    std::string_view (*name)(const void*);
    std::size_t (*alignment)(const void*);
    Addressable (*addressable)(const void*);
    void (*reserve)(void*, Bytes, std::string_view);
    void (*cancel)(void*, Bytes) noexcept;
    Extent (*place)(void*, std::size_t);
    void (*remove)(void*, const Extent&) noexcept;
    std::byte* (*view)(void*, const Extent&);
    Completion (*read)(void*, const Extent&, std::size_t, std::byte*, std::size_t);
    Completion (*write)(void*, const Extent&, std::size_t, const std::byte*, std::size_t);
    TierCounters (*counters)(const void*);
    const Arena* (*arena)(const void*);
    LinkableExtents* (*linkable)(void*);
    FileBackedExtents* (*file_backed)(void*);
  };

  template <class T>
  static constexpr Calls calls_of{
      [](const void* t) -> std::string_view { return static_cast<const T*>(t)->name(); },
      [](const void* t) { return static_cast<const T*>(t)->alignment(); },
      [](const void* t) { return static_cast<const T*>(t)->addressable(); },
      [](void* t, Bytes bytes, std::string_view what) { static_cast<T*>(t)->reserve(bytes, what); },
      [](void* t, Bytes bytes) noexcept { static_cast<T*>(t)->cancel(bytes); },
      [](void* t, std::size_t bytes) { return static_cast<T*>(t)->place(bytes); },
      [](void* t, const Extent& extent) noexcept { static_cast<T*>(t)->remove(extent); },
      [](void* t, const Extent& extent) { return static_cast<T*>(t)->view(extent); },
      [](void* t, const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
        return static_cast<T*>(t)->read(extent, offset, data, bytes);
      },
      [](void* t, const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) {
        return static_cast<T*>(t)->write(extent, offset, data, bytes);
      },
      [](const void* t) { return static_cast<const T*>(t)->counters(); },
      []([[maybe_unused]] const void* t) -> const Arena* {
        if constexpr (requires(const T& tier) { tier.arena(); }) {
          return static_cast<const T*>(t)->arena();
        } else {
          return nullptr;
        }
      },
      []([[maybe_unused]] void* t) -> LinkableExtents* {
        if constexpr (requires(T& tier) { tier.linkable(); }) {
          return static_cast<T*>(t)->linkable();
        } else {
          return nullptr;
        }
      },
      []([[maybe_unused]] void* t) -> FileBackedExtents* {
        if constexpr (requires(T& tier) { tier.file_backed(); }) {
          return static_cast<T*>(t)->file_backed();
        } else {
          return nullptr;
        }
      }};

  void* tier_;
  const Calls* calls_;
};

}  // namespace zerospan::inline v0
