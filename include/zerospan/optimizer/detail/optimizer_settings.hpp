/// @file
/// The settings of an optimizer of any type: checked, and compared over ranks.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/fingerprint.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/optimizer/setting.hpp>

namespace zerospan::inline v0::detail {

/// The shortest digits that give the number again: of a float, where it is one.
inline std::string in_words(double value) {
  std::array<char, 32> digits{};
  const auto single = static_cast<float>(value);
  const bool is_single = double{single} == value;
  const std::to_chars_result end = is_single ? std::to_chars(digits.data(), digits.data() + digits.size(), single)
                                             : std::to_chars(digits.data(), digits.data() + digits.size(), value);
  return {digits.data(), end.ptr};
}

/// Why a value is outside a range; empty if it is within.
constexpr std::string_view fault(double value, SettingRange range) noexcept {
  const bool is_finite = value - value == 0;
  switch (range) {
    case SettingRange::not_negative:
      return is_finite && value >= 0 ? "" : "not finite and at least 0";
    case SettingRange::positive:
      return is_finite && value > 0 ? "" : "not finite and positive";
    case SettingRange::share:
      return value >= 0 && value <= 1 ? "" : "not in [0, 1]";
    case SettingRange::below_one:
      return value >= 0 && value < 1 ? "" : "not in [0, 1)";
    case SettingRange::any:
      break;
  }
  return "";
}

/// @param of Whose setting it is. @throws ConfigurationError that names it and the setting.
inline void require(std::string_view of, const NamedSetting& setting, std::string_view fault) {
  if (fault.empty()) return;
  throw_configuration_error(std::string{of} + ": " + std::string{setting.name} + " is " + in_words(setting.value) +
                            ", " + std::string{fault});
}

/// Refuses the first setting that is outside its range. @throws ConfigurationError
inline void require_in_range(std::string_view of, std::span<const NamedSetting> settings) {
  for (const NamedSetting& setting : settings) require(of, setting, fault(setting.value, setting.range));
}

/// @throws ConfigurationError if an update is numbered as if it came before the first.
inline void require_step(std::string_view of, std::int64_t step) {
  if (step < 1) throw_configuration_error(std::string{of} + ": update " + std::to_string(step) + "; the first is 1");
}

template <class O>
concept NamesSettings = requires(const O& optimizer) {
  std::span<const NamedSetting>{optimizer.settings()};
};

template <class O>
concept Validates = requires(const O& optimizer) {
  optimizer.validate();
};

/// As this compiler writes it. The ranks of a program have the same one.
template <class T>
constexpr std::string_view type_name() noexcept {
  const std::string_view function{__PRETTY_FUNCTION__};
  const std::size_t equals = function.find("T = ");
  if (equals == std::string_view::npos) return function;
  const std::string_view name = function.substr(equals + 4);
  return name.substr(0, name.find_first_of(";]"));
}

/// What an optimizer is called in errors: its `O::name`, or its type's name.
template <class O>
constexpr std::string_view name_of() noexcept {
  if constexpr (requires { std::string_view{O::name}; }) {
    return O::name;
  } else {
    return type_name<O>();
  }
}

/// Settings that are outside their ranges, or that the optimizer itself refuses. @throws ConfigurationError
template <class O>
void validate_settings(const O& optimizer) {
  if constexpr (NamesSettings<O>) {
    const auto settings = optimizer.settings();
    require_in_range(name_of<O>(), settings);
  }
  if constexpr (Validates<O>) optimizer.validate();
}

/// Converts to float, and to nothing else.
struct AnyFloat {
  template <std::same_as<float> T>
  operator T() const noexcept;
};

/// Whether as many floats as `O` is large initialize it: then it has neither other members nor padding.
template <class O, std::size_t... Indices>
consteval bool takes_floats(std::index_sequence<Indices...>) {
  return requires { O{(static_cast<void>(Indices), AnyFloat{})...}; };
}

template <class O>
consteval bool is_made_of_floats() {
  if constexpr (std::is_aggregate_v<O> && std::is_trivially_copyable_v<O> && !std::is_empty_v<O> &&
                sizeof(O) % sizeof(float) == 0 && sizeof(O) <= 64 * sizeof(float)) {
    return takes_floats<O>(std::make_index_sequence<sizeof(O) / sizeof(float)>{});
  } else {
    return false;
  }
}

/// What all ranks have alike of their optimizers: the fingerprint of everything that is known of one, and what an error
/// says of it. Trivially copyable and of one size: ranks gather it where they do not agree.
///
/// Known is: its name, the size of its states, and
/// 1. its `settings()`, if it has any;
/// 2. else its members, if it is an aggregate of floats;
/// 3. else its bytes, if equal values have equal bytes (no floats, no padding, no pointers to settings elsewhere).
/// Of any other optimizer the settings are not compared.
struct SettingsRecord {
  static constexpr std::size_t most_settings = 16;  ///< That errors name. The fingerprint is of all of them.
  static constexpr std::size_t most_letters = 24;   ///< Of a name, an ending zero included.

  struct Setting {
    std::array<char, most_letters> name;
    double value;
  };

  std::uint64_t fingerprint = 0;
  std::uint64_t count = 0;
  std::array<char, 2 * most_letters> kind{};
  std::array<Setting, most_settings> settings{};

  template <class O>
  static SettingsRecord of(const O& optimizer) {
    SettingsRecord record;
    Fingerprint all;
    write(record.kind, name_of<O>());
    all.add(name_of<O>()).add(std::uint64_t{optimizer.state_bytes(block_elements)});
    if constexpr (NamesSettings<O>) {
      for (const NamedSetting& setting : optimizer.settings()) record.add(all, setting.name, setting.value);
    } else if constexpr (is_made_of_floats<O>()) {
      for (const float member : std::bit_cast<std::array<float, sizeof(O) / sizeof(float)>>(optimizer)) {
        record.add(all, "member " + std::to_string(record.count + 1), double{member});
      }
    } else if constexpr (std::has_unique_object_representations_v<O>) {
      for (const auto byte : std::bit_cast<std::array<unsigned char, sizeof(O)>>(optimizer))
        all.add(std::uint64_t{byte});
    }
    record.fingerprint = all.value();
    return record;
  }

 private:
  void add(Fingerprint& all, std::string_view name, double value) noexcept {
    all.add(name).add(value);
    if (count == most_settings) return;
    write(settings[count].name, name);
    settings[count++].value = value;
  }

  template <std::size_t Letters>
  static void write(std::array<char, Letters>& to, std::string_view text) noexcept {
    std::copy_n(text.begin(), std::min(text.size(), Letters - 1), to.begin());
  }
};

static_assert(std::is_trivially_copyable_v<SettingsRecord>);

/// How the optimizers of two ranks differ, in a sentence; empty if they do not.
inline std::string difference(const SettingsRecord& a, int rank_a, const SettingsRecord& b, int rank_b) {
  if (a.fingerprint == b.fingerprint) return {};
  const auto sentence = [&](const std::string& what, const std::string& in_a, const std::string& in_b) {
    return what + " is " + in_a + " on rank " + std::to_string(rank_a) + " and " + in_b + " on rank " +
           std::to_string(rank_b);
  };
  const std::string kind{a.kind.data()};
  if (a.kind != b.kind) return sentence("the optimizer", kind, b.kind.data());
  for (std::size_t i = 0; i < std::min(a.count, b.count); ++i) {
    const SettingsRecord::Setting& of_a = a.settings[i];
    const SettingsRecord::Setting& of_b = b.settings[i];
    if (of_a.name != of_b.name) break;
    if (std::bit_cast<std::uint64_t>(of_a.value) == std::bit_cast<std::uint64_t>(of_b.value)) continue;
    return sentence(kind + ": " + of_a.name.data(), in_words(of_a.value), in_words(of_b.value));
  }
  return kind + " has other settings on rank " + std::to_string(rank_a) + " than on rank " + std::to_string(rank_b);
}

/// How the first rank that differs from rank 0 does; empty if none does. @param ranks The records, by rank.
inline std::string difference(std::span<const SettingsRecord> ranks) {
  for (std::size_t rank = 1; rank < ranks.size(); ++rank) {
    std::string found = difference(ranks[0], 0, ranks[rank], static_cast<int>(rank));
    if (!found.empty()) return found;
  }
  return {};
}

}  // namespace zerospan::inline v0::detail
