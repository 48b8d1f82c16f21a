// Extents that rest in files of others, and are read there.
#include <doctest/doctest.h>

#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <zerospan/core/error.hpp>
#include <zerospan/tier/detail/backed_ranges.hpp>
#include <zerospan/tier/file_backed_extents.hpp>
#include <zerospan/tier/throttled_tier.hpp>
#include <zerospan/zerospan.hpp>
#if defined(ZEROSPAN_HAS_LIBAIO)
#include <zerospan/io/libaio_engine.hpp>
#endif
#if defined(ZEROSPAN_HAS_URING)
#include <zerospan/io/uring_engine.hpp>
#endif

#include "support/faulty_io_engine.hpp"
#include "support/process_limits.hpp"
#include "support/safetensors.hpp"
#include "support/scratch.hpp"
#include "support/unnamed_files.hpp"

namespace {

using zerospan::BackedBytes;
using zerospan::BackingFile;
using zerospan::Bytes;
using zerospan::ConfigurationError;
using zerospan::Extent;
using zerospan::FileVersion;
using zerospan::IoDirection;
using zerospan::IoError;
using zerospan::ThreadedIoEngine;
using zerospan::TierRef;
using zerospan::detail::BackedRanges;
using zerospan_test::AlignedBuffer;
using zerospan_test::Fault;
using zerospan_test::FaultKind;
using zerospan_test::FaultyIoEngine;
using zerospan_test::ScratchDirectory;

constexpr std::size_t page = 4096;

/// A file of somebody else's.
class Others {
 public:
  explicit Others(std::size_t bytes, std::uint64_t seed = 1) : content(bytes) {
    std::mt19937_64 random{seed};
    for (std::byte& byte : content) byte = static_cast<std::byte>(random() & 0xff);
    std::ofstream{path, std::ios::binary}.write(reinterpret_cast<const char*>(content.data()),
                                                static_cast<std::streamsize>(bytes));
  }

  std::shared_ptr<const BackingFile> open() const {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    ::fstat(descriptor, &status);
    auto file = std::make_shared<const BackingFile>(path, descriptor, FileVersion::of(status));
    ::close(descriptor);
    return file;
  }

  ScratchDirectory directory;
  std::string path = directory.path() + "/others";
  std::vector<std::byte> content;
};

struct Rig {
  using Io = FaultyIoEngine<ThreadedIoEngine>;

  explicit Rig(std::size_t extents_of_four_pages = 1) {
    for (std::size_t i = 0; i < extents_of_four_pages; ++i) extents.push_back(tier.place(bytes));
  }

  std::vector<std::byte> read(const Extent& extent, std::size_t offset, std::size_t count) {
    const AlignedBuffer buffer{count};
    buffer.fill(9);
    tier.read(extent, offset, buffer.data(), count).wait();
    return {buffer.data(), buffer.data() + count};
  }
  std::vector<std::byte> read(std::size_t extent = 0) { return read(extents[extent], 0, bytes); }

  void write(std::size_t extent, std::size_t offset, std::size_t count, int value) {
    const AlignedBuffer buffer{count};
    std::ranges::fill(buffer.bytes(), static_cast<std::byte>(value));
    tier.write(extents[extent], offset, buffer.data(), count).wait();
  }

  /// The error of a read.
  IoError failed_read() {
    return zerospan_test::thrown_by<IoError>([&] { read(); });
  }

  /// Bytes that the tier's files take on the disk.
  std::size_t on_disk() const {
    std::size_t sum = 0;
    for (const std::string& path : zerospan_test::unnamed_files("self", directory.path())) {
      struct stat status {};
      if (::stat(path.c_str(), &status) == 0) sum += static_cast<std::size_t>(status.st_blocks) * 512;
    }
    return sum;
  }

  static constexpr std::size_t bytes = 4 * page;
  ScratchDirectory directory;
  ThreadedIoEngine inner{{.threads = 2}};
  Io io{inner};
  zerospan::NvmeTier<Io> tier{io, {.directory = directory.path(), .block = Bytes{page}}};
  zerospan::FileBackedExtents& backed = *TierRef{tier}.file_backed();
  std::vector<Extent> extents;
};

/// The content from `offset` on, and then zeros.
std::vector<std::byte> with_zeros(const Others& others, std::size_t offset, std::size_t count, std::size_t bytes) {
  std::vector<std::byte> result(bytes);
  std::copy_n(others.content.begin() + static_cast<std::ptrdiff_t>(offset), count, result.begin());
  return result;
}

TEST_CASE("ranges know which bytes of which file they are, however they are cut") {
  constexpr std::uint64_t end = 64;
  const Others one{1}, two{1};
  const std::vector<std::shared_ptr<const BackingFile>> files{one.open(), two.open()};
  struct Byte {
    bool is_backed = false;
    const BackingFile* file = nullptr;  // none: a zero
    std::uint64_t offset = 0;
  };
  std::vector<Byte> expected(end);
  BackedRanges ranges;
  std::mt19937 random{7};
  for (int round = 0; round < 3000; ++round) {
    const std::uint64_t first = random() % end;
    const std::uint64_t last = first + 1 + random() % (end - first);
    if (random() % 3 == 0) {
      ranges.erase(first, last);
      for (std::uint64_t i = first; i < last; ++i) expected[i] = {};
    } else {
      const auto& file = files[random() % files.size()];
      const std::uint64_t offset = random() % 1000;
      const std::size_t bytes = random() % (last - first + 1);
      ranges.assign(first, last, bytes > 0 ? BackedBytes{file, offset, bytes} : BackedBytes{});
      for (std::uint64_t i = first; i < last; ++i) {
        const bool is_zero = i >= first + bytes;
        expected[i] = {true, is_zero ? nullptr : file.get(), is_zero ? 0 : offset + (i - first)};
      }
    }
    const std::uint64_t from = random() % end;
    const std::uint64_t to = from + random() % (end - from + 1);
    std::uint64_t next = from;
    ranges.visit(
        from, to,
        [&](std::uint64_t begin, std::uint64_t before, const BackedBytes& backing) {
          CHECK(begin == next);
          CHECK(backing.bytes <= before - begin);
          for (std::uint64_t i = begin; i < before; ++i) {
            const bool is_zero = i - begin >= backing.bytes;
            CHECK(expected[i].is_backed);
            CHECK(expected[i].file == (is_zero ? nullptr : backing.file.get()));
            CHECK(expected[i].offset == (is_zero ? 0 : backing.offset + (i - begin)));
          }
          next = before;
        },
        [&](std::uint64_t begin, std::uint64_t before) {
          CHECK(begin == next);
          for (std::uint64_t i = begin; i < before; ++i) CHECK(!expected[i].is_backed);
          next = before;
        });
    CHECK(next == to);
  }
  ranges.erase(0, end);
  for (const auto& file : files) CHECK(file.use_count() == 1);
}

TEST_CASE("extents are what was written, cleared or left in files last, and every byte is counted") {
  Rig rig{6};
  const Others others{60000};
  std::vector<std::vector<std::byte>> expected(rig.extents.size(), std::vector<std::byte>(Rig::bytes));
  std::vector<std::vector<bool>> stored(rig.extents.size(), std::vector<bool>(Rig::bytes, true));
  std::size_t read = 0;
  std::size_t written = 0;
  std::mt19937 random{3};
  for (std::size_t i = 0; i < rig.extents.size(); ++i) rig.write(i, 0, Rig::bytes, 0), written += Rig::bytes;
  for (int round = 0; round < 2000; ++round) {
    const std::size_t i = random() % rig.extents.size();
    const std::size_t first = random() % 4 * page;
    const std::size_t count = page + random() % (Rig::bytes - first) / page * page;
    const auto begin = expected[i].begin() + static_cast<std::ptrdiff_t>(first);
    const auto is_stored = stored[i].begin() + static_cast<std::ptrdiff_t>(first);
    const auto choice = random() % 8;
    if (choice < 2) {
      const int value = static_cast<int>(random() % 256);
      rig.write(i, first, count, value);
      std::fill_n(begin, count, static_cast<std::byte>(value));
      std::fill_n(is_stored, count, true);
      written += count;
    } else if (choice == 2) {
      rig.backed.clear(rig.extents[i], first, count);
      std::fill_n(begin, count, std::byte{0});
      std::fill_n(is_stored, count, false);
    } else if (choice < 5) {
      const std::size_t bytes = random() % (count + 1);
      const std::size_t offset = random() % (others.content.size() - bytes);
      rig.backed.back(rig.extents[i], first, count, {others.open(), offset, bytes});
      std::ranges::copy(with_zeros(others, offset, bytes, count), begin);
      std::fill_n(is_stored, count, false);
      std::fill_n(is_stored, bytes, true);
    } else {
      const std::vector<std::byte> found = rig.read(rig.extents[i], first, count);
      CHECK(std::equal(found.begin(), found.end(), begin));
      read += static_cast<std::size_t>(std::count(is_stored, is_stored + static_cast<std::ptrdiff_t>(count), true));
    }
    const zerospan::TierCounters counters = rig.tier.counters();
    REQUIRE(counters.read.count == read);
    REQUIRE(counters.written.count == written);
    REQUIRE(counters.used.count == rig.extents.size() * Rig::bytes);
  }
}

TEST_CASE("what rests in a file takes no space, and has it again when it is written, or another extent is there") {
  Rig rig{2};
  const Others others{2 * Rig::bytes};
  rig.write(0, 0, Rig::bytes, 1);
  rig.write(1, 0, Rig::bytes, 2);
  CHECK(rig.on_disk() == 2 * Rig::bytes);
  rig.backed.clear(rig.extents[0], 0, Rig::bytes);
  CHECK(rig.on_disk() == 2 * Rig::bytes);
  rig.backed.back(rig.extents[0], 0, Rig::bytes, {others.open(), 3, Rig::bytes});
  CHECK(rig.on_disk() == Rig::bytes);
  rig.write(0, page, page, 3);
  CHECK(rig.on_disk() == Rig::bytes + page);
  rig.tier.remove(rig.extents[0]);
  rig.extents[0] = rig.tier.place(Rig::bytes);
  CHECK(rig.on_disk() == 2 * Rig::bytes);
  CHECK((rig.read(rig.extents[0], 0, page) != with_zeros(others, 3, page, page)));  // nothing rests there any more
}

TEST_CASE("what is written is read around what was cleared") {
  Rig rig;
  rig.write(0, 0, Rig::bytes, 7);
  rig.backed.clear(rig.extents[0], page, page);
  std::vector<std::byte> expected(Rig::bytes, std::byte{7});
  std::fill_n(expected.begin() + page, page, std::byte{0});
  CHECK((rig.read() == expected));
}

TEST_CASE("a file is open until nothing rests in it any more, and its name is not needed") {
  Rig rig;
  const Others others{Rig::bytes};
  std::shared_ptr<const BackingFile> file = others.open();
  const std::weak_ptr<const BackingFile> watched = file;
  rig.backed.back(rig.extents[0], 0, Rig::bytes, {std::move(file), 0, Rig::bytes});
  const Others another{Rig::bytes, 2};
  std::filesystem::rename(another.path, others.path);
  CHECK((rig.read() == others.content));
  std::filesystem::remove(others.path);
  CHECK((rig.read() == others.content));
  rig.write(0, 0, 3 * page, 1);
  CHECK(!watched.expired());
  rig.write(0, 3 * page, page, 1);
  CHECK(watched.expired());

  rig.backed.back(rig.extents[0], 0, Rig::bytes, {});
  CHECK((rig.read() == std::vector<std::byte>(Rig::bytes)));
}

TEST_CASE("a file that was changed is an error that says which") {
  const std::size_t offset = 77;
  const auto change = [&](auto f) {
    Rig rig;
    const Others others{2 * Rig::bytes};
    rig.backed.back(rig.extents[0], 0, Rig::bytes, {others.open(), offset, Rig::bytes});
    CHECK((rig.read() == with_zeros(others, offset, Rig::bytes, Rig::bytes)));
    f(others.path);
    const IoError error = rig.failed_read();
    CHECK(error.path() == others.path);
    CHECK(std::string{error.what()}.find(others.path) != std::string::npos);
    rig.write(0, 0, Rig::bytes, 5);  // which needs the file no more
    CHECK(rig.read()[0] == std::byte{5});
    return error;
  };
  const IoError touched = change([](const std::string& path) {
    std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::seconds{1});
  });
  CHECK(touched.code().value() == ESTALE);
  CHECK(touched.offset() == offset);
  CHECK(touched.bytes() == Rig::bytes);
  CHECK(std::string{touched.what()}.find("has been changed") != std::string::npos);
  const auto resized = [&](std::uintmax_t bytes) {
    return change([bytes](const std::string& path) {
      const auto time = std::filesystem::last_write_time(path);
      std::filesystem::resize_file(path, bytes);
      std::filesystem::last_write_time(path, time);
    });
  };
  CHECK(resized(2 * Rig::bytes + 1).code().value() == ESTALE);
  CHECK(resized(offset + Rig::bytes).code().value() == ESTALE);
  const IoError ended = resized(offset + Rig::bytes - 1);
  CHECK(ended.code().value() == EIO);
  CHECK(ended.offset() == offset + Rig::bytes - 1);
  CHECK(std::string{ended.what()}.find("unexpected end of file") != std::string::npos);
}

TEST_CASE("reads of a file go on where they were short, and fail by its name") {
  Rig rig;
  const Others others{2 * Rig::bytes};
  const std::size_t offset = 4097;
  rig.backed.back(rig.extents[0], page, 3 * page, {others.open(), offset, 2 * page + 205});
  rig.write(0, 0, page, 0);
  std::vector<std::byte> expected(page);
  for (const std::byte byte : with_zeros(others, offset, 2 * page + 205, 3 * page)) expected.push_back(byte);
  for (const FaultKind kind : {FaultKind::short_transfer, FaultKind::ragged}) {
    for (std::uint64_t request = 0; request < 4; ++request) {
      rig.io.inject({{.kind = kind, .request = request}});
      CHECK((rig.read() == expected));
      CHECK(rig.io.injected() == 1);
    }
  }
  rig.io.inject({{.kind = FaultKind::short_transfer, .request = 0, .every = 2}});
  CHECK((rig.read() == expected));
  for (std::uint64_t request = 1; request < 4; ++request) {
    rig.io.inject({{.kind = FaultKind::error, .request = request, .error_number = ENXIO}});
    const IoError error = rig.failed_read();
    CHECK(error.code().value() == ENXIO);
    CHECK(error.path() == others.path);
    CHECK(error.offset() == offset + (request - 1) * page);
    CHECK(error.bytes() == (request < 3 ? page : 205));
  }
  rig.io.inject({{.kind = FaultKind::zero, .request = 3}});
  CHECK(rig.failed_read().code().value() == EIO);
  rig.io.inject({{.kind = FaultKind::error, .request = 0, .error_number = ENXIO}});
  CHECK(rig.failed_read().path() != others.path);  // the first page is the tier's own
  rig.io.inject({});
  CHECK((rig.read() == expected));
}

TEST_CASE("ranges that are none are refused, and change nothing") {
  Rig rig;
  const Others others{Rig::bytes};
  const auto file = others.open();
  rig.write(0, 0, Rig::bytes, 7);
  const auto refused = [&](const Extent& extent, std::size_t offset, std::size_t bytes, BackedBytes backing) {
    CHECK_THROWS_AS(rig.backed.back(extent, offset, bytes, backing), ConfigurationError);
  };
  const Extent extent = rig.extents[0];
  refused(extent, 0, page, {file, 0, page + 1});
  refused(extent, 0, page, {nullptr, 0, page});
  refused(extent, 1, page, {file, 0, 1});
  refused(extent, 0, page + 1, {file, 0, 1});
  refused(extent, page, 4 * page, {file, 0, 1});
  refused({extent.offset, 2 * extent.bytes}, 0, page, {file, 0, 1});
  refused({extent.offset + 64 * page, page}, 0, page, {file, 0, 1});
  CHECK_THROWS_AS(rig.backed.clear(extent, page, 4 * page), ConfigurationError);
  CHECK_THROWS_AS(rig.backed.clear(extent, 1, page), ConfigurationError);
  CHECK_THROWS_WITH_AS(rig.backed.clear({extent.offset + 64 * page, page}, 0, page),
                       doctest::Contains("is not placed there"), ConfigurationError);
  rig.backed.back(extent, page, 0, {});
  rig.backed.clear(extent, page, 0);
  CHECK((rig.read() == std::vector<std::byte>(Rig::bytes, std::byte{7})));
  CHECK(file.use_count() == 1);

  zerospan::ThrottledTier link{rig.tier};
  CHECK(TierRef{link}.file_backed() == nullptr);
}

TEST_CASE("a file that cannot be opened again is an error") {
  const Others others{page};
  const int descriptor = ::open(others.path.c_str(), O_RDONLY | O_CLOEXEC);
  {
    const zerospan_test::ProcessLimit limit{RLIMIT_NOFILE, zerospan_test::descriptors_in_use()};
    const auto error =
        zerospan_test::thrown_by<IoError>([&] { const BackingFile file{others.path, descriptor, {}}; });
    CHECK(error.path() == others.path);
    CHECK(error.code().value() == EMFILE);
  }
  ::close(descriptor);
}

template <class Io>
void check_files_of_others() {
  if (!Io::available()) return;
  const ScratchDirectory directory;
  const Others others{Rig::bytes};
  Io io;
  zerospan::NvmeTier tier{io, {.directory = directory.path()}};
  const Extent extent = tier.place(Rig::bytes);
  tier.back(extent, 0, Rig::bytes, {others.open(), 13, Rig::bytes - 13});
  const AlignedBuffer buffer{Rig::bytes};
  tier.read(extent, 0, buffer.data(), buffer.size()).wait();
  CHECK(std::ranges::equal(buffer.bytes(), with_zeros(others, 13, Rig::bytes - 13, Rig::bytes)));
}

TEST_CASE("an engine for direct I/O reads files of others as well") {
#if defined(ZEROSPAN_HAS_LIBAIO)
  check_files_of_others<zerospan::LibaioEngine>();
#endif
#if defined(ZEROSPAN_HAS_URING)
  check_files_of_others<zerospan::UringEngine>();
#endif
}

/// Gives files names in a directory.
class Names final : public zerospan::FileNaming {
 public:
  explicit Names(std::string directory) : directory_{std::move(directory)} {}

  bool can_name(int) override { return true; }
  bool name(int descriptor) override {
    const std::string file = "/proc/self/fd/" + std::to_string(descriptor);
    const std::string name = directory_ + "/" + std::to_string(++named_);
    return ::linkat(AT_FDCWD, file.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0;
  }

 private:
  std::string directory_;
  int named_ = 0;
};

TEST_CASE("what rests in files of others is not linked, and stays where it is when other extents are") {
  Rig rig{4};
  const Others others{2 * Rig::bytes};
  const auto expected = with_zeros(others, 11, Rig::bytes - 1, Rig::bytes);
  for (std::size_t i = 0; i < 4; ++i) rig.write(i, 0, Rig::bytes, 1 + static_cast<int>(i));
  rig.backed.back(rig.extents[1], 0, Rig::bytes, {others.open(), 11, Rig::bytes - 1});
  rig.backed.back(rig.extents[2], page, page, {others.open(), 0, page});
  rig.backed.clear(rig.extents[3], 0, Rig::bytes);
  Names names{rig.directory.path()};
  const auto checksum = [](std::span<const std::byte> bytes) noexcept -> std::uint64_t { return bytes.size(); };
  const std::vector<Extent> linked{rig.extents[0], rig.extents[2]};
  for (int round = 0; round < 3; ++round) {
    CAPTURE(round);
    const zerospan::LinkedExtents found = rig.tier.link(linked, checksum, names);
    std::size_t bytes = 0;
    for (const auto& range : found.ranges) {
      CHECK(range.range.bytes <= Rig::bytes);
      bytes += range.range.bytes;
    }
    CHECK(bytes == 2 * Rig::bytes - page);  // all but the page of the others'
    CHECK((rig.read(1) == expected));
    CHECK((rig.read(3) == std::vector<std::byte>(Rig::bytes)));
    CHECK((rig.read(rig.extents[2], page, page) == with_zeros(others, 0, page, page)));
    rig.write(0, 0, Rig::bytes, 8);
  }
  rig.write(2, page, page, 9);
  rig.write(1, 0, page, 6);
  rig.write(3, 0, page, 5);
  CHECK(rig.read(2)[page] == std::byte{9});
  CHECK(rig.read(1)[0] == std::byte{6});
  CHECK((rig.read(rig.extents[1], page, 3 * page) == with_zeros(others, 11 + page, 3 * page - 1, 3 * page)));
  CHECK(rig.read(3)[0] == std::byte{5});
  CHECK(rig.read(3)[page] == std::byte{0});
}

TEST_CASE("what rests in files of others keeps no file of the tier open, and takes no space in a new one") {
  Rig rig{2};
  const Others others{Rig::bytes};
  rig.write(0, 0, Rig::bytes, 1);
  rig.backed.back(rig.extents[1], 0, Rig::bytes, {others.open(), 0, Rig::bytes});
  Names names{rig.directory.path()};
  const std::size_t open = zerospan_test::open_descriptors();
  const auto checksum = [](std::span<const std::byte> bytes) noexcept -> std::uint64_t { return bytes.size(); };
  rig.tier.link(std::vector{rig.extents[0]}, checksum, names);
  rig.write(0, 0, Rig::bytes, 2);
  CHECK(zerospan_test::open_descriptors() == open + 1);  // for what was linked, and for all else
  CHECK(rig.on_disk() == Rig::bytes);
  CHECK((rig.read(1) == others.content));
}

}  // namespace
