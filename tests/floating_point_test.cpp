// Threads whose floating-point unit is in a mode that changes results are refused.
#include <doctest/doctest.h>

#include <cfenv>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include <zerospan/core/detail/floating_point.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/optimizer/adamw.hpp>

#include "support/shard_run.hpp"

namespace {

using zerospan::detail::check_floating_point_environment;

TEST_CASE("a thread computes with denormal numbers, and rounds to nearest, unless it is told otherwise") {
  CHECK_NOTHROW(check_floating_point_environment());
  std::thread{[] { CHECK_NOTHROW(check_floating_point_environment()); }}.join();
}

TEST_CASE("a thread that rounds otherwise is refused in words that help") {
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    std::fesetround(mode);
    std::string said;
    try {
      check_floating_point_environment();
    } catch (const zerospan::ConfigurationError& error) {
      said = error.what();
    }
    std::fesetround(FE_TONEAREST);
    CHECK(said.find("std::fesetround(FE_TONEAREST)") != std::string::npos);
  }
}

#if defined(__SSE2__)
constexpr unsigned flush_results = 0x8000;   // FTZ
constexpr unsigned flush_operands = 0x0040;  // DAZ

/// Sets bits of the calling thread's control register while it lives.
class Mode {
 public:
  explicit Mode(unsigned bits) : former_{_mm_getcsr()} { _mm_setcsr(former_ | bits); }
  Mode(const Mode&) = delete;
  Mode& operator=(const Mode&) = delete;
  ~Mode() { _mm_setcsr(former_); }

 private:
  unsigned former_;
};

std::string refusal() {
  try {
    check_floating_point_environment();
  } catch (const zerospan::ConfigurationError& error) {
    return error.what();
  }
  return {};
}

TEST_CASE("a thread that flushes denormal numbers is refused in words that help, as are those that it starts") {
  for (const unsigned bits : {flush_results, flush_operands, flush_results | flush_operands}) {
    CAPTURE(bits);
    std::string mine;
    std::string others;
    {
      const Mode mode{bits};
      mine = refusal();
      std::thread{[&others] { others = refusal(); }}.join();
    }
    CHECK(mine.find("without -Ofast and -ffast-math") != std::string::npos);
    CHECK(others == mine);
    CHECK(refusal().empty());
  }
}

TEST_CASE("what the refusal is for: the states of small gradients would have other bits") {
  const zerospan::AdamW adamw;
  const auto states_after_an_update = [&] {
    constexpr std::size_t n = 100;
    zerospan_test::SubGroup group{adamw, n, zerospan::ElementType::float32, zerospan::ElementType::float32};
    const std::vector<float> gradient(n, 1e-20F);  // its square is a denormal number
    zerospan::from_float(gradient.data(), zerospan::ElementType::float32, group.gradient.data(), n);
    adamw.update(group.run(0, n, 1, 1.0F, {}));
    return group.states;
  };
  const auto expected = states_after_an_update();
  const Mode mode{flush_results | flush_operands};
  CHECK(states_after_an_update() != expected);
}
#endif

}  // namespace
