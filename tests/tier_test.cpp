#include <doctest/doctest.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <zerospan/device/host_device.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/nvme_tier.hpp>

#include "support/faulty_io_engine.hpp"
#include "support/scratch.hpp"
#include "support/tier_conformance.hpp"

#ifdef ZEROSPAN_HAS_LIBAIO
#include <zerospan/io/libaio_engine.hpp>
#endif
#ifdef ZEROSPAN_HAS_URING
#include <zerospan/io/uring_engine.hpp>
#endif

ZEROSPAN_TEST_TIERS(DeviceRig, HostRig, NvmeRig<zerospan::ThreadedIoEngine>);
#ifdef ZEROSPAN_HAS_LIBAIO
ZEROSPAN_TEST_TIERS(NvmeRig<zerospan::LibaioEngine>);
#endif
#ifdef ZEROSPAN_HAS_URING
ZEROSPAN_TEST_TIERS(NvmeRig<zerospan::UringEngine>);
#endif

namespace {

using namespace zerospan::literals;
using zerospan::Addressable;
using zerospan::Arena;
using zerospan::BudgetError;
using zerospan::Bytes;
using zerospan::Completion;
using zerospan::ConfigurationError;
using zerospan::DeviceTier;
using zerospan::Extent;
using zerospan::HostTier;
using zerospan::IoDirection;
using zerospan::IoError;
using zerospan::NvmeTier;
using zerospan::ThreadedIoEngine;
using zerospan::TierRef;
using zerospan::detail::ArenaFile;
using zerospan_test::AlignedBuffer;
using zerospan_test::capacity;
using zerospan_test::Fault;
using zerospan_test::FaultKind;
using zerospan_test::FaultyIoEngine;
using zerospan_test::make_arena;
using zerospan_test::NvmeRig;
using zerospan_test::page;
using zerospan_test::ScratchDirectory;

// Near misses: a tier that may throw from remove, one that blocks in read, one without counters.
struct SoundTier {
  std::string_view name() const;
  std::size_t alignment() const;
  Addressable addressable() const;
  void reserve(Bytes, std::string_view);
  void cancel(Bytes) noexcept;
  Extent place(std::size_t);
  void remove(const Extent&) noexcept;
  std::byte* view(const Extent&);
  Completion read(const Extent&, std::size_t, std::byte*, std::size_t);
  Completion write(const Extent&, std::size_t, const std::byte*, std::size_t);
  zerospan::TierCounters counters() const;
};
struct ThrowingRemove : SoundTier {
  void remove(const Extent&);
};
struct BlockingRead : SoundTier {
  void read(const Extent&, std::size_t, std::byte*, std::size_t);
};
struct MutableSource : SoundTier {
  Completion write(const Extent&, std::size_t, std::byte*, std::size_t);
};
struct MutableCounters : SoundTier {
  zerospan::TierCounters counters();
};
static_assert(zerospan::OffloadTier<SoundTier>);
static_assert(!zerospan::OffloadTier<ThrowingRemove>);
static_assert(!zerospan::OffloadTier<BlockingRead>);
static_assert(!zerospan::OffloadTier<MutableSource>);
static_assert(!zerospan::OffloadTier<MutableCounters>);

// Memory tiers.

TEST_CASE("memory tiers take their share of the device's arenas") {
  zerospan::HostDevice device{{.device_budget = 64_KiB, .host_budget = 32_KiB}};
  DeviceTier on_device{device};
  HostTier on_host{device};
  CHECK(on_device.addressable() == Addressable::on_device);
  CHECK(on_host.addressable() == Addressable::on_host);
  CHECK(on_device.name() == "device memory");
  CHECK(on_host.name() == "host memory");

  const Extent extent = on_device.place(10000);
  CHECK(device.memory().used() == Bytes{10000});
  CHECK(device.host_memory().used() == Bytes{0});
  on_host.place(500);
  CHECK(device.host_memory().used() == Bytes{500});
  CHECK(reinterpret_cast<std::uintptr_t>(on_device.view(extent)) % page == 0);

  // A part of an extent is memory too.
  CHECK(on_device.view({extent.offset + 4000, 6000}) == on_device.view(extent) + 4000);
  CHECK_THROWS_AS(on_device.view({extent.offset + 4000, 6001}), ConfigurationError);
  CHECK_THROWS_AS(on_host.view(extent), ConfigurationError);

  // What others hold in the arena is not there to be reserved.
  const zerospan::Allocation other = device.host_memory().allocate(20_KiB, "something else");
  CHECK_THROWS_AS(on_host.reserve(12_KiB, "too much"), BudgetError);
  on_host.reserve(Bytes{(12_KiB).count - 500}, "what is left");
  on_device.remove(extent);
  CHECK(device.memory().used() == Bytes{0});
}

TEST_CASE("a memory tier that dies gives its extents back") {
  Arena arena = make_arena("host memory", 64_KiB);
  {
    HostTier tier{arena};
    tier.place(page);
    tier.place(page);
  }
  CHECK(arena.used() == Bytes{0});
  CHECK(arena.largest_free() == (64_KiB).count);
}

/// A tier of a user's that does not tell its arena.
struct SilentTier : HostTier {
  using HostTier::HostTier;
  const Arena* arena() const = delete;
};
static_assert(zerospan::OffloadTier<SilentTier>);

TEST_CASE("a TierRef tells whose memory an addressable tier is in") {
  zerospan::HostDevice device{{.device_budget = 64_KiB, .host_budget = 32_KiB}};
  zerospan::HostDevice other{{.device_budget = 64_KiB, .host_budget = 32_KiB}};
  DeviceTier on_device{device};
  HostTier on_host{device};
  HostTier elsewhere{other};
  CHECK(TierRef{on_device}.arena() == &device.memory());
  CHECK(TierRef{on_host}.arena() == &device.host_memory());
  CHECK(TierRef{elsewhere}.arena() == &other.host_memory());
  CHECK(TierRef{elsewhere}.arena() != &device.host_memory());

  NvmeRig<ThreadedIoEngine> nvme;
  CHECK(TierRef{nvme.tier}.arena() == nullptr);
  SilentTier silent{device};
  CHECK(TierRef{silent}.arena() == nullptr);
}

// The file of an NVMe tier.

TEST_CASE("a tier leaves nothing in its directory, and two share it") {
  const ScratchDirectory directory;
  ThreadedIoEngine engine;
  NvmeTier first{engine, {.directory = directory.path()}};
  NvmeTier second{engine, {.directory = directory.path()}};
  CHECK(directory.is_empty());
  const Extent a = first.place(page);
  const Extent b = second.place(page);
  CHECK(a.offset == b.offset);
  const AlignedBuffer ones{page};
  const AlignedBuffer twos{page};
  ones.fill(1);
  twos.fill(2);
  first.write(a, 0, ones.data(), page).wait();
  second.write(b, 0, twos.data(), page).wait();
  const AlignedBuffer read{page};
  first.read(a, 0, read.data(), page).wait();
  CHECK((read == ones));
  second.read(b, 0, read.data(), page).wait();
  CHECK((read == twos));
  CHECK(directory.is_empty());
}

TEST_CASE("an arena file is unnamed however it is made, and grows by allocated bytes") {
  for (const auto naming : {ArenaFile::Naming::never_named, ArenaFile::Naming::unlinked_at_once}) {
    const ScratchDirectory directory;
    ArenaFile file{directory.path(), naming};
    CHECK(directory.is_empty());
    CHECK(file.path() == directory.path() + "/(unnamed arena file)");
    file.grow(64 * page, "a test");
    file.grow(page, "less than there is");
    CHECK(file.size() == 64 * page);
    struct stat status{};
    REQUIRE(::fstat(file.descriptor(), &status) == 0);
    CHECK(status.st_size == 64 * page);
    CHECK(status.st_blocks * 512 >= 64 * static_cast<long>(page));
    CHECK(status.st_nlink == 0);
    CHECK((::fcntl(file.descriptor(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(((::fcntl(file.descriptor(), F_GETFL) & O_DIRECT) != 0) == file.is_direct());
    CHECK(file.alignment() >= 1);
    CHECK((file.alignment() & (file.alignment() - 1)) == 0);
  }
}

/// Runs `f`, which must throw an IoError, and returns that.
template <class F>
IoError io_error_of(F f) {
  try {
    f();
  } catch (const IoError& error) {
    return error;
  }
  throw std::logic_error{"no IoError was thrown"};
}

TEST_CASE("a directory that is not there is an IoError that names it") {
  const ScratchDirectory directory;
  ThreadedIoEngine engine;
  const std::string missing = directory.path() + "/missing";
  const IoError error = io_error_of([&] { NvmeTier{engine, {.directory = missing}}; });
  CHECK(error.code().value() == ENOENT);
  CHECK(error.path() == missing);
}

TEST_CASE("a block that is no multiple of the alignment is refused") {
  const ScratchDirectory directory;
  ThreadedIoEngine engine;
  CHECK_THROWS_AS((NvmeTier{engine, {.directory = directory.path(), .block = Bytes{0}}}), ConfigurationError);
  CHECK_THROWS_AS((NvmeTier{engine, {.directory = directory.path(), .block = Bytes{100}}}), ConfigurationError);
}

TEST_CASE("misaligned transfers are refused at once") {
  NvmeRig<ThreadedIoEngine> rig;
  const Extent extent = rig.tier.place(4 * page);
  const AlignedBuffer buffer{4 * page};
  const std::size_t unit = rig.tier.alignment();
  REQUIRE(unit > 1);
  CHECK_THROWS_AS(rig.tier.read(extent, unit / 2, buffer.data(), unit), ConfigurationError);
  CHECK_THROWS_AS(rig.tier.read(extent, 0, buffer.data() + unit / 2, unit), ConfigurationError);
  CHECK_THROWS_AS(rig.tier.read(extent, 0, buffer.data(), unit / 2), ConfigurationError);
  CHECK_THROWS_AS(rig.tier.write(extent, 0, buffer.data(), unit + 1), ConfigurationError);
  CHECK(rig.tier.counters().read == Bytes{0});
}

TEST_CASE("a reservation beyond the disk is ENOSPC, at once") {
  const ScratchDirectory directory;
  ThreadedIoEngine engine;
  NvmeTier tier{engine, {.directory = directory.path()}};
  tier.reserve(4_KiB, "one page");
  const IoError error = io_error_of([&] { tier.reserve(Bytes{std::size_t{1} << 60}, "optimizer states"); });
  CHECK(error.code() == std::errc::no_space_on_device);
  CHECK(error.path() == directory.path() + "/(unnamed arena file)");
  CHECK(error.offset() == page);
  CHECK(error.bytes() == std::size_t{1} << 60);
  CHECK(std::string{error.what()}.find(
            "reservation for optimizer states of 1152921504606846976 bytes at offset 4096") == 0);
  CHECK(tier.place(page).offset == 0);
}

/// Limits the size of files that this process writes, without the signal.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

TEST_CASE("an allocation that fails leaves the tier as it was") {
  NvmeRig<ThreadedIoEngine> rig;
  rig.tier.reserve(8_KiB, "two pages");
  {
    const FileSizeLimit limit{16 * page};
    CHECK(io_error_of([&] { rig.tier.reserve(64_KiB, "more"); }).code().value() == EFBIG);
    CHECK(io_error_of([&] { rig.tier.place(17 * page); }).code().value() == EFBIG);
    CHECK(rig.tier.counters().peak == Bytes{0});
    rig.tier.reserve(Bytes{14 * page}, "exactly as much");
  }
  rig.tier.reserve(Bytes{capacity.count - 16 * page}, "the rest");
  CHECK(rig.tier.place(capacity.count).bytes == capacity.count);
}

/// Runs `f(directory)` on a thread of its own, in a mount namespace of its own where `directory` is a file system of
/// the given type. The mount ends with the thread. False if that is not permitted here.
template <class F>
bool on_mounted(const char* type, const char* options, F f) {
  const ScratchDirectory directory;
  bool is_mounted = false;
  std::exception_ptr error;
  std::thread{[&] {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return;
    if (::mount("none", directory.path().c_str(), type, 0, options) != 0) return;
    is_mounted = true;
    try {
      f(directory.path());
    } catch (...) {
      error = std::current_exception();
    }
  }}.join();
  if (error) std::rethrow_exception(error);
  return is_mounted;
}

template <class Tier>
void check_round_trip(Tier& tier, std::size_t bytes) {
  const Extent extent = tier.place(bytes);
  const AlignedBuffer written{bytes};
  const AlignedBuffer read{bytes};
  written.fill(6);
  tier.write(extent, 0, written.data(), bytes).wait();
  tier.read(extent, 0, read.data(), bytes).wait();
  CHECK((written == read));
}

TEST_CASE("a full disk is found when space is reserved") {
  const bool is_mounted = on_mounted("tmpfs", "size=256k", [](const std::string& directory) {
    ThreadedIoEngine engine;
    NvmeTier tier{engine, {.directory = directory, .block = 8_KiB}};
    tier.reserve(128_KiB, "a half");
    const IoError error = io_error_of([&] { tier.reserve(192_KiB, "too much"); });
    CHECK(error.code().value() == ENOSPC);
    CHECK(error.offset() == (128_KiB).count);
    CHECK(error.bytes() == (192_KiB).count);
    tier.reserve(128_KiB, "the other half");
    check_round_trip(tier, (256_KiB).count);
    CHECK(io_error_of([&] { tier.place(1); }).code().value() == ENOSPC);
  });
  if (!is_mounted) MESSAGE("skipped: mounting is not permitted here");
}

TEST_CASE("a file system without fallocate is filled with zeros, one without O_DIRECT is buffered") {
  const bool is_mounted = on_mounted("ramfs", nullptr, [](const std::string& directory) {
    ThreadedIoEngine engine;
    NvmeTier tier{engine, {.directory = directory, .block = 8_KiB}};
    CHECK(tier.alignment() == page);
    tier.reserve(Bytes{(1_MiB).count + page}, "more than one chunk");
    check_round_trip(tier, (1_MiB).count + page);
    ArenaFile file{directory};
    CHECK(!file.is_direct());
    CHECK(::fallocate(file.descriptor(), 0, 0, page) == -1);
    file.grow(64 * page, "a test");
    struct stat status{};
    REQUIRE(::fstat(file.descriptor(), &status) == 0);
    CHECK(status.st_size == 64 * page);
  });
  if (!is_mounted) MESSAGE("skipped: mounting is not permitted here");
}

// Faults.

/// Two extents, written and read back over a faulty engine: 12 requests if nothing fails.
class FaultRun {
 public:
  static constexpr std::size_t bytes = 20 * page;  // 3 blocks

  FaultRun() {
    for (std::size_t i = 0; i < 2; ++i) {
      extents_.push_back(tier->place(bytes));
      written_.emplace_back(bytes).fill(i + 1);
      read_.emplace_back(bytes);
    }
  }

  /// The error that the run met, or none. It throws if what was read differs and no error said so.
  std::exception_ptr run() {
    for (std::size_t i = 0; i < 2; ++i) {
      completions.push_back(tier->write(extents_[i], 0, written_[i].data(), bytes));
    }
    faulty.wait_idle();
    for (std::size_t i = 0; i < 2; ++i) {
      completions.push_back(tier->read(extents_[i], 0, read_[i].data(), bytes));
    }
    faulty.wait_idle();
    for (const Completion& completion : completions) {
      if (completion.error()) return completion.error();
    }
    if (is_complete() && !(written_[0] == read_[0] && written_[1] == read_[1])) throw std::logic_error{"silent loss"};
    return nullptr;
  }

  bool is_complete() const {
    return std::all_of(completions.begin(), completions.end(), [](const Completion& c) { return c.done(); });
  }

  bool is_write_error() const { return completions[0].error() || completions[1].error(); }

  ScratchDirectory directory;
  ThreadedIoEngine inner{{.threads = 2}};
  FaultyIoEngine<ThreadedIoEngine> faulty{inner};
  using Tier = NvmeTier<FaultyIoEngine<ThreadedIoEngine>>;
  std::optional<Tier> tier{
      std::in_place, faulty,
      zerospan::NvmeTierOptions{
          .directory = directory.path(), .block = Bytes{8 * page}, .drain_timeout = std::chrono::milliseconds{0}}};
  std::vector<Completion> completions;

 private:
  std::vector<Extent> extents_;
  std::vector<AlignedBuffer> written_;
  std::vector<AlignedBuffer> read_;
};

/// Injects the fault at every request in turn until a run meets it no more; `check(run, error)` judges each run.
template <class Check>
void for_every_request(Fault fault, Check check) {
  for (fault.request = 0;; ++fault.request) {
    FaultRun run;
    run.faulty.inject({fault});
    const std::exception_ptr error = run.run();
    if (run.faulty.injected() == 0) {
      CHECK(fault.request >= 12);
      CHECK(!error);
      CHECK(run.is_complete());
      return;
    }
    CAPTURE(fault.request);
    check(run, error);
    CHECK(run.tier->counters().read.count == run.faulty.bytes_reported(IoDirection::read));
    CHECK(run.tier->counters().written.count == run.faulty.bytes_reported(IoDirection::write));
  }
}

void check_io_error(const FaultRun& run, const std::exception_ptr& error, int error_number, std::string_view detail) {
  REQUIRE(error != nullptr);
  const IoError io = io_error_of([&] { std::rethrow_exception(error); });
  CHECK(io.code().value() == error_number);
  CHECK(io.path() == run.directory.path() + "/(unnamed arena file)");
  CHECK(io.offset() % (4 * page) == 0);
  CHECK(io.offset() < 2 * FaultRun::bytes);
  CHECK((io.bytes() == 8 * page || io.bytes() == 4 * page));
  CHECK(std::string_view{io.what()}.find(detail) != std::string_view::npos);
  CHECK(std::string_view{io.what()}.find(std::to_string(io.offset()) + " of " + io.path()) != std::string_view::npos);
}

TEST_CASE("an errno at any request reaches the caller") {
  for (const int error_number : {EIO, ENOSPC, EBADF}) {
    for_every_request({.kind = FaultKind::error, .error_number = error_number},
                      [&](const FaultRun& run, const std::exception_ptr& error) {
                        check_io_error(run, error, error_number, run.is_write_error() ? "write of" : "read of");
                      });
  }
}

TEST_CASE("a request that moves nothing is an error that says so") {
  for_every_request({.kind = FaultKind::zero}, [&](const FaultRun& run, const std::exception_ptr& error) {
    check_io_error(run, error, EIO,
                   run.is_write_error() ? "write (nothing was written) of" : "read (unexpected end of file) of");
  });
}

TEST_CASE("transient errors are repeated") {
  for (const int error_number : {EINTR, EAGAIN}) {
    for_every_request({.kind = FaultKind::error, .error_number = error_number},
                      [&](const FaultRun& run, const std::exception_ptr& error) {
                        CHECK(!error);
                        CHECK(run.is_complete());
                        CHECK(run.faulty.requests() == 13);
                      });
  }
}

TEST_CASE("short transfers are continued") {
  for_every_request({.kind = FaultKind::short_transfer}, [&](const FaultRun& run, const std::exception_ptr& error) {
    CHECK(!error);
    CHECK(run.is_complete());
    CHECK(run.faulty.requests() == 13);
    CHECK(run.tier->counters().written.count == 2 * FaultRun::bytes);
    CHECK(run.tier->counters().read.count == 2 * FaultRun::bytes);
  });
}

TEST_CASE("ragged transfers are continued from the last aligned boundary") {
  for_every_request({.kind = FaultKind::ragged}, [&](const FaultRun& run, const std::exception_ptr& error) {
    CHECK(!error);
    CHECK(run.is_complete());
    CHECK(run.faulty.requests() == 13);
  });
}

TEST_CASE("every request may fall short, again and again") {
  FaultRun run;
  run.faulty.inject({{.kind = FaultKind::short_transfer, .request = 0, .every = 2},
                     {.kind = FaultKind::ragged, .request = 1, .every = 4}});
  CHECK(run.run() == nullptr);
  CHECK(run.is_complete());
  CHECK(run.faulty.injected() > 12);
}

TEST_CASE("an engine that makes no progress is an error, not a loop") {
  for (const int error_number : {EAGAIN, EINTR}) {
    FaultRun run;
    run.faulty.inject({{.kind = FaultKind::error, .every = 1, .error_number = error_number}});
    check_io_error(run, run.run(), error_number, "write (no progress) of");
  }
}

TEST_CASE("the completion of a lost request stays open, and fails when the request is dropped") {
  for_every_request({.kind = FaultKind::lost}, [&](FaultRun& run, const std::exception_ptr& error) {
    CHECK(!error);
    CHECK(std::count_if(run.completions.begin(), run.completions.end(),
                        [](const Completion& completion) { return !completion.done(); }) == 1);
    const auto open = std::find_if(run.completions.begin(), run.completions.end(),
                                   [](const Completion& completion) { return !completion.done(); });
    run.faulty.drop_lost();
    REQUIRE(open->done());
    CHECK_THROWS_WITH_AS(open->wait(), (open->label() + " was dropped before it ended").c_str(), zerospan::Error);
    CHECK(open->label().find("of 81920 bytes at offset ") != std::string::npos);
  });
}

TEST_CASE("a lost completion outlives its tier, and the file is closed after it") {
  for (const bool is_delivered : {true, false}) {
    FaultRun run;
    run.faulty.inject({{.kind = FaultKind::lost, .request = 1}});
    CHECK(run.run() == nullptr);
    const int descriptor = run.faulty.last_descriptor();
    run.tier.reset();
    CHECK(!run.completions[0].done());
    CHECK(::fcntl(descriptor, F_GETFD) != -1);
    if (is_delivered) run.faulty.deliver_lost();
    run.faulty.drop_lost();
    CHECK(run.completions[0].done());
    CHECK((run.completions[0].error() == nullptr) == is_delivered);
    CHECK(::fcntl(descriptor, F_GETFD) == -1);
  }
}

TEST_CASE("a completion ends with its last block, and carries the first error") {
  FaultRun run;
  run.faulty.inject({{.kind = FaultKind::error, .request = 1, .error_number = ENOSPC},
                     {.kind = FaultKind::error, .request = 2, .error_number = EIO}});
  run.faulty.hold();
  const Extent extent = run.tier->place(4 * 8 * page);
  const AlignedBuffer buffer{extent.bytes};
  const Completion completion = run.tier->write(extent, 0, buffer.data(), buffer.size());
  run.faulty.wait_for_held(4);  // all blocks were submitted at once
  for (int i = 0; i < 3; ++i) {
    run.faulty.release_next();
    CHECK(!completion.done());
  }
  run.faulty.release_next();
  REQUIRE(completion.done());
  const IoError error = io_error_of([&] { completion.wait(); });
  CHECK(error.code().value() == ENOSPC);
  CHECK(error.offset() == extent.offset + 8 * page);
  CHECK(error.bytes() == 8 * page);
  CHECK(run.faulty.requests() == 4);
  CHECK(run.tier->counters().written.count == 2 * 8 * page);
  run.faulty.release();
}

TEST_CASE("after an error a transfer is not continued") {
  FaultRun run;
  run.faulty.inject({{.kind = FaultKind::error, .request = 0}, {.kind = FaultKind::short_transfer, .request = 1}});
  run.faulty.hold();
  const Extent extent = run.tier->place(2 * 8 * page);
  const AlignedBuffer buffer{extent.bytes};
  const Completion completion = run.tier->write(extent, 0, buffer.data(), buffer.size());
  run.faulty.wait_for_held(2);
  run.faulty.release();
  CHECK(completion.done());
  CHECK(run.faulty.requests() == 2);
  CHECK(io_error_of([&] { completion.wait(); }).offset() == extent.offset);
}

TEST_CASE("the destructor of a tier waits for its transfers") {
  const ScratchDirectory directory;
  ThreadedIoEngine inner;
  FaultyIoEngine faulty{inner};
  auto tier = std::make_unique<NvmeTier<FaultyIoEngine<ThreadedIoEngine>>>(
      faulty, zerospan::NvmeTierOptions{.directory = directory.path(), .drain_timeout = std::chrono::hours{1}});
  const Extent extent = tier->place(page);
  const AlignedBuffer buffer{page};
  faulty.hold();
  const Completion completion = tier->write(extent, 0, buffer.data(), page);
  faulty.wait_for_held(1);
  std::thread releaser{[&] { faulty.release(); }};
  tier.reset();
  CHECK(completion.done());
  releaser.join();
  CHECK(completion.error() == nullptr);
}

/// Refuses the second request by an exception.
struct ThrowingEngine {
  void submit(const zerospan::IoRequest& request, zerospan::IoCallback callback) {
    if (++requests == 2) throw std::bad_alloc{};
    callback(static_cast<std::int64_t>(request.bytes));
  }
  std::size_t queue_depth() const { return 1; }
  std::string_view name() const { return "throwing"; }
  int requests = 0;
};

TEST_CASE("an engine that throws fails the completion") {
  const ScratchDirectory directory;
  ThrowingEngine engine;
  NvmeTier tier{engine, {.directory = directory.path(), .block = Bytes{page}}};
  const Extent extent = tier.place(4 * page);
  const AlignedBuffer buffer{4 * page};
  const Completion completion = tier.read(extent, 0, buffer.data(), buffer.size());
  REQUIRE(completion.done());
  CHECK_THROWS_AS(completion.wait(), std::bad_alloc);
  CHECK(engine.requests == 2);
}

}  // namespace
