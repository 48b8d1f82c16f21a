/// @file
/// InterchangeOutcome: what of a model's files fails on one rank fails on all of them, alike.
#pragma once

#include <string>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/common_outcome.hpp>

namespace zerospan::inline v0::detail {

/// Runs work on files, and says of what fails which tensor it was for.
template <class F>
decltype(auto) for_tensor(std::string_view tensor, F work) {
  try {
    return work();
  } catch (const IoError& error) {
    const std::string name{tensor};
    throw InterchangeError{(name.empty() ? "" : "tensor " + FormatError::printable(name) + ": ") + error.what(),
                           error.path(), name, error.code().value(), error.where()};
  } catch (const FormatError& error) {
    throw InterchangeError{error.what(), error.file(), error.tensor(), 0, error.where()};
  }
}

struct InterchangeErrors {
  using Error = InterchangeError;

  static const std::string& subject(const Error& error) { return error.tensor(); }

  template <class F>
  static void run(F& work) {
    for_tensor({}, [&work] { work(); });
  }
};

using InterchangeOutcome = CommonOutcome<InterchangeErrors>;

}  // namespace zerospan::inline v0::detail
