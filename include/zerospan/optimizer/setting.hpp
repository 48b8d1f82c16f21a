/// @file
/// NamedSetting: what an optimizer tells of its settings, so that the library can check and compare them.
#pragma once

#include <cstdint>
#include <string_view>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// What a setting may be. NaN is in no range but `any`.
enum class SettingRange : std::uint8_t {
  any,           ///< Not checked.
  not_negative,  ///< Finite, and at least 0: a learning rate, a decay.
  positive,      ///< Finite, and above 0.
  share,         ///< In [0, 1].
  below_one,     ///< In [0, 1): the weight of the past in a moving average.
};

/// One setting of an optimizer, by the name that errors give it. A choice is 0 or 1.
struct NamedSetting {
  std::string_view name;  ///< A literal.
  double value;
  SettingRange range = SettingRange::any;
};

}  // namespace zerospan::inline v0
