#include <chrono>
#include <exception>
#include <latch>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/error.hpp>

namespace {

using zerospan::Completion;
using zerospan::Promise;

constexpr std::chrono::steady_clock::time_point long_past{};

std::exception_ptr failure() { return std::make_exception_ptr(std::runtime_error{"the disk is gone"}); }

std::string message_of(const std::exception_ptr& error) {
  if (!error) return "no error";
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& exception) {
    return exception.what();
  }
}

TEST_CASE("a default completion is done") {
  const Completion completion;
  CHECK(completion.done());
  CHECK(completion.error() == nullptr);
  CHECK(completion.label() == "nothing");
  CHECK(completion.ticket() == 0);
  CHECK(completion.wait_until(long_past));
  completion.wait();
  std::vector<std::string> calls;
  completion.then([&](const std::exception_ptr& error) { calls.push_back(message_of(error)); });
  CHECK(calls == std::vector<std::string>{"no error"});
}

TEST_CASE("a promise ends its completion, once, and every copy of it") {
  Promise promise{"read of weights", 17};
  const Completion completion = promise.completion();
  const Completion copy = completion;
  CHECK_FALSE(completion.done());
  CHECK(completion.error() == nullptr);
  CHECK(copy.label() == "read of weights");
  CHECK(copy.ticket() == 17);
  promise.succeed();
  CHECK(copy.done());
  copy.wait();
  promise.fail(failure());  // too late: an operation ends once
  CHECK(completion.error() == nullptr);
}

TEST_CASE("an error is rethrown by every wait") {
  Promise promise{"read"};
  const Completion completion = promise.completion();
  promise.fail(failure());
  CHECK(completion.done());
  CHECK_THROWS_WITH_AS(completion.wait(), "the disk is gone", std::runtime_error);
  CHECK_THROWS_WITH_AS(completion.wait(), "the disk is gone", std::runtime_error);
  CHECK(message_of(completion.error()) == "the disk is gone");
  CHECK(completion.wait_until(long_past));  // it tells that it ended, not how
}

TEST_CASE("continuations run in the order of their chaining, before and after the end") {
  std::vector<std::string> calls;
  const auto record = [&calls](std::string name) {
    return [&calls, name = std::move(name)](const std::exception_ptr& error) {
      calls.push_back(name + ": " + message_of(error));
    };
  };
  Promise promise{"write"};
  const Completion completion = promise.completion();
  completion.then(record("first"));
  completion.then(record("second"));
  CHECK(calls.empty());
  promise.fail(failure());
  CHECK(calls == std::vector<std::string>{"first: the disk is gone", "second: the disk is gone"});
  completion.then(record("late"));
  CHECK(calls.back() == "late: the disk is gone");
  CHECK(calls.size() == 3);
}

TEST_CASE("a continuation sees the operation ended, and may chain further") {
  Promise promise{"write"};
  const Completion completion = promise.completion();
  int inner = 0;
  completion.then([&](const std::exception_ptr&) {
    CHECK(completion.done());
    completion.then([&](const std::exception_ptr&) { ++inner; });
  });
  promise.succeed();
  CHECK(inner == 1);
}

TEST_CASE("a dropped promise fails its completion") {
  Completion completion;
  int calls = 0;
  {
    const Promise promise{"the read of block 3"};
    completion = promise.completion();
    completion.then([&](const std::exception_ptr& error) {
      ++calls;
      CHECK(message_of(error) == "the read of block 3 was dropped before it ended");
    });
  }
  CHECK(calls == 1);
  CHECK_THROWS_WITH_AS(completion.wait(), "the read of block 3 was dropped before it ended", zerospan::Error);
}

TEST_CASE("a promise that was moved from drops nothing") {
  std::optional<Promise> source{std::in_place, "read"};
  Promise target{std::move(*source)};
  const Completion completion = target.completion();
  source.reset();
  CHECK_FALSE(completion.done());
  target.succeed();
  completion.wait();
}

TEST_CASE("a deadline passes without ending the operation") {
  Promise promise{"read"};
  const Completion completion = promise.completion();
  CHECK_FALSE(completion.wait_until(long_past));
  CHECK_FALSE(completion.done());
  promise.succeed();
  CHECK(completion.wait_until(long_past));
}

TEST_CASE("waiters of other threads are woken") {
  Promise promise{"read"};
  std::latch started{3};
  std::vector<std::jthread> waiters;
  std::vector<std::string> outcomes(3);
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    waiters.emplace_back([&started, &outcome = outcomes[i], completion = promise.completion()] {
      started.count_down();
      try {
        completion.wait();
      } catch (const std::runtime_error& error) {
        outcome = error.what();
      }
    });
  }
  started.wait();
  promise.fail(failure());
  waiters.clear();
  for (const std::string& outcome : outcomes) CHECK(outcome == "the disk is gone");
}

TEST_CASE("a continuation runs on the thread that ends the operation") {
  Promise promise{"read"};
  std::thread::id ran_on;
  promise.completion().then([&](const std::exception_ptr&) { ran_on = std::this_thread::get_id(); });
  std::jthread ender{[&] { promise.succeed(); }};
  const std::thread::id expected = ender.get_id();
  ender.join();
  CHECK(ran_on == expected);
}

TEST_CASE("chaining races with the end and loses no call") {
  for (int repetition = 0; repetition < 500; ++repetition) {
    Promise promise{"read"};
    const Completion completion = promise.completion();
    int calls = 0;
    std::latch both{2};
    {
      const std::jthread ender{[&] {
        both.arrive_and_wait();
        promise.succeed();
      }};
      both.arrive_and_wait();
      completion.then([&](const std::exception_ptr&) { ++calls; });
    }
    REQUIRE(calls == 1);
  }
}

}  // namespace
