#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/kernels/detail/exact_sum.hpp>

namespace {

using zerospan::detail::ExactSum;
using Limbs = std::array<std::int64_t, ExactSum::limb_count>;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double tiniest = std::numeric_limits<double>::denorm_min();
constexpr double largest = std::numeric_limits<double>::max();

static_assert(ExactSum::parts(tiniest).values[0] == 1, "the last limb's unit is the least double");

ExactSum sum_of(const std::vector<double>& terms) {
  ExactSum sum;
  for (const double term : terms) sum.add(term);
  return sum;
}

Limbs limbs_of(ExactSum sum) {
  Limbs limbs{};
  std::ranges::copy(sum.limbs(), limbs.begin());
  return limbs;
}

/// Any finite double, every bit pattern equally likely.
double any_double(std::mt19937_64& random) {
  for (;;) {
    const auto value = std::bit_cast<double>(random());
    if (std::isfinite(value)) return value;
  }
}

TEST_CASE("one term comes back as it is") {
  std::mt19937_64 random{1};
  for (int i = 0; i < 20000; ++i) {
    const double term = any_double(random);
    REQUIRE(sum_of({term}).value() == term);
  }
  for (const double term : {tiniest, -tiniest, largest, -largest, 0x1p-1022, 0x1.fffffffffffffp-1023, 1.0, -0.75}) {
    CHECK(sum_of({term}).value() == term);
  }
  CHECK(ExactSum{}.value() == 0.0);
  CHECK(sum_of({-0.0}).value() == 0.0);
}

TEST_CASE("rounding is to nearest, ties to even") {
  CHECK(sum_of({0x1p53, 1.0}).value() == 0x1p53);                          // a tie: the even neighbour below
  CHECK(sum_of({0x1p53 + 2.0, 1.0}).value() == 0x1p53 + 4.0);              // a tie: the even neighbour above
  CHECK(sum_of({0x1p53, 1.0, tiniest}).value() == 0x1p53 + 2.0);           // just above the tie
  CHECK(sum_of({0x1p53 + 2.0, 1.0, -tiniest}).value() == 0x1p53 + 2.0);    // just below the tie
  CHECK(sum_of({-0x1p53 - 2.0, -1.0}).value() == -(0x1p53 + 4.0));         // the same below zero
  CHECK(sum_of({1.0, 0x1p-53}).value() == 1.0);                            // ties within a fraction
  CHECK(sum_of({1.0, 0x1p-53, 0x1p-1000}).value() == 1.0 + 0x1p-52);       //
  CHECK(sum_of({0x1.fffffffffffffp0, 0x1p-53}).value() == 2.0);            // a carry into the next exponent
  CHECK(sum_of({0x0.fffffffffffffp-1022, tiniest}).value() == 0x1p-1022);  // subnormal to normal
}

TEST_CASE("sums past the range are infinite, and come back when others cancel them") {
  CHECK(sum_of({largest, largest}).value() == infinity);
  CHECK(sum_of({-largest, -largest}).value() == -infinity);
  CHECK(sum_of({largest, 0x1p969}).value() == largest);   // less than half a unit in the last place
  CHECK(sum_of({largest, 0x1p970}).value() == infinity);  // exactly half: the even neighbour is infinity
  CHECK(sum_of({largest, largest, -largest}).value() == largest);
  ExactSum sum;
  for (int i = 0; i < 100000; ++i) sum.add(largest);
  CHECK(sum.value() == infinity);
  for (int i = 0; i < 100000; ++i) sum.add(-largest);
  CHECK(sum.value() == 0.0);
}

TEST_CASE("cancellation leaves nothing behind") {
  CHECK(sum_of({1e308, 1.0, tiniest, -1e308}).value() == 1.0);
  CHECK(sum_of({1e308, 1.0, tiniest, -1e308, -1.0}).value() == tiniest);
  std::mt19937_64 random{2};
  std::vector<double> terms;
  for (int i = 0; i < 1000; ++i) {
    terms.push_back(any_double(random));
    terms.push_back(-terms.back());
  }
  std::ranges::shuffle(terms, random);
  CHECK(limbs_of(sum_of(terms)) == limbs_of(ExactSum{}));
}

TEST_CASE("the sum agrees with exact integer arithmetic at every scale") {
  std::mt19937_64 random{3};
  for (int scale = -1074; scale <= 950; scale += 23) {
    CAPTURE(scale);
    for (int repetition = 0; repetition < 20; ++repetition) {
      std::int64_t exact = 0;
      ExactSum sum;
      for (int i = 0; i < 500; ++i) {
        const auto term = static_cast<std::int64_t>(random() >> (11 + random() % 40)) * (random() % 2 == 0 ? 1 : -1);
        exact += term;
        sum.add(std::ldexp(static_cast<double>(term), scale));
      }
      // Converting an integer rounds to nearest even; scaling by a power of two is exact here.
      REQUIRE(sum.value() == std::ldexp(static_cast<double>(exact), scale));
    }
  }
}

TEST_CASE("order does not matter") {
  std::mt19937_64 random{4};
  std::vector<double> terms;
  for (int i = 0; i < 3000; ++i) terms.push_back(any_double(random));
  const Limbs expected = limbs_of(sum_of(terms));
  for (int i = 0; i < 20; ++i) {
    std::ranges::shuffle(terms, random);
    REQUIRE(limbs_of(sum_of(terms)) == expected);
  }
}

TEST_CASE("ranks add their limbs as integers") {
  std::mt19937_64 random{5};
  std::vector<double> terms;
  for (int i = 0; i < 4000; ++i) terms.push_back(any_double(random));
  const Limbs expected = limbs_of(sum_of(terms));
  const double value = sum_of(terms).value();
  for (const std::size_t ranks : {1U, 2U, 3U, 7U, 64U, 5000U}) {
    CAPTURE(ranks);
    std::vector<ExactSum> sums(ranks);
    for (const double term : terms) sums[random() % ranks].add(term);
    Limbs reduced{};
    for (ExactSum& sum : sums) {
      const auto limbs = sum.limbs();
      for (std::size_t k = 0; k < reduced.size(); ++k) reduced[k] += limbs[k];
    }
    ExactSum total;
    std::ranges::copy(reduced, total.limbs().begin());
    CHECK(total.value() == value);
    CHECK(limbs_of(total) == expected);
    ExactSum merged;
    for (const ExactSum& sum : sums) merged.merge(sum);
    CHECK(limbs_of(merged) == expected);
  }
}

TEST_CASE("limbs of a million ranks leave room for further terms") {
  ExactSum rank;
  rank.add(0x1.fffffffffffffp52);
  rank.add(-tiniest);  // every limb below is then at its largest
  const Limbs limbs = limbs_of(rank);
  ExactSum total;
  constexpr std::int64_t ranks = std::int64_t{1} << 20;
  std::ranges::transform(limbs, total.limbs().begin(), [](std::int64_t limb) { return limb * ranks; });
  for (int i = 0; i < 1000; ++i) total.add(-0x1.fffffffffffffp52);
  for (int i = 0; i < 1000; ++i) total.add(tiniest);
  const double expected = std::ldexp(0x1.fffffffffffffp52, 20);
  total.add(-expected);
  CHECK(total.value() == -1000.0 * 0x1.fffffffffffffp52);
  for (int i = 0; i < 1000; ++i) total.add(0x1.fffffffffffffp52);
  CHECK(total.value() == -std::ldexp(1.0, 20 - 1074) + 1000 * tiniest);
}

TEST_CASE("two thousand million terms do not overflow a slot" * doctest::skip()) {
  constexpr double term = std::bit_cast<double>((std::uint64_t{1055} << 52) - 1);  // all ones, across three limbs
  constexpr std::int64_t terms = std::int64_t{1} << 31;
  constexpr std::int64_t ranks = std::int64_t{1} << 30;
  ExactSum sum;
  sum.add(0x1p990);
  sum.add(-tiniest);
  for (std::int64_t& limb : sum.limbs()) limb *= ranks;  // leaves as little room as is allowed
  for (std::int64_t i = 0; i < terms; ++i) sum.add(term);
  for (int i = 0; i < 2; ++i) sum.add(-0x1p1019);
  CHECK(sum.value() == term * 0x1p31);
}

TEST_CASE("terms that are not finite are counted and survive the exchange") {
  for (const double term : {infinity, -infinity, std::numeric_limits<double>::quiet_NaN()}) {
    ExactSum sum;
    sum.add(1.0);
    CHECK(sum.finite());
    sum.add(term);
    CHECK_FALSE(sum.finite());
    CHECK(std::isnan(sum.value()));
    ExactSum other;
    other.add(2.0);
    other.merge(sum);
    CHECK_FALSE(other.finite());
    ExactSum exchanged;
    std::ranges::copy(limbs_of(sum), exchanged.limbs().begin());
    CHECK_FALSE(exchanged.finite());
  }
  CHECK_FALSE(sum_of({infinity, -infinity}).finite());
}

}  // namespace
