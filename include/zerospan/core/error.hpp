/// @file
/// Every error that zerospan throws. Each message names what failed and where; none is a bare code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// The base of the errors that are not errno's.
class Error : public std::runtime_error {
 public:
  Error(const std::string& message, std::source_location where) : std::runtime_error{message}, where_{where} {}

  /// The place in zerospan (or in its caller) that found the error.
  const std::source_location& where() const noexcept { return where_; }

 private:
  std::source_location where_;
};

/// Options that contradict each other or the machine; found before anything was allocated.
class ConfigurationError : public Error {
 public:
  using Error::Error;
};

/// A lease misused: a second one on the same gradient, one that outlives its engine, a step while some are held.
class LeaseError : public Error {
 public:
  using Error::Error;
};

/// Something that does not fit its budget. Thrown at the declaration, or at the gather that would not fit,
/// before anything is changed.
class BudgetError : public Error {
 public:
  BudgetError(const std::string& message, Bytes requested, Bytes available, std::source_location where)
      : Error{message, where}, requested_{requested}, available_{available} {}

  Bytes requested() const noexcept { return requested_; }
  Bytes available() const noexcept { return available_; }
  Bytes short_by() const noexcept {
    return Bytes{requested_.count > available_.count ? requested_.count - available_.count : 0};
  }

 private:
  Bytes requested_;
  Bytes available_;
};

/// A failed read, write or reservation on a file; carries path, offset, length and errno. Where no bytes were asked
/// for, `path` is where a file could not be opened.
class IoError : public std::system_error {
 public:
  IoError(int error_number, const std::string& operation, std::string path, std::uint64_t offset, std::size_t bytes,
          std::source_location where)
      : std::system_error{error_number, std::generic_category(), describe(operation, path, offset, bytes)},
        path_{std::move(path)},
        offset_{offset},
        bytes_{bytes},
        where_{where} {}

  const std::string& path() const noexcept { return path_; }
  std::uint64_t offset() const noexcept { return offset_; }
  std::size_t bytes() const noexcept { return bytes_; }
  const std::source_location& where() const noexcept { return where_; }

 private:
  static std::string describe(const std::string& operation, const std::string& path, std::uint64_t offset,
                              std::size_t bytes) {
    if (bytes == 0) return operation + " in " + path;
    return operation + " of " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of " + path;
  }

  std::string path_;
  std::uint64_t offset_;
  std::size_t bytes_;
  std::source_location where_;
};

/// Bytes that came back from a tier and are not those that were written there.
class IntegrityError : public Error {
 public:
  /// @param offset Of the bytes, on the tier.
  /// @param expected The checksum of what was written.
  /// @param found The checksum of what was read.
  IntegrityError(std::string tier, std::uint64_t offset, std::size_t bytes, std::uint64_t expected, std::uint64_t found,
                 std::source_location where)
      : Error{std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of the " + tier +
                  " are not those that were written there: their checksum is " + hexadecimal(found) + ", not " +
                  hexadecimal(expected),
              where},
        tier_{std::move(tier)},
        offset_{offset},
        bytes_{bytes},
        expected_{expected},
        found_{found} {}

  const std::string& tier() const noexcept { return tier_; }
  std::uint64_t offset() const noexcept { return offset_; }
  std::size_t bytes() const noexcept { return bytes_; }
  std::uint64_t expected() const noexcept { return expected_; }
  std::uint64_t found() const noexcept { return found_; }

 private:
  static std::string hexadecimal(std::uint64_t value) {
    std::string digits(16, '0');
    for (auto digit = digits.rbegin(); digit != digits.rend(); ++digit, value >>= 4) {
      *digit = "0123456789abcdef"[value & 15];
    }
    return digits;
  }

  std::string tier_;
  std::uint64_t offset_;
  std::size_t bytes_;
  std::uint64_t expected_;
  std::uint64_t found_;
};

/// A file that is not what its format says, or that has not what it was asked for. Names the file and, where it is of
/// one tensor, the tensor.
class FormatError : public Error {
 public:
  /// @param tensor Its name; empty where the file as a whole is meant.
  /// @param what Says what is wrong, as the end of a sentence: "is not there".
  FormatError(std::string file, std::string tensor, const std::string& what, std::source_location where)
      : Error{(tensor.empty() ? "" : printable(tensor) + " in ") + printable(file) + ": " + what, where},
        file_{std::move(file)},
        tensor_{std::move(tensor)} {}

  const std::string& file() const noexcept { return file_; }
  const std::string& tensor() const noexcept { return tensor_; }

  /// A name out of a file, as messages show it: at most 200 bytes of it, control characters as question marks.
  static std::string printable(std::string_view name) {
    constexpr std::size_t longest = 200;
    std::string shown{name.substr(0, longest)};
    for (char& character : shown) {
      const auto byte = static_cast<unsigned char>(character);
      if (byte < 0x20 || byte == 0x7f) character = '?';
    }
    return name.size() > longest ? shown + "..." : shown;
  }

 private:
  std::string file_;
  std::string tensor_;
};

/// A checkpoint that cannot be saved, or loaded. It is thrown on all ranks alike.
class CheckpointError : public Error {
 public:
  /// @param file Where it was found; empty if in no file.
  /// @param parameter Of which parameter; empty if of none.
  /// @param error_number The system's errno; 0 if it has said nothing.
  CheckpointError(const std::string& message, std::string file, std::string parameter, int error_number,
                  std::source_location where)
      : Error{message, where}, file_{std::move(file)}, parameter_{std::move(parameter)}, error_number_{error_number} {}

  const std::string& file() const noexcept { return file_; }
  const std::string& parameter() const noexcept { return parameter_; }
  int error_number() const noexcept { return error_number_; }

 private:
  std::string file_;
  std::string parameter_;
  int error_number_;
};

/// A model in the format of others that cannot be imported, or exported. It is thrown on all ranks alike.
class InterchangeError : public Error {
 public:
  /// @param file Where it was found; empty if in no file.
  /// @param tensor Of which tensor; empty if of none.
  /// @param error_number The system's errno; 0 if it has said nothing.
  InterchangeError(const std::string& message, std::string file, std::string tensor, int error_number,
                   std::source_location where)
      : Error{message, where}, file_{std::move(file)}, tensor_{std::move(tensor)}, error_number_{error_number} {}

  const std::string& file() const noexcept { return file_; }
  const std::string& tensor() const noexcept { return tensor_; }
  int error_number() const noexcept { return error_number_; }

 private:
  std::string file_;
  std::string tensor_;
  int error_number_;
};

/// An operation that did not end within its deadline; names the operation.
class TimeoutError : public Error {
 public:
  using Error::Error;
};

/// A collective that cannot be completed; names the rank at fault and the operation.
class CommunicationError : public Error {
 public:
  CommunicationError(const std::string& message, Rank culprit, std::source_location where)
      : Error{message, where}, culprit_{culprit} {}

  /// The rank that failed, diverged or did not arrive (the lowest, if there are several).
  Rank culprit() const noexcept { return culprit_; }

 private:
  Rank culprit_;
};

/// A rank threw, returned early, or declared itself failed, while others waited for it.
class RankFailedError : public CommunicationError {
 public:
  using CommunicationError::CommunicationError;
};

/// A rank did not arrive at a collective within the deadline.
class RankTimeoutError : public CommunicationError {
 public:
  using CommunicationError::CommunicationError;
};

/// Ranks met in different collectives; the message lists what each of them called.
class DivergenceError : public CommunicationError {
 public:
  using CommunicationError::CommunicationError;
};

[[noreturn]] inline void throw_configuration_error(const std::string& message,
                                                   std::source_location where = std::source_location::current()) {
  throw ConfigurationError{message, where};
}

[[noreturn]] inline void throw_lease_error(const std::string& message,
                                           std::source_location where = std::source_location::current()) {
  throw LeaseError{message, where};
}

/// @param what Names what does not fit, and where ("the gather of blocks.0.mlp.up in device memory").
/// @param hint Says what would help ("raise the device budget, or release a lease first").
[[noreturn]] inline void throw_budget_error(const std::string& what, Bytes requested, Bytes available,
                                            const std::string& hint,
                                            std::source_location where = std::source_location::current()) {
  const std::size_t missing = requested.count > available.count ? requested.count - available.count : 0;
  throw BudgetError{what + " needs " + std::to_string(requested.count) + " bytes, " + std::to_string(available.count) +
                        " are left: " + std::to_string(missing) + " bytes short; " + hint,
                    requested, available, where};
}

/// @param tensor Empty where the file as a whole is meant.
[[noreturn]] inline void throw_format_error(const std::string& file, const std::string& tensor, const std::string& what,
                                            std::source_location where = std::source_location::current()) {
  throw FormatError{file, tensor, what, where};
}

[[noreturn]] inline void throw_io_error(int error_number, const std::string& operation, const std::string& path,
                                        std::uint64_t offset, std::size_t bytes,
                                        std::source_location where = std::source_location::current()) {
  throw IoError{error_number, operation, path, offset, bytes, where};
}

/// @param what Says what is wrong. @param file, parameter Where; may be empty.
[[noreturn]] inline void throw_checkpoint_error(const std::string& what, const std::string& file,
                                                const std::string& parameter = {},
                                                std::source_location where = std::source_location::current()) {
  throw CheckpointError{
      (file.empty() ? "" : file + ": ") + (parameter.empty() ? "" : "parameter " + parameter + ": ") + what, file,
      parameter, 0, where};
}

}  // namespace zerospan::inline v0
