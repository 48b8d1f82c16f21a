/// @file
/// StatesBeingRead: what of the states somebody still reads while training goes on.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <map>
#include <mutex>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>

namespace zerospan::inline v0::detail {

/// Between whoever reads states where they rest, on a thread of its own, and the engine, which changes them sub-group
/// after sub-group, and waits for each of them first. In a child process, where nobody reads, nothing is waited for.
class StatesBeingRead {
 public:
  /// A sub-group; nothing but its address is used.
  using Group = const void*;

  /// For the reader, before the engine knows of it: it will read so many pieces more of a sub-group.
  void expect(Group group, std::size_t pieces) {
    if (pieces > 0) expected_[group] += pieces;
  }

  /// For the reader: calls `read()`, which looks at one piece of the sub-group, unless the engine has stopped it.
  /// @return false if it has.
  template <class F>
  [[nodiscard]] bool read(Group group, F read) {
    {
      const std::scoped_lock lock{mutex_};
      if (is_stopped_) return false;
      is_reading_ = true;
    }
    struct End {
      StatesBeingRead& self;
      Group group;
      ~End() { self.end(group); }
    } const end{*this, group};
    read();
    return true;
  }

  /// For the reader: it reads no more, whatever it was to read.
  void give_up() noexcept {
    if (!process_.is_this()) return;
    {
      const std::scoped_lock lock{mutex_};
      expected_.clear();
    }
    changed_.notify_all();
  }

  /// For the engine: blocks until the sub-group has been read.
  void await(Group group) const {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return !expected_.contains(group); });
  }

  /// For the engine: blocks until everything has been read.
  void await_all() const {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return expected_.empty(); });
  }

  /// For the engine: nothing is read any more when it returns. At most one piece is waited for.
  void stop() noexcept {
    if (!process_.is_this()) return;
    std::unique_lock lock{mutex_};
    is_stopped_ = true;
    changed_.wait(lock, [&] { return !is_reading_; });
  }

  /// Whether there is nothing left to wait for.
  bool is_over() const noexcept {
    const std::scoped_lock lock{mutex_};
    return expected_.empty();
  }

 private:
  void end(Group group) noexcept {
    {
      const std::scoped_lock lock{mutex_};
      is_reading_ = false;
      const auto found = expected_.find(group);
      if (found != expected_.end() && --found->second == 0) expected_.erase(found);
    }
    changed_.notify_all();
  }

  OwnProcess process_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::map<Group, std::size_t> expected_;  ///< Pieces to be read.
  bool is_reading_ = false;
  bool is_stopped_ = false;
};

}  // namespace zerospan::inline v0::detail
