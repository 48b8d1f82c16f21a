/// @file
/// Agreement: ranks that were told different things notice, and say which.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine_core.hpp>

namespace zerospan::inline v0::detail {

/// Something that every rank is told alike: what it is called, and its value as text.
struct Told {
  std::string name;
  std::string value;
};

/// Of all that a rank was told; never 0 (FNV-1a, 63 bits).
inline std::uint64_t fingerprint(std::span<const Told> told) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325U;
  const auto add = [&hash](std::string_view text) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
    hash = (hash ^ 0xffU) * 0x100000001b3U;  // no byte of UTF-8: texts do not run into each other
  };
  for (const Told& each : told) {
    add(each.name);
    add(each.value);
  }
  return (hash >> 1) | 1U;
}

/// Integers whose sums over ranks tell every rank whether all fingerprints are equal, however many ranks there are:
/// those of four pieces of 16 bits, and of their squares, and the number of ranks (simulated ranks sum nothing). Equal
/// numbers are those whose mean square is the square of their mean. Exact for up to 2^15 ranks.
class FingerprintSums {
 public:
  static constexpr std::size_t pieces = 4;
  static constexpr std::size_t count = 2 * pieces + 1;

  static std::array<std::int64_t, count> of(std::uint64_t print) noexcept {
    std::array<std::int64_t, count> terms{};
    terms.back() = 1;
    for (std::size_t i = 0; i < pieces; ++i, print >>= 16) {
      const auto piece = static_cast<std::int64_t>(print & 0xffffU);
      terms[2 * i] = piece;
      terms[2 * i + 1] = piece * piece;
    }
    return terms;
  }

  static bool agree(std::span<const std::int64_t, count> sums) noexcept {
    for (std::size_t i = 0; i < pieces; ++i) {
      if (sums.back() * sums[2 * i + 1] != sums[2 * i] * sums[2 * i]) return false;
    }
    return true;
  }
};

/// The text of one rank, on every rank; a collective.
template <Device D>
std::string text_of(EngineCore<D>& core, std::size_t place, const std::string& mine) {
  const bool is_mine = core.place() == place;
  std::array<std::int64_t, 1> size{is_mine ? static_cast<std::int64_t>(mine.size()) : 0};
  core.sum_over_ranks(size, "what differs");
  std::vector<std::int64_t> words((static_cast<std::size_t>(size[0]) + 7) / 8);
  if (is_mine) std::memcpy(words.data(), mine.data(), mine.size());
  core.sum_over_ranks(words, "what differs");
  std::string text(static_cast<std::size_t>(size[0]), '\0');
  if (!words.empty()) std::memcpy(text.data(), words.data(), text.size());
  return text;
}

/// Finds the first thing that two ranks were told differently; a collective that every rank calls, since every rank
/// has seen that fingerprints differ. @throws ConfigurationError in any case.
template <Device D>
[[noreturn]] void throw_disagreement(EngineCore<D>& core, std::span<const Told> told) {
  const std::vector<std::int64_t> prints = core.values_of_ranks(fingerprint(told), "what differs");
  std::size_t other = 0;
  while (other + 1 < prints.size() && prints[other] == prints[0]) ++other;
  std::string mine;
  for (const Told& each : told) mine.append(each.name).append(1, '\0').append(each.value).append(1, '\0');
  const std::string first = text_of(core, 0, mine);
  const std::string second = text_of(core, other, mine);

  std::string_view a = first;
  std::string_view b = second;
  const auto next = [](std::string_view& rest) {
    const std::string_view text = rest.substr(0, rest.find('\0'));
    rest.remove_prefix(std::min(rest.size(), text.size() + 1));
    return std::string{text};
  };
  const std::string rank = "rank " + std::to_string(other);
  while (!a.empty() || !b.empty()) {
    const std::string name_a = next(a);
    const std::string value_a = next(a);
    const std::string name_b = next(b);
    const std::string value_b = next(b);
    if (name_a == name_b && value_a == value_b) continue;
    const std::string& name = name_a.empty() ? name_b : name_a;
    const auto said = [&name](const std::string& its_name, const std::string& value) {
      return its_name == name ? value : std::string{"nothing"};
    };
    throw_configuration_error("ranks were told different things: " + name + " is " + said(name_a, value_a) +
                              " on rank 0, and " + said(name_b, value_b) + " on " + rank);
  }
  throw_configuration_error("ranks were told different things: rank 0 and " + rank);
}

/// A collective. @throws ConfigurationError on every rank unless all were told the same.
template <Device D>
void check_ranks_agree(EngineCore<D>& core, std::span<const Told> told) {
  std::array<std::int64_t, FingerprintSums::count> sums = FingerprintSums::of(fingerprint(told));
  core.sum_over_ranks(sums, "what ranks were told");
  if (!FingerprintSums::agree(sums)) throw_disagreement(core, told);
}

}  // namespace zerospan::inline v0::detail
