// What a process may lack: threads, descriptors, contexts for I/O, memory. And what its children lack.
#include <doctest/doctest.h>

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/comm/self_communicator.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/tensor_traits.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/engine/zero_engine.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>
#include <zerospan/tier/cached_tier.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/nvme_tier.hpp>
#include <zerospan/tier/striped_tier.hpp>
#include <zerospan/tier/throttled_tier.hpp>

#include "support/child_process.hpp"
#include "support/faulty_io_engine.hpp"
#include "support/process_limits.hpp"
#include "support/scratch.hpp"
#include "support/tier_conformance.hpp"

#if defined(ZEROSPAN_HAS_LIBAIO)
#include <zerospan/io/libaio_engine.hpp>
#endif
#if defined(ZEROSPAN_HAS_URING)
#include <zerospan/io/uring_engine.hpp>
#endif
#if defined(ZEROSPAN_HAS_XXHASH)
#include <zerospan/tier/checked_tier.hpp>
#endif
#if defined(ZEROSPAN_HAS_CHECKPOINT)
#include <zerospan/checkpoint/checkpoint.hpp>

#include "support/gated_files.hpp"
#endif

namespace {

using namespace zerospan::literals;
using zerospan::ConfigurationError;
using zerospan::NvmeTier;
using zerospan::ThreadedIoEngine;
using zerospan_test::AlignedBuffer;
using zerospan_test::comes_to_threads;
using zerospan_test::in_child;
using zerospan_test::open_descriptors;
using zerospan_test::page;
using zerospan_test::ProcessLimit;
using zerospan_test::ScratchDirectory;
using zerospan_test::threads_in_use;

/// Runs `f` where the process cannot start any thread. @return what the ConfigurationError says that it throws, and
/// what it leaves behind.
template <class F>
std::string without_threads(F f) {
  return in_child([&]() -> std::string {
    constexpr ::uid_t somebody = 61234;  // root has no limit
    if (::geteuid() == 0 && ::setuid(somebody) != 0) return "skipped";
    const ProcessLimit limit{RLIMIT_NPROC, 0};
    const std::size_t threads_before = threads_in_use();
    const std::size_t descriptors_before = open_descriptors();
    std::string text = "nothing was thrown";
    try {
      f();
    } catch (const ConfigurationError& error) {
      text = error.what();
    }
    if (!comes_to_threads(threads_before)) text += "; threads remain";
    if (open_descriptors() != descriptors_before) text += "; descriptors remain";
    return text;
  });
}

constexpr std::string_view refusal =
    " cannot be started: Resource temporarily unavailable; raise the limits of processes (ulimit -u, pids.max of the "
    "control group) and of memory, or ask for fewer threads";

void check_refusal(const std::string& text, const std::string& who) {
  if (text == "skipped") {
    MESSAGE("skipped: the process may not become another user's");
  } else {
    CHECK(text == who + std::string{refusal});
  }
}

#if defined(ZEROSPAN_HAS_LIBAIO)

/// Counts the kernel's contexts.
struct CountedCalls : zerospan::LibaioCalls {
  int setup(int depth, io_context_t* context) const noexcept {
    const int result = LibaioCalls::setup(depth, context);
    if (result == 0) ++*contexts;
    return result;
  }
  int destroy(io_context_t context) const noexcept {
    --*contexts;
    return LibaioCalls::destroy(context);
  }
  std::shared_ptr<std::atomic<int>> contexts = std::make_shared<std::atomic<int>>(0);
};

#endif

TEST_CASE("threads that the system refuses are a ConfigurationError that says whose, and nothing is left") {
  check_refusal(without_threads([] { ThreadedIoEngine{{.threads = 3}}; }), "thread 1 of 3 of a ThreadedIoEngine");
  check_refusal(without_threads([] {
                  zerospan_test::HostRig host;
                  zerospan::ThrottledTier{host.tier};
                }),
                "the thread of a link to host memory");
#if defined(ZEROSPAN_HAS_LIBAIO)
  if (zerospan::LibaioEngine::available()) {
    check_refusal(without_threads([] {
                    const CountedCalls calls;
                    try {
                      zerospan::BasicLibaioEngine<CountedCalls>{{}, calls};
                    } catch (...) {
                      if (*calls.contexts != 0) throw std::logic_error{"a context is left"};
                      throw;
                    }
                  }),
                  "the thread of a LibaioEngine");
  }
#endif
#if defined(ZEROSPAN_HAS_URING)
  if (zerospan::UringEngine::available()) {
    check_refusal(without_threads([] { zerospan::UringEngine{}; }), "the thread of a UringEngine");
  }
#endif
}

#if !defined(ZEROSPAN_SANITIZED)

TEST_CASE("of many threads the first that the system refuses ends those before it") {
  const std::string text = in_child([]() -> std::string {
    const ProcessLimit limit{RLIMIT_AS, zerospan_test::address_space_in_use() + (64U << 20)};  // stacks are 8 MiB each
    const std::size_t before = threads_in_use();
    try {
      ThreadedIoEngine{{.threads = 256}};
    } catch (const ConfigurationError& error) {
      return std::string{error.what()} + (comes_to_threads(before) ? "" : "; threads remain");
    }
    return "nothing was thrown";
  });
  CHECK(text.starts_with("thread "));
  CHECK_FALSE(text.starts_with("thread 1 of "));
  CHECK(text.ends_with(" of 256 of a ThreadedIoEngine" + std::string{refusal}));
}

TEST_CASE("without descriptors a tier is an IoError, and those that were made before go on") {
  const ScratchDirectory directory;
  ThreadedIoEngine io{{.threads = 1}};
  NvmeTier tier{io, {.directory = directory.path()}};
  const zerospan::Extent extent = tier.place(page);
  const AlignedBuffer buffer{page};
  const std::size_t before = open_descriptors();
  {
    const ProcessLimit limit{RLIMIT_NOFILE, zerospan_test::descriptors_in_use()};
    for (int i = 0; i < 10; ++i) {
      try {
        NvmeTier{io, {.directory = directory.path()}};
        FAIL_CHECK("nothing was thrown");
      } catch (const zerospan::IoError& error) {
        CHECK(error.code().value() == EMFILE);
        CHECK(error.path() == directory.path());
      }
    }
    CHECK_NOTHROW(tier.write(extent, 0, buffer.data(), page).wait());
    CHECK_NOTHROW(tier.reserve(1_MiB, "more"));
  }
  CHECK(open_descriptors() == before);
}

TEST_CASE("address space that the system refuses is a ConfigurationError; nothing of it is kept") {
  const std::string text = in_child([]() -> std::string {
    const ProcessLimit limit{RLIMIT_AS, zerospan_test::address_space_in_use() + (64U << 20)};
    const ::rlim_t before = zerospan_test::address_space_in_use();
    for (int i = 0; i < 10; ++i) {
      try {
        zerospan::HostDevice{{.device_budget = 32_MiB, .host_budget = 1_GiB}};
        return "nothing was thrown";
      } catch (const ConfigurationError& error) {
        if (!std::string_view{error.what()}.starts_with("no address space for a budget of 1073741824 bytes")) throw;
      }
    }
    zerospan::HostDevice device{{.device_budget = 16_MiB, .host_budget = 16_MiB}};
    return zerospan_test::address_space_in_use() <= before + (40U << 20) ? "nothing is kept" : "some is kept";
  });
  CHECK(text == "nothing is kept");
}

#endif

TEST_CASE("where huge pages are refused, ordinary ones serve") {
  const std::string text = in_child([]() -> std::string {
    if (::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0) return "not refused";
    zerospan::HostDevice device{{.device_budget = 4_MiB, .host_budget = 4_MiB}};
    zerospan::DeviceTier tier{device};
    const zerospan::Extent extent = tier.place(4 << 20);
    const AlignedBuffer written{4 << 20};
    const AlignedBuffer read{4 << 20};
    written.fill(3);
    tier.write(extent, 0, written.data(), written.size()).wait();
    tier.read(extent, 0, read.data(), read.size()).wait();
    return read == written ? "equal" : "not equal";
  });
  CHECK(text == "equal");
}

// Children.

/// What a child is told that uses something of its parent's: the text of the ConfigurationError that `use` throws.
template <class F>
std::string refusal_in_child(F use) {
  return in_child([&]() -> std::string {
    try {
      use();
    } catch (const ConfigurationError& error) {
      return error.what();
    }
    return "nothing was thrown";
  });
}

std::string of_parent(const std::string& who) {
  return who + " belongs to process " + std::to_string(::getpid()) + ", not to its child ";
}

template <class Io>
void check_engine_in_child(const std::string& who) {
  const ScratchDirectory directory;
  auto io = std::make_unique<Io>();
  auto tier = std::make_unique<NvmeTier<Io>>(*io, zerospan::NvmeTierOptions{.directory = directory.path()});
  const zerospan::Extent extent = tier->place(page);
  const AlignedBuffer written{page};
  const AlignedBuffer read{page};
  written.fill(1);
  tier->write(extent, 0, written.data(), page).wait();

  const auto nothing = [](std::int64_t) {};
  CHECK(refusal_in_child([&] { io->submit({}, nothing); }).starts_with(of_parent(who)));
  const std::string name{tier->name()};
  CHECK(refusal_in_child([&] { tier->reserve(1_MiB, "more"); }).starts_with(of_parent(name)));
  CHECK(refusal_in_child([&] { tier->place(page); }).starts_with(of_parent(name)));
  CHECK(refusal_in_child([&] { tier->read(extent, 0, read.data(), page); }).starts_with(of_parent(name)));
  CHECK(refusal_in_child([&] { tier->write(extent, 0, read.data(), page); }).starts_with(of_parent(name)));
  CHECK(refusal_in_child([&] { tier->back(extent, 0, page, {}); }).starts_with(of_parent(name)));
  CHECK(refusal_in_child([&] { tier->clear(extent, 0, page); }).starts_with(of_parent(name)));

  // What it destroys of its parent's does not wait for threads that are not there, and its own serve it.
  const std::string text = in_child([&]() -> std::string {
    tier.reset();
    io.reset();
#if !defined(ZEROSPAN_SANITIZED)  // the thread sanitizer starts no threads in children of processes that have some
    Io own_io;
    NvmeTier own{own_io, {.directory = directory.path()}};
    const zerospan::Extent place = own.place(page);
    own.write(place, 0, written.data(), page).wait();
    own.read(place, 0, read.data(), page).wait();
    if (!(read == written)) return "read something else";
#endif
    return "done";
  });
  CHECK(text == "done");

  tier->read(extent, 0, read.data(), page).wait();
  CHECK((read == written));
}

TEST_CASE("a child process is told that engines and tiers are its parent's; its own serve it") {
  check_engine_in_child<ThreadedIoEngine>("a ThreadedIoEngine");
#if defined(ZEROSPAN_HAS_LIBAIO)
  if (zerospan::LibaioEngine::available()) check_engine_in_child<zerospan::LibaioEngine>("a LibaioEngine");
#endif
#if defined(ZEROSPAN_HAS_URING)
  if (zerospan::UringEngine::available()) check_engine_in_child<zerospan::UringEngine>("a UringEngine");
#endif
}

struct Values {
  float* data;
};

}  // namespace

template <>
struct zerospan::TensorTraits<Values> {
  using element_type = float;
  static Values unbound(const zerospan::Shape&) { return {nullptr}; }
  static void bind(Values& values, float* data) { values.data = data; }
  static float* data(const Values& values) { return values.data; }
};

namespace {

/// A training of one rank.
struct OneRank {
  zerospan::HostDevice device{{.device_budget = 1_MiB, .host_budget = 1_MiB}};
  zerospan::HostTier tier{device};
  zerospan::SelfCommunicator self;
  std::optional<zerospan::ZeroEngine<zerospan::Stage3, zerospan::SelfCommunicator, zerospan::HostDevice,
                                     zerospan::AdamW>>
      engine{std::in_place, zerospan::Stage3{}, self, device, zerospan::Placement{tier, tier, tier}, zerospan::AdamW{}};
  std::optional<zerospan::PartitionedParameter<Values>> weight{std::in_place, *engine, "weight", zerospan::Shape{5000},
                                                               zerospan::init::ones()};
};

TEST_CASE("a child process is told that an engine is its parent's, and destroys its copy of it at once") {
  OneRank rank;
  auto& engine = rank.engine;
  auto& weight = rank.weight;
  static_cast<void>(weight->gather(zerospan::calling_thread));
  const std::string who = of_parent("what was made on a HostDevice");
  CHECK(refusal_in_child([&] { static_cast<void>(weight->gather(zerospan::calling_thread)); }).starts_with(who));
  CHECK(refusal_in_child([&] { engine->step(); }).starts_with(who));
  CHECK(in_child([&]() -> std::string {
          weight.reset();
          engine.reset();
          return "done";
        }) == "done");
  CHECK(weight->gather(zerospan::calling_thread)->data[0] == 1.0F);
}

TEST_CASE("whatever is under way, a child destroys its copies of tiers at once") {
  const ScratchDirectory directory;
  ThreadedIoEngine io;
  zerospan_test::FaultyIoEngine faulty{io};
  NvmeTier nvme{faulty, {.directory = directory.path(), .drain_timeout = std::chrono::hours{1}}};
  zerospan::Arena memory = zerospan_test::make_arena("cache", 64_KiB);
  auto cached = std::make_unique<zerospan::CachedTier>(
      nvme, memory,
      zerospan::CachedTierOptions{.bytes = 64_KiB, .line = 16_KiB, .drain_timeout = std::chrono::hours{1}});
  auto throttled = std::make_unique<zerospan::ThrottledTier>(
      nvme, zerospan::ThrottledTierOptions{.drain_timeout = std::chrono::hours{1}});
  const AlignedBuffer buffer{page};
  faulty.hold();
  const zerospan::Completion first = cached->read(cached->place(page), 0, buffer.data(), page);
  const zerospan::Completion second = throttled->write(throttled->place(page), 0, buffer.data(), page);
#if defined(ZEROSPAN_HAS_XXHASH)
  auto checked = std::make_unique<zerospan::CheckedTier>(
      nvme, zerospan::CheckedTierOptions{.drain_timeout = std::chrono::hours{1}});
  const zerospan::Completion third = checked->read(checked->place(page), 0, buffer.data(), page);
  faulty.wait_for_held(3);
#else
  faulty.wait_for_held(2);
#endif
  const std::string text = in_child([&]() -> std::string {
    cached.reset();
    throttled.reset();
#if defined(ZEROSPAN_HAS_XXHASH)
    checked.reset();
#endif
    return "done";
  });
  CHECK(text == "done");
  faulty.release();
  CHECK_NOTHROW(first.wait());
  CHECK_NOTHROW(second.wait());
}

#if defined(ZEROSPAN_HAS_CHECKPOINT)

/// The same, and its saver.
struct Saving : OneRank {
  std::optional<zerospan::CheckpointSaver> saver{std::in_place, *engine, "/run"};
};

TEST_CASE("a child process is told that a save is its parent's, which goes on, whatever the child destroys") {
  zerospan_test::GatedFiles files;
  Saving training;
  training.saver->start({.files = &files});
  const std::string who = of_parent("a save");
  CHECK(refusal_in_child([&] { training.saver->poll(); }).starts_with(who));
  CHECK(refusal_in_child([&] { training.saver->wait(); }).starts_with(who));
  CHECK(in_child([&]() -> std::string {
          training.engine.reset();
          training.saver.reset();
          return "done";
        }) == "done");
  files.open_gate();
  CHECK(training.saver->wait().size() == 1);
  CHECK(zerospan::find_checkpoint(*training.engine, "/run", {.files = &files}) == 0);
}

TEST_CASE("a child process that lives on keeps nobody from saving") {
  const ScratchDirectory directory;
  Saving training;
  zerospan::CheckpointSaver saver{*training.engine, directory.path()};
  saver.start();
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  const ::pid_t child = ::fork();
  REQUIRE(child != -1);
  if (child == 0) {
    ::close(ends[1]);
    char end = 0;
    ::_exit(static_cast<int>(::read(ends[0], &end, 1)));
  }
  ::close(ends[0]);
  CHECK(saver.wait().size() == 1);
  CHECK_NOTHROW(saver.start());
  CHECK(saver.wait().size() == 1);
  ::close(ends[1]);
  int status = 0;
  CHECK(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE("a save for which there is no thread fails, and training goes on") {
  const std::string text = in_child([]() -> std::string {
    zerospan_test::VolatileFiles files;
    Saving training;
    training.engine->step();
    constexpr ::uid_t somebody = 61234;  // root has no limit
    if (::geteuid() == 0 && ::setuid(somebody) != 0) return "skipped";
    std::string said = "nothing was thrown";
    {
      const ProcessLimit limit{RLIMIT_NPROC, 0};
      training.saver->start({.files = &files});
      try {
        training.saver->wait();
      } catch (const zerospan::CheckpointError& error) {
        said = error.what();
      }
      training.engine->step();
    }
    if (training.saver->is_saving() || zerospan::find_checkpoint(*training.engine, "/run", {.files = &files})) {
      said += "; it is saved";
    }
    return said;
  });
  check_refusal(text, "/run/step-1: the thread that writes a checkpoint");
}

#endif

}  // namespace
