/// @file
/// How ranks tell each other what they have.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/stream.hpp>

namespace gpt {

/// Every rank's value, in rank order, bit for bit: a collective. A sum in which all terms but one are zero is exact.
template <zerospan::AllReduces Communicator, class T>
requires std::is_trivially_copyable_v<T> &&
    (sizeof(T) % sizeof(std::int64_t) == 0) std::vector<T> exchange(Communicator& communicator, std::string_view name,
                                                                    const T& value) {
  using Words = std::array<std::int64_t, sizeof(T) / sizeof(std::int64_t)>;
  std::vector<Words> table(static_cast<std::size_t>(communicator.size()), Words{});
  table[static_cast<std::size_t>(communicator.rank().value)] = std::bit_cast<Words>(value);
  communicator.all_reduce({zerospan::calling_thread, name},
                          std::span{table.front().data(), table.size() * Words{}.size()});
  std::vector<T> values;
  for (const Words& words : table) values.push_back(std::bit_cast<T>(words));
  return values;
}

}  // namespace gpt
