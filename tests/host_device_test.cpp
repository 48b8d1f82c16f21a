#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/kernels/stream_operations.hpp>

namespace {

using namespace zerospan::literals;
using zerospan::Allocation;
using zerospan::Arena;
using zerospan::Bytes;
using zerospan::HostDevice;

// Near misses: no host memory, an arena by value, lanes that are none.
struct WithoutHostMemory {
  using lanes_type = zerospan::detail::HostLanes;
  Arena& memory();
};
struct ArenaByValue : WithoutHostMemory {
  Arena host_memory();
};
struct WithoutLanes {
  using lanes_type = int;
  Arena& memory();
  Arena& host_memory();
};
struct Sound : WithoutHostMemory {
  Arena& host_memory();
};
static_assert(zerospan::Device<HostDevice> && zerospan::Device<Sound>);
static_assert(!zerospan::Device<WithoutHostMemory>);
static_assert(!zerospan::Device<ArenaByValue>);
static_assert(!zerospan::Device<WithoutLanes>);

bool is_aligned(const std::byte* data, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(data) % alignment == 0;
}

TEST_CASE("budgets are the capacities of the arenas") {
  HostDevice device{{.device_budget = 3_MiB, .host_budget = Bytes{12'345}}};
  CHECK(device.memory().capacity() == 3_MiB);
  CHECK(device.host_memory().capacity() == Bytes{12'345});
  CHECK(device.memory().name() == "device memory");
  CHECK(device.host_memory().name() == "host memory");
  CHECK(device.memory().used() == Bytes{0});
}

TEST_CASE("all of the budget is zeroed memory that can be written, and begins at a huge page") {
  constexpr std::array budgets{Bytes{1}, 4_KiB, Bytes{(2U << 20) - 1}, 2_MiB, Bytes{(2U << 20) + 1}, 5_MiB};
  for (const Bytes budget : budgets) {
    CAPTURE(budget.count);
    HostDevice device{{.device_budget = budget, .host_budget = budget}};
    const auto on_device = device.memory().allocate(budget, "all");
    const auto on_host = device.host_memory().allocate(budget, "all");
    for (const auto* all : {&on_device, &on_host}) {
      CHECK(is_aligned(all->data(), 2U << 20));
      CHECK(all->data()[0] == std::byte{0});
      CHECK(all->data()[budget.count - 1] == std::byte{0});
      std::memset(all->data(), 0x5a, budget.count);
    }
  }
}

TEST_CASE("memory beyond a budget is refused, in each arena by itself") {
  HostDevice device{{.device_budget = 1_MiB, .host_budget = 2_MiB}};
  try {
    static_cast<void>(device.memory().allocate(Bytes{(1U << 20) + 1}, "the gather of w"));
    FAIL("no error");
  } catch (const zerospan::BudgetError& error) {
    CHECK(std::string{error.what()} ==
          "the gather of w in device memory needs 1048577 bytes, 1048576 are left: 1 bytes short; raise its budget");
  }
  const auto half = device.host_memory().allocate(1_MiB, "half");
  const auto all = device.memory().allocate(1_MiB, "all");
  CHECK_THROWS_AS(device.memory().allocate(Bytes{1}, "more"), zerospan::BudgetError);
  const auto rest = device.host_memory().allocate(1_MiB, "rest");
  CHECK_THROWS_AS(device.host_memory().allocate(Bytes{1}, "more"), zerospan::BudgetError);
}

TEST_CASE("a budget of nothing holds nothing") {
  HostDevice device{{.device_budget = Bytes{0}, .host_budget = Bytes{0}}};
  CHECK(device.memory().capacity() == Bytes{0});
  CHECK_THROWS_AS(device.memory().allocate(Bytes{1}, "a byte"), zerospan::BudgetError);
}

TEST_CASE("a budget beyond the address space is refused") {
  for (const std::size_t budget : {std::size_t{1} << 60, std::numeric_limits<std::size_t>::max()}) {
    try {
      HostDevice device{{.device_budget = Bytes{budget}, .host_budget = 1_MiB}};
      FAIL("no error");
    } catch (const zerospan::ConfigurationError& error) {
      const std::string message = error.what();
      CHECK(message.starts_with("no address space for a budget of " + std::to_string(budget) + " bytes (errno "));
    }
  }
}

TEST_CASE("an allocation outlives its device") {
  Allocation allocation;
  {
    HostDevice device{{.device_budget = 4_MiB, .host_budget = 1_MiB}};
    allocation = device.memory().allocate(4_MiB, "all");
    std::memset(allocation.data(), 1, allocation.bytes());
  }
  std::size_t sum = 0;
  for (std::size_t i = 0; i < allocation.bytes(); i += 4096) sum += std::to_integer<std::size_t>(allocation.data()[i]);
  CHECK(sum == 1024);
  allocation = {};
}

TEST_CASE("the operations of the calling thread's stream are done when they return") {
  std::array<std::byte, 8> source{};
  std::array<std::byte, 8> target{};
  source.fill(std::byte{7});
  zerospan::copy_bytes(zerospan::calling_thread, target.data(), source.data(), 5);
  CHECK(target[4] == std::byte{7});
  CHECK(target[5] == std::byte{0});
  zerospan::copy_bytes(zerospan::calling_thread, target.data(), target.data(), 8);  // onto itself
  CHECK(target[4] == std::byte{7});
  zerospan::fill_zero(zerospan::calling_thread, target.data() + 1, 3);
  CHECK(target[0] == std::byte{7});
  CHECK(target[1] == std::byte{0});
  CHECK(target[3] == std::byte{0});
  CHECK(target[4] == std::byte{7});
}

}  // namespace
