#include <doctest/doctest.h>

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/io/any_io_engine.hpp>
#include <zerospan/io/io_engine.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/io/uring_engine.hpp>

#include "support/io_engine_conformance.hpp"
#include "support/process_limits.hpp"
#include "support/scratch.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::BasicUringEngine;
using zerospan::Bytes;
using zerospan::ConfigurationError;
using zerospan::IoDirection;
using zerospan::IoRequest;
using zerospan::UringCalls;
using zerospan::UringEngine;
using zerospan::UringResult;
using zerospan_test::AlignedBuffer;
using zerospan_test::Countdown;
using zerospan_test::is_offered;
using zerospan_test::outcome_of;
using zerospan_test::Slots;

struct UringRig {
  static bool available() { return UringEngine::available(); }
  UringEngine engine{{.queue_depth = 8}};
};

/// Takes one request at a time, meets EAGAIN at every other call as long as something is under way, and is interrupted
/// at every third wait.
struct ReluctantCalls : UringCalls {
  struct State {
    std::atomic<int> submits = 0;
    std::atomic<int> waits = 0;
    std::atomic<int> under_way = 0;
    std::atomic<int> refusals = 0;
  };

  int submit(io_uring* ring) const noexcept {
    if (state->submits++ % 2 == 1 && state->under_way > 0) {
      ++state->refusals;
      return -EAGAIN;
    }
    const unsigned end = ring->sq.sqe_tail;
    ring->sq.sqe_tail = ring->sq.sqe_head + 1;
    const int accepted = UringCalls::submit(ring);
    ring->sq.sqe_tail = end;
    state->under_way += std::max(accepted, 0);
    return accepted;
  }
  int wait(int event) const noexcept { return state->waits++ % 3 == 0 ? -EINTR : UringCalls::wait(event); }
  std::optional<UringResult> next_result(io_uring* ring) const noexcept {
    const auto ended = UringCalls::next_result(ring);
    if (ended) --state->under_way;
    return ended;
  }

  std::shared_ptr<State> state = std::make_shared<State>();
};

struct ReluctantRig {
  static bool available() { return UringEngine::available(); }
  BasicUringEngine<ReluctantCalls> engine{{.queue_depth = 7}};
};

}  // namespace

ZEROSPAN_TEST_IO_ENGINES(UringRig, ReluctantRig);

namespace {

/// Submits one request, and so many others while its callback runs.
template <class Engine, class F>
void submit_together(Engine& engine, const Slots& slots, IoDirection direction, std::size_t count, F callback) {
  Countdown begun{1};
  Countdown submitted{1};
  Countdown ended{1};
  engine.submit(slots.request(direction, 0), [&](std::int64_t) {
    begun.hit();
    submitted.wait();
    ended.hit();
  });
  begun.wait();
  for (std::size_t i = 0; i < count; ++i) engine.submit(slots.request(direction, i), callback);
  submitted.hit();
  ended.wait();
}

TEST_CASE("partial submits and EAGAIN are met, and lose nothing") {
  if (!is_offered<UringRig>()) return;
  for (const IoDirection direction : {IoDirection::write, IoDirection::read}) {
    const ReluctantCalls calls;
    const Slots slots{64};
    {
      BasicUringEngine<ReluctantCalls> engine{{.queue_depth = 4}, calls};
      Countdown ended{64};
      submit_together(engine, slots, direction, 64, [&](std::int64_t result) {
        if (result == Slots::bytes) ended.hit();
      });
      ended.wait();
    }
    CHECK(calls.state->refusals > 0);
    CHECK(calls.state->submits == 65 + calls.state->refusals);
    CHECK(calls.state->under_way == 0);
  }
}

/// Counts calls.
struct CountedCalls : UringCalls {
  int submit(io_uring* ring) const noexcept {
    ++*submits;
    return UringCalls::submit(ring);
  }
  std::shared_ptr<std::atomic<int>> submits = std::make_shared<std::atomic<int>>(0);
};

TEST_CASE("a write is a call of its own, reads share one") {
  if (!is_offered<UringRig>()) return;
  const Slots slots{8};
  const CountedCalls calls;
  BasicUringEngine<CountedCalls> engine{{.queue_depth = 8}, calls};
  for (const auto& [direction, expected] : {std::pair{IoDirection::write, 9}, std::pair{IoDirection::read, 2}}) {
    *calls.submits = 0;
    Countdown ended{8};
    submit_together(engine, slots, direction, 8, [&](std::int64_t) { ended.hit(); });
    ended.wait();
    CHECK(*calls.submits == expected);
  }
}

/// Accepts nothing, until it is told to.
struct RefusingCalls : UringCalls {
  struct State {
    std::atomic<int> error = EAGAIN;
    std::atomic<int> accepted = 0;
  };
  int submit(io_uring* ring) const noexcept {
    if (state->error != 0) return -state->error;
    const int accepted = UringCalls::submit(ring);
    state->accepted += std::max(accepted, 0);
    return accepted;
  }
  std::shared_ptr<State> state = std::make_shared<State>();
};

TEST_CASE("what the kernel refuses with nothing under way reaches the callback, and is not carried out later") {
  if (!is_offered<UringRig>()) return;
  const Slots slots{1};
  slots.buffer.fill(1);
  for (const int error : {EAGAIN, EBUSY, EPERM}) {
    const RefusingCalls calls;
    calls.state->error = error;
    BasicUringEngine<RefusingCalls> engine{{.queue_depth = 2}, calls};
    const std::int64_t refusal = error == EPERM ? -EPERM : -EAGAIN;
    for (int i = 0; i < 5; ++i) {
      CHECK(outcome_of(engine, slots.request(IoDirection::write, 0)) == (i < 2 ? refusal : -EAGAIN));
    }
    calls.state->error = 0;
    for (int i = 0; i < 5; ++i) {
      const AlignedBuffer read{Slots::bytes};
      CHECK(outcome_of(engine, {IoDirection::read, slots.file.descriptor(), 0, read.data(), read.size()}) ==
            Slots::bytes);
      CHECK((read == AlignedBuffer{Slots::bytes}));
    }
    CHECK(calls.state->accepted == 2 + 5);
  }
}

/// Keeps the first result back until it is released, as a disk does that does not answer.
struct HoardingCalls : UringCalls {
  struct State {
    std::mutex mutex;
    bool is_released = false;
    bool is_kept = false;
    std::optional<UringResult> kept{};

    void release() {
      const std::scoped_lock lock{mutex};
      is_released = true;
    }
  };

  std::optional<UringResult> next_result(io_uring* ring) const noexcept {
    const std::scoped_lock lock{state->mutex};
    if (state->is_released && state->kept) return std::exchange(state->kept, std::nullopt);
    const auto ended = UringCalls::next_result(ring);
    if (!ended || std::exchange(state->is_kept, true)) return ended;
    state->kept = ended;
    return UringCalls::next_result(ring);
  }

  std::shared_ptr<State> state = std::make_shared<State>();
};

TEST_CASE("a completion that never comes holds up nobody but the end of the engine") {
  if (!is_offered<UringRig>()) return;
  const HoardingCalls calls;
  zerospan_test::check_lost_completion<BasicUringEngine<HoardingCalls>>(calls, [&] { calls.state->release(); });
}

// What the system refuses.

/// Fails to make a ring, or its event.
struct ExhaustedCalls : UringCalls {
  int setup(unsigned depth, io_uring* ring) const noexcept {
    if (in_setup != 0) return -in_setup;
    const int result = UringCalls::setup(depth, ring);
    if (result == 0) ++*rings;
    return result;
  }
  void end(io_uring* ring) const noexcept {
    --*rings;
    UringCalls::end(ring);
  }
  int open_event(io_uring*) const noexcept { return -EMFILE; }

  int in_setup = 0;
  std::shared_ptr<int> rings = std::make_shared<int>(0);
};

/// Has no rings.
struct ForbiddingCalls : UringCalls {
  static int setup(unsigned, io_uring*) noexcept { return -EPERM; }
};

std::string refusal_of(int error) {
  ExhaustedCalls calls;
  calls.in_setup = error;
  std::string text = "nothing was thrown";
  try {
    BasicUringEngine<ExhaustedCalls>{{.queue_depth = 16}, calls};
  } catch (const ConfigurationError& refused) {
    text = refused.what();
  }
  CHECK(*calls.rings == 0);
  return text;
}

TEST_CASE("a ring that the kernel refuses is a typed error that says why, and nothing is left") {
  const std::size_t before = zerospan_test::open_descriptors();
  CHECK(refusal_of(EPERM) ==
        "io_uring for 16 requests failed: Operation not permitted; allow it (kernel.io_uring_disabled, the sandbox's "
        "seccomp filter), or use another engine");
  CHECK(refusal_of(ENOSYS) ==
        "io_uring for 16 requests failed: Function not implemented; allow it in the sandbox if the kernel has it (5.6 "
        "or later), or use another engine");
  CHECK(refusal_of(ENOMEM) ==
        "io_uring for 16 requests failed: Cannot allocate memory; lower the queue depth, raise the limit of locked "
        "memory (ulimit -l), or use another engine");
  CHECK(refusal_of(EINVAL) ==
        "io_uring for 16 requests failed: Invalid argument; lower the queue depth, or use another engine");
  CHECK_THROWS_AS(UringEngine{{.queue_depth = 0}}, ConfigurationError);
  CHECK_THROWS_AS(UringEngine{{.queue_depth = std::size_t{1} << 40}}, ConfigurationError);
  CHECK(!BasicUringEngine<ForbiddingCalls>::available());
  if (!is_offered<UringRig>()) return;
  CHECK(refusal_of(0) ==
        "io_uring for 16 requests failed: Too many open files; raise the limit of descriptors (ulimit -n), or use "
        "another engine");
  CHECK_THROWS_AS(UringEngine{{.queue_depth = 1 << 20}}, ConfigurationError);
  CHECK(zerospan_test::open_descriptors() == before);
}

/// The calling thread, and the threads that it starts, may not make rings, as in a sandbox. @return false if it may not
/// be told so.
bool forbid_rings() {
  std::array<sock_filter, 4> rules{{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                                    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
                                    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                                    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)}};
  const sock_fprog filter{rules.size(), rules.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

TEST_CASE("in a sandbox that forbids io_uring another engine serves") {
  std::jthread{[] {
    if (!forbid_rings()) {
      MESSAGE("skipped: this thread may not have a filter");
      return;
    }
    CHECK_FALSE(UringEngine::available());
    CHECK_THROWS_WITH_AS(UringEngine{{.queue_depth = 16}},
                         "io_uring for 16 requests failed: Operation not permitted; allow it "
                         "(kernel.io_uring_disabled, the sandbox's seccomp filter), or use another engine",
                         ConfigurationError);
    auto io = zerospan::AnyIoEngine::first_of<UringEngine, zerospan::ThreadedIoEngine>();
    CHECK(io.name() == "threads");
  }}.join();
  if (UringEngine::available()) {
    auto io = zerospan::AnyIoEngine::first_of<UringEngine, zerospan::ThreadedIoEngine>();
    CHECK(io.name() == "io_uring");
  }
}

#if !defined(ZEROSPAN_SANITIZED)

TEST_CASE("without descriptors there is no engine, and nothing is left") {
  if (!is_offered<UringRig>()) return;
  const std::size_t before = zerospan_test::open_descriptors();
  for (const ::rlim_t left : {0U, 1U}) {
    const zerospan_test::ProcessLimit limit{RLIMIT_NOFILE, zerospan_test::descriptors_in_use() + left};
    CHECK_THROWS_WITH_AS(UringEngine{{.queue_depth = 16}},
                         "io_uring for 16 requests failed: Too many open files; raise the limit of descriptors (ulimit "
                         "-n), or use another engine",
                         ConfigurationError);
  }
  CHECK(zerospan_test::open_descriptors() == before);
}

#endif

// Registered memory.

/// Whether this process may have memory registered.
bool can_register() {
  if (!is_offered<UringRig>()) return false;
  const AlignedBuffer memory{64 << 10};
  const UringEngine engine{{.memory = {memory.bytes()}}};
  if (!engine.registration_error()) return true;
  MESSAGE("skipped: the limit of locked memory is too low");
  return false;
}

/// Transfers within two registered ranges, over their common end, and beside them, beside a model of the file.
template <class Engine>
void check_transfers(Engine& engine, const Slots& slots) {
  std::vector<std::byte> model(slots.buffer.size());
  std::mt19937_64 random{3};
  const std::size_t units = slots.buffer.size() / 4096;
  for (int i = 0; i < 200; ++i) {
    const std::size_t from = random() % units;
    const std::size_t bytes = (1 + random() % (units - from)) * 4096;
    const std::uint64_t offset = random() % (units - bytes / 4096 + 1) * 4096;
    const std::span memory{slots.buffer.data() + from * 4096, bytes};
    const auto in_model = model.begin() + static_cast<std::ptrdiff_t>(offset);
    const auto direction = random() % 2 == 0 ? IoDirection::read : IoDirection::write;
    std::ranges::fill(memory, static_cast<std::byte>(i));
    if (direction == IoDirection::write) std::ranges::copy(memory, in_model);
    REQUIRE(outcome_of(engine, {direction, slots.file.descriptor(), offset, memory.data(), bytes}) ==
            static_cast<std::int64_t>(bytes));
    REQUIRE(std::equal(memory.begin(), memory.end(), in_model));
  }
}

TEST_CASE("registered memory makes no difference to what is transferred") {
  if (!can_register()) return;
  const Slots slots{8};
  const std::span<std::byte> whole = slots.buffer.bytes();
  UringEngine engine{{.memory = {whole.subspan(5 * Slots::bytes, 0), whole.subspan(3 * Slots::bytes, 2 * Slots::bytes),
                                 whole.subspan(Slots::bytes, 2 * Slots::bytes)}}};
  CHECK_FALSE(engine.registration_error());
  CHECK(engine.registered_memory() == Bytes{4 * Slots::bytes});
  check_transfers(engine, slots);
}

/// Writes two pieces of memory that are no longer where they were when the engine was made. @return the first bytes of
/// what was written.
std::array<std::byte, 2> written_after_unmapping(bool is_registered) {
  const Slots slots{2};
  const std::span<std::byte> memory = slots.buffer.bytes();
  const std::size_t registered = is_registered ? Slots::bytes : 0;
  UringEngine engine{{.memory = {memory.subspan(Slots::bytes, registered), memory.first(registered)}}};
  CHECK(engine.registered_memory() == Bytes{2 * registered});
  memory[0] = std::byte{7};
  memory[Slots::bytes] = std::byte{8};
  REQUIRE(::madvise(memory.data(), memory.size(), MADV_DONTNEED) == 0);
  CHECK(memory[0] == std::byte{0});
  UringEngine other;
  for (const std::size_t slot : {0U, 1U}) {
    CHECK(outcome_of(engine, slots.request(IoDirection::write, slot)) == Slots::bytes);
    CHECK(outcome_of(other, slots.request(IoDirection::read, slot)) == Slots::bytes);
  }
  return {memory[0], memory[Slots::bytes]};
}

TEST_CASE("the kernel keeps what is registered, and transfers there") {
  if (!can_register()) return;
  CHECK((written_after_unmapping(true) == std::array{std::byte{7}, std::byte{8}}));
  CHECK((written_after_unmapping(false) == std::array{std::byte{0}, std::byte{0}}));
}

/// Registers nothing, and tells what would be registered.
struct RecordingCalls : UringCalls {
  int register_memory(io_uring*, const iovec* ranges, unsigned count) const noexcept {
    for (const iovec& range : std::span{ranges, count}) pieces->push_back(range.iov_len);
    return 0;
  }
  int unregister_memory(io_uring*) const noexcept {
    pieces->clear();
    return 0;
  }
  std::shared_ptr<std::vector<std::size_t>> pieces = std::make_shared<std::vector<std::size_t>>();
};

TEST_CASE("memory is registered in pieces that the kernel takes, until the engine ends") {
  if (!is_offered<UringRig>()) return;
  constexpr std::size_t bytes = (std::size_t{5} << 29) + 4096;
  void* const addresses = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(addresses != MAP_FAILED);
  const RecordingCalls calls;
  {
    BasicUringEngine<RecordingCalls> engine{{.memory = {{static_cast<std::byte*>(addresses), bytes}}}, calls};
    CHECK(*calls.pieces == std::vector<std::size_t>{1 << 30, 1 << 30, (1 << 29) + 4096});
    CHECK(engine.registered_memory() == Bytes{bytes});
  }
  CHECK(calls.pieces->empty());
  ::munmap(addresses, bytes);
}

TEST_CASE("an engine whose memory cannot be registered says so, and does without") {
  if (!is_offered<UringRig>()) return;
  std::jthread{[] {  // what gives up a right, which root has
    zerospan_test::give_up({CAP_IPC_LOCK});
    const zerospan_test::ProcessLimit limit{RLIMIT_MEMLOCK, 1 << 20};
    const Slots slots{8};
    const AlignedBuffer large{2 << 20};
    UringEngine engine{{.memory = {slots.buffer.bytes(), large.bytes()}}};
    CHECK(engine.registration_error() == std::errc::not_enough_memory);
    CHECK(engine.registered_memory() == Bytes{0});
    check_transfers(engine, slots);
  }}.join();

  const Slots slots{1};
  const std::span<std::byte> nowhere{reinterpret_cast<std::byte*>(std::uintptr_t{4096}), 4096};
  UringEngine engine{{.memory = {slots.buffer.bytes(), nowhere}}};
  CHECK(engine.registration_error() == std::errc::bad_address);
  CHECK(engine.registered_memory() == Bytes{0});
  CHECK(outcome_of(engine, slots.request(IoDirection::write, 0)) == Slots::bytes);
}

TEST_CASE("an engine takes the memory of a device") {
  if (!can_register()) return;
  zerospan::HostDevice device{{.device_budget = 64_KiB, .host_budget = 64_KiB}};
  zerospan::Arena& arena = device.host_memory();
  UringEngine io{{.memory = {{arena.data(), arena.capacity().count}}}};
  CHECK(io.registered_memory() == 64_KiB);
}

}  // namespace
