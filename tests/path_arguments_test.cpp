// Paths that are given to the library, wherever it takes one: what is wrong with them is told at once, by a typed
// error.
#include <doctest/doctest.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/core/error.hpp>
#include <zerospan/core/timeline.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/nvme_tier.hpp>
#include <zerospan/tier/striped_tier.hpp>

#include "support/process_limits.hpp"
#include "support/scratch.hpp"

#if defined(ZEROSPAN_HAS_CHROME_TRACE)
#include <zerospan/adapters/chrome_trace.hpp>
#endif
#if defined(ZEROSPAN_HAS_SAFETENSORS)
#include <zerospan/interchange/safetensors_model.hpp>
#endif

namespace {

using namespace zerospan::literals;
using zerospan::ConfigurationError;
using zerospan::IoError;
using zerospan::NvmeTier;
using zerospan::ThreadedIoEngine;
using zerospan_test::ScratchDirectory;

/// Something that takes a path, and what it calls it.
struct Taker {
  std::string_view kind;
  std::string_view user;
  std::function<void(const std::string& path)> take;
};

std::vector<Taker> takers() {
  std::vector<Taker> all{{"directory", "an NvmeTier",
                          [](const std::string& path) {
                            ThreadedIoEngine io{{.threads = 1}};
                            NvmeTier tier{io, {.directory = path}};
                          }},
                         {"directory", "an NvmeTier", [](const std::string& path) {
                            const ScratchDirectory sound;
                            ThreadedIoEngine io{{.threads = 1}};
                            NvmeTier first{io, {.directory = sound.path()}};
                            NvmeTier second{io, {.directory = path}};
                            zerospan::StripedTier stripes{{first, second}};
                          }}};
#if defined(ZEROSPAN_HAS_CHROME_TRACE)
  all.push_back({"file", "a Chrome trace",
                 [](const std::string& path) { zerospan::write_chrome_trace(zerospan::Timeline{}, path); }});
#endif
#if defined(ZEROSPAN_HAS_SAFETENSORS)
  all.push_back({"file", "a SafetensorsFile", [](const std::string& path) { zerospan::SafetensorsFile file{path}; }});
  all.push_back({"file", "a SafetensorsModel", [](const std::string& path) { zerospan::SafetensorsModel file{path}; }});
#endif
  return all;
}

TEST_CASE("an empty path is refused: it says that none was given") {
  const std::size_t before = zerospan_test::open_descriptors();
  for (const Taker& taker : takers()) {
    const std::string expected =
        "no " + std::string{taker.kind} + " was given for " + std::string{taker.user} + ": its path is empty";
    CHECK_THROWS_WITH_AS(taker.take(""), expected.c_str(), ConfigurationError);
  }
  CHECK(zerospan_test::open_descriptors() == before);
}

TEST_CASE("a null character in a path is refused; nothing is made where the path would be cut off") {
  const ScratchDirectory scratch;
  for (const Taker& taker : takers()) {
    const std::string cut = scratch.path() + "/cut";
    const std::string expected = "the " + std::string{taker.kind} + " for " + std::string{taker.user} +
                                 " has a null character in its path, after " + cut;
    CHECK_THROWS_WITH_AS(taker.take(cut + std::string{"\0off", 4}), expected.c_str(), ConfigurationError);
    CHECK(scratch.is_empty());
  }
}

/// What a path that the system refuses ends in.
int error_number_of(const Taker& taker, const std::string& path) {
  try {
    taker.take(path);
  } catch (const IoError& error) {
    CHECK(error.path() == path);
    return error.code().value();
  }
  return 0;
}

TEST_CASE("a path that is too long, leads nowhere or through a file is an IoError that names it") {
  const ScratchDirectory scratch;
  std::ofstream{scratch.path() + "/file"} << "content";
  for (const Taker& taker : takers()) {
    CHECK(error_number_of(taker, scratch.path() + "/" + std::string(300, 'x')) == ENAMETOOLONG);
    CHECK(error_number_of(taker, std::string(5000, 'x')) == ENAMETOOLONG);
    CHECK(error_number_of(taker, scratch.path() + "/none/none") == ENOENT);
    CHECK(error_number_of(taker, scratch.path() + "/file/none") == ENOTDIR);
  }
}

/// The process is in another directory, until the object ends.
class CurrentDirectory {
 public:
  explicit CurrentDirectory(const std::string& path) { std::filesystem::current_path(path); }
  CurrentDirectory(const CurrentDirectory&) = delete;
  CurrentDirectory& operator=(const CurrentDirectory&) = delete;
  ~CurrentDirectory() { std::filesystem::current_path(before_); }

 private:
  std::filesystem::path before_ = std::filesystem::current_path();
};

TEST_CASE("a relative directory begins where the process is when the tier is made, and stays there") {
  const ScratchDirectory scratch;
  std::filesystem::create_directory(scratch.path() + "/states");
  ThreadedIoEngine io{{.threads = 1}};
  const auto make = [&] {
    const CurrentDirectory here{scratch.path()};
    return std::make_unique<NvmeTier<ThreadedIoEngine>>(io, zerospan::NvmeTierOptions{.directory = "states"});
  };
  const auto tier = make();
  CHECK(tier->name() == "NVMe tier (threads) in states");
  const zerospan_test::AlignedBuffer written{4096};
  const zerospan_test::AlignedBuffer read{4096};
  written.fill(1);
  const zerospan::Extent extent = tier->place(4096);
  tier->write(extent, 0, written.data(), 4096).wait();
  tier->read(extent, 0, read.data(), 4096).wait();
  CHECK((read == written));
  CHECK_THROWS_AS((NvmeTier{io, {.directory = "states"}}), IoError);  // it is not in the directory of the process
}

#if defined(ZEROSPAN_HAS_CHROME_TRACE)

TEST_CASE("a Chrome trace in a file is what the stream gets; a disk that is full is an IoError") {
  const ScratchDirectory scratch;
  zerospan::Timeline timeline;
  const auto now = zerospan::Timeline::Clock::now();
  timeline.record(zerospan::Rank{1}, "copy (cg)", "copy", "weight", 64, now, now);
  std::ostringstream expected;
  zerospan::write_chrome_trace(timeline, expected);
  const std::string path = scratch.path() + "/trace.json";
  zerospan::write_chrome_trace(timeline, path);
  std::ostringstream actual;
  actual << std::ifstream{path}.rdbuf();
  CHECK(actual.str() == expected.str());
  CHECK(actual.str().find("\"rank 1\"") != std::string::npos);
  const Taker to_file{"file", "a Chrome trace",
                      [&](const std::string& p) { zerospan::write_chrome_trace(timeline, p); }};
  CHECK(error_number_of(to_file, "/dev/full") == ENOSPC);
}

#endif

}  // namespace
