// Saves that link the files that states are in, instead of writing them a second time.
#include <doctest/doctest.h>

#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <zerospan/checkpoint/checkpoint.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/tier/detail/file_ranges.hpp>
#include <zerospan/zerospan.hpp>

#include "support/faulty_io_engine.hpp"
#include "support/forwarded_files.hpp"
#include "support/own_mounts.hpp"
#include "support/process_limits.hpp"
#include "support/scratch.hpp"
#include "support/small_rank.hpp"
#include "support/toy_rank.hpp"
#include "support/unnamed_files.hpp"

namespace {

using zerospan::Bytes;
using zerospan::CheckpointError;
using zerospan::Extent;
using zerospan::IoDirection;
using zerospan::IoError;
using zerospan::LinkedExtents;
using zerospan::SaveBy;
using zerospan::SavedCheckpoint;
using zerospan::ThreadedIoEngine;
using zerospan::detail::ArenaFile;
using zerospan::detail::FileRanges;
using zerospan_test::AlignedBuffer;
using zerospan_test::Configuration;
using zerospan_test::Declared;
using zerospan_test::everything_on;
using zerospan_test::FaultKind;
using zerospan_test::FaultyIoEngine;
using zerospan_test::large_and_small;
using zerospan_test::on_small_ranks;
using zerospan_test::on_toy_ranks;
using zerospan_test::Place;
using zerospan_test::ScratchDirectory;
using zerospan_test::SmallRank;

constexpr std::size_t page = 4096;

std::uint64_t hash(std::span<const std::byte> bytes) noexcept {
  return zerospan::detail::checksum(bytes);
}

std::vector<std::byte> bytes_of(const std::string& path) {
  const auto file = zerospan::FileSystem{}.open(path);
  if (!file) throw std::runtime_error{path + " is not there"};
  std::vector<std::byte> bytes(static_cast<std::size_t>(file->size()));
  file->read(0, bytes);
  return bytes;
}

void write(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream{path, std::ios::binary}.write(reinterpret_cast<const char*>(bytes.data()),
                                              static_cast<std::streamsize>(bytes.size()));
}

/// The hashes of all files of a directory.
std::map<std::string, std::uint64_t> hashes_in(const std::string& directory) {
  std::map<std::string, std::uint64_t> hashes;
  for (const auto& entry : std::filesystem::directory_iterator{directory}) {
    hashes.emplace(entry.path().filename().string(), hash(bytes_of(entry.path().string())));
  }
  return hashes;
}

// What is in which file.

TEST_CASE("ranges know their files and checksums, however they are cut") {
  constexpr std::uint64_t end = 64;
  const ScratchDirectory directory;
  std::vector<FileRanges::File> files;
  for (int i = 0; i < 4; ++i) files.push_back(std::make_shared<ArenaFile>(directory.path()));
  FileRanges ranges{files[0], end};
  struct Byte {
    std::size_t file = 0;
    std::uint64_t write = 0;  // its checksum; 0: none
  };
  std::vector<Byte> expected(end);
  std::mt19937 random{7};
  for (std::uint64_t write = 1; write < 2000; ++write) {
    const std::uint64_t first = random() % end;
    const std::uint64_t last = first + 1 + random() % (end - first);
    const std::size_t file = random() % files.size();
    const bool has_checksum = random() % 2 == 0;
    for (std::uint64_t i = 0; i < end; ++i) {  // what is cut has no checksum any more
      const bool is_cut = i > 0 && i < end && (i == first || i == last) && expected[i].write != 0 &&
                          expected[i].write == expected[i - 1].write;
      if (!is_cut) continue;
      const std::uint64_t cut = expected[i].write;
      for (Byte& byte : expected) byte.write = byte.write == cut ? 0 : byte.write;
    }
    for (std::uint64_t i = first; i < last; ++i) expected[i] = {file, has_checksum ? write : 0};
    if (has_checksum) {
      ranges.assign(first, last, files[file], write);
    } else {
      ranges.assign(first, last, files[file]);
    }
    std::uint64_t next = 0;
    ranges.visit(0, end, [&](std::uint64_t from, std::uint64_t to, const FileRanges::Run& run) {
      CHECK(from == next);
      for (std::uint64_t i = from; i < to; ++i) {
        CHECK(run.file == files[expected[i].file]);
        CHECK(run.checksum.value_or(0) == expected[i].write);
      }
      next = to;
    });
    CHECK(next == end);
  }

  // What is written from end to end, in whichever pieces, is one run again.
  ranges.assign(0, end, files[2], 1);
  for (std::uint64_t i = 0; i < end; ++i) {
    const std::uint64_t first = i * 37 % end;
    ranges.assign(first, first + 1, files[1]);
  }
  std::size_t runs = 0;
  ranges.visit(0, end, [&](std::uint64_t, std::uint64_t, const FileRanges::Run&) { ++runs; });
  CHECK(runs == 1);
  for (const std::size_t i : {0U, 2U, 3U}) CHECK(files[i].use_count() == 1);
}

// The tier.

/// Names files in a directory.
class Names final : public zerospan::FileNaming {
 public:
  explicit Names(std::string directory) : directory_{std::move(directory)} {}

  bool can_name(int) override { return can_name_; }
  bool name(int descriptor) override {
    if (error_number_ != 0) zerospan::throw_io_error(error_number_, "linking a file", directory_, 0, 0);
    return files_.link(descriptor, path(named_)) && ++named_ > 0;
  }

  std::string path(std::size_t i) const { return directory_ + "/" + std::to_string(i); }
  std::size_t named() const { return named_; }
  void refuse() { can_name_ = false; }
  void fail_with(int error_number) { error_number_ = error_number; }

 private:
  zerospan::FileSystem files_;
  std::string directory_;
  std::size_t named_ = 0;
  bool can_name_ = true;
  int error_number_ = 0;
};

/// A tier with extents that are written with numbers.
struct TierRig {
  static constexpr std::size_t bytes = 4 * page;
  using Io = FaultyIoEngine<ThreadedIoEngine>;

  TierRig() {
    for (int i = 0; i < 4; ++i) extents.push_back(tier.place(bytes));
    for (std::size_t i = 0; i < extents.size(); ++i) fill(i, 0, bytes, static_cast<int>(i));
  }

  void fill(std::size_t extent, std::size_t offset, std::size_t count, int value) {
    const AlignedBuffer buffer{count};
    std::ranges::fill(buffer.bytes(), static_cast<std::byte>(value));
    tier.write(extents[extent], offset, buffer.data(), count).wait();
  }

  /// The value of each page of an extent; -1 where it has several.
  std::vector<int> pages(std::size_t extent) {
    const AlignedBuffer buffer{bytes};
    tier.read(extents[extent], 0, buffer.data(), bytes).wait();
    return values(buffer.bytes());
  }

  static std::vector<int> values(std::span<const std::byte> all) {
    std::vector<int> result;
    for (std::size_t at = 0; at < all.size(); at += page) {
      const auto one = all.subspan(at, page);
      const bool is_one = std::ranges::all_of(one, [&](std::byte byte) { return byte == one[0]; });
      result.push_back(is_one ? static_cast<int>(one[0]) : -1);
    }
    return result;
  }

  LinkedExtents link(std::vector<std::size_t> which) {
    std::vector<Extent> chosen;
    for (const std::size_t i : which) chosen.push_back(extents[i]);
    return tier.link(chosen, &hash, names);
  }

  /// What a linked file has of an extent.
  std::vector<int> pages_in(std::size_t name, std::size_t extent) const {
    const std::vector<std::byte> all = bytes_of(names.path(name));
    return values(std::span{all}.subspan(static_cast<std::size_t>(extents[extent].offset), bytes));
  }

  /// Each piece has the checksum of its bytes, and together they are all of what is linked.
  void check_checksums(const LinkedExtents& linked, std::size_t first_name) const {
    for (std::size_t f = 0; f < linked.files.size(); ++f) {
      const std::vector<std::byte> all = bytes_of(names.path(first_name + f));
      CHECK(linked.files[f].bytes == all.size());
      std::size_t in_pieces = 0;
      std::size_t in_ranges = 0;
      for (const auto& piece : linked.files[f].pieces) {
        CHECK(hash(std::span{all}.subspan(piece.offset, piece.bytes)) == piece.checksum);
        in_pieces += piece.bytes;
      }
      for (const auto& range : linked.ranges) in_ranges += range.file == f ? range.range.bytes : 0;
      CHECK(in_pieces == in_ranges);
    }
  }

  ScratchDirectory directory;
  ThreadedIoEngine inner{{.threads = 2}};
  Io io{inner};
  zerospan::NvmeTier<Io> tier{io, {.directory = directory.path(), .block = Bytes{page}}};
  Names names{directory.path()};
  std::vector<Extent> extents;
};

std::vector<int> four(int value) { return std::vector<int>(4, value); }

TEST_CASE("what is linked stays as it is, and the tier goes on elsewhere") {
  TierRig rig;
  const LinkedExtents first = rig.link({1, 2});
  REQUIRE(first.files.size() == 1);
  REQUIRE(first.ranges.size() == 1);  // the extents are neighbours
  CHECK(first.ranges[0].range.offset == rig.extents[1].offset);
  CHECK(first.ranges[0].range.bytes == 2 * TierRig::bytes);
  rig.check_checksums(first, 0);
  const std::uint64_t before = hash(bytes_of(rig.names.path(0)));

  for (std::size_t i = 0; i < 4; ++i) CHECK(rig.pages(i) == four(static_cast<int>(i)));
  for (std::size_t i = 0; i < 4; ++i) rig.fill(i, 0, TierRig::bytes, 10 + static_cast<int>(i));
  for (std::size_t i = 0; i < 4; ++i) CHECK(rig.pages(i) == four(10 + static_cast<int>(i)));
  CHECK(rig.pages_in(0, 1) == four(1));
  CHECK(rig.pages_in(0, 2) == four(2));
  CHECK(hash(bytes_of(rig.names.path(0))) == before);

  // From the second time on it has checksums already, and nothing but what was asked for is in the file.
  const std::size_t read = rig.tier.counters().read.count;
  const std::size_t written = rig.tier.counters().written.count;
  const LinkedExtents second = rig.link({1, 2});
  CHECK(rig.tier.counters().read.count == read);
  CHECK(rig.tier.counters().written.count == written);
  REQUIRE(second.files.size() == 1);
  rig.check_checksums(second, 1);
  CHECK(rig.pages_in(1, 1) == four(11));
  CHECK(rig.pages_in(1, 2) == four(12));
  CHECK(rig.pages_in(1, 0) == four(0));  // a hole
}

TEST_CASE("what was written in part is read from two files, and linked from both") {
  TierRig rig;
  rig.link({0, 1});
  rig.fill(0, page, 2 * page, 20);
  CHECK(rig.pages(0) == std::vector<int>{0, 20, 20, 0});
  rig.fill(2, page, page, 21);
  CHECK(rig.pages(2) == std::vector<int>{2, 21, 2, 2});
  const LinkedExtents linked = rig.link({0, 1});
  CHECK(linked.files.size() == 2);
  CHECK(linked.ranges.size() == 3);
  rig.check_checksums(linked, 1);
  std::size_t bytes = 0;
  for (const auto& range : linked.ranges) bytes += range.range.bytes;
  CHECK(bytes == 2 * TierRig::bytes);

  // Where nothing was written, the same files get another name each.
  const LinkedExtents again = rig.link({0, 1});
  CHECK(again.files.size() == 2);
  CHECK(again.ranges.size() == 3);
  rig.check_checksums(again, 3);
}

TEST_CASE("extents that are linked later than others, or given back, are not mixed up") {
  TierRig rig;
  rig.link({1});
  rig.fill(1, 0, TierRig::bytes, 31);
  const LinkedExtents both = rig.link({1, 3});
  CHECK(both.files.size() == 2);
  rig.check_checksums(both, 1);
  rig.fill(3, 0, TierRig::bytes, 33);
  CHECK(rig.pages(1) == four(31));
  CHECK(rig.pages(3) == four(33));

  rig.tier.remove(rig.extents[1]);
  const Extent other = rig.tier.place(TierRig::bytes);
  CHECK(other.offset == rig.extents[1].offset);
  CHECK_NOTHROW(rig.pages(1));
  rig.fill(1, 0, TierRig::bytes, 41);
  rig.extents.push_back(rig.tier.place(TierRig::bytes));
  CHECK_NOTHROW(rig.pages(4));
  rig.fill(4, 0, TierRig::bytes, 44);
  const LinkedExtents more = rig.link({1, 3, 4});
  CHECK(more.files.size() == 2);
  rig.check_checksums(more, 3);
  for (const auto& [extent, value] : {std::pair{0, 0}, {1, 41}, {2, 2}, {3, 33}, {4, 44}}) {
    CHECK(rig.pages(static_cast<std::size_t>(extent)) == four(value));
  }
}

TEST_CASE("a file whose names are gone keeps what is read of it, gives back the rest, and cannot be linked again") {
  TierRig rig;
  rig.link({1, 2});
  rig.fill(1, 0, TierRig::bytes, 51);
  std::filesystem::remove(rig.names.path(0));
  const LinkedExtents linked = rig.link({1, 2});
  REQUIRE(linked.ranges.size() == 1);
  CHECK(linked.ranges[0].range.offset == rig.extents[1].offset);
  CHECK(linked.ranges[0].range.bytes == TierRig::bytes);
  for (const auto& [extent, value] : {std::pair{0, 0}, {1, 51}, {2, 2}, {3, 3}}) {
    CHECK(rig.pages(static_cast<std::size_t>(extent)) == four(value));
  }
  bool is_found = false;
  for (const std::string& path : zerospan_test::unnamed_files("self", rig.directory.path())) {
    struct stat status {};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    // The first file: three of its four extents are still read.
    is_found = is_found || status.st_blocks * 512 == static_cast<long>(3 * TierRig::bytes);
  }
  CHECK(is_found);
}

TEST_CASE("a file of which nothing is read any more is closed") {
  TierRig rig;
  rig.link({0, 1});
  rig.tier.remove(rig.extents[3]);
  for (const std::size_t i : {0U, 1U, 2U}) rig.fill(i, 0, TierRig::bytes, 55);
  std::filesystem::remove(rig.names.path(0));
  CHECK(zerospan_test::unnamed_files("self", rig.directory.path()).size() == 2);  // those that are written
}

TEST_CASE("where no name can be given nothing changes, and what fails is told") {
  TierRig rig;
  rig.names.refuse();
  CHECK(rig.link({0, 1}).files.empty());
  CHECK(rig.tier.counters().read == Bytes{0});

  TierRig other;
  other.names.fail_with(EIO);
  CHECK_THROWS_AS(other.link({0, 1}), IoError);
  other.names.fail_with(0);
  CHECK(other.link({0, 1}).files.size() == 1);
  CHECK(other.pages(1) == four(1));
}

TEST_CASE("whatever fails of reading back is told, and the tier goes on") {
  std::uint64_t request = 0;
  for (bool has_failed = true; has_failed; ++request) {
    for (const FaultKind kind : {FaultKind::error, FaultKind::zero}) {
      TierRig rig;
      rig.io.inject({{.kind = kind, .request = request}});
      has_failed = false;
      try {
        rig.link({0, 1, 2, 3});
      } catch (const IoError& error) {
        rig.io.wait_idle();  // its threads have let go of the error
        has_failed = true;
        CHECK(error.code().value() == EIO);
        CHECK(rig.names.named() == 0);
      }
      CHECK(has_failed == (rig.io.injected() > 0));
      rig.io.inject({});
      rig.fill(2, 0, TierRig::bytes, 61);
      CHECK(rig.pages(2) == four(61));
      const LinkedExtents linked = rig.link({0, 1, 2, 3});
      rig.check_checksums(linked, rig.names.named() - linked.files.size());
    }
  }
  CHECK(request > 4);
}

TEST_CASE("space for what is written next is there before anything gets a name, or it is told") {
  const zerospan_test::IgnoredSignal ignored{SIGXFSZ};
  for (const std::size_t pages : {3U, 8U}) {  // less than the extent, and less than the file
    TierRig rig;
    rig.link({0});
    {
      const zerospan_test::ProcessLimit limit{RLIMIT_FSIZE, pages * page};
      try {
        rig.fill(0, 0, page, 71);
        rig.link({0});
        FAIL("it throws no error");
      } catch (const IoError& error) {
        CHECK(error.code().value() == EFBIG);
      }
      CHECK(rig.names.named() == 1);
    }
    CHECK(rig.pages(0) == std::vector<int>{71, 0, 0, 0});
    rig.fill(0, 0, TierRig::bytes, 72);
    CHECK(rig.link({0}).files.size() == 1);
    CHECK(rig.pages_in(1, 0) == four(72));
  }
}

TEST_CASE("a tier whose directory is gone, or whose file system allocates nothing, links nothing, and goes on") {
  const auto links_nothing = [](const std::string& directory, const std::function<void()>& before) {
    ThreadedIoEngine io;
    zerospan::NvmeTier<ThreadedIoEngine> tier{io, {.directory = directory}};
    const Extent extent = tier.place(page);
    AlignedBuffer buffer{page};
    buffer.fill(1);
    tier.write(extent, 0, buffer.data(), page).wait();
    before();
    const ScratchDirectory names_directory;
    Names names{names_directory.path()};
    CHECK(tier.link({&extent, 1}, &hash, names).files.empty());
    CHECK(names.named() == 0);
    const AlignedBuffer read{page};
    tier.read(extent, 0, read.data(), page).wait();
    CHECK((read == buffer));
    tier.write(extent, 0, read.data(), page).wait();
  };
  const ScratchDirectory directory;
  std::filesystem::create_directory(directory.path() + "/of_tier");
  links_nothing(directory.path() + "/of_tier", [&] { std::filesystem::remove(directory.path() + "/of_tier"); });

  std::string skipped;
  std::thread{[&] {
    try {
      zerospan_test::enter_own_mounts();
      const zerospan_test::Mount mount{directory.path(), {.type = "ramfs"}};
      links_nothing(directory.path(), [] {});
    } catch (const zerospan_test::NotPermitted& error) {
      skipped = error.what();
    }
  }}.join();
  if (!skipped.empty()) MESSAGE("skipped: " << skipped);
}

TEST_CASE("the file system says which links it can make, and what else fails") {
  const ScratchDirectory directory;
  zerospan::FileSystem files;
  const ArenaFile file{directory.path()};
  CHECK(files.can_link(file.descriptor(), directory.path()));
  CHECK(!files.can_link(file.descriptor(), "/proc"));
  CHECK(!files.can_link(file.descriptor(), directory.path() + "/missing"));
  CHECK(!files.can_link(-1, directory.path()));
  const auto error_of = [&](int descriptor, const std::string& path) {
    try {
      files.link(descriptor, path);
    } catch (const IoError& error) {
      CHECK(error.path() == path);
      return error.code().value();
    }
    return 0;
  };
  CHECK(error_of(-1, directory.path() + "/name") == EBADF);
  CHECK_THROWS_AS(files.sync_file(directory.path() + "/name"), IoError);
  CHECK(error_of(file.descriptor(), directory.path() + "/missing/name") == ENOENT);
  CHECK(files.link(file.descriptor(), directory.path() + "/name"));
  CHECK(file.names() == 1);
  files.sync_file(directory.path() + "/name");
  CHECK(error_of(file.descriptor(), directory.path() + "/name") == EEXIST);
  CHECK(files.link(file.descriptor(), directory.path() + "/other"));
  files.remove(directory.path() + "/name");
  files.remove(directory.path() + "/other");
  CHECK(file.names() == 0);
  CHECK(!files.link(file.descriptor(), directory.path() + "/name"));
  const ArenaFile unlinked{directory.path(), ArenaFile::Naming::unlinked_at_once};
  CHECK(!unlinked.is_linkable());
  CHECK(!files.link(unlinked.descriptor(), directory.path() + "/name"));
}

// Checkpoints.

/// Two parameters in sub-groups of their own.
const std::vector<Declared> apart{{"a", {8192}}, {"b", {8192}}};

SavedCheckpoint save(SmallRank& rank, const std::string& directory, zerospan::SaveOptions options = {}) {
  return zerospan::save_checkpoint(rank.engine(), directory, options);
}

void check_links_and_copies(zerospan::MasterWeights master_weights) {
  const ScratchDirectory linked;
  const ScratchDirectory copied;
  const auto save_both = [&](auto& rank) {
    rank.train(0, 1);
    zerospan::save_checkpoint(rank.engine(), linked.path(), {.keep = 1});
    rank.train(1, 2);
    const SavedCheckpoint first = zerospan::save_checkpoint(rank.engine(), linked.path(), {.keep = 1});
    const SavedCheckpoint second = zerospan::save_checkpoint(rank.engine(), copied.path(), {.by = SaveBy::copying});
    CHECK(first.linked > Bytes{0});
    CHECK(second.linked == Bytes{0});
    CHECK(first.linked.count + first.written.count > second.written.count / 2);
    return 0;
  };
  Configuration from = everything_on(Place::nvme, 4, zerospan::ElementType::bfloat16);
  from.training.master_weights = master_weights;
  on_toy_ranks(from, save_both);
  for (const int ranks : {1, 2, 3}) {
    for (Configuration to : zerospan_test::ways(ranks, zerospan::ElementType::bfloat16)) {
      to.training.master_weights = master_weights;
      CAPTURE(to.describe());
      const auto resumed = [&](const std::string& directory) {
        return on_toy_ranks(to, [&](auto& rank) {
          zerospan::load_checkpoint(rank.engine(), directory);
          zerospan_test::ModelStates states;
          rank.engine().for_each_state([&](const zerospan::StatesPiece& piece) { collect(states, piece); });
          rank.train(2, 4);
          return std::pair{states, rank.hash()};
        });
      };
      CHECK((resumed(linked.path()) == resumed(copied.path())));
    }
  }
}

TEST_CASE("what is linked and what is copied are loaded alike, wherever states are kept") {
  check_links_and_copies(zerospan::MasterWeights::whole);
  check_links_and_copies(zerospan::MasterWeights::split);
}

TEST_CASE("states that rest in files are saved without being written, and all bytes are counted") {
  constexpr std::size_t elements = std::size_t{1} << 20;
  constexpr std::size_t states = elements * 12;
  const ScratchDirectory directory;
  on_small_ranks(
      1,
      [&](SmallRank& rank, auto&) {
        const auto counted = [&](auto work) {
          const zerospan::TierCounters before = rank.disk().counters();
          work();
          const zerospan::TierCounters after = rank.disk().counters();
          return std::pair{after.read.count - before.read.count, after.written.count - before.written.count};
        };
        const auto train = [&] {
          rank.step();
          rank.engine().synchronize();
        };
        train();
        const auto step = counted(train);
        for (int i = 1; i <= 3; ++i) {
          const std::string path = directory.path() + "/step-" + std::to_string(i + 1);
          SavedCheckpoint saved;
          const auto moved = counted([&] { saved = save(rank, directory.path()); });
          CHECK(moved == std::pair{i == 1 ? states : 0, std::size_t{0}});  // the first one reads back
          CHECK(saved.linked == Bytes{states});
          CHECK(std::filesystem::file_size(path + "/rank-0.data") == 0);
          CHECK(saved.written.count == std::filesystem::file_size(path + "/rank-0.json"));
          CHECK(saved.written.count + std::filesystem::file_size(path + "/manifest.json") < states / 100);
          CHECK(counted(train) == step);
        }
        return 0;
      },
      {{"large", {elements}}},
      {.disk = directory.path(), .budget = Bytes{std::size_t{48} << 20}, .prefetch = Bytes{0}});
}

TEST_CASE("training does not touch what was saved before") {
  const ScratchDirectory directory;
  on_small_ranks(
      2,
      [&](SmallRank& rank, auto& communicator) {
        rank.step();
        save(rank, directory.path());
        const std::uint64_t saved = rank.hash();
        const auto before = hashes_in(directory.path() + "/step-1");
        communicator.barrier({zerospan::calling_thread, "both have looked"});
        for (int i = 0; i < 3; ++i) {
          rank.step();
          save(rank, directory.path());
        }
        CHECK(hashes_in(directory.path() + "/step-1") == before);
        CHECK(before.contains("rank-0.1.data"));
        CHECK(before.contains("rank-1.1.data"));
        zerospan::load_checkpoint(rank.engine(), directory.path(), {.step = 1});
        CHECK(rank.hash() == saved);
        CHECK(hashes_in(directory.path() + "/step-1") == before);
        return 0;
      },
      large_and_small, {.disk = directory.path()});
}

TEST_CASE("a linked file may be read by whoever may read the directory") {
  const ScratchDirectory directory;
  on_small_ranks(
      1, [&](SmallRank& rank, auto&) { return save(rank, directory.path()), 0; }, apart, {.disk = directory.path()});
  struct stat of_directory {};
  struct stat of_file {};
  REQUIRE(::stat((directory.path() + "/step-0").c_str(), &of_directory) == 0);
  REQUIRE(::stat((directory.path() + "/step-0/rank-0.1.data").c_str(), &of_file) == 0);
  CHECK((of_file.st_mode & 0777) == (of_directory.st_mode & 0666));
}

TEST_CASE("the files of checkpoints that are gone are gone, however long it trains") {
  const ScratchDirectory directory;
  on_small_ranks(
      1,
      [&](SmallRank& rank, auto&) {
        std::size_t before = 0;
        for (int i = 0; i < 12; ++i) {
          rank.step();
          save(rank, directory.path(), {.keep = 1});
          const std::size_t open = zerospan_test::open_descriptors();
          if (i == 2) before = open;
          if (i > 2) CHECK(open == before);
        }
        return 0;
      },
      large_and_small, {.disk = directory.path()});
}

TEST_CASE("what is frozen for a while stays in its file, which each checkpoint has") {
  const ScratchDirectory directory;
  on_small_ranks(
      2,
      [&](SmallRank& rank, auto& communicator) {
        rank.step();
        save(rank, directory.path(), {.keep = 1});
        rank.parameters()[0].freeze();
        for (int i = 0; i < 3; ++i) {
          rank.step();
          const SavedCheckpoint saved = save(rank, directory.path(), {.keep = 1});
          CHECK(saved.linked == Bytes{std::size_t{8192} * 12});
          CHECK(std::filesystem::exists(saved.path + "/rank-0.2.data"));
          CHECK(!std::filesystem::exists(saved.path + "/rank-0.3.data"));
          communicator.barrier({zerospan::calling_thread, "both have looked"});
        }
        const std::uint64_t expected = rank.hash();
        rank.parameters()[0].unfreeze();
        rank.step();
        zerospan::load_checkpoint(rank.engine(), directory.path());
        CHECK(rank.hash() == expected);
        rank.step();
        save(rank, directory.path(), {.keep = 1});
        CHECK(!std::filesystem::exists(directory.path() + "/step-5/rank-0.2.data"));
        return 0;
      },
      apart, {.disk = directory.path(), .sub_group_elements = 4096});
}

/// The file system of the host, whose links are refused or fail.
class NoLinks final : public zerospan_test::ForwardedFiles<zerospan::FileSystem> {
 public:
  enum class Link : std::uint8_t { works, other_file_system, refused, fails };

  std::atomic<Link> link_is{Link::works};

  bool can_link(int descriptor, const std::string& directory) override {
    return link_is != Link::other_file_system && ForwardedFiles::can_link(descriptor, directory);
  }
  bool link(int descriptor, const std::string& path) override {
    if (link_is == Link::fails) zerospan::throw_io_error(EIO, "linking a file", path, 0, 0);
    return link_is == Link::works && ForwardedFiles::link(descriptor, path);
  }
};

TEST_CASE("where nothing can be linked it is copied, which is said") {
  using Link = NoLinks::Link;
  const ScratchDirectory directory;
  NoLinks files;
  on_small_ranks(
      2,
      [&](SmallRank& rank, auto& communicator) {
        const auto set = [&](Link link) {
          communicator.barrier({zerospan::calling_thread, "before it changes"});
          files.link_is = link;
          communicator.barrier({zerospan::calling_thread, "it has changed"});
        };
        std::uint64_t expected = 0;
        for (const Link link : {Link::other_file_system, Link::refused, Link::works, Link::refused, Link::works}) {
          set(link);
          rank.step();
          expected = rank.hash();
          const SavedCheckpoint saved = save(rank, directory.path(), {.keep = 2, .files = &files});
          CHECK((saved.linked == Bytes{0}) == (link != Link::works));
          CHECK(saved.linked.count + std::filesystem::file_size(
                                         saved.path + "/rank-" + std::to_string(communicator.rank().value) + ".data") ==
                8192 * 12);
          rank.step();
          zerospan::load_checkpoint(rank.engine(), directory.path());
          CHECK(rank.hash() == expected);
        }
        set(Link::fails);
        rank.step();
        const std::uint64_t next = rank.hash();
        CHECK_THROWS_AS(save(rank, directory.path(), {.files = &files}), CheckpointError);
        zerospan::load_checkpoint(rank.engine(), directory.path());
        CHECK(rank.hash() == expected);
        set(Link::works);
        rank.step();
        CHECK(rank.hash() == next);
        CHECK(save(rank, directory.path(), {.files = &files}).linked == Bytes{std::size_t{8192} * 12});
        return 0;
      },
      apart, {.disk = directory.path(), .sub_group_elements = 4096});
}

TEST_CASE("what another rank cannot save is saved the next time, by links") {
  using Link = NoLinks::Link;
  const ScratchDirectory directory;
  on_small_ranks(
      2,
      [&](SmallRank& rank, auto& communicator) {
        NoLinks files;
        rank.step();
        const std::uint64_t expected = rank.hash();
        files.link_is = communicator.rank().value == 1 ? Link::fails : Link::works;
        CHECK_THROWS_AS(save(rank, directory.path(), {.files = &files}), CheckpointError);
        CHECK(!zerospan::find_checkpoint(rank.engine(), directory.path()));
        files.link_is = Link::works;
        // Rank 0's file has lost its only name: it is copied this time.
        const SavedCheckpoint copied = save(rank, directory.path(), {.files = &files});
        CHECK((copied.linked == Bytes{0}) == (communicator.rank().value == 0));
        rank.step();
        CHECK(save(rank, directory.path(), {.files = &files}).linked == Bytes{std::size_t{8192} * 12});
        zerospan::load_checkpoint(rank.engine(), directory.path(), {.step = 1});
        CHECK(rank.hash() == expected);
        return 0;
      },
      apart, {.disk = directory.path(), .sub_group_elements = 4096});
}

TEST_CASE("a disk without space for what is written next is told, and the checkpoint before it stays") {
  const zerospan_test::IgnoredSignal ignored{SIGXFSZ};
  const ScratchDirectory directory;
  on_small_ranks(
      1,
      [&](SmallRank& rank, auto&) {
        rank.step();
        save(rank, directory.path());
        const std::uint64_t saved = rank.hash();
        const auto before = hashes_in(directory.path() + "/step-1");
        rank.step();
        rank.engine().synchronize();  // what the step writes is not limited yet
        int error_number = 0;
        {
          const zerospan_test::ProcessLimit limit{RLIMIT_FSIZE, 64 * page};
          try {
            save(rank, directory.path());
          } catch (const CheckpointError& error) {
            error_number = error.error_number();
          }
        }
        CHECK(error_number == EFBIG);
        rank.step();
        CHECK(hashes_in(directory.path() + "/step-1") == before);
        zerospan::load_checkpoint(rank.engine(), directory.path());
        CHECK(rank.hash() == saved);
        rank.step();
        CHECK(save(rank, directory.path()).linked == Bytes{std::size_t{65536} * 12});
        return 0;
      },
      {{"large", {65536}}}, {.disk = directory.path()});
}

TEST_CASE("a disk that is full is told, and the checkpoint before it stays") {
  const ScratchDirectory directory;
  std::string skipped;
  std::thread{[&] {
    try {
      zerospan_test::enter_own_mounts();
      const zerospan_test::Mount mount{directory.path(), {.data = "size=2400k"}};
      zerospan::SelfCommunicator self;
      SmallRank rank{self, {{"large", {65536}}}, zerospan::AdamW{}, {.disk = directory.path()}};
      rank.step();
      CHECK(save(rank, directory.path()).linked == Bytes{std::size_t{65536} * 12});
      const std::uint64_t saved = rank.hash();
      for (int i = 0; i < 2; ++i) {
        rank.step();
        try {
          save(rank, directory.path());
          FAIL("it was saved");
        } catch (const CheckpointError& error) {
          CHECK(error.error_number() == ENOSPC);
        }
      }
      zerospan::load_checkpoint(rank.engine(), directory.path());
      CHECK(rank.hash() == saved);
      rank.step();
      std::filesystem::remove_all(directory.path() + "/step-1");  // now there is space again
      CHECK(save(rank, directory.path()).linked == Bytes{std::size_t{65536} * 12});
    } catch (const zerospan_test::NotPermitted& error) {
      skipped = error.what();
    }
  }}.join();
  if (!skipped.empty()) MESSAGE("skipped: " << skipped);
}

TEST_CASE("a checkpoint of the version before, which had no links, is loaded") {
  const ScratchDirectory directory;
  const std::string path = directory.path() + "/step-1";
  const std::uint64_t expected = on_small_ranks(1, [&](SmallRank& rank, auto&) {
    rank.step();
    save(rank, directory.path());
    return rank.hash();
  })[0];
  const auto json_of = [&](const std::string& name) {
    const std::vector<std::byte> bytes = bytes_of(path + name);
    return nlohmann::json::parse(std::string_view{reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  };
  nlohmann::json part = json_of("/rank-0.json");
  part.erase("files");
  const std::string part_text = part.dump();
  write(path + "/rank-0.json", std::as_bytes(std::span{part_text}));
  nlohmann::json manifest = json_of("/manifest.json");
  const auto checksum_of = [](const std::string& text) {
    return zerospan::detail::in_hexadecimal(zerospan::detail::checksum(std::string_view{text}));
  };
  manifest["version"] = 1;
  manifest["parts"][0] = {{"bytes", part_text.size()}, {"checksum", checksum_of(part_text)}};
  manifest.erase("checksum");
  manifest["checksum"] = checksum_of(manifest.dump());
  const std::string manifest_text = manifest.dump();
  write(path + "/manifest.json", std::as_bytes(std::span{manifest_text}));
  on_small_ranks(2, [&](SmallRank& rank, auto&) {
    zerospan::load_checkpoint(rank.engine(), directory.path());
    CHECK(rank.hash() == expected);
    return 0;
  });
}

/// A linked checkpoint of two ranks, to be damaged.
struct LinkedCheckpoint {
  ScratchDirectory directory;
  std::string path = directory.path() + "/step-1";

  LinkedCheckpoint() {
    on_small_ranks(
        2, [&](SmallRank& rank, auto&) { return rank.step(), save(rank, directory.path()), 0; }, apart,
        {.disk = directory.path()});
  }

  std::string text_of(const std::string& name) const {
    const std::vector<std::byte> bytes = bytes_of(path + "/" + name);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  /// Changes what rank 0 says of its data, so that all checksums of texts are right.
  void change(const std::function<void(zerospan::detail::Part&)>& f) const {
    auto manifest = zerospan::detail::parse_manifest(text_of("manifest.json"), "the manifest");
    zerospan::detail::Part part = zerospan::detail::parse_part(text_of("rank-0.json"), "the part");
    f(part);
    const std::string text = zerospan::detail::part_text(part, "the part");
    manifest.parts[0] = {text.size(), zerospan::detail::checksum(std::string_view{text})};
    write(path + "/rank-0.json", std::as_bytes(std::span{text}));
    const std::string whole = zerospan::detail::manifest_text(manifest, "the manifest");
    write(path + "/manifest.json", std::as_bytes(std::span{whole}));
  }

  /// What one rank is told that loads it; nothing has changed then.
  CheckpointError error() const {
    zerospan::SelfCommunicator self;
    SmallRank rank{self, apart};
    const std::uint64_t before = rank.hash();
    try {
      zerospan::load_checkpoint(rank.engine(), directory.path());
    } catch (const CheckpointError& error) {
      CHECK(rank.hash() == before);
      return error;
    }
    throw std::logic_error{"it was loaded"};
  }
};

void check_words(const CheckpointError& error, std::string_view words) {
  const std::string text = error.what();
  CHECK_MESSAGE(text.find(words) != std::string::npos, text);
}

TEST_CASE("a linked file that is damaged, of another size or missing is named") {
  const LinkedCheckpoint sound;
  const std::string file = sound.path + "/rank-1.1.data";
  const std::vector<std::byte> bytes = bytes_of(file);
  std::filesystem::remove(file);
  check_words(sound.error(), "the file is missing");
  CHECK(sound.error().file() == file);
  for (const std::ptrdiff_t change : {-1, 1}) {
    std::vector<std::byte> other = bytes;
    other.resize(static_cast<std::size_t>(std::ssize(bytes) + change));
    write(file, other);
    CHECK(sound.error().file() == file);
    check_words(sound.error(), "the file is truncated");
  }
  const zerospan::detail::Part part = zerospan::detail::parse_part(sound.text_of("rank-1.json"), "the part");
  for (const auto& pieces : part.pieces) {
    for (const auto& component : pieces.components) {
      std::vector<std::byte> other = bytes;
      REQUIRE(component.size() == 1);
      CHECK(component[0].file == 1);
      other[static_cast<std::size_t>(component[0].offset + 100)] ^= std::byte{16};
      write(file, other);
      const CheckpointError error = sound.error();
      CHECK(error.file() == file);
      CHECK(!error.parameter().empty());
      check_words(error, "are not those that were saved");
    }
  }
  write(file, bytes);
  zerospan::SelfCommunicator self;
  SmallRank rank{self, apart};
  CHECK_NOTHROW(zerospan::load_checkpoint(rank.engine(), sound.directory.path()));
}

TEST_CASE("a part that says of linked files what cannot be is refused, whatever its checksums") {
  using zerospan::detail::Part;
  const auto refused = [](const std::function<void(Part&)>& change, std::string_view words) {
    const LinkedCheckpoint saved;
    saved.change(change);
    const CheckpointError error = saved.error();
    check_words(error, words);
    CHECK(error.file() == saved.path + "/rank-0.json");
  };
  const auto extent = [](Part& part) -> zerospan::detail::StoredExtent& {
    return part.pieces.at(0).components.at(0).at(0);
  };
  refused([&](Part& part) { extent(part).file = 2; }, "an extent is in a file that is not there");
  refused([&](Part& part) { extent(part).file = ~std::uint64_t{0}; }, "an extent is in a file that is not there");
  refused([&](Part& part) { part.files.clear(); }, "an extent is in a file that is not there");
  refused([&](Part& part) { extent(part).offset = part.files[0].bytes; }, "ends beyond its parameter or its file");
  refused([&](Part& part) { part.files[0].pieces.clear(); }, "an extent has no checksum");
  refused([&](Part& part) { part.files[0].pieces[0].bytes -= 1; }, "an extent has no checksum");
  refused([&](Part& part) { part.files[0].pieces[0].bytes = part.files[0].bytes + 1; }, "are out of order");
  refused([&](Part& part) { part.files[0].pieces[0].offset = ~std::uint64_t{0}; }, "are out of order");
  refused([&](Part& part) { part.files[0].pieces.push_back(part.files[0].pieces[0]); }, "are out of order");
}

}  // namespace
