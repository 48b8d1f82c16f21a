// Faults of the machine itself, none of them injected: file systems that are mounted for the purpose, limits of the
// process, and files that are damaged behind the tier's back.
#include <doctest/doctest.h>

#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iomanip>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/own_mounts.hpp"
#include "support/process_limits.hpp"
#include "support/scratch.hpp"
#include "support/three_weights.hpp"
#include "support/unnamed_files.hpp"

#if defined(ZEROSPAN_HAS_LIBAIO)
#include <zerospan/io/libaio_engine.hpp>
#endif
#if defined(ZEROSPAN_HAS_URING)
#include <zerospan/io/uring_engine.hpp>
#endif
#if defined(ZEROSPAN_HAS_XXHASH)
#include <zerospan/tier/checked_tier.hpp>
#endif

namespace {

using namespace zerospan::literals;
using zerospan_test::LoopDisk;
using zerospan_test::Mount;
using zerospan_test::MountOptions;
using zerospan_test::NotPermitted;
using zerospan_test::ProcessLimit;
using zerospan_test::ScratchDirectory;

/// Where a training rests, and what befalls it.
struct Scene {
  std::string directory;
  std::function<void()> between{};             ///< Between its steps.
  std::vector<std::shared_ptr<void>> props{};  ///< What lasts as long as the training.
  bool is_checked = false;
};

/// How a training is to end.
struct Ending {
  int error_number = 0;                ///< Of an IoError, 0: in the bits of the training in memory.
  std::string_view text = "training";  ///< That the error's begins with; "training" where there is none.
};

struct Fault {
  std::string_view name;
  Ending ending;
  std::function<Scene(const std::string& scratch)> arrange;  ///< @throws NotPermitted
};

/// What a training came to.
struct Seen {
  std::string text;
  int error_number = 0;
  std::string path{};
  bool is_exact = false;
  bool is_skipped = false;
};

// What is arranged.

void require(bool is_there, const std::string& what) {
  if (!is_there) throw std::logic_error{"the test has not got " + what};
}

std::string make_directory(const std::string& path) {
  std::filesystem::create_directories(path);
  return path;
}

Scene in(std::string directory) { return {.directory = std::move(directory)}; }

/// A training in a file system of its own.
Scene mounted(const std::string& scratch, const MountOptions& options) {
  zerospan_test::enter_own_mounts();
  Scene scene = in(make_directory(scratch + "/mounted"));
  scene.props.push_back(std::make_shared<Mount>(scene.directory, options));
  return scene;
}

/// A training on ext4, on a disk of its own that is the file `backing`.
Scene on_ext4(const std::string& scratch, const std::string& backing, std::size_t bytes, std::uint32_t sector = 512) {
  zerospan_test::enter_own_mounts();
  const auto disk = std::make_shared<LoopDisk>(backing, bytes, sector);
  zerospan_test::make_ext4(*disk);
  Scene scene = mounted(scratch, {.source = disk->path(), .type = "ext4"});
  scene.props.push_back(disk);
  return scene;
}

/// Takes all the space of the file system that `directory` is in.
void fill_up(const std::string& directory) {
  const std::string path = directory + "/ballast";
  const int descriptor = ::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  require(descriptor != -1, "the file that takes all the space");
  off_t size = 0;
  for (off_t chunk = off_t{1} << 20; chunk >= 4096;) {
    if (::fallocate(descriptor, 0, size, chunk) == 0) {
      size += chunk;
    } else {
      chunk /= 2;
    }
  }
  ::close(descriptor);
}

/// From now on nothing reaches the disk, and nothing comes from it.
void shut_down(const std::string& directory) {
  constexpr unsigned long ext4_shutdown = _IOR('X', 125, std::uint32_t);
  std::uint32_t without_flushing = 2;
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_CLOEXEC);
  const int result = ::ioctl(descriptor, ext4_shutdown, &without_flushing);
  ::close(descriptor);
  if (result != 0) throw NotPermitted::because_of_errno("the shutdown of a file system");
}

Scene unwritable(const std::string& scratch) {
  Scene scene = in(make_directory(scratch + "/unwritable"));
  using enum std::filesystem::perms;
  std::filesystem::permissions(scene.directory, owner_read | owner_exec);
  zerospan_test::give_up({CAP_DAC_OVERRIDE});
  return scene;
}

Scene read_only_bind(const std::string& scratch) {
  Scene scene = mounted(scratch, {.source = make_directory(scratch + "/writable"), .type = "bind", .flags = MS_BIND});
  if (::mount("none", scene.directory.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) != 0) {
    throw NotPermitted::because_of_errno("a read-only bind mount");
  }
  return scene;
}

Scene full(Scene scene) {
  fill_up(scene.directory);
  return scene;
}

Scene filled_in_between(Scene scene) {
  scene.between = [directory = scene.directory] { fill_up(directory); };
  return scene;
}

Scene removed_in_between(const std::string& scratch) {
  Scene scene = in(make_directory(scratch + "/removed"));
  scene.between = [directory = scene.directory] { require(std::filesystem::remove(directory), "an empty directory"); };
  return scene;
}

Scene detached_in_between(const std::string& scratch) {
  zerospan_test::enter_own_mounts();
  Scene scene = in(make_directory(scratch + "/detached"));
  const auto mount = std::make_shared<Mount>(scene.directory, MountOptions{});
  scene.between = [mount] { mount->detach(); };
  return scene;
}

Scene shut_down_in_between(const std::string& scratch) {
  Scene scene = on_ext4(scratch, scratch + "/disk", 16 << 20);
  scene.between = [directory = scene.directory] { shut_down(directory); };
  return scene;
}

/// A disk that promised more than it has: its file is in a file system that is full.
Scene overcommitted(const std::string& scratch) {
  const Scene backing = mounted(scratch + "/backing", {.data = "size=8m"});
  Scene scene = on_ext4(scratch, backing.directory + "/disk", 64 << 20);
  fill_up(backing.directory);
  scene.props.insert(scene.props.end(), backing.props.begin(), backing.props.end());
  return scene;
}

Scene damaged_in_between(const std::string& scratch) {
  Scene scene = in(make_directory(scratch + "/damaged"));
  scene.is_checked = true;
  scene.between = [directory = scene.directory] {
    const auto files = zerospan_test::unnamed_files("self", directory);
    require(files.size() == 1, "one file without a name");
    require(zerospan_test::flip_bits(files.front()) > 0, "bits in the file");
  };
  return scene;
}

/// The limit is there from the beginning.
Scene limited(const std::string& scratch, int resource, ::rlim_t limit) {
  Scene scene = in(make_directory(scratch + "/limited"));
  scene.props.push_back(std::make_shared<ProcessLimit>(resource, limit));
  return scene;
}

Scene without_file_size_in_between(const std::string& scratch) {
  Scene scene = in(make_directory(scratch + "/limited"));
  scene.props.push_back(std::make_shared<zerospan_test::IgnoredSignal>(SIGXFSZ));
  const auto limit = std::make_shared<std::unique_ptr<ProcessLimit>>();
  scene.between = [limit] { *limit = std::make_unique<ProcessLimit>(RLIMIT_FSIZE, 0); };
  return scene;
}

Scene without_locked_memory(const std::string& scratch) {
  zerospan_test::give_up({CAP_IPC_LOCK});
  return limited(scratch, RLIMIT_MEMLOCK, 0);
}

/// @throws NotPermitted where a sanitizer is, which needs descriptors itself.
std::shared_ptr<ProcessLimit> no_descriptors() {
#if defined(ZEROSPAN_SANITIZED)
  throw NotPermitted{"the sanitizer needs descriptors itself"};
#else
  return std::make_shared<ProcessLimit>(RLIMIT_NOFILE, zerospan_test::descriptors_in_use());
#endif
}

Scene without_descriptors(const std::string& scratch) {
  Scene scene = in(make_directory(scratch + "/limited"));
  scene.props.push_back(no_descriptors());
  return scene;
}

Scene without_descriptors_in_between(const std::string& scratch) {
  Scene scene = in(make_directory(scratch + "/limited"));
  const auto limit = std::make_shared<std::shared_ptr<ProcessLimit>>();
  scene.between = [limit] { *limit = no_descriptors(); };
  return scene;
}

std::vector<Fault> faults() {
  using S = const std::string&;
  constexpr std::string_view opening = "opening an arena file in ";
  constexpr std::string_view reservation = "reservation for ";
  return {
    {"the directory is not there", {ENOENT, opening}, [](S s) { return in(s + "/none"); }},
        {"the directory is a file",
         {ENOTDIR, opening},
         [](S s) {
           std::ofstream{s + "/file"} << "content";
           return in(s + "/file");
         }},
        {"no right to write to it", {EACCES, opening}, unwritable},
        {"a read-only file system", {EROFS, opening}, [](S s) { return mounted(s, {.flags = MS_RDONLY}); }},
        {"a read-only bind mount", {EROFS, opening}, read_only_bind},
        {"no inode left", {ENOSPC, opening}, [](S s) { return mounted(s, {.data = "nr_inodes=1"}); }},
        {"no descriptor left", {EMFILE, opening}, without_descriptors},
        {"tmpfs too small", {ENOSPC, reservation}, [](S s) { return mounted(s, {.data = "size=64k"}); }},
        {"ext4 full", {ENOSPC, reservation}, [](S s) { return full(on_ext4(s, s + "/disk", 16 << 20)); }},
        {"limit of file sizes", {EFBIG, reservation}, [](S s) { return limited(s, RLIMIT_FSIZE, 64 << 10); }},
        {"a disk with less than it promised", {ENOSPC, "write"}, overcommitted},

        {"tmpfs filled by others while training",
         {},
         [](S s) { return filled_in_between(mounted(s, {.data = "size=4m"})); }},
        {"ext4 filled by others while training",
         {},
         [](S s) { return filled_in_between(on_ext4(s, s + "/disk", 16 << 20)); }},
        {"the directory removed while training", {}, removed_in_between},
        {"the file system unmounted while training", {}, detached_in_between},
        {"the last descriptor taken while training", {}, without_descriptors_in_between},
        {"limit of file sizes lowered while training", {EFBIG, "write"}, without_file_size_in_between},
        {"the file system fails while training", {EIO, ""}, shut_down_in_between},
#if defined(ZEROSPAN_HAS_XXHASH)
        {"bits flipped on the disk, checked", {EILSEQ, "4096 bytes at offset "}, damaged_in_between},
#endif

        {"no memory may be locked", {}, without_locked_memory},
        {"sectors of 4096 bytes", {}, [](S s) { return on_ext4(s, s + "/disk", 16 << 20, 4096); }},
        {"tmpfs", {}, [](S s) { return mounted(s, {}); }},
        {"no direct I/O, no fallocate (ramfs)", {}, [](S s) { return mounted(s, {.type = "ramfs"}); }},
  };
}

// What is seen.

/// Trains three weights, all of it in the scene's directory.
template <class Io>
Seen train_in(Io& io, const Scene& scene, std::uint64_t expected) {
  zerospan::HostDevice device{{.device_budget = 512_KiB, .host_budget = 256_KiB}};
  zerospan::NvmeTier<Io> tier{io, {.directory = scene.directory}};
  zerospan::SelfCommunicator self;
  const auto train = [&](auto& on) {
    return zerospan_test::train_three_weights(zerospan::Stage3{}, self, device, {on, on, on},
                                              {.between = scene.between});
  };
  std::uint64_t hash = 0;
#if defined(ZEROSPAN_HAS_XXHASH)
  if (scene.is_checked) {
    zerospan::CheckedTier checked{tier};
    hash = train(checked);
  }
#endif
  if (!scene.is_checked) hash = train(tier);
  std::string text = hash == expected ? "training: equal bits" : "training: WRONG BITS";
  text += tier.is_direct() ? ", direct, aligned to " : ", through the page cache, aligned to ";
  return {.text = text + std::to_string(tier.alignment()), .is_exact = hash == expected};
}

std::string without(const std::string& path, std::string text) {
  for (std::size_t at = text.find(path); at != std::string::npos; at = text.find(path)) text.erase(at, path.size());
  return text;
}

template <class Io>
Seen observe(Io& io, const Fault& fault, const std::string& scratch, std::uint64_t expected) {
  try {
    const Scene scene = fault.arrange(scratch);
    return train_in(io, scene, expected);
  } catch (const NotPermitted& reason) {
    return {.text = std::string{"skipped: "} + reason.what(), .is_skipped = true};
  } catch (const zerospan::IoError& error) {
    return {.text = error.what(), .error_number = error.code().value(), .path = error.path()};
  } catch (const zerospan::IntegrityError& error) {
    return {.text = error.what(), .error_number = EILSEQ, .path = scratch};
  } catch (const std::exception& error) {
    return {.text = std::string{"of another type: "} + error.what()};
  }
}

/// Whether a directory has something in it that a tier made.
bool has_remains(const std::string& directory) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::recursive_directory_iterator{directory, ignored}) {
    if (entry.path().filename().string().starts_with("zerospan-")) return true;
  }
  return false;
}

struct Table {
  std::string rows{};
  std::string skipped{};

  void add(std::string_view fault, std::string_view engine, const Seen& seen) {
    std::ostringstream row;
    row << "\n" << std::left << std::setw(43) << fault << "| " << std::setw(9) << engine << "| " << seen.text;
    rows += row.str();
    if (seen.is_skipped) skipped += row.str();
  }
};

/// Has one fault befall one training, on a thread of its own whose mounts and rights nobody else shares, and after it
/// none another one with the same engine.
template <class Io>
void check_fault(const Fault& fault, std::uint64_t expected, Table& table) {
  const ScratchDirectory scratch;
  Io io;
  CAPTURE(fault.name);
  CAPTURE(std::string{io.name()});
  Seen seen;
  std::jthread{[&] { seen = observe(io, fault, scratch.path(), expected); }}.join();
  Seen after = train_in(io, in(make_directory(scratch.path() + "/sound")), expected);
  CHECK(after.is_exact);
  CHECK_FALSE(has_remains(scratch.path()));
  const std::string path = seen.path;
  seen.text = without(scratch.path(), seen.text);
  table.add(fault.name, io.name(), seen);
  if (seen.is_skipped) return;
  CAPTURE(seen.text);
  CHECK(seen.error_number == fault.ending.error_number);
  CHECK(seen.is_exact == (fault.ending.error_number == 0));
  CHECK(seen.text.starts_with(fault.ending.text));
  if (fault.ending.error_number != 0) CHECK(path.starts_with(scratch.path()));
}

TEST_CASE("whatever befalls the machine: the bits of the training in memory, or an error that says what and where") {
  const std::uint64_t expected = zerospan_test::train_three_weights_in_memory();
  Table table;
  for (const Fault& fault : faults()) {
    check_fault<zerospan::ThreadedIoEngine>(fault, expected, table);
#if defined(ZEROSPAN_HAS_LIBAIO)
    if (zerospan::LibaioEngine::available()) check_fault<zerospan::LibaioEngine>(fault, expected, table);
#endif
#if defined(ZEROSPAN_HAS_URING)
    if (zerospan::UringEngine::available()) check_fault<zerospan::UringEngine>(fault, expected, table);
#endif
  }
  MESSAGE(table.rows);
  if (!table.skipped.empty()) MESSAGE("not tried:", table.skipped);
}

}  // namespace
