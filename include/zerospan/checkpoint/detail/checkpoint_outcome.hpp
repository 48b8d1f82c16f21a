/// @file
/// CheckpointOutcome: what of a checkpoint fails on one rank fails on all of them, alike.
#pragma once

#include <string>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/common_outcome.hpp>

namespace zerospan::inline v0::detail {

/// Runs work on files, and says of what fails which parameter it was for.
template <class F>
decltype(auto) for_parameter(std::string_view parameter, F work) {
  try {
    return work();
  } catch (const IoError& error) {
    const std::string name{parameter};
    throw CheckpointError{(name.empty() ? "" : "parameter " + name + ": ") + error.what(), error.path(), name,
                          error.code().value(), error.where()};
  }
}

struct CheckpointErrors {
  using Error = CheckpointError;

  static const std::string& subject(const Error& error) { return error.parameter(); }

  template <class F>
  static void run(F& work) {
    for_parameter({}, [&work] { work(); });
  }
};

using CheckpointOutcome = CommonOutcome<CheckpointErrors>;

}  // namespace zerospan::inline v0::detail
