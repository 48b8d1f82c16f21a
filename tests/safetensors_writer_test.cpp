// The safetensors format as it is written: range by range, in one file or several, by one writer or many, and all of it
// or nothing.
#include <doctest/doctest.h>

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/interchange/safetensors_file.hpp>
#include <zerospan/interchange/safetensors_model.hpp>
#include <zerospan/interchange/safetensors_writer.hpp>
#include <zerospan/kernels/convert.hpp>

#include "support/child_process.hpp"
#include "support/forked.hpp"
#include "support/own_mounts.hpp"
#include "support/process_limits.hpp"
#include "support/safetensors.hpp"
#include "support/scratch.hpp"
#include "support/scripted_files.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::Bytes;
using zerospan::ConfigurationError;
using zerospan::FormatError;
using zerospan::IoError;
using zerospan::SafetensorsFile;
using zerospan::SafetensorsModel;
using zerospan::SafetensorsOptions;
using zerospan::SafetensorsRole;
using zerospan::SafetensorsTensor;
using zerospan::SafetensorsType;
using zerospan::SafetensorsWriter;
using zerospan_test::content;
using zerospan_test::FileScript;
using zerospan_test::has_words;
using zerospan_test::ScratchDirectory;
using zerospan_test::ScriptedFiles;
using zerospan_test::thrown_by;
using zerospan_test::write_file;

using FaultyWriter = zerospan::BasicSafetensorsWriter<ScriptedFiles>;
using Tensors = std::vector<SafetensorsTensor>;

/// The bytes that the tensors of a test have, by name: no two parts are alike.
std::vector<std::byte> bytes_of(const SafetensorsTensor& tensor) {
  std::uint64_t bits = element_bits(tensor.type);
  for (const std::uint64_t extent : tensor.shape) bits *= extent;
  std::seed_seq seed(tensor.name.begin(), tensor.name.end());
  std::mt19937_64 random{seed};
  std::vector<std::byte> bytes(bits / 8);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & 0xff);
  return bytes;
}

template <class Writer>
void write_all(Writer& writer, const Tensors& tensors) {
  for (const SafetensorsTensor& tensor : tensors) writer.write_bytes(tensor.name, 0, bytes_of(tensor));
}

/// The model has the tensors and their bytes, and nothing else.
void check_model(const std::string& path, const Tensors& tensors) {
  const SafetensorsModel model{path};
  CHECK(model.tensors().size() == tensors.size());
  for (const SafetensorsTensor& tensor : tensors) {
    CAPTURE(tensor.name);
    CHECK(static_cast<const SafetensorsTensor&>(model.tensor(tensor.name)) == tensor);
    std::vector<std::byte> bytes(model.tensor(tensor.name).bytes);
    model.read_bytes(tensor.name, 0, bytes);
    CHECK(bytes == bytes_of(tensor));
  }
}

/// Names and contents of all that is in a directory.
std::map<std::string, std::string> snapshot(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator{directory}) {
    files[entry.path().filename().string()] = content(entry.path().string());
  }
  return files;
}

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& [name, bytes] : snapshot(directory)) names.push_back(name);
  return names;
}

Tensors every_type() {
  Tensors tensors;
  for (std::size_t i = 0; i < zerospan::detail::safetensors_types.size(); ++i) {
    const auto type = static_cast<SafetensorsType>(i);
    tensors.push_back({std::string{to_string(type)}, type, {3 + i, 4}});
  }
  tensors.push_back({"scalar", SafetensorsType::float64, {}});
  tensors.push_back({"nothing", SafetensorsType::float32, {3, 0}});
  tensors.push_back({"", SafetensorsType::uint8, {1}});
  tensors.push_back({"größe \"重み\"\n\\", SafetensorsType::uint8, {3}});
  tensors.push_back({std::string{"a\0b", 3}, SafetensorsType::float16, {1, 1, 1, 1, 1, 1, 1, 1, 1}});
  return tensors;
}

const Tensors& three() {
  static const Tensors tensors{{"a", SafetensorsType::float32, {2, 5}},
                               {"b", SafetensorsType::bfloat16, {7}},
                               {"c", SafetensorsType::float16, {3, 3}}};
  return tensors;
}

/// So that each of `three` is in a file of its own.
SafetensorsOptions in_three_files() { return {.file_limit = Bytes{130}, .metadata = {{"format", "pt"}}}; }

}  // namespace

TEST_CASE("what is written is read again, of every type, and every element is aligned") {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/model.safetensors";
  const std::map<std::string, std::string> metadata{{"format", "pt"}, {"größe", "\"12\"\n"}, {"", ""}};
  const Tensors tensors = every_type();
  SafetensorsWriter writer{path, tensors, {.metadata = metadata}};
  CHECK(names_in(scratch.path()) == std::vector<std::string>{"model.safetensors.partial"});
  write_all(writer, tensors);
  CHECK(writer.written() == writer.bytes());
  writer.finish();
  CHECK(names_in(scratch.path()) == std::vector<std::string>{"model.safetensors"});
  check_model(path, tensors);
  const SafetensorsFile file{path};
  CHECK(file.metadata() == metadata);
  std::uint64_t sum = 0;
  for (const auto& tensor : file.tensors()) {
    sum += tensor.bytes;
    CHECK(tensor.offset % std::max<std::uint64_t>(element_bits(tensor.type) / 8, 1) == 0);
  }
  CHECK(writer.bytes() == sum);
}

TEST_CASE("a model without tensors") {
  const ScratchDirectory scratch;
  SafetensorsWriter writer{scratch.path() + "/model.safetensors", {}};
  writer.finish();
  CHECK(SafetensorsFile{scratch.path() + "/model.safetensors"}.tensors().empty());
}

TEST_CASE("floats are rounded as the library rounds, in ranges and any order") {
  constexpr std::size_t count = 150'001;
  std::mt19937 random{7};
  std::vector<float> values(count);
  for (float& value : values) value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
  const Tensors tensors{{"half", SafetensorsType::float16, {count}},
                        {"single", SafetensorsType::float32, {count}},
                        {"brain", SafetensorsType::bfloat16, {count}}};
  for (const std::size_t longest : {std::size_t{1000}, std::size_t{1} << 30}) {
    const ScratchDirectory scratch;
    const std::string path = scratch.path() + "/model.safetensors";
    FileScript script{.longest = longest, .interruptions = 1};
    FaultyWriter writer{path, tensors, {}, SafetensorsRole::creates, ScriptedFiles{script}};
    std::vector<std::size_t> cuts{0, 1, 2, 70'000, 70'003, count};
    std::vector<std::pair<std::size_t, const SafetensorsTensor*>> ranges;
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      for (const SafetensorsTensor& tensor : tensors) ranges.emplace_back(i, &tensor);
    }
    std::ranges::shuffle(ranges, random);
    for (const auto& [i, tensor] : ranges) {
      writer.write(tensor->name, cuts[i], std::span{values}.subspan(cuts[i], cuts[i + 1] - cuts[i]));
    }
    writer.finish();
    const SafetensorsFile file{path};
    for (const SafetensorsTensor& tensor : tensors) {
      const auto type = *zerospan::element_type(tensor.type);
      std::vector<std::byte> expected(count * zerospan::element_bytes(type));
      std::vector<std::byte> bytes(expected.size());
      zerospan::from_float(values.data(), type, expected.data(), count);
      file.read_bytes(tensor.name, 0, bytes);
      CHECK(bytes == expected);
    }
  }
}

TEST_CASE("where there is more than a file may have there are several, and an index") {
  Tensors tensors;
  for (int i = 0; i < 40; ++i) {
    const auto count = static_cast<std::uint64_t>(i * 7 % 60);
    const auto type = i % 3 == 0 ? SafetensorsType::float32 : SafetensorsType::bfloat16;
    tensors.push_back({"layer." + std::to_string(i) + ".größe", type, {count}});
  }
  tensors[20].shape = {3000};
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/weights.safetensors";
  constexpr std::size_t limit = 1000;
  SafetensorsWriter writer{path, tensors, {.file_limit = Bytes{limit}, .metadata = {{"format", "pt"}}}};
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::shuffle(order, std::mt19937{1});
  for (const std::size_t i : order) {
    const std::vector<std::byte> bytes = bytes_of(tensors[i]);
    const std::size_t half = bytes.size() / 2;
    writer.write_bytes(tensors[i].name, half, std::span{bytes}.subspan(half));
    writer.write_bytes(tensors[i].name, 0, std::span{bytes}.first(half));
  }
  writer.finish();
  check_model(path + ".index.json", tensors);

  const auto index = nlohmann::json::parse(content(path + ".index.json"));
  CHECK(index["metadata"]["total_size"] == writer.bytes());
  std::map<std::string, int> in_file;
  for (const auto& file : index["weight_map"]) ++in_file[file.get<std::string>()];
  REQUIRE(in_file.size() > 5);
  CHECK(names_in(scratch.path()).size() == in_file.size() + 1);
  for (const auto& [name, count] : in_file) {
    CAPTURE(name);
    CHECK(name.ends_with("-of-0000" + std::to_string(in_file.size()) + ".safetensors") == (in_file.size() < 10));
    const bool fits = std::filesystem::file_size(scratch.path() + "/" + name) <= limit;
    CHECK((fits || count == 1));
    CHECK(SafetensorsFile{scratch.path() + "/" + name}.metadata().at("format") == "pt");
  }
}

TEST_CASE("declarations without sense are refused before anything is made") {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/model.safetensors";
  const auto refused = [&](const std::string& words, const Tensors& tensors, const SafetensorsOptions& options = {}) {
    const auto error = thrown_by<ConfigurationError>([&] { SafetensorsWriter{path, tensors, options}; });
    const std::string what = error.what();
    CAPTURE(what);
    CHECK(has_words(what, words));
    CHECK(scratch.is_empty());
  };
  constexpr std::uint64_t most = ~std::uint64_t{0};
  refused("a is declared twice", {{"a", SafetensorsType::int8, {1}}, {"b"}, {"a", SafetensorsType::float32, {2}}});
  refused("a is declared twice", {{"a", SafetensorsType::int8, {1}}, {"b"}, {"a"}}, {.file_limit = 1_KiB});
  refused("is not UTF-8", {{"a\xff", SafetensorsType::int8, {1}}});
  refused("is not UTF-8", {}, {.metadata = {{"a", "\xff"}}});
  refused("is not UTF-8", {}, {.metadata = {{"\xff", "a"}}});
  refused("no tensor is called __metadata__", {{"__metadata__"}});
  refused("a, U8 of shape [18446744073709551615, 2], has more bits", {{"a", SafetensorsType::uint8, {most, 2}}});
  refused("has more bits", {{"a", SafetensorsType::float32, {most / 32 + 1}}});
  refused("more bytes than a file can", {{"a", SafetensorsType::uint8, {most / 8}},
                                         {"b", SafetensorsType::uint8, {most / 8}},
                                         {"c", SafetensorsType::uint8, {most / 8}},
                                         {"d", SafetensorsType::uint8, {most / 8}}});
  refused("a, F4 of shape [3], does not end with a byte", {{"a", SafetensorsType::float4, {3}}});

  CHECK_THROWS_AS((SafetensorsWriter{"", {}}), ConfigurationError);
  CHECK_THROWS_AS((SafetensorsWriter{std::string{"a\0.safetensors", 14}, {}}), ConfigurationError);
  CHECK(has_words(thrown_by<ConfigurationError>([&] {
                    SafetensorsWriter{scratch.path() + "/model.bin", {}};
                  }).what(),
                  "model.bin does not end in .safetensors"));
}

TEST_CASE("writes that were not declared are refused") {
  const ScratchDirectory scratch;
  const Tensors tensors{{"a", SafetensorsType::float32, {4}}, {"i", SafetensorsType::int32, {4}}};
  SafetensorsWriter writer{scratch.path() + "/model.safetensors", tensors};
  const std::vector<float> values(5);
  const auto refused = [&](const std::string& words, const std::function<void()>& act) {
    const auto error = thrown_by<ConfigurationError>(act);
    const std::string what = error.what();
    CAPTURE(what);
    CHECK(has_words(what, words));
  };
  refused("b is not declared", [&] { writer.write("b", 0, values); });
  refused("i in " + scratch.path() + "/model.safetensors is declared as I32", [&] { writer.write("i", 0, values); });
  refused("a write of 5 elements from 0 on leaves a in", [&] { writer.write("a", 0, values); });
  refused("leaves a in", [&] { writer.write("a", 4, std::span{values}.first(1)); });
  refused("leaves a in", [&] { writer.write("a", ~std::uint64_t{0}, std::span{values}.first(1)); });
  refused("a write of 20 bytes from 0 on leaves i in",
          [&] { writer.write_bytes("i", 0, std::as_bytes(std::span{values})); });
  CHECK(writer.written() == 0);

  refused("of the 32 bytes of", [&] { writer.finish(); });
  write_all(writer, tensors);
  refused("and others 1", [&] { writer.finish(1); });
  writer.finish();
  refused("is finished already", [&] { writer.finish(); });
  refused("is finished already", [&] { writer.write("a", 0, std::span{values}.first(1)); });
  check_model(scratch.path() + "/model.safetensors", tensors);
}

TEST_CASE("a model with a gap is not finished, wherever the gap is") {
  const Tensors tensors{{"a", SafetensorsType::float32, {4}}, {"b", SafetensorsType::float16, {3}}};
  for (std::size_t gap = 0; gap < 22; ++gap) {
    const ScratchDirectory scratch;
    SafetensorsWriter writer{scratch.path() + "/model.safetensors", tensors};
    std::size_t at = 0;
    for (const SafetensorsTensor& tensor : tensors) {
      const std::vector<std::byte> bytes = bytes_of(tensor);
      for (std::size_t n = 0; n < bytes.size(); ++n) {  // twice, so that a sum alone would be right
        const std::size_t i = gap % 2 == 0 ? n : bytes.size() - 1 - n;
        if (at + i != gap) writer.write_bytes(tensor.name, i, std::span{bytes}.subspan(i, 1));
        if (at + i != gap) writer.write_bytes(tensor.name, i, std::span{bytes}.subspan(i, 1));
      }
      at += bytes.size();
    }
    CHECK(writer.written() == 21);
    const auto error = thrown_by<ConfigurationError>([&] { writer.finish(); });
    CHECK(has_words(error.what(), std::string{gap < 16 ? "a" : "b"} + " not wholly by this one"));
    write_all(writer, tensors);
    writer.finish();
    check_model(scratch.path() + "/model.safetensors", tensors);
  }
}

TEST_CASE("a writer that does not finish leaves nothing, and what was there stays") {
  for (const bool is_there : {false, true}) {
    for (const bool is_sharded : {false, true}) {
      const ScratchDirectory scratch;
      const std::string path = scratch.path() + "/model.safetensors";
      if (is_there && !is_sharded) write_file(path, "as it was");
      const auto before = snapshot(scratch.path());
      {
        SafetensorsWriter writer{path, three(), is_sharded ? in_three_files() : SafetensorsOptions{}};
        CHECK(names_in(scratch.path()).size() == before.size() + (is_sharded ? 3 : 1));
        write_all(writer, three());
      }
      CHECK(snapshot(scratch.path()) == before);
    }
  }
}

TEST_CASE("each call of the system that fails ends in a typed error, and in the directory as it was") {
  struct Way {
    SafetensorsOptions options;
    bool is_there;
  };
  for (const Way& way : {Way{{}, false}, Way{{}, true}, Way{in_three_files(), false}}) {
    const auto act = [&](const std::string& path, FileScript& script) {
      FaultyWriter writer{path, three(), way.options, SafetensorsRole::creates, ScriptedFiles{script}};
      write_all(writer, three());
      writer.finish();
    };
    FileScript sound;
    {
      const ScratchDirectory scratch;
      act(scratch.path() + "/model.safetensors", sound);
    }
    const int count = static_cast<int>(sound.calls.size());
    REQUIRE(count > (way.options.metadata.empty() ? 10 : 30));
    for (int failing = 0; failing < count; ++failing) {
      const std::string call = sound.calls[static_cast<std::size_t>(failing)];
      CAPTURE(failing);
      CAPTURE(call);
      const ScratchDirectory scratch;
      const std::string path = scratch.path() + "/model.safetensors";
      if (way.is_there) write_file(path, "as it was");
      const auto before = snapshot(scratch.path());
      FileScript script{.failing = failing, .error_number = ENOSPC};
      bool is_thrown = false;
      try {
        act(path, script);
      } catch (const IoError& error) {
        is_thrown = true;
        CHECK(error.code().value() == ENOSPC);
        CHECK(has_words(error.path(), scratch.path()));
      }
      const bool is_over = failing >= count - 2;  // the model has its name: the directory alone is not synchronized
      CHECK(is_thrown);
      if (is_over) {
        check_model(way.options.metadata.empty() ? path : path + ".index.json", three());
      } else {
        CHECK(snapshot(scratch.path()) == before);
      }
    }
  }
}

TEST_CASE("a write that failed may be tried again") {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/model.safetensors";
  FileScript script;
  FaultyWriter writer{path, three(), {}, SafetensorsRole::creates, ScriptedFiles{script}};
  script.failing = static_cast<int>(script.calls.size());
  CHECK_THROWS_AS(write_all(writer, three()), IoError);
  CHECK(writer.written() == 0);
  write_all(writer, three());
  writer.finish();
  check_model(path, three());
}

TEST_CASE("a disk that takes nothing more, without saying so, is an error") {
  const ScratchDirectory scratch;
  FileScript script{.longest = 0};
  const auto error = thrown_by<IoError>([&] {
    FaultyWriter{scratch.path() + "/model.safetensors", three(), {}, SafetensorsRole::creates, ScriptedFiles{script}};
  });
  CHECK(error.code().value() == EIO);
  CHECK(scratch.is_empty());
}

TEST_CASE("data are on the disk before they have a name, and names before the index") {
  const ScratchDirectory scratch;
  FileScript script;
  FaultyWriter writer{scratch.path() + "/model.safetensors", three(), in_three_files(), SafetensorsRole::creates,
                      ScriptedFiles{script}};
  write_all(writer, three());
  script.calls.clear();
  writer.finish();
  std::string order;
  for (const std::string& call : script.calls) {
    if (call == "write" || call == "synchronize" || call == "rename") order += call.substr(0, 1);
  }
  // The files; the index; the files' names; the directory; the index's name; the directory again.
  CHECK(order == "ssswsrrrsrs");
}

TEST_CASE("a model with an index is never replaced, nor put beside a file that readers would take") {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/model.safetensors";
  const auto refused = [&](const std::string& existing, const SafetensorsOptions& options) {
    const auto before = snapshot(scratch.path());
    const auto error = thrown_by<IoError>([&] { SafetensorsWriter{path, three(), options}; });
    CHECK(error.code().value() == EEXIST);
    CHECK(error.path() == existing);
    CHECK(snapshot(scratch.path()) == before);
  };
  write_file(path, "as it was");
  refused(path, in_three_files());
  std::filesystem::remove(path);
  write_file(path + ".index.json", "{}");
  refused(path + ".index.json", in_three_files());
  refused(path + ".index.json", {});
}

TEST_CASE("ranks write one model together, each its part") {
  for (const SafetensorsOptions& options : {SafetensorsOptions{}, in_three_files()}) {
    const ScratchDirectory scratch;
    const std::string path = scratch.path() + "/model.safetensors";
    constexpr std::size_t ranks = 3;
    const auto write_part = [&](SafetensorsWriter& writer, std::size_t rank) {
      for (const SafetensorsTensor& tensor : three()) {
        const std::vector<std::byte> bytes = bytes_of(tensor);
        const std::size_t first = bytes.size() * rank / ranks;
        const std::size_t last = bytes.size() * (rank + 1) / ranks;
        writer.write_bytes(tensor.name, first, std::span{bytes}.subspan(first, last - first));
      }
      writer.synchronize();
    };
    SafetensorsWriter creator{path, three(), options};
    CHECK(zerospan_test::is_true_in_fork([&] {  // a process
      SafetensorsWriter writer{path, three(), options, SafetensorsRole::joins};
      write_part(writer, 1);
      return true;
    }));
    SafetensorsWriter second{path, three(), options, SafetensorsRole::joins};
    {
      const std::jthread thread{[&] { write_part(second, 2); }};
      write_part(creator, 0);
    }
    CHECK(has_words(thrown_by<ConfigurationError>([&] { second.finish(); }).what(), "the writer that created it"));
    CHECK_THROWS_AS(creator.finish(), ConfigurationError);
    CHECK_THROWS_AS(creator.finish(second.written()), ConfigurationError);
    creator.finish(creator.bytes() - creator.written());
    check_model(options.metadata.empty() ? path : path + ".index.json", three());
  }
}

TEST_CASE("who joins was told the same, and after the files were made") {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/model.safetensors";
  const auto join = [&](const Tensors& tensors, const SafetensorsOptions& options = {}) {
    SafetensorsWriter{path, tensors, options, SafetensorsRole::joins};
  };
  CHECK(thrown_by<IoError>([&] { join(three()); }).code().value() == ENOENT);
  CHECK(scratch.is_empty());

  const SafetensorsWriter creator{path, three()};
  join(three());
  const auto refused = [&](const std::function<void()>& act) {
    const auto error = thrown_by<FormatError>(act);
    CHECK(error.file() == path + ".partial");
    CHECK(has_words(error.what(), "was created for other tensors"));
  };
  Tensors others = three();
  others[0].shape = {5, 2};
  refused([&] { join(others); });
  others = three();
  others[1].type = SafetensorsType::float16;
  refused([&] { join(others); });
  others = three();
  others.pop_back();
  refused([&] { join(others); });
  refused([&] { join(three(), {.metadata = {{"a", "b"}}}); });
  std::filesystem::resize_file(path + ".partial", 10);
  refused([&] { join(three()); });
  CHECK(names_in(scratch.path()) == std::vector<std::string>{"model.safetensors.partial"});
}

TEST_CASE("two that create one model do not meet, and what a killed one left is overwritten") {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/model.safetensors";
  {
    SafetensorsWriter first{path, three()};
    const auto error = thrown_by<IoError>([&] { SafetensorsWriter{path, three()}; });
    CHECK(error.code().value() == EWOULDBLOCK);
    CHECK(error.path() == path + ".partial");
    CHECK(has_words(error.what(), "somebody else is writing"));
    write_all(first, three());
    first.finish();
  }
  check_model(path, three());

  CHECK(zerospan_test::is_true_in_fork([&] {  // ends without its destructors
    auto* const writer = new SafetensorsWriter{path, {{{"left", SafetensorsType::uint8, {100'000}}}}};
    return writer->bytes() == 100'000;
  }));
  CHECK(std::filesystem::exists(path + ".partial"));
  check_model(path, three());
  SafetensorsWriter next{path, every_type()};
  write_all(next, every_type());
  next.finish();
  check_model(path, every_type());
  CHECK(names_in(scratch.path()) == std::vector<std::string>{"model.safetensors"});
}

TEST_CASE("a child process that ends does not remove what its parent writes") {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/model.safetensors";
  auto writer = std::make_optional<SafetensorsWriter>(path, three());
  CHECK(zerospan_test::is_true_in_fork([&] {
    writer.reset();
    return true;
  }));
  write_all(*writer, three());
  writer->finish();
  check_model(path, three());
}

TEST_CASE("a file system without locks serves, too") {
  for (const int error_number : {ENOSYS, EOPNOTSUPP, ENOLCK}) {
    const ScratchDirectory scratch;
    const std::string path = scratch.path() + "/model.safetensors";
    FileScript script{.error_number = error_number};
    script.before = [&](const std::string& call) {
      if (call == "lock") script.failing = static_cast<int>(script.calls.size()) - 1;
    };
    FaultyWriter writer{path, three(), {}, SafetensorsRole::creates, ScriptedFiles{script}};
    CHECK(script.failing >= 0);
    write_all(writer, three());
    writer.finish();
    check_model(path, three());
  }
}

TEST_CASE("a file that its writer has just finished is not overwritten by one that was about to") {
  struct Meeting {
    std::string call;  ///< Of the second writer, before which the first one ends.
    int number;
    bool is_finished;
  };
  for (const auto& [moment, number, is_finished] :
       {Meeting{"lock", 1, true}, Meeting{"lock", 1, false}, Meeting{"open", 2, true}, Meeting{"open", 2, false}}) {
    const ScratchDirectory scratch;
    const std::string path = scratch.path() + "/model.safetensors";
    auto first = std::make_optional<SafetensorsWriter>(path, three());
    write_all(*first, three());
    FileScript script;
    script.before = [&, calls = 0](const std::string& call) mutable {
      if (call != moment || ++calls != number) return;
      if (is_finished) first->finish();
      first.reset();
    };
    FaultyWriter second{path, every_type(), {}, SafetensorsRole::creates, ScriptedFiles{script}};
    REQUIRE(!first);
    if (is_finished) check_model(path, three());
    write_all(second, every_type());
    second.finish();
    check_model(path, every_type());
    CHECK(names_in(scratch.path()) == std::vector<std::string>{"model.safetensors"});
  }
}

TEST_CASE("a directory that cannot be written into, or is none") {
  const ScratchDirectory scratch;
  const auto code = [&](const std::string& path) {
    return thrown_by<IoError>([&] { SafetensorsWriter{path, three()}; }).code().value();
  };
  CHECK(code(scratch.path() + "/absent/model.safetensors") == ENOENT);
  write_file(scratch.path() + "/file", "");
  CHECK(code(scratch.path() + "/file/model.safetensors") == ENOTDIR);
  std::filesystem::create_directory(scratch.path() + "/model.safetensors.partial");
  CHECK(code(scratch.path() + "/model.safetensors") == EISDIR);
  // What stands for the temporary file is not followed to another's.
  std::filesystem::remove(scratch.path() + "/model.safetensors.partial");
  std::filesystem::create_symlink("file", scratch.path() + "/model.safetensors.partial");
  CHECK(code(scratch.path() + "/model.safetensors") == ELOOP);
  CHECK(content(scratch.path() + "/file").empty());
}

TEST_CASE("a relative path begins where the process is when the writer is made, and stays there") {
  const ScratchDirectory scratch;
  CHECK(zerospan_test::is_true_in_fork([&] {
    if (::chdir(scratch.path().c_str()) != 0) return false;
    SafetensorsWriter writer{"model.safetensors", three(), in_three_files()};
    write_all(writer, three());
    if (::chdir("/") != 0) return false;
    writer.finish();
    if (::chdir(scratch.path().c_str()) != 0) return false;
    return SafetensorsModel{"."}.tensors().size() == 3 &&
           SafetensorsModel{"model.safetensors.index.json"}.tensors().size() == 3;
  }));
  check_model(scratch.path(), three());
}

TEST_CASE("a full disk is found when the files are made, and so is the process's limit") {
  const ScratchDirectory scratch;
  const Tensors large{{"a", SafetensorsType::uint8, {64 << 20}}};
  const auto code = [&](const std::string& path) {
    return std::to_string(thrown_by<IoError>([&] { SafetensorsWriter{path, large}; }).code().value());
  };
  const zerospan_test::ProcessLimit limit{RLIMIT_FSIZE, 1 << 20};
  CHECK(code(scratch.path() + "/model.safetensors") == std::to_string(EFBIG));
  CHECK(scratch.is_empty());

  const std::string ending = zerospan_test::in_child([&]() -> std::string {
    const zerospan_test::ProcessLimit none{RLIMIT_FSIZE, RLIM_INFINITY};
    try {
      zerospan_test::enter_own_mounts();
      const zerospan_test::Mount small{scratch.path(), {.data = "size=1m"}};
      const std::string ended = code(scratch.path() + "/model.safetensors");
      return scratch.is_empty() ? ended : "a file is left";
    } catch (const zerospan_test::NotPermitted& error) {
      return std::string{"not permitted: "} + error.what();
    }
  });
  if (has_words(ending, "not permitted")) {
    MESSAGE("skipped: ", ending);
  } else {
    CHECK(ending == std::to_string(ENOSPC));
  }
}

TEST_CASE("the Python package reads what is written, and what it writes is read") {
  const char* const python = std::getenv("ZEROSPAN_PYTHON");
  if (python == nullptr) {
    MESSAGE("skipped: the test safetensors_python runs this");
    return;
  }
  const ScratchDirectory scratch;
  const Tensors tensors = every_type();
  const auto write = [&](const std::string& path, const Tensors& all, const SafetensorsOptions& options) {
    SafetensorsWriter writer{path, all, options};
    write_all(writer, all);
    writer.finish();
  };
  const std::map<std::string, std::string> metadata{{"format", "pt"}, {"größe", "\"12\"\n"}};
  write(scratch.path() + "/one.safetensors", tensors, {.metadata = metadata});
  std::filesystem::create_directory(scratch.path() + "/several");
  write(scratch.path() + "/several/model.safetensors", tensors, {.file_limit = 2_KiB, .metadata = metadata});
  CHECK(std::filesystem::exists(scratch.path() + "/several/model.safetensors.index.json"));

  // It reads both, compares them, and writes what it can of the tensors into "again.safetensors".
  const std::string command = std::string{python} + " " ZEROSPAN_FIXTURES "/safetensors/exchange.py " + scratch.path();
  REQUIRE(std::system(command.c_str()) == 0);
  Tensors again = tensors;
  std::erase_if(again, [](const SafetensorsTensor& tensor) { return tensor.name.starts_with("F6_"); });
  check_model(scratch.path() + "/again.safetensors", again);
  CHECK(SafetensorsFile{scratch.path() + "/again.safetensors"}.metadata() == metadata);
}
