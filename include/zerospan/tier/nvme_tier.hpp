/// @file
/// NvmeTier: states that rest in a file on a fast disk.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/own_process.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/io/io_engine.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/detail/arena_file.hpp>
#include <zerospan/tier/detail/backed_ranges.hpp>
#include <zerospan/tier/detail/extents.hpp>
#include <zerospan/tier/detail/file_ranges.hpp>
#include <zerospan/tier/detail/transfer_gate.hpp>
#include <zerospan/tier/file_backed_extents.hpp>
#include <zerospan/tier/linkable_extents.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0 {

struct NvmeTierOptions {
  /// Where the file is made; it must be given. The file has no name there: jobs share a directory, and nothing remains
  /// of a job that crashed. A relative path begins at the directory that the process is in when the tier is made.
  std::string directory;

  /// Bytes of one request to the I/O engine; a multiple of the disk's alignment.
  Bytes block = 1_MiB;

  /// The most bytes that the file may have.
  Bytes capacity = Bytes{std::numeric_limits<std::size_t>::max()};

  /// How long the destructor waits for transfers whose end the I/O engine has not reported.
  std::chrono::milliseconds drain_timeout = std::chrono::seconds{10};
};

namespace detail {

/// What a tier shares with its transfers, so that a late completion finds it, whatever became of the tier.
struct NvmeStore : TransferGate {
  explicit NvmeStore(const ArenaFile& file) : path{file.path()}, alignment{file.alignment()} {}

  const std::string path;  ///< Of its files, in errors.
  const std::size_t alignment;
  std::atomic<std::size_t> read = 0;
  std::atomic<std::size_t> written = 0;
};

/// A transfer in one file.
struct FileRequest {
  IoRequest request;
  std::shared_ptr<ArenaFile> file;  ///< Stays open as long as this is there.
  std::shared_ptr<const BackingFile> backing{};  ///< The same, where it is a file of others, and `file` is none.
};

/// Every callback that the engine holds keeps the transfer alive; if the engine drops one uncalled, the promise fails.
template <IoEngine E>
class NvmeTransfer {
 public:
  /// Gives the engine all blocks of the requests at once. The completion is done when the last of them has ended, so
  /// that the buffer is not touched afterwards; it carries the error that came first.
  /// @param requests Of one direction, one after the other in the tier and in memory; not empty, aligned as the files
  /// demand.
  /// @param block Bytes of one request; a multiple of the file's alignment.
  static Completion start(E& engine, std::shared_ptr<NvmeStore> store, std::vector<FileRequest> requests,
                          std::size_t block) {
    const auto transfer = std::make_shared<NvmeTransfer>(engine, std::move(store), std::move(requests), block);
    Completion completion = transfer->promise_.completion();
    for (Block& part : transfer->blocks_) submit(transfer, part);
    return completion;
  }

  NvmeTransfer(E& engine, std::shared_ptr<NvmeStore> store, std::vector<FileRequest> requests, std::size_t block)
      : engine_{&engine},
        store_{std::move(store)},
        requests_{std::move(requests)},
        promise_{label(requests_, store_->path)},
        blocks_{cut(requests_, block)},
        pending_{blocks_.size()} {}

 private:
  /// What is left of one block. It has one request under way at a time.
  struct Block {
    IoRequest request;
    const BackingFile* backing = nullptr;  ///< The file, where it is one of others.
    int stalls = 0;                        ///< Requests in a row that moved nothing.
  };

  static constexpr int most_stalls = 64;

  static std::string operation(const IoRequest& request) {
    return request.direction == IoDirection::read ? "read" : "write";
  }

  static std::string label(std::span<const FileRequest> requests, const std::string& path) {
    std::size_t bytes = 0;
    for (const FileRequest& each : requests) bytes += each.request.bytes;
    const IoRequest& first = requests.front().request;
    return operation(first) + " of " + std::to_string(bytes) + " bytes at offset " + std::to_string(first.offset) +
           " of " + (requests.front().backing ? requests.front().backing->path() : path);
  }

  static std::vector<Block> cut(std::span<const FileRequest> requests, std::size_t block) {
    std::vector<Block> blocks;
    for (const auto& [whole, file, backing] : requests) {
      for (std::size_t done = 0; done < whole.bytes; done += block) {
        blocks.push_back({advanced(whole, done), backing.get()});
        blocks.back().request.bytes = std::min(block, whole.bytes - done);
      }
    }
    return blocks;
  }

  static IoRequest advanced(IoRequest request, std::size_t bytes) noexcept {
    request.offset += bytes;
    request.data += bytes;
    request.bytes -= bytes;
    return request;
  }

  static void submit(const std::shared_ptr<NvmeTransfer>& self, Block& block) {
    if (self->has_failed_) return self->end_block();
    try {
      self->engine_->submit(block.request, [self, &block](std::int64_t result) { advance(self, block, result); });
    } catch (...) {
      self->fail_block(std::current_exception());
    }
  }

  /// Takes one result: ends the block, or continues it from the last aligned boundary that it reached.
  static void advance(const std::shared_ptr<NvmeTransfer>& self, Block& block, std::int64_t result) {
    const bool is_read = block.request.direction == IoDirection::read;
    const bool is_transient = result == -EINTR || result == -EAGAIN;
    if (result < 0 && !is_transient) return self->fail_block(block, static_cast<int>(-result), "");
    if (result == 0) {
      return self->fail_block(block, EIO, is_read ? " (unexpected end of file)" : " (nothing was written)");
    }
    const std::size_t moved = is_transient ? 0 : static_cast<std::size_t>(result);
    (is_read ? self->store_->read : self->store_->written) += moved;
    if (moved == block.request.bytes) return self->end_block();
    if (moved > block.request.bytes) return self->fail_block(block, EIO, " (more was moved than asked for)");
    const std::size_t progress = block.backing ? moved : moved - moved % self->store_->alignment;
    block.stalls = progress > 0 ? 0 : block.stalls + 1;
    if (block.stalls > most_stalls) {
      return self->fail_block(block, is_transient ? static_cast<int>(-result) : EIO, " (no progress)");
    }
    block.request = advanced(block.request, progress);
    submit(self, block);
  }

  void fail_block(const Block& block, int error_number, const std::string& detail) {
    fail_block(std::make_exception_ptr(IoError{error_number, operation(block.request) + detail,
                                               block.backing ? block.backing->path() : store_->path,
                                               block.request.offset, block.request.bytes,
                                               std::source_location::current()}));
  }

  void fail_block(std::exception_ptr error) {
    if (!has_failed_.exchange(true)) error_ = std::move(error);
    end_block();
  }

  void end_block() {
    if (--pending_ > 0) return;
    if (!error_) error_ = change();
    if (error_) return promise_.fail(error_);
    promise_.succeed();
  }

  /// The error of what was read in a file of others that is not any more what it was; nullptr if there is none.
  std::exception_ptr change() const {
    for (const auto& [request, file, backing] : requests_) {
      if (!backing || backing->is_unchanged()) continue;
      return std::make_exception_ptr(IoError{ESTALE, "read (the file has been changed)",
                                             backing->path(), request.offset, request.bytes,
                                             std::source_location::current()});
    }
    return nullptr;
  }

  E* engine_;
  UnderWay<NvmeStore> store_;  // released after the promise has ended
  std::vector<FileRequest> requests_;
  Promise promise_;
  std::vector<Block> blocks_;
  std::atomic<std::size_t> pending_;
  std::atomic<bool> has_failed_ = false;
  std::exception_ptr error_;  // written by the first that fails, read by the last that ends
};

}  // namespace detail

/// Extents of one unnamed file, transferred in blocks that are all with the I/O engine at once, by direct I/O where the
/// file system allows it. Back the buffers with huge pages: transfers are about twice as fast.
///
/// Short transfers are continued, interrupted ones repeated; whatever fails is an IoError of the completion. Space is
/// allocated when it is reserved; placing consumes a reservation, and what is removed is dealt out again (first fit).
/// Extents begin and end at multiples of 4096 bytes, or of the disk's alignment if that is larger.
///
/// Extents can be linked: the file, as it is then, gets a name, and the tier goes on in new ones, each of which has as
/// much space as it needs. A file is read for as long as something in it has not been written again, and then closed.
/// What has been linked once is in files apart from all else.
///
/// Extents can rest in files of others, which are read through the page cache, at whatever offset.
///
/// The engine outlives the tier. A tier that is destroyed waits for its transfers, but not for ever; one that ends
/// later still does so safely, and the files are closed after the last.
template <IoEngine E>
class NvmeTier final : public LinkableExtents, public FileBackedExtents {
 public:
  /// @throws ConfigurationError if no directory was given or the options contradict the disk, IoError if no file can be
  /// made in the directory.
  NvmeTier(E& engine, const NvmeTierOptions& options)
      : engine_{&engine},
        directory_{absolute(options.directory)},
        file_{std::make_shared<detail::ArenaFile>(options.directory)},
        store_{std::make_shared<detail::NvmeStore>(*file_)},
        block_{options.block.count},
        grain_{std::max(alignment(), std::size_t{4096})},
        capacity_{std::min(options.capacity.count, most_bytes) / grain_ * grain_},
        drain_timeout_{options.drain_timeout},
        name_{"NVMe tier (" + std::string{engine.name()} + ") in " + options.directory},
        ranges_{file_, most_bytes} {
    if (block_ == 0 || block_ % alignment() != 0) {
      throw_configuration_error("a block of " + std::to_string(block_) + " bytes is not a positive multiple of " +
                                std::to_string(alignment()) + ", the alignment of " + name_);
    }
  }

  NvmeTier(const NvmeTier&) = delete;
  NvmeTier& operator=(const NvmeTier&) = delete;

  ~NvmeTier() { store_->close(drain_timeout_); }

  std::string_view name() const noexcept { return name_; }
  std::size_t alignment() const noexcept { return store_->alignment; }
  Addressable addressable() const noexcept { return Addressable::nowhere; }

  /// Allocates disk space for `bytes` (blocking).
  /// @throws BudgetError beyond the capacity, IoError if the disk is full, ConfigurationError in a child process.
  void reserve(Bytes bytes, std::string_view what) {
    process_.check(name_);
    const std::scoped_lock lock{files_change_};
    const std::size_t available = capacity_ - std::min(capacity_, extents_.used().count + outstanding_);
    if (bytes.count > available) refuse(std::string{what}, bytes, Bytes{available});
    file_->grow(extents_.used().count + round_up(outstanding_ + bytes.count, grain_), std::string{what});
    outstanding_ += bytes.count;
  }

  void cancel(Bytes bytes) noexcept {
    const std::scoped_lock lock{files_change_};
    outstanding_ -= std::min(outstanding_, bytes.count);
  }

  /// Deals out `bytes`, rounded up; the extent tells how many they are. 0 bytes take nothing.
  /// @throws as `reserve`, where the free space is in pieces or less was reserved.
  Extent place(std::size_t bytes) {
    if (bytes == 0) return {};
    process_.check(name_);
    if (bytes > capacity_) refuse("an extent", Bytes{bytes}, Bytes{capacity_});
    const std::scoped_lock alone{files_change_};
    const std::size_t rounded = round_up(bytes, grain_);
    const Extent extent{extents_.first_fit(rounded), rounded};
    if (extent.offset > capacity_ - rounded) {
      refuse("an extent", Bytes{rounded}, Bytes{capacity_ - std::min<std::size_t>(capacity_, extent.offset)});
    }
    file_->grow(extent.offset + rounded, "an extent");
    if (linked_file_ || has_holes_) file_->allocate(extent.offset, rounded, "an extent");
    const std::scoped_lock lock{mutex_};
    ranges_.assign(extent.offset, extent.offset + rounded, file_);
    extents_.insert(extent, {});
    outstanding_ -= std::min(outstanding_, bytes);
    return extent;
  }

  /// Gives an extent back; one that `place` did not deal is ignored.
  void remove(const Extent& extent) noexcept {
    const std::scoped_lock lock{mutex_};
    const auto* const taken = extents_.find(extent);
    if (!taken) return;
    if (taken->value.is_linked && linked_file_) linked_file_->punch(extent.offset, extent.bytes);
    ranges_.assign(extent.offset, extent.offset + extent.bytes, file_);  // nothing is read of it any more
    backed_.erase(extent.offset, extent.offset + extent.bytes);
    extents_.erase(*taken);
  }

  std::byte* view(const Extent&) const noexcept { return nullptr; }

  /// @throws ConfigurationError if the range leaves the extent, or is not aligned, or in a child process.
  Completion read(const Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    return transfer(IoDirection::read, extent, offset, data, bytes);
  }

  /// @throws as `read`.
  Completion write(const Extent& extent, std::size_t offset, const std::byte* data, std::size_t bytes) {
    return transfer(IoDirection::write, extent, offset, const_cast<std::byte*>(data), bytes);
  }

  LinkableExtents* linkable() noexcept { return this; }

  LinkedExtents link(std::span<const Extent> extents, ByteChecksum checksum, FileNaming& naming) override {
    process_.check(name_);
    const std::scoped_lock lock{files_change_};
    std::vector<File> files = files_of(extents);
    std::erase_if(files, [&](const File& file) {
      return !file->is_linkable() || !naming.can_name(file->descriptor());
    });
    if (files.empty()) return {};
    give_space_back();
    complete_checksums(extents, files, checksum);
    std::optional<NextFiles> next = next_files(extents, files);
    if (!next) return {};
    named_.reserve(named_.size() + files.size());
    LinkedExtents linked;
    for (const File& file : files) {
      if (!naming.name(file->descriptor())) continue;
      retire(file, *next, extents, checksum);
      list(extents, file, linked);
    }
    std::ranges::sort(linked.ranges, {}, [](const LinkedRange& range) { return range.range.offset; });
    return linked;
  }

  FileBackedExtents* file_backed() noexcept { return this; }

  void back(const Extent& extent, std::size_t offset, std::size_t bytes, BackedBytes backing) override {
    if (backing.bytes > bytes || (backing.bytes > 0 && !backing.file)) {
      throw_configuration_error(std::to_string(backing.bytes) + " bytes of " +
                                (backing.file ? backing.file->path() : "no file") + " are no range of " +
                                std::to_string(bytes) + " bytes of the " + name_);
    }
    process_.check(name_);
    const std::scoped_lock lock{mutex_};
    const auto* const taken = taken_range({"backing", extent, offset, bytes, name_});
    if (bytes == 0) return;
    const std::uint64_t begin = extent.offset + offset;
    const File& file = taken->value.is_linked ? linked_file_ : file_;
    backed_.assign(begin, begin + bytes, std::move(backing));
    ranges_.assign(begin, begin + bytes, file);  // where it is written, if ever
    has_holes_ = true;
    file->punch(begin, bytes);
  }

  void clear(const Extent& extent, std::size_t offset, std::size_t bytes) override {
    process_.check(name_);
    const std::scoped_lock lock{mutex_};
    taken_range({"clearing", extent, offset, bytes, name_});
    if (bytes > 0) backed_.assign(extent.offset + offset, extent.offset + offset + bytes, {});
  }

  TierCounters counters() const {
    const std::scoped_lock lock{mutex_};
    return {.used = extents_.used(), .peak = extents_.peak(), .read = Bytes{store_->read},
            .written = Bytes{store_->written}};
  }

  /// False where the file system refuses direct I/O, and transfers pass through the page cache.
  bool is_direct() const noexcept {
    const std::scoped_lock lock{mutex_};
    return file_->is_direct();
  }

 private:
  using File = std::shared_ptr<detail::ArenaFile>;

  /// What is known of an extent beside where it is.
  struct Kind {
    bool is_linked = false;  ///< It was linked once, and is written to `linked_file_`.
  };

  /// The files that are written from now on.
  struct NextFiles {
    File linked;
    File others;
  };

  /// What is to be done for a transfer.
  struct Plan {
    std::vector<detail::FileRequest> requests;
    std::vector<std::span<std::byte>> zeros;  ///< Memory for what is in no file.
    ByteChecksum checksum = nullptr;          ///< Of what is written, where it is to be known.
  };

  /// Whatever the process's directory becomes.
  static std::string absolute(const std::string& path) {
    const auto release = [](char* memory) { std::free(memory); };
    const std::unique_ptr<char, decltype(release)> whole{::realpath(path.c_str(), nullptr), release};
    return whole ? whole.get() : path;
  }

  static constexpr std::size_t most_bytes = detail::ExtentMap<Kind>::most_bytes;

  /// Bytes of which there is one checksum.
  static constexpr std::size_t piece_bytes = std::size_t{1} << 20;

  Completion transfer(IoDirection direction, const Extent& extent, std::size_t offset, std::byte* data,
                      std::size_t bytes) {
    process_.check(name_);
    const std::uint64_t begin = extent.offset + offset;
    const char* const operation = direction == IoDirection::read ? "read" : "write";
    Plan plan = this->plan(direction, {operation, extent, offset, bytes, name_}, data);
    for (const std::span<std::byte> zeros : plan.zeros) std::ranges::fill(zeros, std::byte{0});
    if (plan.requests.empty()) return {};
    if (!plan.checksum) return detail::NvmeTransfer<E>::start(*engine_, store_, std::move(plan.requests), block_);
    const File file = plan.requests.front().file;
    const Completion end = detail::NvmeTransfer<E>::start(*engine_, store_, std::move(plan.requests), block_);
    keep_checksums(begin, {data, bytes}, file, plan.checksum);  // while it is written: the caller waits for `end`
    return end;
  }

  /// The extent of a range that may be transferred; nullptr if it is empty. The mutex is held.
  /// @throws ConfigurationError if the range is none.
  const typename detail::ExtentMap<Kind>::Taken* taken_range(const detail::TransferName& transfer) const {
    transfer.check_inside();
    transfer.check_aligned(transfer.extent.offset | transfer.offset | transfer.bytes, alignment());
    const auto* const taken = transfer.extent.bytes != 0 ? extents_.holder(transfer.extent) : nullptr;
    if (transfer.extent.bytes != 0 && !taken) transfer.refuse_unplaced();
    return taken;
  }

  Plan plan(IoDirection direction, const detail::TransferName& transfer, std::byte* data) {
    const std::scoped_lock lock{mutex_};
    const auto* const taken = taken_range(transfer);
    transfer.check_aligned(std::bit_cast<std::uintptr_t>(data), alignment());
    if (transfer.bytes == 0) return {};
    Plan plan;
    const std::uint64_t begin = transfer.extent.offset + transfer.offset;
    if (direction == IoDirection::write) {
      const File& file = taken->value.is_linked ? linked_file_ : file_;
      if (taken->value.is_linked) plan.checksum = checksum_;
      ranges_.assign(begin, begin + transfer.bytes, file);
      backed_.erase(begin, begin + transfer.bytes);
    }
    const auto add_own = [&](std::uint64_t from, std::uint64_t to, const auto& run) {
      const auto run_bytes = static_cast<std::size_t>(to - from);
      if (!plan.requests.empty() && plan.requests.back().file == run.file &&
          plan.requests.back().request.offset + plan.requests.back().request.bytes == from) {
        plan.requests.back().request.bytes += run_bytes;
      } else {
        const IoRequest request{direction, run.file->descriptor(), from, data + (from - begin), run_bytes};
        plan.requests.push_back({request, run.file});
      }
    };
    backed_.visit(
        begin, begin + transfer.bytes,
        [&](std::uint64_t from, std::uint64_t to, const BackedBytes& backing) {
          const std::span range{data + (from - begin), static_cast<std::size_t>(to - from)};
          if (backing.bytes < range.size()) plan.zeros.push_back(range.subspan(backing.bytes));
          if (backing.bytes == 0) return;
          const IoRequest request{direction, backing.file->descriptor(), backing.offset, range.data(), backing.bytes};
          plan.requests.push_back({request, nullptr, backing.file});
        },
        [&](std::uint64_t from, std::uint64_t to) { ranges_.visit(from, to, add_own); });
    return plan;
  }

  /// Calls `f(from, to, run)` for each run of a range, as far as it is in the tier's own files.
  template <class F>
  void visit_own(std::uint64_t begin, std::uint64_t end, F f) const {
    const auto ignore = [](std::uint64_t, std::uint64_t, const BackedBytes&) {};
    backed_.visit(begin, end, ignore, [&](std::uint64_t from, std::uint64_t to) { ranges_.visit(from, to, f); });
  }

  void keep_checksums(std::uint64_t begin, std::span<const std::byte> bytes, const File& file, ByteChecksum checksum) {
    for (std::size_t done = 0; done < bytes.size(); done += piece_bytes) {
      const auto piece = bytes.subspan(done, std::min(piece_bytes, bytes.size() - done));
      const std::uint64_t value = checksum(piece);
      const std::scoped_lock lock{mutex_};
      ranges_.assign(begin + done, begin + done + piece.size(), file, value);
    }
  }

  /// The files that have something of the extents.
  std::vector<File> files_of(std::span<const Extent> extents) const {
    std::vector<File> files;
    const std::scoped_lock lock{mutex_};
    for (const Extent& extent : extents) {
      visit_own(extent.offset, extent.offset + extent.bytes, [&](std::uint64_t, std::uint64_t, const auto& run) {
        if (std::ranges::find(files, run.file) == files.end()) files.push_back(run.file);
      });
    }
    return files;
  }

  /// Reads back what has no checksum of the extents in these files: two pieces at a time, one of which arrives while
  /// the other is looked at.
  void complete_checksums(std::span<const Extent> extents, const std::vector<File>& files, ByteChecksum checksum) {
    std::vector<detail::FileRequest> pieces;
    {
      const std::scoped_lock lock{mutex_};
      for (const Extent& extent : extents) {
        visit_own(extent.offset, extent.offset + extent.bytes, [&](std::uint64_t from, std::uint64_t to,
                                                                   const auto& run) {
          if (run.checksum || std::ranges::find(files, run.file) == files.end()) return;
          for (; from < to; from += std::min<std::uint64_t>(piece_bytes, to - from)) {
            const auto bytes = static_cast<std::size_t>(std::min<std::uint64_t>(piece_bytes, to - from));
            pieces.push_back({{IoDirection::read, run.file->descriptor(), from, nullptr, bytes}, run.file});
          }
        });
      }
    }
    if (pieces.empty()) return;
    const auto release = [](std::byte* memory) { ::operator delete(memory, std::align_val_t{4096}); };
    const std::unique_ptr<std::byte, decltype(release)> memory{
        static_cast<std::byte*>(::operator new(2 * piece_bytes, std::align_val_t{4096})), release};
    std::array<Completion, 2> ends;
    const auto start = [&](std::size_t i) {
      pieces[i].request.data = memory.get() + i % 2 * piece_bytes;
      ends[i % 2] = detail::NvmeTransfer<E>::start(*engine_, store_, {pieces[i]}, block_);
    };
    start(0);
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      if (i + 1 < pieces.size()) start(i + 1);
      try {
        ends[i % 2].wait();
      } catch (...) {
        ends[(i + 1) % 2].wait_until(std::chrono::steady_clock::time_point::max());  // it still fills the memory
        throw;
      }
      const IoRequest& piece = pieces[i].request;
      keep_checksums(piece.offset, {piece.data, piece.bytes}, pieces[i].file, checksum);
    }
  }

  /// Makes the files that are written when these are not any more. @return Nothing if none can be made as they must be.
  std::optional<NextFiles> next_files(std::span<const Extent> extents, const std::vector<File>& files) {
    const auto is_among = [&](const File& file) { return std::ranges::find(files, file) != files.end(); };
    NextFiles next;
    std::unique_lock lock{mutex_};
    const bool others_are_among = is_among(file_);
    if (!others_are_among && !is_among(linked_file_)) return next;
    std::vector<Extent> linked{extents.begin(), extents.end()};
    extents_.for_each([&](const auto& taken) {
      if (taken.value.is_linked) linked.push_back(taken.extent);
    });
    std::ranges::sort(linked, {}, &Extent::offset);
    std::vector<Extent> others;
    std::vector<Extent> joined;
    std::uint64_t end = 0;
    const auto add_others = [&](std::uint64_t begin, std::uint64_t before) {
      const auto add = [&](std::uint64_t from, std::uint64_t to) {
        others.push_back({from, static_cast<std::size_t>(to - from)});
      };
      const auto add_zeros = [&](std::uint64_t from, std::uint64_t to, const BackedBytes& backing) {
        if (!backing.file) add(from, to);
      };
      backed_.visit(begin, before, add_zeros, add);
    };
    for (const Extent& extent : linked) {
      if (extent.offset > end) add_others(end, extent.offset);
      if (!joined.empty() && extent.offset <= end) {
        joined.back().bytes = std::max<std::uint64_t>(end, extent.offset + extent.bytes) - joined.back().offset;
      } else {
        joined.push_back(extent);
      }
      end = std::max<std::uint64_t>(end, extent.offset + extent.bytes);
    }
    const std::uint64_t size = file_->size();
    if (end < size) add_others(end, size);
    lock.unlock();
    next.linked = make_file(joined, size);
    if (next.linked && others_are_among) next.others = make_file(others, size);
    if (!next.linked || (others_are_among && !next.others)) return std::nullopt;
    return next;
  }

  /// A file of `size` bytes with space for these ranges.
  /// @return nullptr where files cannot be made like that, or not there any more. @throws IoError
  File make_file(const std::vector<Extent>& ranges, std::uint64_t size) const {
    File file;
    try {
      file = std::make_shared<detail::ArenaFile>(directory_);
    } catch (const IoError& error) {
      if (error.code().value() == ENOENT) return nullptr;
      throw;
    }
    for (const Extent& range : ranges) file->allocate(range.offset, range.bytes, "what is written after a save");
    file->extend(size);
    return file->is_linkable() ? file : nullptr;
  }

  /// A file has got a name: it is not written any more.
  void retire(const File& file, const NextFiles& next, std::span<const Extent> extents, ByteChecksum checksum) {
    const std::scoped_lock lock{mutex_};
    named_.push_back(file);
    checksum_ = checksum;
    if (file != file_ && file != linked_file_) return;
    linked_file_ = next.linked;
    for (const Extent& extent : extents) {
      if (auto* const taken = extents_.find(extent)) taken->value.is_linked = true;
    }
    if (file != file_) return;
    file_ = next.others;
    extents_.visit_gaps([&](std::uint64_t begin, std::size_t bytes) {  // nobody reads there
      const std::uint64_t end = begin + std::min<std::uint64_t>(bytes, most_bytes - begin);
      if (begin < end) ranges_.assign(begin, end, file_);
      return false;
    });
    backed_.visit(
        0, most_bytes,
        [&](std::uint64_t begin, std::uint64_t end, const BackedBytes&) { ranges_.assign(begin, end, file_); },
        [](std::uint64_t, std::uint64_t) {});
  }

  /// Lists what is in a file of the extents.
  void list(std::span<const Extent> extents, const File& file, LinkedExtents& linked) const {
    LinkedFile listed{file->size(), {}};
    const std::scoped_lock lock{mutex_};
    for (const Extent& extent : extents) {
      visit_own(extent.offset, extent.offset + extent.bytes, [&](std::uint64_t from, std::uint64_t to,
                                                                 const auto& run) {
        if (run.file != file) return;
        const auto bytes = static_cast<std::size_t>(to - from);
        listed.pieces.push_back({from, bytes, run.checksum.value()});
        if (!linked.ranges.empty() && linked.ranges.back().file == linked.files.size() &&
            linked.ranges.back().range.offset + linked.ranges.back().range.bytes == from) {
          linked.ranges.back().range.bytes += bytes;
        } else {
          linked.ranges.push_back({{from, bytes}, linked.files.size()});
        }
      });
    }
    std::ranges::sort(listed.pieces, {}, &CheckedBytes::offset);
    linked.files.push_back(std::move(listed));
  }

  /// Whose name is gone by now is the tier's alone: what is not read of it any more takes no space.
  void give_space_back() {
    const std::scoped_lock lock{mutex_};
    std::erase_if(named_, [](const std::weak_ptr<detail::ArenaFile>& file) { return file.expired(); });
    for (const std::weak_ptr<detail::ArenaFile>& each : named_) {
      const File file = each.lock();
      if (!file || file->names() > 0) continue;
      std::uint64_t end = 0;
      ranges_.visit(0, most_bytes, [&](std::uint64_t from, std::uint64_t to, const auto& run) {
        if (run.file != file) return;
        if (end < from) file->punch(end, from - end);
        end = to;
      });
      if (end < file->size()) file->punch(end, file->size() - end);
    }
  }

  [[noreturn]] void refuse(const std::string& what, Bytes requested, Bytes available) const {
    throw_budget_error(what + " on " + name_, requested, available, "raise its capacity, or choose another tier");
  }

  E* engine_;
  detail::OwnProcess process_;
  std::string directory_;
  File file_;         ///< Where what was never linked is written.
  File linked_file_;  ///< Where the rest is; none, if nothing was linked.
  std::shared_ptr<detail::NvmeStore> store_;
  std::size_t block_;
  std::size_t grain_;
  std::size_t capacity_;
  std::chrono::milliseconds drain_timeout_;
  std::string name_;
  std::mutex files_change_;   // of what makes files or lengthens them, which takes a while; taken before the other
  mutable std::mutex mutex_;  // of what follows, and of which files there are: transfers take it
  detail::ExtentMap<Kind> extents_;
  detail::FileRanges ranges_;
  detail::BackedRanges backed_;  ///< What is not read where `ranges_` has it.
  bool has_holes_ = false;       ///< Space was given back that is dealt out again.
  ByteChecksum checksum_ = nullptr;
  std::vector<std::weak_ptr<detail::ArenaFile>> named_;
  std::size_t outstanding_ = 0;  ///< Reserved, not placed yet.
};

static_assert(OffloadTier<NvmeTier<ThreadedIoEngine>>);

#if defined(ZEROSPAN_COMPILED)  // by the target zerospan::compiled, which has them
extern template class detail::NvmeTransfer<ThreadedIoEngine>;
extern template class NvmeTier<ThreadedIoEngine>;
#endif

}  // namespace zerospan::inline v0
