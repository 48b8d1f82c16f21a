/// @file
/// DeferredTier: a tier whose transfers happen when, in which order, and as well as the test says.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <source_location>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/io/io_engine.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan_test {

/// Passes everything on to another tier whose transfers are done at once, and that outlives it. While `hold` lasts,
/// transfers are kept; they move their bytes when they are released. Thread-safe.
template <zerospan::OffloadTier T>
class DeferredTier {
 public:
  struct Transfer {
    zerospan::IoDirection direction;
    std::uint64_t begin;  ///< In the other tier's terms.
    std::size_t bytes;
  };

  explicit DeferredTier(T& inner, std::size_t alignment = 1) : inner_{&inner}, alignment_{alignment} {}

  std::string_view name() const { return inner_->name(); }
  std::size_t alignment() const { return alignment_; }
  zerospan::Addressable addressable() const { return zerospan::Addressable::nowhere; }
  void reserve(zerospan::Bytes bytes, std::string_view what) { inner_->reserve(bytes, what); }
  void cancel(zerospan::Bytes bytes) noexcept { inner_->cancel(bytes); }
  zerospan::Extent place(std::size_t bytes) { return inner_->place(bytes); }
  void remove(const zerospan::Extent& extent) noexcept { inner_->remove(extent); }
  std::byte* view(const zerospan::Extent&) { return nullptr; }
  zerospan::Completion read(const zerospan::Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    return take({zerospan::IoDirection::read, extent.offset + offset, bytes},
                [=, this] { inner_->read(extent, offset, data, bytes).wait(); });
  }
  zerospan::Completion write(const zerospan::Extent& extent, std::size_t offset, const std::byte* data,
                             std::size_t bytes) {
    return take({zerospan::IoDirection::write, extent.offset + offset, bytes},
                [=, this] { inner_->write(extent, offset, data, bytes).wait(); });
  }
  zerospan::TierCounters counters() const {
    const std::scoped_lock lock{mutex_};
    zerospan::TierCounters counters = inner_->counters();
    for (const Transfer& transfer : transfers_) {
      auto& sum = transfer.direction == zerospan::IoDirection::read ? counters.read : counters.written;
      sum = sum + zerospan::Bytes{transfer.bytes};
    }
    return counters;
  }

  /// What was asked for, since the last time.
  std::vector<Transfer> transfers() {
    const std::scoped_lock lock{mutex_};
    return std::exchange(transfers_, {});
  }

  void hold() { is_holding_ = true; }
  std::size_t held() const { return held_.size(); }

  /// Lets one of the transfers that are held happen; others may follow from it.
  void release(std::size_t index) {
    const Held held = std::move(held_[index]);
    held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(index));
    held.happen();
  }

  /// Ends `hold`; all that is held happens.
  void release() {
    is_holding_ = false;
    while (!held_.empty()) release(0);
  }

  /// Transfers for which `fails` is true move nothing and fail.
  void inject(std::function<bool(const Transfer&)> fails) { fails_ = std::move(fails); }
  std::size_t injected() const { return injected_; }

 private:
  struct Held {
    std::function<void()> move;
    std::shared_ptr<zerospan::Promise> promise;
    bool fails;

    void happen() const {
      if (fails) {
        return promise->fail(std::make_exception_ptr(
            zerospan::IoError{EIO, "transfer", "a deferred tier", 0, 0, std::source_location::current()}));
      }
      move();
      promise->succeed();
    }
  };

  zerospan::Completion take(const Transfer& transfer, std::function<void()> move) {
    Held held{std::move(move), std::make_shared<zerospan::Promise>("a deferred transfer"), false};
    {
      const std::scoped_lock lock{mutex_};
      transfers_.push_back(transfer);
      held.fails = fails_ && fails_(transfer);
      injected_ += held.fails;
    }
    const zerospan::Completion completion = held.promise->completion();
    if (is_holding_) {
      held_.push_back(std::move(held));
    } else {
      held.happen();
    }
    return completion;
  }

  T* inner_;
  std::size_t alignment_;
  mutable std::mutex mutex_;
  std::vector<Transfer> transfers_;
  std::function<bool(const Transfer&)> fails_;
  std::size_t injected_ = 0;
  bool is_holding_ = false;
  std::vector<Held> held_;
};

}  // namespace zerospan_test
