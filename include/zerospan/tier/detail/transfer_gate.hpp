/// @file
/// TransferGate: how transfers that end late find out that their tier is gone.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// Shared by a tier and its transfers. What may end with the tier is used only between `enter` and `leave`.
class TransferGate {
 public:
  void begin() {
    const std::scoped_lock lock{mutex_};
    ++transfers_;
  }
  void end() noexcept {
    const std::scoped_lock lock{mutex_};
    --transfers_;
    changed_.notify_all();
  }

  /// False if the tier is gone.
  bool enter() noexcept {
    const std::scoped_lock lock{mutex_};
    if (!is_closed_) ++users_;
    return !is_closed_;
  }
  void leave() noexcept {
    const std::scoped_lock lock{mutex_};
    --users_;
    changed_.notify_all();
  }

  /// Waits for the transfers, but not for ever. False if some go on; they touch nothing any more.
  bool close(std::chrono::milliseconds timeout) {
    std::unique_lock lock{mutex_};
    changed_.wait_for(lock, timeout, [&] { return transfers_ == 0; });
    is_closed_ = true;
    changed_.wait(lock, [&] { return users_ == 0; });
    return transfers_ == 0;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t transfers_ = 0;
  std::size_t users_ = 0;
  bool is_closed_ = false;
};

}  // namespace zerospan::inline v0::detail
