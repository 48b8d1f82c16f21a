/// @file
/// NcclError: what NCCL says went wrong on this rank.
#pragma once

#include <source_location>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0 {

/// A call of NCCL that failed on this rank, or an error that NCCL found later.
class NcclError : public Error {
 public:
  NcclError(const std::string& message, int code, std::source_location where) : Error{message, where}, code_{code} {}

  /// The `ncclResult_t`.
  int code() const noexcept { return code_; }

 private:
  int code_;
};

}  // namespace zerospan::inline v0
