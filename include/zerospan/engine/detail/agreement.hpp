/// @file
/// Agreement: ranks that were told different things notice, and say which.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/fingerprint.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine_core.hpp>

namespace zerospan::inline v0::detail {

/// Something that every rank is told alike: what it is called, and its value as text.
struct NamedValue {
  std::string name;
  std::string value;
};

/// Of all that a rank was told.
inline Fingerprint fingerprint(std::span<const NamedValue> told) noexcept {
  Fingerprint print;
  for (const NamedValue& each : told) print.add(each.name).add(each.value);
  return print;
}

/// Integers that are summed over ranks, in a message that they exchange anyway, so that each knows whether all were
/// told the same.
class Agreement {
 public:
  static constexpr std::size_t count = Fingerprint::summand_count + 1;

  explicit Agreement(std::span<const NamedValue> told) noexcept : print_{fingerprint(told)} {}

  /// What this rank adds.
  std::array<std::int64_t, count> summands() const noexcept {
    const auto [a, b, c] = print_.summands();
    return {a, b, c, 1};
  }

  /// Whether the sums are those of equal fingerprints. They count the ranks too: simulated ranks sum nothing.
  bool holds(std::span<const std::int64_t, count> sums) const noexcept {
    return print_.agree(sums.template first<Fingerprint::summand_count>(), sums.back());
  }

 private:
  Fingerprint print_;
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
[[noreturn]] void throw_disagreement(EngineCore<D>& core, std::span<const NamedValue> told) {
  const std::vector<std::int64_t> prints = core.values_of_ranks(fingerprint(told).value(), "what differs");
  std::size_t other = 0;
  while (other + 1 < prints.size() && prints[other] == prints[0]) ++other;
  std::string mine;
  for (const NamedValue& each : told) mine.append(each.name).append(1, '\0').append(each.value).append(1, '\0');
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
void check_ranks_agree(EngineCore<D>& core, std::span<const NamedValue> told) {
  const Agreement agreement{told};
  std::array<std::int64_t, Agreement::count> sums = agreement.summands();
  core.sum_over_ranks(sums, "what ranks were told");
  if (!agreement.holds(sums)) throw_disagreement(core, told);
}

}  // namespace zerospan::inline v0::detail
