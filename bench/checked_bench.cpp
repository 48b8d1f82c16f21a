/// CheckedTier beside the bare tier on the same kind of file (nvme), and beside a loop that copies and hashes (memory).
/// The files are made in the working directory.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <string_view>
#include <vector>

#include <benchmark/benchmark.h>
#include <xxhash.h>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/io/io_engine.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/checked_tier.hpp>
#include <zerospan/tier/host_tier.hpp>
#include <zerospan/tier/nvme_tier.hpp>

#if defined(ZEROSPAN_HAS_LIBAIO)
#include <zerospan/io/libaio_engine.hpp>
#endif

namespace {

using namespace zerospan::literals;
using zerospan::IoDirection;

constexpr std::size_t total = std::size_t{512} << 20;
constexpr std::size_t transfer = std::size_t{16} << 20;  // an extent of the tier
constexpr std::size_t slots = 4;                         // transfers under way
constexpr std::size_t line = 4096;                       // what has a checksum

/// Memory that is transferred, and memory in which bytes rest: huge pages, touched once.
struct Buffers {
  Buffers() : memory{device.host_memory().allocate(zerospan::Bytes{slots * transfer}, "buffers")} {
    for (std::size_t i = 0; i < memory.bytes(); ++i) memory.data()[i] = static_cast<std::byte>(i * 2654435761U >> 24);
  }

  zerospan::HostDevice device{{.device_budget = 1_MiB, .host_budget = zerospan::Bytes{slots * transfer + total}}};
  zerospan::Allocation memory;
};

/// Host memory as a tier that works by transfers.
class CopyingTier {
 public:
  explicit CopyingTier(zerospan::HostDevice& device) : host_{device} {}

  std::string_view name() const noexcept { return "copies"; }
  std::size_t alignment() const noexcept { return 1; }
  zerospan::Addressable addressable() const noexcept { return zerospan::Addressable::nowhere; }
  void reserve(zerospan::Bytes bytes, std::string_view what) { host_.reserve(bytes, what); }
  void cancel(zerospan::Bytes bytes) noexcept { host_.cancel(bytes); }
  zerospan::Extent place(std::size_t bytes) { return host_.place(bytes); }
  void remove(const zerospan::Extent& extent) noexcept { host_.remove(extent); }
  std::byte* view(const zerospan::Extent&) const noexcept { return nullptr; }
  zerospan::Completion read(const zerospan::Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    return host_.read(extent, offset, data, bytes);
  }
  zerospan::Completion write(const zerospan::Extent& extent, std::size_t offset, const std::byte* data,
                             std::size_t bytes) {
    return host_.write(extent, offset, data, bytes);
  }
  zerospan::TierCounters counters() const { return host_.counters(); }

 private:
  zerospan::HostTier host_;
};

/// Moves all extents of a tier, a few at once.
template <zerospan::OffloadTier T>
class Extents {
 public:
  explicit Extents(T& tier) : tier_{tier} {
    tier_.reserve(zerospan::Bytes{total}, "extents");
    for (std::size_t i = 0; i < total / transfer; ++i) extents_.push_back(tier_.place(transfer));
  }

  void move_all(IoDirection direction, const zerospan::Allocation& memory) {
    std::deque<zerospan::Completion> under_way;
    for (std::size_t i = 0; i < extents_.size(); ++i) {
      if (under_way.size() == slots) {
        under_way.front().wait();
        under_way.pop_front();
      }
      std::byte* const data = memory.data() + i % slots * transfer;
      under_way.push_back(direction == IoDirection::read ? tier_.read(extents_[i], 0, data, transfer)
                                                         : tier_.write(extents_[i], 0, data, transfer));
    }
    for (const auto& completion : under_way) completion.wait();
  }

 private:
  T& tier_;
  std::vector<zerospan::Extent> extents_;
};

template <zerospan::IoEngine E>
class BareDisk {
 public:
  void move_all(IoDirection direction) { extents_.move_all(direction, buffers_.memory); }

 private:
  Buffers buffers_;
  E engine_{};
  zerospan::NvmeTier<E> tier_{engine_, {.directory = "."}};
  Extents<zerospan::NvmeTier<E>> extents_{tier_};
};

template <zerospan::IoEngine E>
class CheckedDisk {
 public:
  void move_all(IoDirection direction) { extents_.move_all(direction, buffers_.memory); }

 private:
  using Nvme = zerospan::NvmeTier<E>;
  Buffers buffers_;
  E engine_{};
  Nvme nvme_{engine_, {.directory = "."}};
  zerospan::CheckedTier tier_{nvme_, {.line = zerospan::Bytes{line}}};
  Extents<zerospan::CheckedTier> extents_{tier_};
};

class CheckedMemory {
 public:
  void move_all(IoDirection direction) { extents_.move_all(direction, buffers_.memory); }

 private:
  Buffers buffers_;
  CopyingTier copies_{buffers_.device};
  zerospan::CheckedTier tier_{copies_, {.line = zerospan::Bytes{line}}};
  Extents<zerospan::CheckedTier> extents_{tier_};
};

/// The same copies and the same hashes, and nothing else.
class RawMemory {
 public:
  void move_all(IoDirection direction) {
    for (std::size_t begin = 0; begin < total; begin += transfer) {
      std::byte* const data = buffers_.memory.data() + begin / transfer % slots * transfer;
      if (direction == IoDirection::read) {
        std::memcpy(data, storage_.data() + begin, transfer);
      } else {
        std::memcpy(storage_.data() + begin, data, transfer);
      }
      for (std::size_t at = 0; at < transfer; at += line) {
        std::uint64_t& expected = checksums_[(begin + at) / line];
        const std::uint64_t found = ::XXH3_64bits(data + at, line);
        if (direction == IoDirection::write) expected = found;
        if (found != expected) throw std::runtime_error{"these are not the bytes that were written"};
      }
    }
  }

 private:
  Buffers buffers_;
  zerospan::Allocation storage_ = buffers_.device.host_memory().allocate(zerospan::Bytes{total}, "storage");
  std::vector<std::uint64_t> checksums_ = std::vector<std::uint64_t>(total / line);
};

/// Everything is written once before: the first write of a range costs more.
template <class Traffic>
void measure(benchmark::State& state, IoDirection direction) {
  Traffic traffic;
  traffic.move_all(IoDirection::write);
  for (auto _ : state) traffic.move_all(direction);
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * static_cast<std::int64_t>(total));
}

template <class Traffic>
void checked_read(benchmark::State& state) {
  measure<Traffic>(state, IoDirection::read);
}
template <class Traffic>
void checked_write(benchmark::State& state) {
  measure<Traffic>(state, IoDirection::write);
}

using Threads = zerospan::ThreadedIoEngine;
BENCHMARK_TEMPLATE(checked_read, CheckedDisk<Threads>)->Name("checked_read/nvme/threads")->UseRealTime();
BENCHMARK_TEMPLATE(checked_read, BareDisk<Threads>)->Name("checked_read_raw/nvme/threads")->UseRealTime();
BENCHMARK_TEMPLATE(checked_write, CheckedDisk<Threads>)->Name("checked_write/nvme/threads")->UseRealTime();
BENCHMARK_TEMPLATE(checked_write, BareDisk<Threads>)->Name("checked_write_raw/nvme/threads")->UseRealTime();

#if defined(ZEROSPAN_HAS_LIBAIO)
using Aio = zerospan::LibaioEngine;
BENCHMARK_TEMPLATE(checked_read, CheckedDisk<Aio>)->Name("checked_read/nvme/libaio")->UseRealTime();
BENCHMARK_TEMPLATE(checked_read, BareDisk<Aio>)->Name("checked_read_raw/nvme/libaio")->UseRealTime();
BENCHMARK_TEMPLATE(checked_write, CheckedDisk<Aio>)->Name("checked_write/nvme/libaio")->UseRealTime();
BENCHMARK_TEMPLATE(checked_write, BareDisk<Aio>)->Name("checked_write_raw/nvme/libaio")->UseRealTime();
#endif

BENCHMARK_TEMPLATE(checked_read, CheckedMemory)->Name("checked_read/memory")->UseRealTime();
BENCHMARK_TEMPLATE(checked_read, RawMemory)->Name("checked_read_raw/memory")->UseRealTime();
BENCHMARK_TEMPLATE(checked_write, CheckedMemory)->Name("checked_write/memory")->UseRealTime();
BENCHMARK_TEMPLATE(checked_write, RawMemory)->Name("checked_write_raw/memory")->UseRealTime();

}  // namespace
