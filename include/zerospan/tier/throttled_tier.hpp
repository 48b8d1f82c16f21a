/// @file
/// ThrottledTier: any tier behind a link of known bandwidth and latency.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>
#include <zerospan/core/detail/start_thread.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/tier/detail/transfer_gate.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

struct ThrottledTierOptions {
  double bytes_per_second = std::numeric_limits<double>::infinity();  ///< Of each direction.
  std::optional<double> write_bytes_per_second = std::nullopt;        ///< Of writes, where they have another speed.
  std::chrono::nanoseconds latency{0};

  /// How long the destructor waits for transfers whose end the other tier has not reported.
  std::chrono::milliseconds drain_timeout = std::chrono::seconds{10};
};

namespace detail {

/// One direction of a link. Transfers pass one after the other in the order of the calls: each has the whole bandwidth,
/// and arrives the latency after its last byte was sent. Not synchronized.
class LinkClock {
 public:
  using Time = std::chrono::steady_clock::time_point;

  LinkClock(double bytes_per_second, std::chrono::nanoseconds latency) noexcept
      : bytes_per_second_{bytes_per_second}, latency_{latency} {}

  /// @return when a transfer arrives that is ready at `start`.
  Time transfer(Time start, std::size_t bytes) noexcept {
    free_ = std::max(free_, start) + duration(bytes);
    return free_ + latency_;
  }

  /// When the link has sent all it was given.
  Time free() const noexcept { return free_; }

 private:
  /// Never longer than about a year: no sum of a few of them overflows.
  std::chrono::nanoseconds duration(std::size_t bytes) const noexcept {
    constexpr double longest = 3e7;
    const double seconds = std::min(static_cast<double>(bytes) / bytes_per_second_, longest);
    return std::chrono::ceil<std::chrono::nanoseconds>(std::chrono::duration<double>{seconds});
  }

  double bytes_per_second_;
  std::chrono::nanoseconds latency_;
  Time free_{};
};

/// What a ThrottledTier shares with its transfers and its timer thread.
class ThrottledEnds : public TransferGate {
 public:
  using Time = LinkClock::Time;

  struct Ending {
    std::shared_ptr<Promise> promise;
    std::exception_ptr error;

    void end() const {
      if (error) return promise->fail(error);
      promise->succeed();
    }
  };

  /// Takes a transfer that the other tier has ended: the timer ends it when it is due; at once if the tier is gone.
  void arrive(Time due, Ending ending) {
    if (!enter()) return ending.end();
    {
      const std::scoped_lock lock{mutex_};
      endings_.emplace(due, std::move(ending));
    }
    changed_.notify_all();
    leave();
  }

  /// Ends what is due, until `stop` was called and nothing is left.
  void run() {
    std::unique_lock lock{mutex_};
    while (!is_stopping_ || !endings_.empty()) {
      if (endings_.empty()) {
        changed_.wait(lock);
      } else if (const Time due = endings_.begin()->first; due > std::chrono::steady_clock::now()) {
        changed_.wait_until(lock, due);
      } else {
        const auto next = endings_.extract(endings_.begin());
        lock.unlock();
        next.mapped().end();
        lock.lock();
      }
    }
  }

  void stop() noexcept {
    const std::scoped_lock lock{mutex_};
    is_stopping_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::multimap<Time, Ending> endings_;
  bool is_stopping_ = false;
};

}  // namespace detail

/// Passes everything on to another tier, which outlives it, and delays the ends of transfers, as if that tier were
/// reached over a link: for measurements of how partitions use bandwidth, and for tests of what is slow.
///
/// Reads share one direction of the link, writes the other. A transfer ends no earlier than the link allows, and not
/// before the other tier's; completions end on a thread of this tier. It is not addressable, whatever the other tier
/// is: bytes must flow. A tier that is destroyed waits for its transfers.
class ThrottledTier {
 public:
  /// @throws ConfigurationError if the link has no bandwidth or less than no latency, or the system has no thread.
  explicit ThrottledTier(TierRef inner, const ThrottledTierOptions& options = {})
      : inner_{inner},
        name_{"link to " + std::string{inner.name()}},
        drain_timeout_{options.drain_timeout},
        read_link_{options.bytes_per_second, options.latency},
        write_link_{options.write_bytes_per_second.value_or(options.bytes_per_second), options.latency} {
    const bool has_bandwidth = options.bytes_per_second > 0 && options.write_bytes_per_second.value_or(1) > 0;
    if (!has_bandwidth || options.latency.count() < 0) {
      throw_configuration_error("a " + name_ + " needs a positive bandwidth and a latency that is not negative");
    }
    timer_ = detail::start_thread("the thread of a " + name_, [ends = ends_] { ends->run(); });
  }

  ThrottledTier(const ThrottledTier&) = delete;
  ThrottledTier& operator=(const ThrottledTier&) = delete;

  ~ThrottledTier() {
    ends_->close(drain_timeout_);
    if (process_.is_this()) {
      ends_->stop();
      timer_.join();
    } else {
      timer_.detach();  // its share in the ends is never given back
    }
  }

  std::string_view name() const noexcept { return name_; }
  std::size_t alignment() const { return inner_.alignment(); }
  Addressable addressable() const noexcept { return Addressable::nowhere; }

  void reserve(Bytes bytes, std::string_view what) { inner_.reserve(bytes, what); }
  void cancel(Bytes bytes) noexcept { inner_.cancel(bytes); }
  Extent place(std::size_t bytes) { return inner_.place(bytes); }
  void remove(const Extent& extent) noexcept { inner_.remove(extent); }
  std::byte* view(const Extent&) const noexcept { return nullptr; }

  /// @throws what the other tier throws; a transfer that it refuses does not take the link.
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    const auto start = std::chrono::steady_clock::now();
    return delayed(read_link_, start, bytes, inner_.read(extent, offset, data, bytes));
  }

  /// @throws as `read`.
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) {
    const auto start = std::chrono::steady_clock::now();
    return delayed(write_link_, start, bytes, inner_.write(extent, offset, data, bytes));
  }

  TierCounters counters() const { return inner_.counters(); }

 private:
  Completion delayed(detail::LinkClock& link, detail::LinkClock::Time start, std::size_t bytes,
                     const Completion& transfer) {
    if (bytes == 0) return transfer;
    const auto promise = std::make_shared<Promise>("transfer of " + std::to_string(bytes) + " bytes over the " + name_);
    const auto under_way = std::make_shared<detail::UnderWay<detail::ThrottledEnds>>(ends_);
    const auto due = [&] {
      const std::scoped_lock lock{mutex_};
      return link.transfer(start, bytes);
    }();
    transfer.then([under_way, due, promise](std::exception_ptr error) {
      (*under_way)->arrive(due, {promise, std::move(error)});
    });
    return promise->completion();
  }

  TierRef inner_;
  detail::OwnProcess process_;
  std::string name_;
  std::chrono::milliseconds drain_timeout_;
  std::mutex mutex_;  // of the links
  detail::LinkClock read_link_;
  detail::LinkClock write_link_;
  std::shared_ptr<detail::ThrottledEnds> ends_ = std::make_shared<detail::ThrottledEnds>();
  std::thread timer_;
};

static_assert(OffloadTier<ThrottledTier>);

}  // namespace zerospan::inline v0
