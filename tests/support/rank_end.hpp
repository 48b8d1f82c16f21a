/// @file
/// How a rank ended, for tests in which ranks fail.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>

#include <zerospan/core/error.hpp>

namespace zerospan_test {

struct RankEnd {
  enum class Kind : std::uint8_t { well, failed, timeout, divergence, device, other };
  Kind kind = Kind::well;
  int culprit = -1;  ///< The rank that the error names.
  std::string text{};
};

/// What becomes of `f()`. @tparam DeviceErrors The errors that count as `Kind::device`.
template <class... DeviceErrors, class F>
RankEnd rank_end_of(F f) {
  using enum RankEnd::Kind;
  try {
    f();
    return {};
  } catch (const zerospan::RankFailedError& error) {
    return {failed, error.culprit().value, error.what()};
  } catch (const zerospan::RankTimeoutError& error) {
    return {timeout, error.culprit().value, error.what()};
  } catch (const zerospan::DivergenceError& error) {
    return {divergence, error.culprit().value, error.what()};
  } catch (const std::exception& error) {
    const bool is_device = ((dynamic_cast<const DeviceErrors*>(&error) != nullptr) || ...);
    return {is_device ? device : other, -1, error.what()};
  }
}

inline bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

}  // namespace zerospan_test
