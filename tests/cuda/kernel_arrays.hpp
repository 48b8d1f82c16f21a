/// @file
/// Arrays that kernels are tried on: elements of every kind, in memory of every kind, aligned or not.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>

namespace zerospan_test {

using zerospan::element_bytes;
using zerospan::ElementType;
using Bits = std::vector<std::byte>;

/// Which elements there are.
enum class Values {
  moderate,  ///< Normal numbers of moderate size.
  any,       ///< Every pattern of bits: subnormal numbers, infinities and NaN among them.
};

inline Bits elements(ElementType type, std::size_t n, Values values, std::uint64_t seed) {
  std::mt19937_64 random{seed};
  Bits bits(n * element_bytes(type));
  if (values == Values::any) {
    for (std::byte& byte : bits) byte = static_cast<std::byte>(random());
    return bits;
  }
  std::normal_distribution<float> normal;
  std::vector<float> floats(n);
  for (float& value : floats) value = std::ldexp(normal(random), static_cast<int>(random() % 32) - 20);
  zerospan::from_float(floats.data(), type, bits.data(), n);
  return bits;
}

/// Equal, bit for bit; only of a NaN its bits do not matter.
inline bool same_elements(ElementType type, const Bits& a, const Bits& b) {
  if (a == b) return true;
  const std::size_t n = a.size() / element_bytes(type);
  std::vector<float> left(n);
  std::vector<float> right(n);
  zerospan::to_float(type, a.data(), left.data(), n);
  zerospan::to_float(type, b.data(), right.data(), n);
  return a.size() == b.size() && std::equal(left.begin(), left.end(), right.begin(), [](float x, float y) {
           return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y) ||
                  (std::isnan(x) && std::isnan(y));
         });
}

/// Elements in the memory of a machine, amid others that stay as they are. A machine owns what it allocates;
/// `read` and `write` wait for what was enqueued.
template <class Machine>
class Array {
 public:
  /// @param shift Elements between a vector boundary and the first.
  Array(Machine& machine, ElementType type, const Bits& bits, std::size_t shift)
      : machine_{&machine},
        before_{64 + shift * element_bytes(type)},
        size_{bits.size()},
        memory_{machine.allocate(before_ + size_ + 64)} {
    write(bits);
  }

  void write(const Bits& bits) const {
    Bits all(before_ + size_ + 64, std::byte{0xa5});
    std::ranges::copy(bits, all.begin() + static_cast<std::ptrdiff_t>(before_));
    machine_->write(memory_, all);
  }

  std::byte* data() const { return memory_ + before_; }
  float* floats() const { return reinterpret_cast<float*>(data()); }

  /// What they are now; what lies around them has to be as it was.
  Bits read() const {
    Bits all = machine_->read(memory_, before_ + size_ + 64);
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(before_);
    const auto end = begin + static_cast<std::ptrdiff_t>(size_);
    const auto is_untouched = [](std::byte byte) { return byte == std::byte{0xa5}; };
    CHECK(std::all_of(all.begin(), begin, is_untouched));
    CHECK(std::all_of(end, all.end(), is_untouched));
    return {begin, end};
  }

 private:
  Machine* machine_;
  std::size_t before_;
  std::size_t size_;
  std::byte* memory_;
};

}  // namespace zerospan_test
