// The safetensors format as it is read: what the Python package wrote, range by range, and whatever may be wrong.
#include <doctest/doctest.h>

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <zerospan/core/bfloat16.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/float16.hpp>
#include <zerospan/interchange/safetensors_file.hpp>
#include <zerospan/interchange/safetensors_model.hpp>

#include "support/child_process.hpp"
#include "support/process_limits.hpp"
#include "support/safetensors.hpp"
#include "support/scratch.hpp"
#include "support/scripted_files.hpp"

namespace {

using zerospan::ConfigurationError;
using zerospan::FormatError;
using zerospan::IoError;
using zerospan::SafetensorsFile;
using zerospan::SafetensorsModel;
using zerospan::SafetensorsType;
using zerospan::StoredSafetensorsTensor;
using zerospan_test::check_refused;
using zerospan_test::content;
using zerospan_test::FileScript;
using zerospan_test::has_words;
using zerospan_test::safetensors;
using zerospan_test::ScratchDirectory;
using zerospan_test::ScriptedFiles;
using zerospan_test::thrown_by;
using zerospan_test::write_file;

using FaultyFile = zerospan::BasicSafetensorsFile<ScriptedFiles>;
using Shape = std::vector<std::uint64_t>;

const std::string& fixtures() {
  static const std::string path = ZEROSPAN_FIXTURES "/safetensors/";
  return path;
}

/// The bytes of `make.py`.
std::vector<std::byte> pattern(std::size_t number, std::size_t length) {
  std::vector<std::byte> bytes(length);
  for (std::size_t i = 0; i < length; ++i) bytes[i] = static_cast<std::byte>((37 * i + 11 * number) % 256);
  return bytes;
}

template <class File>
std::vector<std::byte> all_bytes(const File& file, std::string_view name) {
  std::vector<std::byte> bytes(file.tensor(name).bytes);
  file.read_bytes(name, 0, bytes);
  return bytes;
}

template <class File>
std::vector<float> all_floats(const File& file, std::string_view name) {
  std::vector<float> floats(file.tensor(name).elements);
  file.read(name, 0, floats);
  return floats;
}

bool equal_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

/// `"name":{...}` of a header.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

/// A file of the format's bytes in a scratch directory.
class Written {
 public:
  explicit Written(const std::string& bytes) { write_file(path(), bytes); }
  std::string path() const { return directory_.path() + "/model.safetensors"; }

 private:
  ScratchDirectory directory_;
};

}  // namespace

TEST_CASE("a tensor of every type that the Python package writes is found and read") {
  const SafetensorsFile file{fixtures() + "all_types.safetensors"};
  const std::array codes{"BOOL",        "F4",          "U8",  "I8",  "F8_E5M2", "F8_E4M3", "F8_E8M0",
                         "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16", "U16", "F16",     "BF16",    "I32",
                         "U32",         "F32",         "C64", "F64", "I64",     "U64"};
  CHECK(file.tensors().size() == codes.size());
  CHECK(file.metadata().empty());
  for (std::size_t i = 0; i < codes.size(); ++i) {
    CAPTURE(codes[i]);
    const StoredSafetensorsTensor& tensor = file.tensor(codes[i]);
    CHECK(to_string(tensor.type) == codes[i]);
    CHECK(tensor.shape == Shape{2, 2});
    CHECK(tensor.elements == 4);
    CHECK(tensor.bytes == 4 * element_bits(tensor.type) / 8);
    CHECK(all_bytes(file, codes[i]) == pattern(i, tensor.bytes));
  }
  const SafetensorsFile packed{fixtures() + "six_bits.safetensors"};
  CHECK(all_bytes(packed, "F6_E2M3") == pattern(0, 3));
  CHECK(all_bytes(packed, "F6_E3M2") == pattern(1, 3));
  CHECK(file.tensors().size() + packed.tensors().size() == zerospan::detail::safetensors_types.size());
}

TEST_CASE("floats of every width are read as the floats that numpy makes of them") {
  const SafetensorsFile file{fixtures() + "floats.safetensors"};
  for (const std::string name : {"F32", "F16", "BF16", "F64"}) {
    CAPTURE(name);
    const std::vector<float> floats = all_floats(file, name);
    CHECK(floats.size() == 12);
    CHECK(equal_bits(floats, all_floats(file, name + ".expected")));
  }
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "np"}, {"größe", "12 \"Werte\""}});
}

TEST_CASE("names and shapes out of the ordinary are as the Python package wrote them") {
  const SafetensorsFile file{fixtures() + "names.safetensors"};
  const auto byte = [&](std::string_view name) { return static_cast<int>(all_bytes(file, name).at(0)); };
  CHECK(byte("") == 1);
  CHECK(byte("größe") == 2);
  CHECK(byte("重み") == 3);
  CHECK(byte("a\"b\\c\n") == 4);
  CHECK(byte("ones") == 5);
  CHECK(file.tensor("ones").shape == Shape(9, 1));
  CHECK(file.tensor("nothing").shape == Shape{0, 3});
  CHECK(all_floats(file, "nothing").empty());
  CHECK(file.tensor("scalar").shape.empty());
  CHECK(all_floats(file, "scalar") == std::vector{1.5F});
  CHECK(file.find("größ") == nullptr);
  check_refused(file.path(), "absent", "is not there", [&] { file.tensor("absent"); });
  check_refused(file.path(), "absent", "is not there", [&] { file.read("absent", 0, {}); });
}

TEST_CASE("every range of a tensor is the same part of the whole") {
  // 1/16, 2/16, ... are exact in every type.
  constexpr std::size_t count = 23;
  const auto value = [](std::size_t i) { return static_cast<float>(i + 1) / 16.0F; };
  std::string data;
  const auto append = [&](const auto& element) {
    data.append(reinterpret_cast<const char*>(&element), sizeof element);
  };
  for (std::size_t i = 0; i < count; ++i) append(double{value(i)});
  for (std::size_t i = 0; i < count; ++i) append(value(i));
  for (std::size_t i = 0; i < count; ++i) append(zerospan::bfloat16{value(i)});
  for (std::size_t i = 0; i < count; ++i) append(zerospan::float16{value(i)});
  const Written written{
      safetensors("{" + entry("F64", "F64", "[23]", "[0,184]") + "," + entry("F32", "F32", "[23]", "[184,276]") + "," +
                      entry("BF16", "BF16", "[23]", "[276,322]") + "," + entry("F16", "F16", "[23]", "[322,368]") + "}",
                  data)};
  for (const std::size_t longest : {std::size_t{1}, std::size_t{3}, data.size()}) {
    FileScript script{.longest = longest, .interruptions = 2};
    const FaultyFile file{written.path(), ScriptedFiles{script}};
    for (const std::string name : {"F64", "F32", "BF16", "F16"}) {
      for (std::size_t first = 0; first <= count; ++first) {
        for (std::size_t n = 0; first + n <= count; ++n) {
          std::vector<float> out(n + 1, -1.0F);
          file.read(name, first, std::span{out}.first(n));
          bool is_right = out[n] == -1.0F;
          for (std::size_t i = 0; i < n; ++i) is_right = is_right && out[i] == value(first + i);
          CHECK(is_right);
        }
      }
    }
  }
}

TEST_CASE("ranges longer than what is converted at once") {
  constexpr std::size_t count = 300'001;
  std::vector<zerospan::bfloat16> elements(count);
  for (std::size_t i = 0; i < count; ++i) elements[i].bits = static_cast<std::uint16_t>(i * 40503);
  const std::string data{reinterpret_cast<const char*>(elements.data()), 2 * count};
  const Written written{safetensors("{" + entry("w", "BF16", "[300001]", "[0,600002]") + "}", data)};
  const SafetensorsFile file{written.path()};
  std::vector<float> expected(count);
  for (std::size_t i = 0; i < count; ++i) expected[i] = static_cast<float>(elements[i]);
  CHECK(equal_bits(all_floats(file, "w"), expected));
  std::vector<float> part(count - 7);
  file.read("w", 7, part);
  CHECK(equal_bits(part, std::span{expected}.subspan(7)));
}

TEST_CASE("threads read one file at once") {
  const SafetensorsFile file{fixtures() + "floats.safetensors"};
  std::array<std::vector<float>, 4> read;
  {
    std::vector<std::jthread> threads;
    for (auto& floats : read) threads.emplace_back([&] { floats = all_floats(file, "F16"); });
  }
  for (const auto& floats : read) CHECK(equal_bits(floats, all_floats(file, "F16.expected")));
}

TEST_CASE("what is not floats is not read as floats, by its type's name") {
  const SafetensorsFile file{fixtures() + "all_types.safetensors"};
  std::vector<float> out(4);
  for (const StoredSafetensorsTensor& tensor : file.tensors()) {
    if (zerospan::element_type(tensor.type) || tensor.type == SafetensorsType::float64) continue;
    check_refused(file.path(), tensor.name, "its elements are " + tensor.name + ", which are not read as floats",
                  [&] { file.read(tensor.name, 0, out); });
  }
}

TEST_CASE("a range that leaves its tensor is refused") {
  const SafetensorsFile file{fixtures() + "floats.safetensors"};
  std::vector<float> out(13);
  constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
  for (const auto& [first, count] :
       {std::pair<std::uint64_t, std::size_t>{0, 13}, {12, 1}, {13, 0}, {most, 1}, {most - 2, 13}}) {
    const std::span range = std::span{out}.first(count);
    const auto error = thrown_by<ConfigurationError>([&] { file.read("F16", first, range); });
    CHECK(has_words(error.what(), "leaves F16 in " + file.path() + ", which has 12"));
    CHECK_THROWS_AS(file.read_bytes("F16", first == 0 ? 0 : std::max(first, first + 12), std::as_writable_bytes(range)),
                    ConfigurationError);
  }
}

TEST_CASE("a header that is wrong is refused, by file, tensor and reason") {
  struct Case {
    std::string header;
    std::string data;
    std::string tensor;
    std::string words;
  };
  const std::string one = entry("a", "U8", "[1]", "[0,1]");
  const std::string most = "18446744073709551615";
  const std::vector<Case> cases{
      // The text.
      {"", "", "", "does not begin with {"},
      {" {}", "", "", "does not begin with {"},
      {"[]", "", "", "does not begin with {"},
      {"null", "", "", "does not begin with {"},
      {"\xef\xbb\xbf{}", "", "", "does not begin with {"},
      {"{", "", "", "is not JSON in UTF-8: at its byte 2"},
      {"{}}", "", "", "is not JSON in UTF-8"},
      {"{} x", "", "", "is not JSON in UTF-8"},
      {"{" + one + ",}", "x", "", "is not JSON in UTF-8"},
      {"{/**/" + one + "}", "x", "", "is not JSON in UTF-8"},
      {std::string{"{}\0", 3}, "", "", "null character"},
      {std::string{"{}\0{", 4}, "", "", "null character"},
      {"{" + entry("a\xff", "U8", "[1]", "[0,1]") + "}", "x", "", "ill-formed UTF-8"},
      {"{" + entry("a\xc0\x80", "U8", "[1]", "[0,1]") + "}", "x", "", "ill-formed UTF-8"},
      {"{" + entry("a\xed\xa0\x80", "U8", "[1]", "[0,1]") + "}", "x", "", "ill-formed UTF-8"},
      {"{" + entry("a\\ud800", "U8", "[1]", "[0,1]") + "}", "x", "", "is not JSON in UTF-8"},
      {"{" + entry("a\n", "U8", "[1]", "[0,1]") + "}", "x", "", "is not JSON in UTF-8"},
      {"{\"a\":" + std::string(1'000'000, '['), "", "a", "is an array, not an object"},
      {"{\"a\":{\"shape\":" + std::string(1'000'000, '['), "", "a",
       "has an array in its shape, where an array of whole numbers is to be"},
      // Entries.
      {R"({"a":1})", "", "a", "is the number 1, not an object"},
      {R"({"a":null})", "", "a", "is null, not an object"},
      {R"({"a":true})", "", "a", "is true, not an object"},
      {R"({"a":"U8"})", "", "a", "is a string, not an object"},
      {R"({"a":{}})", "", "a", "has no dtype"},
      {R"({"a":{"shape":[1],"data_offsets":[0,1]}})", "x", "a", "has no dtype"},
      {R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", "x", "a", "has no shape"},
      {R"({"a":{"dtype":"U8","shape":[1]}})", "x", "a", "has no data_offsets"},
      {R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x", "a",
       "two fields of the name dtype"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"strides":[1]}})", "x", "a", "has the field strides"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"":[1]}})", "x", "a", "has the field "},
      // Types.
      {"{" + entry("a", "C128", "[1]", "[0,1]") + "}", "x", "a", "its dtype C128 is not known"},
      {"{" + entry("a", "f32", "[1]", "[0,4]") + "}", "xxxx", "a", "its dtype f32 is not known"},
      {"{" + entry("a", "", "[1]", "[0,1]") + "}", "x", "a", "its dtype  is not known"},
      {R"({"a":{"dtype":5,"shape":[1],"data_offsets":[0,1]}})", "x", "a",
       "has the number 5 in its dtype, where a string is to be"},
      {R"({"a":{"dtype":["U8"],"shape":[1],"data_offsets":[0,1]}})", "x", "a",
       "has an array in its dtype, where a string is to be"},
      // Shapes.
      {"{" + entry("a", "U8", "1", "[0,1]") + "}", "x", "a",
       "has the number 1 in its shape, where an array of whole numbers is to be"},
      {"{" + entry("a", "U8", "\"1\"", "[0,1]") + "}", "x", "a", "has a string"},
      {"{" + entry("a", "U8", "{}", "[0,1]") + "}", "x", "a", "has an object"},
      {"{" + entry("a", "U8", "null", "[0,1]") + "}", "x", "a", "has null"},
      {"{" + entry("a", "U8", "[[1]]", "[0,1]") + "}", "x", "a", "has an array"},
      {"{" + entry("a", "U8", "[-1]", "[0,1]") + "}", "x", "a", "has the negative number -1"},
      {"{" + entry("a", "U8", "[-0]", "[0,0]") + "}", "", "a", "has the negative number 0"},
      {"{" + entry("a", "U8", "[1.0]", "[0,1]") + "}", "x", "a", "has the number 1.0"},
      {"{" + entry("a", "U8", "[1e0]", "[0,1]") + "}", "x", "a", "has the number 1e0"},
      {"{" + entry("a", "U8", "[18446744073709551616]", "[0,1]") + "}", "x", "a",
       "has the number 18446744073709551616"},
      {"{" + entry("a", "U8", "[1e999]", "[0,1]") + "}", "x", "", "is not JSON in UTF-8"},
      {"{" + entry("a", "U8", "[01]", "[0,1]") + "}", "x", "", "is not JSON in UTF-8"},
      {"{" + entry("a", "U8", "[" + most + ",2]", "[0,1]") + "}", "x", "a", "more bits than 64 bits count"},
      {"{" + entry("a", "U8", "[" + most + ",2,0]", "[0,0]") + "}", "", "a", "more bits than 64 bits count"},
      {"{" + entry("a", "U8", "[4294967296,4294967296]", "[0,0]") + "}", "", "a", "more bits than 64 bits count"},
      {"{" + entry("a", "F32", "[4611686018427387904]", "[0,0]") + "}", "", "a", "more bits than 64 bits count"},
      {"{" + entry("a", "F64", "[288230376151711744]", "[0,0]") + "}", "", "a", "more bits than 64 bits count"},
      {"{" + entry("a", "F4", "[3]", "[0,1]") + "}", "x", "a", "does not end with a byte"},
      {"{" + entry("a", "F6_E2M3", "[2]", "[0,1]") + "}", "x", "a", "does not end with a byte"},
      // Ranges.
      {"{" + entry("a", "U8", "[1]", "[0]") + "}", "x", "a", "its data_offsets are not two numbers"},
      {"{" + entry("a", "U8", "[1]", "[]") + "}", "x", "a", "its data_offsets are not two numbers"},
      {"{" + entry("a", "U8", "[1]", "[0,1,1]") + "}", "x", "a", "its data_offsets are not two numbers"},
      {"{" + entry("a", "U8", "[1]", "1") + "}", "x", "a", "has the number 1 in its data_offsets, where"},
      {"{" + entry("a", "U8", "[1]", "[-1,0]") + "}", "x", "a", "has the negative number -1"},
      {"{" + entry("a", "U8", "[1]", "[1,0]") + "}", "x", "a", "data_offsets [1, 0] end before they begin"},
      {"{" + entry("a", "U8", "[0]", "[" + most + ",0]") + "}", "", "a", "end before they begin"},
      {"{" + entry("a", "U8", "[2]", "[0,2]") + "}", "x", "a", "data_offsets [0, 2] leave the 1 bytes of data"},
      {"{" + entry("a", "U8", "[1]", "[1,2]") + "}", "x", "a", "leave the 1 bytes of data"},
      {"{" + entry("a", "U8", "[1]", "[0," + most + "]") + "}", "x", "a", "leave the 1 bytes of data"},
      {"{" + entry("a", "U8", "[0]", "[9,9]") + "}", "x", "a", "leave the 1 bytes of data"},
      {"{" + entry("a", "U8", "[2]", "[0,1]") + "}", "x", "a",
       "U8 of shape [2] has 2 bytes, its data_offsets [0, 1] have 1"},
      {"{" + entry("a", "F32", "[1]", "[0,1]") + "}", "x", "a", "F32 of shape [1] has 4 bytes"},
      {"{" + entry("a", "U8", "[]", "[0,0]") + "}", "", "a", "U8 of shape [] has 1 bytes"},
      {"{" + entry("a", "U8", "[1,1,1,1,1,1,1,1,2]", "[0,1]") + "}", "x", "a", "[1, 1, 1, 1, 1, 1, 1, 1, ...]"},
      {"{}", "x", "", "its last 1 bytes are of no tensor"},
      {"{" + one + "}", "xy", "", "its last 1 bytes are of no tensor"},
      {"{" + entry("a", "U8", "[1]", "[1,2]") + "}", "xy", "a", "1 bytes before its own are of no tensor"},
      {"{" + entry("b", "U8", "[2]", "[3,5]") + "," + entry("a", "U8", "[2]", "[0,2]") + "}", "xxxxx", "b",
       "1 bytes before its own"},
      {"{" + entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[2]", "[1,3]") + "}", "xxx", "b",
       "overlap those of a"},
      {"{" + entry("b", "U8", "[2]", "[0,2]") + "," + entry("a", "U8", "[2]", "[0,2]") + "}", "xx", "a",
       "overlap those of b"},
      {"{" + entry("a", "U8", "[4]", "[0,4]") + "," + entry("b", "U8", "[0]", "[2,2]") + "}", "xxxx", "b",
       "overlap those of a"},
      // Names twice.
      {"{" + one + "," + one + "}", "x", "a", "is there twice"},
      {"{" + one + "," + entry("a", "U8", "[1]", "[1,2]") + "}", "xx", "a", "is there twice"},
      {"{" + one + "," + entry("\\u0061", "U8", "[1]", "[1,2]") + "}", "xx", "a", "is there twice"},
      // Metadata.
      {R"({"__metadata__":null})", "", "", "its __metadata__ is null, not an object"},
      {R"({"__metadata__":["a"]})", "", "", "its __metadata__ is an array, not an object"},
      {R"({"__metadata__":{"a":1}})", "", "", "has the number 1 where a string is to be, at a"},
      {R"({"__metadata__":{"a":{}}})", "", "", "has an object where a string is to be, at a"},
      {R"({"__metadata__":{"a":["b"]}})", "", "", "has an array where a string is to be, at a"},
      {R"({"__metadata__":{"a":"1","b":"2","a":"3"}})", "", "", "its __metadata__ has a twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", "", "", "has __metadata__ twice"},
      {"{" + entry("__metadata__", "U8", "[1]", "[0,1]") + "}", "x", "",
       "has an array where a string is to be, at shape"},
  };
  for (const Case& wrong : cases) {
    const std::string header = wrong.header.substr(0, 200);
    CAPTURE(header);
    const Written written{safetensors(wrong.header, wrong.data)};
    check_refused(written.path(), wrong.tensor, wrong.words, [&] { SafetensorsFile{written.path()}; });
  }
}

TEST_CASE("a header that is out of the ordinary, and right") {
  const Written nothing{safetensors("{}")};
  CHECK(SafetensorsFile{nothing.path()}.tensors().empty());

  const Written odd{
      safetensors("{\n \"b\" : {\"data_offsets\":[2,3],\"shape\":[ ],\"dtype\":\"\\u00558\"}, \"__metadata__\":{},"
                  "\"a\\u0000\":{\"dtype\":\"U16\",\"data_offsets\":[0,2],\"shape\":[1]},"
                  "\"c\":{\"dtype\":\"F4\",\"shape\":[0,18446744073709551615],\"data_offsets\":[3,3]}}  \t\n",
                  "xyz")};
  const SafetensorsFile file{odd.path()};
  REQUIRE(file.tensors().size() == 3);
  CHECK(file.tensors()[0].name == std::string_view{"a\0", 2});
  CHECK(all_bytes(file, "b") == std::vector{std::byte{'z'}});
  CHECK(file.tensor("c").elements == 0);
  CHECK(file.find("a") == nullptr);
}

TEST_CASE("a name out of a file cannot spoil a message") {
  const std::string name = "\\u001b[31m" + std::string(1000, 'n');
  const Written written{safetensors("{" + entry(name, "U8", "[2]", "[0,1]") + "}", "x")};
  const std::string what = thrown_by<FormatError>([&] { SafetensorsFile{written.path()}; }).what();
  CHECK(what.size() < 600);
  CHECK(what.find('\x1b') == std::string::npos);
}

TEST_CASE("a file of any shorter length is refused") {
  for (const std::string name : {"floats.safetensors", "names.safetensors", "six_bits.safetensors"}) {
    const std::string whole = content(fixtures() + name);
    REQUIRE(whole.size() > 100);
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const Written cut{whole.substr(0, length)};
      CHECK_THROWS_AS(SafetensorsFile{cut.path()}, FormatError);
    }
    const Written longer{whole + "x"};
    check_refused(longer.path(), "", "its last 1 bytes are of no tensor", [&] { SafetensorsFile{longer.path()}; });
  }
}

TEST_CASE("the length of a header is believed only as far as there is a file") {
  const auto refused = [](const std::string& words, const std::string& bytes) {
    const Written written{bytes};
    check_refused(written.path(), "", words, [&] { SafetensorsFile{written.path()}; });
  };
  refused("has 0 bytes", "");
  refused("has 7 bytes, fewer than the length of a header takes", std::string(7, '\0'));
  refused("does not begin with {", std::string(8, '\0'));
  refused("claims a header of 3 bytes, and has 10 bytes altogether", safetensors("{}", "", 3));
  refused("claims a header of 99999999 bytes, and has 10 bytes", safetensors("{}", "", 99'999'999));
  refused("claims a header of 100000001 bytes, more than the format's 100000000", safetensors("{}", "", 100'000'001));
  for (const std::uint64_t length : {~std::uint64_t{0}, ~std::uint64_t{0} - 7, std::uint64_t{1} << 63}) {
    refused("claims a header of " + std::to_string(length), safetensors("{}", "", length));
  }
  // The file is so long indeed, though the disk has little of it.
  const Written long_file{safetensors("{}", "", 100'000'001)};
  std::filesystem::resize_file(long_file.path(), 200'000'000);
  check_refused(long_file.path(), "", "more than the format's", [&] { SafetensorsFile{long_file.path()}; });
}

#if !defined(ZEROSPAN_SANITIZED)
TEST_CASE("what a file claims takes no memory") {
  const Written written{safetensors("{" + entry("a", "U8", "[99999999999]", "[0,99999999999]") + "}", "x", 99'999'999)};
  const Written second{safetensors("{" + entry("a", "U8", "[99999999999]", "[0,99999999999]") + "}", "x")};
  const std::string ending = zerospan_test::in_child([&]() -> std::string {
    const zerospan_test::ProcessLimit limit{RLIMIT_AS, zerospan_test::address_space_in_use() + (1U << 20)};
    for (const Written* file : {&written, &second}) {
      try {
        SafetensorsFile{file->path()};
        return "nothing";
      } catch (const FormatError&) {
      }
    }
    return "refused";
  });
  CHECK(ending == "refused");
}
#endif

TEST_CASE("what is no file is refused at once") {
  const ScratchDirectory scratch;
  const auto code = [](const std::string& path) {
    const auto error = thrown_by<IoError>([&] { SafetensorsFile{path}; });
    CHECK(error.path() == path);
    return error.code().value();
  };
  CHECK(code(scratch.path()) == EISDIR);
  CHECK(code(scratch.path() + "/absent") == ENOENT);
  CHECK(code(scratch.path() + "/" + std::string(300, 'n')) == ENAMETOOLONG);
  CHECK_THROWS_AS(SafetensorsFile{""}, ConfigurationError);
  CHECK_THROWS_AS((SafetensorsFile{std::string{"a\0b", 3}}), ConfigurationError);

  const std::string pipe = scratch.path() + "/pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  check_refused(pipe, "", "is not a regular file", [&] { SafetensorsFile{pipe}; });
  check_refused("/dev/zero", "", "is not a regular file", [&] { SafetensorsFile{"/dev/zero"}; });

  const Written unreadable{safetensors("{}")};
  REQUIRE(::chmod(unreadable.path().c_str(), 0) == 0);
  CHECK(zerospan_test::in_child([&] {
          zerospan_test::give_up({CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH});
          return std::to_string(code(unreadable.path()));
        }) == std::to_string(EACCES));
}

TEST_CASE("each call of the system that fails is told, with what it was for") {
  const std::string path = fixtures() + "floats.safetensors";
  const auto act = [&](FileScript& script) {
    const FaultyFile file{path, ScriptedFiles{script}};
    return all_floats(file, "F64");
  };
  FileScript sound;
  const std::vector<float> expected = act(sound);
  REQUIRE(sound.calls.size() >= 6);
  for (int failing = 0; failing < static_cast<int>(sound.calls.size()); ++failing) {
    CAPTURE(failing);
    FileScript script{.failing = failing, .error_number = EIO};
    const auto error = thrown_by<IoError>([&] { act(script); });
    CHECK(error.code().value() == EIO);
    CHECK(error.path() == path);
    CHECK(script.calls.size() == static_cast<std::size_t>(failing) + 1);
  }
  FileScript divided{.longest = 1, .interruptions = 3};
  CHECK(equal_bits(act(divided), expected));
}

TEST_CASE("a file that becomes shorter while it is open is told") {
  const Written written{content(fixtures() + "floats.safetensors")};
  const SafetensorsFile file{written.path()};
  const StoredSafetensorsTensor& last = file.tensors().back();
  std::filesystem::resize_file(written.path(), last.offset + 1);
  std::vector<std::byte> out(last.bytes);
  check_refused(file.path(), last.name, "the file now ends at byte " + std::to_string(last.offset + 1),
                [&] { file.read_bytes(last.name, 0, out); });
  // Also between the look at its length and the header.
  FileScript script{.before = [&, reads = 0](const std::string& call) mutable {
    if (call == "read" && ++reads == 2) std::filesystem::resize_file(written.path(), 20);
  }};
  write_file(written.path(), content(fixtures() + "floats.safetensors"));
  check_refused(file.path(), "", "the file now ends at byte 20", [&] {
    FaultyFile{written.path(), ScriptedFiles{script}};
  });
}

TEST_CASE("a model in several files is one, by its index or its directory") {
  for (const std::string path : {"sharded", "sharded/", "sharded/model.safetensors.index.json"}) {
    const SafetensorsModel model{fixtures() + path};
    CHECK(model.tensors().size() == 3);
    CHECK(all_floats(model, "h.0.weight") == std::vector(4, 1.0F));
    CHECK(all_floats(model, "h.1.weight") == std::vector(4, 2.0F));
    CHECK(all_floats(model, "wte.weight") == std::vector(4, 3.0F));
    CHECK(all_bytes(model, "wte.weight").size() == 16);
    CHECK(model.find("absent") == nullptr);
    check_refused(model.path(), "absent", "is not there", [&] { model.tensor("absent"); });
    CHECK(model.file("wte.weight").path().ends_with("/model-00002-of-00002.safetensors"));
  }
  const SafetensorsModel one{fixtures() + "floats.safetensors"};
  CHECK(one.tensors().size() == 8);
  CHECK(all_floats(one, "F32").size() == 12);

  // A file comes before an index, and a directory without either is without the file.
  const ScratchDirectory scratch;
  CHECK(thrown_by<IoError>([&] { SafetensorsModel{scratch.path()}; }).path() == scratch.path() + "/model.safetensors");
  write_file(scratch.path() + "/model.safetensors.index.json", "{");
  CHECK_THROWS_AS(SafetensorsModel{scratch.path()}, FormatError);
  write_file(scratch.path() + "/model.safetensors", safetensors("{}"));
  CHECK(SafetensorsModel{scratch.path()}.tensors().empty());
}

TEST_CASE("an index that is wrong is refused, by file, tensor and reason") {
  struct Case {
    std::string index;
    std::string tensor;
    std::string words;
  };
  const std::string map = R"("weight_map":{"a":"x.safetensors","b":"y.safetensors"})";
  const std::vector<Case> cases{
      {"", "", "does not begin with {"},
      {"[]", "", "does not begin with {"},
      {"{", "", "its index is not JSON in UTF-8"},
      {"{}", "", "has no weight_map"},
      {R"({"metadata":{"weight_map":{}}})", "", "has no weight_map"},
      {"{" + map + "," + map + "}", "", "has two weight_maps"},
      {R"({"weight_map":5})", "", "its weight_map is the number 5, not an object"},
      {R"({"weight_map":"a"})", "", "its weight_map is a string, not an object"},
      {R"({"weight_map":["a"]})", "", "its weight_map is an array, not an object"},
      {R"({"weight_map":{"a":5}})", "a", "is the number 5, not the name of a file"},
      {R"({"weight_map":{"a":null}})", "a", "is null, not the name of a file"},
      {R"({"weight_map":{"a":{"b":"c"}}})", "a", "is an object, not the name of a file"},
      {R"({"weight_map":{"a":["c"]}})", "a", "is an array, not the name of a file"},
      {R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})", "a", "is there twice"},
      {R"({"weight_map":{"a":"../x.safetensors"}})", "a", "is not the name of a file beside the index"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "a", "is not the name of a file beside the index"},
      {R"({"weight_map":{"a":"b/x.safetensors"}})", "a", "is not the name of a file beside the index"},
      {R"({"weight_map":{"a":".."}})", "a", "is not the name of a file beside the index"},
      {R"({"weight_map":{"a":"."}})", "a", "is not the name of a file beside the index"},
      {R"({"weight_map":{"a":""}})", "a", "is not the name of a file beside the index"},
      {R"({"weight_map":{"a":"x.safetensors\u0000"}})", "a", "is not the name of a file beside the index"},
      {R"({"weight_map":{"a":"x.safetensors","b":"y.safetensors","c":"y.safetensors"}})", "c",
       "y.safetensors, where the index has it"},
      {"{" + map + ",\"more\":" + std::string(1'000'000, '['), "", "is not JSON in UTF-8"},
  };
  const ScratchDirectory scratch;
  write_file(scratch.path() + "/x.safetensors", safetensors("{" + entry("a", "U8", "[1]", "[0,1]") + "}", "x"));
  write_file(scratch.path() + "/y.safetensors", safetensors("{" + entry("b", "U8", "[1]", "[0,1]") + "}", "y"));
  const std::string index = scratch.path() + "/model.safetensors.index.json";
  for (const Case& wrong : cases) {
    const std::string text = wrong.index.substr(0, 200);
    CAPTURE(text);
    write_file(index, wrong.index);
    check_refused(index, wrong.tensor, wrong.words, [&] { SafetensorsModel{index}; });
  }

  const std::string nested = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  write_file(index, "{\"more\":" + nested + "," + map + ",\"metadata\":{\"total_size\":-1.5,\"weight_map\":[true]}}");
  CHECK(SafetensorsModel{index}.tensors().size() == 2);

  // What the files have, and the index has not, or elsewhere.
  write_file(index, R"({"weight_map":{"a":"x.safetensors","b":"y.safetensors"}})");
  write_file(scratch.path() + "/y.safetensors",
             safetensors("{" + entry("b", "U8", "[1]", "[0,1]") + "," + entry("c", "U8", "[1]", "[1,2]") + "}", "yz"));
  check_refused(scratch.path() + "/y.safetensors", "c", "is not in the index", [&] { SafetensorsModel{index}; });
  write_file(scratch.path() + "/y.safetensors",
             safetensors("{" + entry("b", "U8", "[1]", "[0,1]") + "," + entry("a", "U8", "[1]", "[1,2]") + "}", "yz"));
  check_refused(scratch.path() + "/y.safetensors", "a", "x.safetensors by the index", [&] { SafetensorsModel{index}; });

  // A file that is missing, or is none of the format.
  std::filesystem::remove(scratch.path() + "/y.safetensors");
  const auto missing = thrown_by<IoError>([&] { SafetensorsModel{index}; });
  CHECK(missing.path() == scratch.path() + "/y.safetensors");
  CHECK(missing.code().value() == ENOENT);
  write_file(scratch.path() + "/y.safetensors", "");
  check_refused(scratch.path() + "/y.safetensors", "", "has 0 bytes", [&] { SafetensorsModel{index}; });

  write_file(index, "{");
  std::filesystem::resize_file(index, 100'000'001);
  check_refused(index, "", "more than an index has", [&] { SafetensorsModel{index}; });
  std::filesystem::remove(index);
  CHECK(thrown_by<IoError>([&] { SafetensorsModel{index}; }).path() == index);
}
