#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/detail/host_lanes.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/pipeline/detail/staging.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace {

using namespace zerospan::literals;
using zerospan::Addressable;
using zerospan::Arena;
using zerospan::Bytes;
using zerospan::Completion;
using zerospan::DeviceTier;
using zerospan::Extent;
using zerospan::HostDevice;
using zerospan::Lane;
using zerospan::Operation;
using zerospan::OperationKind;
using zerospan::Promise;
using zerospan::TierRef;
using zerospan::detail::HostLanes;
using zerospan::detail::Operand;
using zerospan::detail::PostedWork;
using zerospan::detail::Site;
using zerospan::detail::Staging;

constexpr std::size_t page = Arena::alignment;
using Access = Operand::Access;
using Pointers = std::span<std::byte* const>;

/// Which ranges of memory are in use at this moment. No two that are may overlap.
class InUse {
 public:
  void begin(const std::byte* data, std::size_t bytes) {
    const std::scoped_lock lock{mutex_};
    for (const auto& [first, count] : ranges_) meetings_ += data < first + count && first < data + bytes ? 1 : 0;
    ranges_.emplace(data, bytes);
    most_ = std::max(most_, ranges_.size());
  }
  void end(const std::byte* data) {
    const std::scoped_lock lock{mutex_};
    ranges_.erase(ranges_.find(data));
  }
  std::size_t meetings() const {
    const std::scoped_lock lock{mutex_};
    return meetings_;
  }
  /// The most ranges that were in use at once.
  std::size_t most() const {
    const std::scoped_lock lock{mutex_};
    return most_;
  }

 private:
  mutable std::mutex mutex_;
  std::multimap<const std::byte*, std::size_t> ranges_;
  std::size_t meetings_ = 0;
  std::size_t most_ = 0;
};

/// A tier that is not addressable: a vector, and a thread that carries transfers out one at a time, in a random order.
class SlowTier {
 public:
  SlowTier(std::size_t bytes, InUse& in_use, std::uint32_t seed = 0)
      : storage_(bytes), in_use_{&in_use}, random_{seed}, worker_{[this] { run(); }} {}
  SlowTier(const SlowTier&) = delete;
  SlowTier& operator=(const SlowTier&) = delete;
  ~SlowTier() {
    {
      const std::scoped_lock lock{mutex_};
      stopping_ = true;
      held_ = {};
    }
    changed_.notify_all();
  }

  std::string_view name() const { return "slow tier"; }
  std::size_t alignment() const { return 512; }
  Addressable addressable() const { return Addressable::nowhere; }
  void reserve(Bytes, std::string_view) {}
  void cancel(Bytes) noexcept {}
  Extent place(std::size_t bytes) {
    const Extent extent{next_, bytes};
    next_ += zerospan::round_up(bytes, alignment());
    return extent;
  }
  void remove(const Extent&) noexcept {}
  std::byte* view(const Extent&) { return nullptr; }
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    return start({true, extent.offset + offset, data, bytes, Promise{"slow read"}});
  }
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) {
    return start({false, extent.offset + offset, const_cast<std::byte*>(data), bytes, Promise{"slow write"}});
  }
  zerospan::TierCounters counters() const { return {}; }

  /// From now on, transfers of that direction do not end.
  void hold(Access direction) { set_held(direction, true); }
  void let_go(Access direction) { set_held(direction, false); }
  void fail_reads() {
    const std::scoped_lock lock{mutex_};
    failing_ = true;
  }

  /// What transfers there were: "read 1024", "read ended", in order.
  std::vector<std::string> log() const {
    const std::scoped_lock lock{mutex_};
    return log_;
  }
  std::span<std::byte> storage(const Extent& extent) {
    return std::span{storage_}.subspan(extent.offset, extent.bytes);
  }

 private:
  struct Transfer {
    bool is_read;
    std::size_t offset;
    std::byte* data;
    std::size_t bytes;
    Promise promise;
  };

  const char* name_of(const Transfer& transfer) const { return transfer.is_read ? "read" : "write"; }

  Completion start(Transfer transfer) {
    in_use_->begin(transfer.data, transfer.bytes);
    Completion completion = transfer.promise.completion();
    {
      const std::scoped_lock lock{mutex_};
      log_.push_back(std::string{name_of(transfer)} + " " + std::to_string(transfer.bytes));
      waiting_.push_back(std::make_unique<Transfer>(std::move(transfer)));
    }
    changed_.notify_all();
    return completion;
  }

  void set_held(Access direction, bool held) {
    {
      const std::scoped_lock lock{mutex_};
      held_[direction == Access::read ? 0 : 1] = held;
    }
    changed_.notify_all();
  }

  bool is_held(const Transfer& transfer) const { return held_[transfer.is_read ? 0 : 1]; }

  void run() {
    while (true) {
      std::unique_lock lock{mutex_};
      const auto can_go = [this](const auto& transfer) { return !is_held(*transfer); };
      changed_.wait(lock, [&] { return stopping_ || std::ranges::any_of(waiting_, can_go); });
      const auto movable = static_cast<std::size_t>(std::ranges::count_if(waiting_, can_go));
      if (movable == 0) return;
      auto chosen = std::ranges::find_if(waiting_, can_go);
      for (std::size_t skip = random_() % movable; skip > 0; --skip)
        chosen = std::find_if(chosen + 1, waiting_.end(), can_go);
      const std::unique_ptr<Transfer> transfer = std::move(*chosen);
      waiting_.erase(chosen);
      const bool fails = failing_ && transfer->is_read;
      log_.push_back(std::string{name_of(*transfer)} + " ended");
      lock.unlock();
      carry_out(*transfer, fails);
    }
  }

  void carry_out(Transfer& transfer, bool fails) {
    std::byte* const stored = storage_.data() + transfer.offset;
    if (transfer.is_read) {
      std::memcpy(transfer.data, stored, transfer.bytes);
    } else {
      std::memcpy(stored, transfer.data, transfer.bytes);
    }
    in_use_->end(transfer.data);
    if (fails) {
      transfer.promise.fail(std::make_exception_ptr(std::runtime_error{"the disk is gone"}));
    } else {
      transfer.promise.succeed();
    }
  }

  std::vector<std::byte> storage_;
  InUse* in_use_;
  std::size_t next_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::mt19937 random_;
  std::vector<std::unique_ptr<Transfer>> waiting_;
  std::array<bool, 2> held_{};
  bool failing_ = false;
  bool stopping_ = false;
  std::vector<std::string> log_;
  std::jthread worker_;
};
static_assert(zerospan::OffloadTier<SlowTier>);

/// Staging of some pages over a slow tier; a tier in device memory beside it.
struct Rig {
  explicit Rig(std::size_t pages, std::uint32_t seed = 0) : slow{1U << 20, in_use, seed}, memory{device.memory()} {
    staging.emplace(*lanes, device.host_memory().allocate(Bytes{pages * page}, "staging"));
  }
  ~Rig() {
    for (const Access direction : {Access::read, Access::write}) slow.let_go(direction);
    lanes->drain();
  }
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;

  template <class Work>
  PostedWork run(std::vector<Operand> operands, Work work, std::vector<Completion> after = {}) {
    return staging->run(Lane::update, {OperationKind::update, "w", 1}, operands, std::move(after), std::move(work));
  }

  /// Adds `value` to each byte of an extent on the slow tier.
  PostedWork add(const Extent& extent, std::uint8_t value, std::vector<Completion> ready = {}) {
    return run({{slow, extent, 0, extent.bytes, Access::change, std::move(ready)}}, [extent, value](auto&, Pointers p) {
      for (std::byte& b : std::span{p[0], extent.bytes})
        b = static_cast<std::byte>(std::to_integer<unsigned>(b) + value);
    });
  }

  void wait(const Completion& completion) {
    lanes->wait(zerospan::calling_thread, completion, {OperationKind::update, "the test"});
  }
  void wait(const std::vector<Completion>& completions) {
    for (const Completion& completion : completions) wait(completion);
  }

  InUse in_use;
  HostDevice device{{.device_budget = 2_MiB, .host_budget = 2_MiB}};
  SlowTier slow;
  DeviceTier memory;
  std::optional<HostLanes> lanes{std::in_place, device, zerospan::LaneOptions{}};
  std::optional<Staging<HostLanes>> staging;
};

bool all_are(std::span<const std::byte> bytes, std::uint8_t value) {
  return std::ranges::all_of(bytes, [value](std::byte b) { return b == std::byte{value}; });
}

using Log = std::vector<std::string>;

TEST_CASE("slots are whole pages of the ring; addressable operands take none") {
  Rig rig{16};
  CHECK(rig.staging->capacity() == 16 * page);
  CHECK(Staging<HostLanes>::slot_bytes(rig.slow, 1, Site::device) == page);
  CHECK(Staging<HostLanes>::slot_bytes(rig.slow, page, Site::device) == page);
  CHECK(Staging<HostLanes>::slot_bytes(rig.slow, page + 1, Site::device) == 2 * page);
  CHECK(Staging<HostLanes>::slot_bytes(rig.memory, 100 * page, Site::device) == 0);
}

TEST_CASE("a piece is small enough for several to be under way") {
  Rig rig{20};
  CHECK(rig.staging->piece_bytes(rig.slow) == 2 * page);
  CHECK(rig.staging->piece_bytes(rig.memory) == std::numeric_limits<std::size_t>::max());
  Rig small{3};
  CHECK(small.staging->piece_bytes(small.slow) == page);
}

TEST_CASE("a written operand reaches its tier") {
  Rig rig{4};
  const Extent extent = rig.slow.place(1024);
  const PostedWork posted =
      rig.run({{rig.slow, extent, 512, 512, Access::write}}, [](auto&, Pointers p) { std::memset(p[0], 7, 512); });
  rig.wait(posted.ends);
  CHECK(all_are(rig.slow.storage(extent).subspan(512), 7));
  CHECK(all_are(rig.slow.storage(extent).first(512), 0));
  CHECK(rig.slow.log() == Log{"write 512", "write ended"});  // nothing is read for it
  CHECK(rig.lanes->counters()[OperationKind::write].bytes == 512);
  CHECK(rig.lanes->counters()[OperationKind::update].count == 1);
}

TEST_CASE("of work that was begun all is read ahead that it changes, and nothing else") {
  Rig rig{12};
  const Extent first = rig.slow.place(page);
  const Extent second = rig.slow.place(page);
  const Extent third = rig.slow.place(page);
  for (const auto& [extent, value] : {std::pair{first, 1}, std::pair{second, 2}, std::pair{third, 3}}) {
    std::ranges::fill(rig.slow.storage(extent), static_cast<std::byte>(value));
  }
  const std::array operands{Operand{rig.slow, first, 0, page, Access::change},
                            Operand{rig.slow, second, 0, page, Access::read},
                            Operand{rig.slow, third, 0, page, Access::change}};
  auto begun = rig.staging->begin("ahead", operands, page);
  REQUIRE(begun);
  CHECK(begun->reads.size() == 2);
  rig.wait(begun->reads.at(0));
  rig.wait(begun->reads.at(2));
  CHECK(rig.lanes->counters()[OperationKind::read].count == 2);
  std::ranges::fill(rig.slow.storage(second), std::byte{4});  // it may change until the work is posted
  const PostedWork posted = rig.staging->run_on_host(
      Lane::update, {OperationKind::update, "w", 1}, operands, *std::move(begun), {}, [&](Pointers p) {
        for (std::size_t i = 0; i < page; ++i) p[0][i] |= p[1][i] | p[2][i];
      });
  rig.wait(posted.ends);
  CHECK(rig.lanes->counters()[OperationKind::read].count == 3);
  CHECK(all_are(rig.slow.storage(first), 1 | 4 | 3));
  CHECK(all_are(rig.slow.storage(third), 3));
}

TEST_CASE("work that was begun is read ahead, and its slot is nobody else's until it is posted") {
  Rig rig{12};
  const Extent ahead = rig.slow.place(4 * page);
  const Extent other = rig.slow.place(2 * page);
  std::ranges::fill(rig.slow.storage(ahead), std::byte{5});
  const std::array operands{Operand{rig.slow, ahead, 0, ahead.bytes, Access::change}};
  auto begun = rig.staging->begin("ahead", operands, 2 * page);
  REQUIRE(begun);
  rig.wait(begun->reads.at(0));
  for (int i = 0; i < 20; ++i) rig.wait(rig.add(other, 1).ends);
  CHECK(all_are(rig.slow.storage(other), 20));
  const std::size_t reads = rig.lanes->counters()[OperationKind::read].count;
  const PostedWork posted = rig.staging->run_on_host(
      Lane::update, {OperationKind::update, "w", 1}, operands, *std::move(begun), {}, [&](Pointers p) {
        for (std::byte& b : std::span{p[0], ahead.bytes}) b = static_cast<std::byte>(std::to_integer<unsigned>(b) + 1U);
      });
  rig.wait(posted.ends);
  CHECK(all_are(rig.slow.storage(ahead), 6));
  CHECK(rig.lanes->counters()[OperationKind::read].count == reads);  // not once more
}

TEST_CASE("work is begun where it leaves half of the ring, and room for others; what does not fit beside it is told") {
  Rig rig{12};
  const Extent extent = rig.slow.place(12 * page);
  const auto begin = [&](std::size_t pages, std::size_t others) {
    const std::array operands{Operand{rig.slow, extent, 0, pages * page, Access::change}};
    return rig.staging->begin("ahead", operands, others * page);
  };
  CHECK(!begin(7, 0));
  CHECK(!begin(5, 8));
  const auto first = begin(4, 8);
  REQUIRE(first);
  CHECK(!begin(3, 0));
  const auto second = begin(2, 6);
  REQUIRE(second);
  const auto change = [&](std::size_t pages) {
    return rig.run({{rig.slow, extent, 0, pages * page, Access::write}},
                   [pages](auto&, Pointers p) { std::memset(p[0], 1, pages * page); });
  };
  CHECK_THROWS_AS(change(7), zerospan::BudgetError);
  rig.wait(change(6).ends);
  rig.staging->drop(*first);
  CHECK_THROWS_AS(change(7), zerospan::BudgetError);
  rig.staging->drop(*second);
  rig.wait(change(12).ends);
}

TEST_CASE("what work leaves in its slot is there until the slot is given to others, who wait for its uses") {
  Rig rig{8};
  const Extent extent = rig.slow.place(8 * page);
  const auto fill = [&](std::size_t pages, std::uint8_t value) {
    return rig.run({{rig.slow, extent, 0, pages * page, Access::write}},
                   [pages, value](auto&, Pointers p) { std::memset(p[0], value, pages * page); });
  };
  const PostedWork first = fill(3, 7);
  const PostedWork second = fill(2, 8);
  CHECK(rig.staging->holds(first.slot));
  CHECK(rig.staging->holds(second.slot));
  rig.wait(first.ends);
  CHECK(all_are(std::span{first.last, 3 * page}, 7));

  Promise use{"a use"};
  rig.staging->record_use(first.slot, use.completion());
  const PostedWork third = fill(4, 9);  // at the begin of the ring again
  CHECK(!rig.staging->holds(first.slot));
  CHECK(!rig.staging->holds(second.slot));
  rig.wait(second.ends);
  CHECK(!third.work.done());
  CHECK(all_are(std::span{first.last, 3 * page}, 7));
  use.succeed();
  rig.wait(third.ends);
  CHECK(all_are(std::span{first.last, 3 * page}, 9));
  CHECK(first.last == third.last);
  CHECK(third.last_end.done());

  const Extent in_memory = rig.memory.place(page);
  const PostedWork addressable = rig.run({{rig.memory, in_memory, 0, page, Access::write}}, [](auto&, Pointers) {});
  CHECK(addressable.last == nullptr);
  rig.wait(addressable.ends);
}

TEST_CASE("a read operand comes from its tier, and nothing is written") {
  Rig rig{4};
  const Extent extent = rig.slow.place(1024);
  std::ranges::fill(rig.slow.storage(extent), std::byte{3});
  std::size_t sum = 0;
  const PostedWork posted = rig.run({{rig.slow, extent, 0, 1024, Access::read}}, [&sum](auto&, Pointers p) {
    for (std::size_t i = 0; i < 1024; ++i) sum += std::to_integer<std::size_t>(p[0][i]);
  });
  REQUIRE(posted.ends.size() == 1);
  rig.wait(posted.ends);
  CHECK(sum == 3 * 1024);
  CHECK(rig.slow.log() == Log{"read 1024", "read ended"});
}

TEST_CASE("an operand that lies as its tier demands can be read right into device memory, past the ring") {
  Rig rig{1};
  const zerospan::Allocation device = rig.device.memory().allocate(Bytes{page}, "device memory");
  const Extent extent = rig.slow.place(2048);
  std::ranges::fill(rig.slow.storage(extent), std::byte{7});
  Promise before{"what has the memory"};
  Promise written{"the last write of the range"};
  const Operand operand{rig.slow, extent, 512, 1024, Access::read, {written.completion()}};
  using Ring = Staging<HostLanes>;
  REQUIRE(Ring::reads_directly(operand, device.data()));
  const Completion end = rig.staging->read_directly("w", operand, device.data(), {before.completion()});
  before.succeed();
  CHECK(rig.slow.log().empty());
  written.succeed();
  rig.wait(end);
  CHECK(rig.slow.log() == Log{"read 1024", "read ended"});
  CHECK(all_are({device.data(), 1024}, 7));
  CHECK(!all_are({device.data() + 1024, 1}, 7));

  CHECK(!Ring::reads_directly(operand, device.data() + 256));
  CHECK(!Ring::reads_directly({rig.slow, extent, 256, 1024, Access::read}, device.data()));
  CHECK(!Ring::reads_directly({rig.slow, extent, 512, 1000, Access::read}, device.data()));
  const Extent addressable = rig.memory.place(page);
  CHECK(!Ring::reads_directly({rig.memory, addressable, 0, page, Access::read}, device.data()));
  rig.memory.remove(addressable);
}

TEST_CASE("a changed operand is read, worked on and written") {
  Rig rig{4};
  const Extent extent = rig.slow.place(1024);
  std::ranges::fill(rig.slow.storage(extent), std::byte{3});
  const PostedWork posted = rig.add(extent, 4);
  rig.wait(posted.ends);
  CHECK(posted.work.done());
  CHECK(all_are(rig.slow.storage(extent), 7));
  CHECK(rig.slow.log() == Log{"read 1024", "read ended", "write 1024", "write ended"});
}

TEST_CASE("transfers are rounded up to the tier's alignment") {
  Rig rig{4};
  const Extent extent = rig.slow.place(1024);
  rig.wait(rig.run({{rig.slow, extent, 0, 700, Access::change}}, [](auto&, Pointers) {}).ends);
  CHECK(rig.slow.log() == Log{"read 1024", "read ended", "write 1024", "write ended"});
}

TEST_CASE("addressable operands are worked on in place") {
  Rig rig{1};
  const Extent extent = rig.memory.place(3 * page);
  std::byte* const data = rig.memory.view(extent);
  const PostedWork posted = rig.run({{rig.memory, extent, page, 2 * page, Access::change}}, [data](auto&, Pointers p) {
    CHECK(p.size() == 1);
    CHECK(p[0] == data + page);
    std::memset(p[0], 5, 2 * page);
  });
  REQUIRE(posted.ends.size() == 1);
  rig.wait(posted.ends);
  CHECK(all_are({data + page, 2 * page}, 5));
  CHECK(rig.lanes->counters()[OperationKind::read].count == 0);
  CHECK(rig.lanes->counters()[OperationKind::write].count == 0);
}

TEST_CASE("work has as many pointers as operands, in their order, whatever their tiers") {
  Rig rig{8};
  const Extent changed = rig.slow.place(1024);
  const Extent read = rig.slow.place(512);
  const Extent written = rig.slow.place(2 * page);
  const Extent in_memory = rig.memory.place(100);
  std::ranges::fill(rig.slow.storage(changed), std::byte{1});
  std::ranges::fill(rig.slow.storage(read), std::byte{2});
  std::memset(rig.memory.view(in_memory), 4, 100);
  const PostedWork posted = rig.run({{rig.slow, changed, 0, 1024, Access::change},
                                     {rig.memory, in_memory, 0, 100, Access::read},
                                     {rig.slow, read, 0, 512, Access::read},
                                     {rig.slow, written, 0, 2 * page, Access::write}},
                                    [](auto&, Pointers p) {
                                      REQUIRE(p.size() == 4);
                                      const auto sum = std::to_integer<int>(p[0][1023]) +
                                                       std::to_integer<int>(p[1][99]) + std::to_integer<int>(p[2][511]);
                                      std::memset(p[0], 10 + sum, 1024);
                                      std::memset(p[3], 20 + sum, 2 * page);
                                    });
  CHECK(posted.ends.size() == 2);
  rig.wait(posted.ends);
  CHECK(all_are(rig.slow.storage(changed), 17));
  CHECK(all_are(rig.slow.storage(read), 2));
  CHECK(all_are(rig.slow.storage(written), 27));
  CHECK(rig.in_use.meetings() == 0);
}

TEST_CASE("work without operands is posted as it is") {
  Rig rig{1};
  bool ran = false;
  const PostedWork posted = rig.run({}, [&ran](auto&, Pointers p) { ran = p.empty(); });
  rig.wait(posted.ends);
  CHECK(ran);
}

TEST_CASE("work waits for what it is told to, and for the last transfers of its operands") {
  Rig rig{8};
  const Extent slow = rig.slow.place(512);
  const Extent in_memory = rig.memory.place(512);
  for (const TierRef tier : {TierRef{rig.slow}, TierRef{rig.memory}}) {
    for (const Access access : {Access::read, Access::change}) {
      Promise gate{"gate"};
      Promise ready{"ready"};
      std::vector<int> order;
      const Extent& extent = tier.addressable() == Addressable::nowhere ? slow : in_memory;
      const PostedWork posted = rig.run({{tier, extent, 0, 512, access, {ready.completion()}}},
                                        [&order](auto&, Pointers) { order.push_back(3); }, {gate.completion()});
      CHECK_FALSE(posted.work.done());
      order.push_back(1);
      ready.succeed();
      CHECK_FALSE(posted.work.done());
      order.push_back(2);
      gate.succeed();
      rig.wait(posted.ends);
      CHECK(order == std::vector<int>{1, 2, 3});
    }
  }
}

TEST_CASE("a write waits for the last transfers of its range, the work before it does not") {
  Rig rig{8};
  const Extent extent = rig.slow.place(512);
  Promise earlier{"earlier"};
  const PostedWork posted = rig.run({{rig.slow, extent, 0, 512, Access::write, {earlier.completion()}}},
                                    [](auto&, Pointers p) { std::memset(p[0], 1, 512); });
  rig.wait(posted.work);
  rig.wait(rig.lanes->post(Lane::read_states, {}, {OperationKind::read, "x"}, [](auto&) { return Completion{}; }));
  CHECK(rig.slow.log().empty());
  earlier.succeed();
  rig.wait(posted.ends);
  CHECK(rig.slow.log() == Log{"write 512", "write ended"});
}

TEST_CASE("the next piece is read and worked on while the last one's writes go on") {
  Rig rig{4};
  const Extent first = rig.slow.place(page);
  const Extent second = rig.slow.place(page);
  rig.slow.hold(Access::write);
  const PostedWork a = rig.add(first, 1);
  rig.wait(a.work);
  const PostedWork b = rig.add(second, 2);
  rig.wait(b.work);  // it would wait for ever if anything of it waited for the first one's write
  CHECK_FALSE(a.ends[0].done());
  rig.slow.let_go(Access::write);
  rig.wait(a.ends);
  rig.wait(b.ends);
  CHECK(all_are(rig.slow.storage(first), 1));
  CHECK(all_are(rig.slow.storage(second), 2));
}

TEST_CASE("the reads of the next piece go on while the last one is worked on") {
  Rig rig{4};
  const Extent first = rig.slow.place(page);
  const Extent second = rig.slow.place(page);
  Promise gate{"gate"};
  const PostedWork a = rig.run({{rig.slow, first, 0, page, Access::read}}, [](auto&, Pointers) {}, {gate.completion()});
  const PostedWork b = rig.add(second, 2);
  rig.wait(rig.lanes->post(Lane::read_states, {}, {OperationKind::read, "x"}, [](auto&) { return Completion{}; }));
  const Log log = rig.slow.log();
  CHECK(std::ranges::count(log, "read 4096") == 2);
  CHECK_FALSE(a.work.done());
  gate.succeed();
  rig.wait(b.ends);
}

TEST_CASE("a slot is taken again only after the write of what it held") {
  Rig rig{1};
  const Extent first = rig.slow.place(page);
  const Extent second = rig.slow.place(page);
  rig.slow.hold(Access::write);
  const PostedWork a = rig.add(first, 1);
  const PostedWork b = rig.add(second, 2);
  rig.wait(a.work);
  CHECK_FALSE(b.work.done());
  rig.slow.let_go(Access::write);
  rig.wait(b.ends);
  CHECK(rig.slow.log() == Log{"read 4096", "read ended", "write 4096", "write ended",  //
                              "read 4096", "read ended", "write 4096", "write ended"});
  CHECK(rig.in_use.meetings() == 0);
  CHECK(rig.in_use.most() == 1);
}

TEST_CASE("what can never fit into the ring is refused, and nothing is posted") {
  Rig rig{2};
  const Extent extent = rig.slow.place(3 * page);
  try {
    rig.add(extent, 1);
    FAIL("no error");
  } catch (const zerospan::BudgetError& error) {
    CHECK(std::string{error.what()} ==
          "staging w needs 12288 bytes, 8192 are left: 4096 bytes short; raise the host budget");
  }
  const Extent one = rig.slow.place(1);
  const Operand operand{rig.slow, one, 0, 1, Access::write};
  CHECK_THROWS_AS(rig.run({operand, operand, operand}, [](auto&, Pointers) {}), zerospan::BudgetError);
  rig.lanes->drain();
  CHECK(rig.slow.log().empty());
  rig.wait(rig.add(rig.slow.place(2 * page), 1).ends);  // what fits still does
}

TEST_CASE("after a failed read there is no work and no write") {
  Rig rig{4};
  const Extent extent = rig.slow.place(page);
  rig.slow.fail_reads();
  bool ran = false;
  const PostedWork posted =
      rig.run({{rig.slow, extent, 0, page, Access::change}}, [&ran](auto&, Pointers) { ran = true; });
  CHECK_THROWS_WITH_AS(posted.work.wait(), "the disk is gone", std::runtime_error);
  CHECK_THROWS_WITH_AS(posted.ends.at(0).wait(), "the disk is gone", std::runtime_error);
  rig.lanes->drain();
  CHECK_FALSE(ran);
  CHECK(rig.slow.log() == Log{"read 4096", "read ended"});
  CHECK_THROWS_WITH_AS(rig.lanes->check(), "the disk is gone", std::runtime_error);
}

/// Random work on a few extents of both tiers, against the same work done at once on a copy.
class RandomWork {
 public:
  RandomWork(std::uint32_t seed, std::size_t pages) : random_{seed}, pages_{pages}, rig_{pages, seed} {
    for (std::size_t i = 0; i < 6; ++i) {
      const std::size_t bytes = 512 * (1 + random_() % (pages * page / 512));
      const bool in_memory = i >= 4;
      const TierRef tier = in_memory ? TierRef{rig_.memory} : TierRef{rig_.slow};
      const Extent extent = tier.place(bytes);
      if (in_memory) std::memset(rig_.memory.view(extent), 0, bytes);
      items_.push_back({tier, extent, std::vector<std::byte>(bytes), {}});
    }
  }

  void post() {
    std::vector<Operand> operands;
    std::vector<std::size_t> chosen;
    std::size_t slots = 0;
    for (std::size_t tries = 1 + random_() % 4; tries > 0; --tries) {
      const std::size_t i = random_() % items_.size();
      Item& item = items_[i];
      const std::size_t slot = Staging<HostLanes>::slot_bytes(item.tier, item.extent.bytes, Site::device);
      if (slots + slot > pages_ * page || std::ranges::count(chosen, i) > 0) continue;
      slots += slot;
      const auto access = static_cast<Access>(random_() % 3);
      operands.push_back({item.tier, item.extent, 0, item.extent.bytes, access, item.ready});
      chosen.push_back(i);
    }
    if (operands.empty()) return;
    const auto value = static_cast<std::uint8_t>(1 + random_() % 250);
    const PostedWork posted = rig_.run(operands, work(operands, value));
    std::vector<std::byte*> copies;
    for (const std::size_t i : chosen) copies.push_back(items_[i].copy.data());
    apply(operands, value, copies, expected_sum_);
    for (std::size_t k = 0; k < chosen.size(); ++k) {
      std::vector<Completion>& ready = items_[chosen[k]].ready;
      if (operands[k].access != Access::read) ready.clear();
      ready.insert(ready.end(), posted.ends.begin(), posted.ends.end());
    }
  }

  void hold_or_let_go() {
    const Access direction = random_() % 2 == 0 ? Access::read : Access::write;
    if (random_() % 3 == 0) {
      rig_.slow.hold(direction);
    } else {
      rig_.slow.let_go(direction);
    }
  }

  void check() {
    for (const Access direction : {Access::read, Access::write}) rig_.slow.let_go(direction);
    rig_.lanes->drain();
    rig_.lanes->check();
    REQUIRE(rig_.in_use.meetings() == 0);
    REQUIRE(sum_ == expected_sum_);
    for (Item& item : items_) {
      const std::byte* const data = item.tier.addressable() == Addressable::nowhere
                                        ? rig_.slow.storage(item.extent).data()
                                        : item.tier.view(item.extent);
      REQUIRE(std::memcmp(data, item.copy.data(), item.copy.size()) == 0);
    }
  }

 private:
  struct Item {
    TierRef tier;
    Extent extent;
    std::vector<std::byte> copy;
    std::vector<Completion> ready;
  };

  /// Reads add to `sum`, writes set each byte, changes add to each byte.
  static void apply(const std::vector<Operand>& operands, std::uint8_t value, std::span<std::byte* const> pointers,
                    std::uint64_t& sum) {
    for (std::size_t k = 0; k < operands.size(); ++k) {
      const std::span bytes{pointers[k], operands[k].bytes};
      if (operands[k].access == Access::write) std::ranges::fill(bytes, std::byte{value});
      for (std::byte& b : bytes) {
        if (operands[k].access == Access::change) b = static_cast<std::byte>(std::to_integer<unsigned>(b) + value);
        sum += std::to_integer<std::uint64_t>(b);
      }
    }
  }

  std::function<void(zerospan::detail::HostStream&, Pointers)> work(const std::vector<Operand>& operands,
                                                                    std::uint8_t value) {
    return [this, operands, value](auto&, Pointers pointers) {
      const auto is_staged = [&](std::size_t k) { return operands[k].tier.addressable() == Addressable::nowhere; };
      for (std::size_t k = 0; k < operands.size(); ++k) {
        if (is_staged(k)) rig_.in_use.begin(pointers[k], operands[k].bytes);
      }
      apply(operands, value, pointers, sum_);
      for (std::size_t k = 0; k < operands.size(); ++k) {
        if (is_staged(k)) rig_.in_use.end(pointers[k]);
      }
    };
  }

  std::mt19937 random_;
  std::size_t pages_;
  std::uint64_t sum_ = 0;  // of the update lane
  std::uint64_t expected_sum_ = 0;
  std::vector<Item> items_;
  Rig rig_;
};

TEST_CASE("at random: slots in use never meet, and contents are as if everything had been done at once") {
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    RandomWork work{seed, 1 + seed % 7};
    for (int round = 0; round < 4; ++round) {
      for (int i = 0; i < 40; ++i) {
        work.post();
        work.hold_or_let_go();
      }
      work.check();
    }
  }
}

}  // namespace
