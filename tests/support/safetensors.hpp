/// @file
/// Files of the safetensors format as tests want them, whatever is wrong with them.
#pragma once

#include <doctest/doctest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>

#include <zerospan/core/error.hpp>

namespace zerospan_test {

inline std::string content(const std::string& path) {
  std::ifstream file{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{file}, {}};
}

inline void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream file{path, std::ios::binary};
  file << bytes;
  REQUIRE(file.flush());
}

/// A file's bytes: the length of the header, which may be another than it is, the header and the data.
inline std::string safetensors(const std::string& header, const std::string& data, std::uint64_t length) {
  std::string prefix(sizeof length, '\0');
  std::memcpy(prefix.data(), &length, sizeof length);
  return prefix + header + data;
}
inline std::string safetensors(const std::string& header, const std::string& data = {}) {
  return safetensors(header, data, header.size());
}

inline bool has_words(const std::string& text, const std::string& words) {
  return text.find(words) != std::string::npos;
}

/// Calls `f`, which throws an `E`. @return it.
template <class E, class F>
E thrown_by(F f) {
  try {
    f();
  } catch (const E& error) {
    return error;
  }
  FAIL("nothing was thrown");
  throw 0;
}

/// `f` throws a FormatError of the file and the tensor, and says the words.
template <class F>
void check_refused(const std::string& file, const std::string& tensor, const std::string& words, F f) {
  CAPTURE(file);
  CAPTURE(tensor);
  CAPTURE(words);
  const auto error = thrown_by<zerospan::FormatError>(f);
  const std::string what = error.what();
  CAPTURE(what);
  CHECK(error.file() == file);
  CHECK(error.tensor() == tensor);
  CHECK(has_words(what, words));
  CHECK(has_words(what, zerospan::FormatError::printable(file)));
  CHECK(has_words(what, zerospan::FormatError::printable(tensor)));
}

}  // namespace zerospan_test
