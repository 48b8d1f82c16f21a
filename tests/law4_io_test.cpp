#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/faulty_io_engine.hpp"
#include "support/three_weights.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::calling_thread;
using zerospan::IoError;
using zerospan::RankFailedError;
using zerospan::SelfCommunicator;
using zerospan::ThreadCommunicator;
using zerospan::ThreadedIoEngine;
using zerospan::TimeoutError;
using zerospan_test::Array;
using zerospan_test::Fault;
using zerospan_test::FaultKind;
using zerospan_test::FaultyIoEngine;
using zerospan_test::Memory;
using zerospan_test::Place;

using Parameter = zerospan::PartitionedParameter<Array<float>>;
using FaultyEngine = FaultyIoEngine<ThreadedIoEngine>;

/// Trains three small weights with everything on disk. @return a hash of the master weights.
template <class Communicator>
std::uint64_t train(FaultyEngine& io, Communicator& communicator,
                    std::chrono::milliseconds timeout = std::chrono::seconds{30}) {
  Memory<FaultyEngine> memory{io, 256_KiB, 128_KiB};
  return zerospan_test::train_three_weights(zerospan::Stage3{}, communicator, memory.device,
                                            memory.placement(Place::nvme, Place::nvme, Place::nvme),
                                            {.timeout = timeout});
}

std::uint64_t train_alone(FaultyEngine& io, std::chrono::milliseconds timeout = std::chrono::seconds{30}) {
  SelfCommunicator self;
  return train(io, self, timeout);
}

std::uint64_t faultless() {
  ThreadedIoEngine threads;
  FaultyEngine io{threads};
  return train_alone(io);
}

/// Fails the N-th request for N = 0, `stride`, ... until a training is over before it. Calls `check(io)` for each.
template <class Check>
std::size_t fail_each(Fault fault, std::uint64_t stride, Check check) {
  std::size_t failures = 0;
  for (fault.request = 0;; fault.request += stride) {
    CAPTURE(fault.request);
    ThreadedIoEngine threads;
    FaultyEngine io{threads};
    io.inject({fault});
    check(io);
    if (io.injected() == 0) return failures;
    ++failures;
  }
}

TEST_CASE("a failed request ends the training in an IoError") {
  const std::uint64_t expected = faultless();
  for (const int error_number : {EIO, ENOSPC}) {
    const std::size_t failures = fail_each({.kind = FaultKind::error, .error_number = error_number}, 3, [&](auto& io) {
      try {
        const std::uint64_t hash = train_alone(io);
        CHECK(hash == expected);
        CHECK(io.injected() == 0);
      } catch (const IoError& error) {
        CHECK(io.injected() == 1);
        CHECK(error.code().value() == error_number);
        CHECK(error.path().find("arena file") != std::string::npos);
        CHECK(error.bytes() > 0);
        CHECK(std::string{error.what()}.find(" bytes at offset " + std::to_string(error.offset()) + " of ") !=
              std::string::npos);
      }
    });
    CHECK(failures > 20);
  }
}

TEST_CASE("a request that moves nothing ends the training in an IoError") {
  const std::uint64_t expected = faultless();
  const std::size_t failures = fail_each({.kind = FaultKind::zero}, 5, [&](auto& io) {
    try {
      const std::uint64_t hash = train_alone(io);
      CHECK(hash == expected);
      CHECK(io.injected() == 0);
    } catch (const IoError& error) {
      CHECK(error.code().value() == EIO);
      CHECK(io.injected() == 1);
    }
  });
  CHECK(failures > 10);
}

TEST_CASE("short transfers are continued") {
  const std::uint64_t expected = faultless();
  for (const FaultKind kind : {FaultKind::short_transfer, FaultKind::ragged}) {
    const std::size_t failures = fail_each({.kind = kind}, 7, [&](auto& io) { CHECK(train_alone(io) == expected); });
    CHECK(failures > 10);
    ThreadedIoEngine threads;
    FaultyEngine io{threads};
    io.inject({{.kind = kind, .every = 2}});
    CHECK(train_alone(io) == expected);
    CHECK(io.injected() > 50);
  }
}

TEST_CASE("a lost request ends the training in a TimeoutError that names it") {
  const std::uint64_t expected = faultless();
  const std::size_t failures = fail_each({.kind = FaultKind::lost}, 41, [&](auto& io) {
    try {
      const std::uint64_t hash = train_alone(io, std::chrono::seconds{1});
      CHECK(hash == expected);
      CHECK(io.injected() == 0);
    } catch (const TimeoutError& error) {
      CHECK(io.lost() == 1);
      const std::string text = error.what();
      CHECK(text.find("did not end within 1000 ms") != std::string::npos);
      CHECK(text.find(" of ") != std::string::npos);
    }
  });
  CHECK(failures >= 2);
}

TEST_CASE("after an error every call throws it, and the engine ends cleanly") {
  ThreadedIoEngine threads;
  FaultyEngine io{threads};
  Memory<FaultyEngine> memory{io, 256_KiB, 128_KiB};
  SelfCommunicator self;
  std::optional<zerospan::ReadLease<Array<float>>> survivor;
  {
    zerospan::ZeroEngine engine{zerospan::Stage3{}, self,
                                memory.device,      memory.placement(Place::nvme, Place::nvme, Place::nvme),
                                zerospan::AdamW{},  zerospan::EngineOptions{.persistence_threshold = 0_KiB}};
    const Parameter a{engine, "a", {4000}, zerospan::init::constant(1)};
    const Parameter b{engine, "b", {4000}, zerospan::init::constant(2)};
    survivor.emplace(a.gather(calling_thread));
    CHECK_THROWS_AS(engine.step(), zerospan::LeaseError);
    io.inject({{.kind = FaultKind::error}});
    auto gradient = b.gradient(calling_thread);
    std::fill_n(gradient->data, 4000, 1.0F);
    gradient.commit();
    io.wait_for_fault();
    const auto step_until_it_is_known = [&] {  // before that, the lease that is held is what the step names
      for (;;) {
        try {
          engine.step();
          return;
        } catch (const zerospan::LeaseError&) {
          std::this_thread::yield();
        }
      }
    };
    CHECK_THROWS_AS(step_until_it_is_known(), IoError);
    survivor->release();
    CHECK_THROWS_AS(engine.step(), IoError);
    CHECK_THROWS_AS(static_cast<void>(a.gather(calling_thread)), IoError);
    CHECK_THROWS_AS(static_cast<void>(a.gradient(calling_thread)), IoError);
    CHECK_THROWS_AS(static_cast<void>(a.write(calling_thread)), IoError);
    CHECK_THROWS_AS(a.skip(), IoError);
    CHECK_THROWS_AS(engine.begin(zerospan::Pass::evaluation), IoError);
    CHECK_THROWS_AS(zerospan_test::hash_masters(engine), IoError);
    CHECK(io.injected() == 1);
  }
  io.inject({});
  SelfCommunicator again;
  zerospan::ZeroEngine engine{zerospan::Stage3{}, again,
                              memory.device,      memory.placement(Place::nvme, Place::nvme, Place::nvme),
                              zerospan::AdamW{},  zerospan::EngineOptions{.persistence_threshold = 0_KiB}};
  const Parameter a{engine, "a", {4000}, zerospan::init::constant(3)};
  CHECK(a.gather(calling_thread)->data[3999] == 3);
}

TEST_CASE("a request that is lost when the engine ends does not hold it up, and may be delivered later") {
  for (const bool delivers : {false, true}) {
    ThreadedIoEngine threads;
    FaultyEngine io{threads};
    {
      Memory<FaultyEngine> memory{io, 256_KiB, 128_KiB};
      SelfCommunicator self;
      zerospan::ZeroEngine engine{
          zerospan::Stage3{},
          self,
          memory.device,
          memory.placement(Place::nvme, Place::nvme, Place::nvme),
          zerospan::AdamW{},
          zerospan::EngineOptions{.persistence_threshold = 0_KiB, .timeout = std::chrono::seconds{1}}};
      const Parameter a{engine, "a", {4000}, zerospan::init::constant(1)};
      const Parameter b{engine, "b", {4000}, zerospan::init::constant(2)};
      static_cast<void>(a.gather(calling_thread));
      io.inject({{.kind = FaultKind::lost}});
      auto gradient = b.gradient(calling_thread);
      std::fill_n(gradient->data, 4000, 1.0F);
      gradient.commit();
    }
    CHECK(io.lost() == 1);
    if (delivers) {
      io.deliver_lost();
    } else {
      io.drop_lost();
    }
  }
}

TEST_CASE("the disk of one rank fails: all ranks do") {
  for (const std::uint64_t request : {0U, 17U, 30U, 40U}) {
    CAPTURE(request);
    std::vector<std::string> peers(2);
    const auto run = [&] {
      zerospan::run_ranks(2, [&](ThreadCommunicator communicator) {
        const bool fails = communicator.rank() == zerospan::Rank{1};
        ThreadedIoEngine threads;
        FaultyEngine io{threads};
        if (fails) io.inject({{.kind = FaultKind::error, .request = request, .error_number = ENOSPC}});
        try {
          train(io, communicator);
        } catch (const RankFailedError& error) {
          CHECK_FALSE(fails);
          CHECK(error.culprit() == zerospan::Rank{1});
          peers[0] = error.what();
          throw;
        }
      });
    };
    CHECK_THROWS_AS(run(), IoError);
    CHECK(peers[0].find("rank 1 failed (") == 0);
    CHECK(peers[0].find("No space left on device") != std::string::npos);
  }
}

}  // namespace
