/// @file
/// MpiError: what an MPI call returned instead of success.
#pragma once

#include <mpi.h>

#include <array>
#include <cstddef>
#include <source_location>
#include <string>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0 {

/// A failed MPI call; carries MPI's error code, and its words for it.
class MpiError : public Error {
 public:
  MpiError(int code, std::string_view operation, std::source_location where)
      : Error{describe(code, operation), where}, code_{code} {}

  int code() const noexcept { return code_; }

 private:
  static std::string describe(int code, std::string_view operation) {
    std::array<char, MPI_MAX_ERROR_STRING> text{};
    int length = 0;
    MPI_Error_string(code, text.data(), &length);
    return std::string{operation} + " failed: " + std::string{text.data(), static_cast<std::size_t>(length)};
  }

  int code_;
};

/// @param operation The name of the MPI function that returned the code.
/// @throws MpiError unless it is MPI_SUCCESS.
inline void check_mpi(int code, std::string_view operation,
                      std::source_location where = std::source_location::current()) {
  if (code != MPI_SUCCESS) throw MpiError{code, operation, where};
}

}  // namespace zerospan::inline v0
