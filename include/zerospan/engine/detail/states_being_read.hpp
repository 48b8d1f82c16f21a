/// @file
/// StatesBeingRead: what of the states somebody still reads while training goes on.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <span>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>

namespace zerospan::inline v0::detail {

/// Between whoever reads states where they rest, on a thread of its own, and the engine, which changes them sub-group
/// after sub-group. What is read are the states of one moment: the reader waits for the updates of a sub-group that had
/// been decided on then, which the engine lets it read once it has posted them; and before the next one, the engine
/// waits for the reader. In a child process, where nobody reads, nothing is waited for.
class StatesBeingRead : public std::enable_shared_from_this<StatesBeingRead> {
 public:
  /// A sub-group; nothing but its address is used.
  using Group = const void*;

  /// For the reader, before the engine knows of it: it will read one thing more of a sub-group.
  void expect(Group group) { ++groups_[group].expected; }

  /// For the reader: calls `read()`, which looks at something of these sub-groups, when the engine lets it, unless the
  /// engine has stopped it.
  /// @return false if it has. @throws the error of an update.
  template <class F>
  [[nodiscard]] bool read(std::span<const Group> groups, F read) {
    if (!begin(groups)) return false;
    struct End {
      StatesBeingRead& self;
      ~End() { self.end(); }
    } const end{*this};
    read();
    return true;
  }

  /// For the reader: it has read one of the things that it was to read of a sub-group.
  void done_with(Group group) noexcept {
    {
      const std::scoped_lock lock{mutex_};
      const auto found = groups_.find(group);
      if (found != groups_.end() && --found->second.expected == 0) groups_.erase(found);
    }
    changed_.notify_all();
  }

  /// For the reader: it reads no more, whatever it was to read.
  void give_up() noexcept {
    if (!process_.is_this()) return;
    {
      const std::scoped_lock lock{mutex_};
      groups_.clear();
    }
    changed_.notify_all();
  }

  /// For the engine: the sub-group may be read when these have ended.
  void let(Group group, std::span<const Completion> ends) {
    {
      const std::scoped_lock lock{mutex_};
      const auto found = groups_.find(group);
      if (found == groups_.end() || found->second.is_let) return;
      found->second.is_let = true;
      found->second.updates = ends.size();
    }
    changed_.notify_all();
    for (const Completion& end : ends) {
      end.then([self = shared_from_this(), group](const std::exception_ptr& error) { self->updated(group, error); });
    }
  }

  /// For the engine: blocks until a sub-group that may be read has been.
  void await(Group group) const {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] {
      const auto found = groups_.find(group);
      return found == groups_.end() || !found->second.is_let;
    });
  }

  /// For the engine, which has let everything be read: blocks until it has been.
  void await_all() const {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return groups_.empty(); });
  }

  /// For the engine: nothing is read any more when it returns. At most one piece is waited for.
  void stop() noexcept {
    if (!process_.is_this()) return;
    std::unique_lock lock{mutex_};
    is_stopped_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !is_reading_; });
  }

  /// Whether the reader waits for something that the engine has not let it read.
  bool awaits_engine() const noexcept {
    const std::scoped_lock lock{mutex_};
    return std::ranges::any_of(groups_, [](const auto& each) { return !each.second.is_let; });
  }

  /// Whether there is nothing left to wait for.
  bool is_over() const noexcept {
    const std::scoped_lock lock{mutex_};
    return groups_.empty();
  }

 private:
  struct State {
    std::size_t expected = 0;  ///< Things to be read.
    bool is_let = false;
    std::size_t updates = 0;  ///< Not ended yet.
    std::exception_ptr error{};
  };

  bool begin(std::span<const Group> groups) {
    std::unique_lock lock{mutex_};
    for (const Group group : groups) {
      const State* state = nullptr;
      changed_.wait(lock, [&] {
        const auto found = groups_.find(group);
        state = found == groups_.end() ? nullptr : &found->second;
        return is_stopped_ || !state || (state->is_let && state->updates == 0);
      });
      if (is_stopped_ || !state) return false;
      if (state->error) std::rethrow_exception(state->error);
    }
    is_reading_ = true;
    return true;
  }

  void end() noexcept {
    {
      const std::scoped_lock lock{mutex_};
      is_reading_ = false;
    }
    changed_.notify_all();
  }

  void updated(Group group, const std::exception_ptr& error) noexcept {
    {
      const std::scoped_lock lock{mutex_};
      const auto found = groups_.find(group);
      if (found == groups_.end()) return;
      if (error && !found->second.error) found->second.error = error;
      --found->second.updates;
    }
    changed_.notify_all();
  }

  OwnProcess process_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::map<Group, State> groups_;  ///< Those that are not read to their end.
  bool is_reading_ = false;
  bool is_stopped_ = false;
};

}  // namespace zerospan::inline v0::detail
