/// @file
/// TransferGate: how the end of a tier and the ends of its transfers meet.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>

namespace zerospan::inline v0::detail {

/// Shared by a tier and its transfers. A tier that ends waits for them, but not for ever: what a transfer that ends
/// later would use of the tier is used only between `enter` and `leave`, and what it shares with the tier stays.
class TransferGate {
 public:
  /// Counts a transfer as under way.
  void begin() noexcept {
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

  /// Called at the end of the tier: waits until the transfers have ended or `timeout` is over, then until nobody is
  /// between `enter` and `leave`. In a child process nothing ends any more, and it does not wait.
  /// @return false if some transfers go on.
  bool close(std::chrono::milliseconds timeout) noexcept {
    if (!process_.is_this()) return false;
    std::unique_lock lock{mutex_};
    changed_.wait_for(lock, timeout, [&] { return transfers_ == 0; });
    is_closed_ = true;
    changed_.wait(lock, [&] { return users_ == 0; });
    return transfers_ == 0;
  }

 private:
  OwnProcess process_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t transfers_ = 0;
  std::size_t users_ = 0;
  bool is_closed_ = false;
};

/// A transfer's share in what the tier and its transfers have in common, a TransferGate among it: under way for as long
/// as this exists.
template <class Shared>
class UnderWay {
 public:
  explicit UnderWay(std::shared_ptr<Shared> shared) noexcept : shared_{std::move(shared)} { shared_->begin(); }
  UnderWay(const UnderWay&) = delete;
  UnderWay& operator=(const UnderWay&) = delete;
  ~UnderWay() { shared_->end(); }

  Shared* operator->() const noexcept { return shared_.get(); }
  Shared& operator*() const noexcept { return *shared_; }

 private:
  std::shared_ptr<Shared> shared_;
};

}  // namespace zerospan::inline v0::detail
