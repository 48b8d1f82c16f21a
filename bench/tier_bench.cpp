/// NvmeTier beside plain loops of as many requests on a file of its own: its speed is a share of the disk's.
/// The file is made in the working directory.

#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/io/io_engine.hpp>
#include <zerospan/io/threaded_io_engine.hpp>
#include <zerospan/tier/nvme_tier.hpp>

#if defined(ZEROSPAN_HAS_LIBAIO)
#include <libaio.h>

#include <zerospan/io/libaio_engine.hpp>
#endif
#if defined(ZEROSPAN_HAS_URING)
#include <liburing.h>
#include <sys/uio.h>

#include <zerospan/io/uring_engine.hpp>
#endif

#include "raw_file.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::IoDirection;

constexpr std::size_t total = std::size_t{512} << 20;
constexpr std::size_t transfer = std::size_t{16} << 20;  // an extent of the tier
constexpr std::size_t slots = 4;                         // transfers under way
constexpr std::size_t block = std::size_t{1} << 20;      // a request to the system
constexpr std::size_t depth = 32;                        // requests under way (libaio, io_uring)
constexpr std::size_t threads = 4;                       // requests under way (blocking)

/// What is done with a range of `total` bytes: all of it is read, or written, or each in turn of the extents, so that
/// half of what is under way are reads.
enum class Load : std::uint8_t { read, write, mixed };

/// @param offset In the range.
constexpr IoDirection direction_at(Load load, std::size_t offset) {
  if (load == Load::mixed) return offset / transfer % 2 == 0 ? IoDirection::read : IoDirection::write;
  return load == Load::read ? IoDirection::read : IoDirection::write;
}

/// Memory that is transferred: huge pages, touched once.
struct Buffers {
  Buffers() : memory{device.host_memory().allocate(zerospan::Bytes{slots * transfer}, "buffers")} {
    for (std::size_t i = 0; i < memory.bytes(); ++i) memory.data()[i] = static_cast<std::byte>(i * 2654435761U >> 24);
  }

  zerospan::HostDevice device{{.device_budget = 1_MiB, .host_budget = zerospan::Bytes{slots * transfer}}};
  zerospan::Allocation memory;
};

void report(benchmark::State& state) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * static_cast<std::int64_t>(total));
}

template <zerospan::IoEngine E>
E make_engine(const Buffers&) {
  return E{};
}

#if defined(ZEROSPAN_HAS_URING)
template <>
zerospan::UringEngine make_engine(const Buffers& buffers) {
  return zerospan::UringEngine{{.memory = {{buffers.memory.data(), buffers.memory.bytes()}}}};
}
#endif

template <zerospan::IoEngine E>
class TierTraffic {
 public:
  TierTraffic() {
    tier_.reserve(zerospan::Bytes{total}, "extents");
    for (std::size_t i = 0; i < total / transfer; ++i) extents_.push_back(tier_.place(transfer));
  }

  void move_all(Load load) {
    std::deque<zerospan::Completion> under_way;
    for (std::size_t i = 0; i < extents_.size(); ++i) {
      if (under_way.size() == slots) {
        under_way.front().wait();
        under_way.pop_front();
      }
      std::byte* const data = buffers_.memory.data() + i % slots * transfer;
      under_way.push_back(direction_at(load, i * transfer) == IoDirection::read
                              ? tier_.read(extents_[i], 0, data, transfer)
                              : tier_.write(extents_[i], 0, data, transfer));
    }
    for (const auto& completion : under_way) completion.wait();
  }

 private:
  Buffers buffers_;
  E engine_ = make_engine<E>(buffers_);
  zerospan::NvmeTier<E> tier_{engine_, {.directory = ".", .block = zerospan::Bytes{block}}};
  std::vector<zerospan::Extent> extents_;
};

/// Blocking requests on threads.
class ThreadTraffic {
 public:
  void move_all(Load load) {
    std::atomic<std::size_t> next = 0;
    std::atomic<bool> failed = false;
    {
      std::vector<std::jthread> workers;
      for (std::size_t i = 0; i < threads; ++i) {
        workers.emplace_back([&] {
          for (std::size_t n = next++; n < total / block; n = next++) {
            std::byte* const data = buffers_.memory.data() + n * block % buffers_.memory.bytes();
            const auto offset = static_cast<off_t>(n * block);
            const ssize_t moved = direction_at(load, n * block) == IoDirection::read
                                      ? ::pread(file_.descriptor(), data, block, offset)
                                      : ::pwrite(file_.descriptor(), data, block, offset);
            if (moved != static_cast<ssize_t>(block)) failed = true;
          }
        });
      }
    }
    if (failed) throw std::runtime_error{"a transfer failed or fell short"};
  }

 private:
  Buffers buffers_;
  bench::RawFile file_{total};
};

#if defined(ZEROSPAN_HAS_LIBAIO)
/// One loop that keeps the queue of the kernel full.
class AioTraffic {
 public:
  AioTraffic() {
    if (::io_setup(static_cast<int>(depth), &context_) != 0) throw std::runtime_error{"io_setup failed"};
  }
  AioTraffic(const AioTraffic&) = delete;
  AioTraffic& operator=(const AioTraffic&) = delete;
  ~AioTraffic() { ::io_destroy(context_); }

  void move_all(Load load) {
    std::size_t next = 0;
    std::size_t done = 0;
    for (iocb& request : requests_) submit(request, load, next++);
    while (done < total / block) {
      io_event events[depth];
      const int ended = ::io_getevents(context_, 1, static_cast<long>(depth), events, nullptr);
      for (int i = 0; i < ended; ++i) {
        if (events[i].res != block) throw std::runtime_error{"a transfer failed or fell short"};
        ++done;
        if (next < total / block) submit(*events[i].obj, load, next++);
      }
    }
  }

 private:
  void submit(iocb& request, Load load, std::size_t n) {
    std::byte* const data = buffers_.memory.data() + n * block % buffers_.memory.bytes();
    const auto offset = static_cast<long long>(n * block);
    if (direction_at(load, n * block) == IoDirection::read) {
      ::io_prep_pread(&request, file_.descriptor(), data, block, offset);
    } else {
      ::io_prep_pwrite(&request, file_.descriptor(), data, block, offset);
    }
    iocb* pointer = &request;
    if (::io_submit(context_, 1, &pointer) != 1) throw std::runtime_error{"io_submit failed"};
  }

  Buffers buffers_;
  bench::RawFile file_{total};
  io_context_t context_{};
  std::vector<iocb> requests_{depth};
};
#endif

#if defined(ZEROSPAN_HAS_URING)
/// One loop that keeps the ring of the kernel full, from memory that it has registered if it may.
class UringTraffic {
 public:
  UringTraffic() {
    if (::io_uring_queue_init(static_cast<unsigned>(depth), &ring_, 0) != 0) throw std::runtime_error{"no io_uring"};
    const iovec memory{buffers_.memory.data(), buffers_.memory.bytes()};
    is_registered_ = ::io_uring_register_buffers(&ring_, &memory, 1) == 0;
  }
  UringTraffic(const UringTraffic&) = delete;
  UringTraffic& operator=(const UringTraffic&) = delete;
  ~UringTraffic() { ::io_uring_queue_exit(&ring_); }

  void move_all(Load load) {
    std::size_t next = 0;
    std::size_t done = 0;
    while (next < depth) submit(load, next++);
    while (done < total / block) {
      io_uring_cqe* ended = nullptr;
      if (::io_uring_wait_cqe(&ring_, &ended) != 0) continue;
      if (ended->res != static_cast<int>(block)) throw std::runtime_error{"a transfer failed or fell short"};
      ::io_uring_cqe_seen(&ring_, ended);
      ++done;
      if (next < total / block) submit(load, next++);
    }
  }

 private:
  void submit(Load load, std::size_t n) {
    const bool is_read = direction_at(load, n * block) == IoDirection::read;
    const int operation = is_registered_ ? (is_read ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED)
                                         : (is_read ? IORING_OP_READ : IORING_OP_WRITE);
    ::io_uring_prep_rw(operation, ::io_uring_get_sqe(&ring_), file_.descriptor(),
                       buffers_.memory.data() + n * block % buffers_.memory.bytes(), static_cast<unsigned>(block),
                       n * block);
    if (::io_uring_submit(&ring_) != 1) throw std::runtime_error{"io_uring_submit failed"};
  }

  Buffers buffers_;
  bench::RawFile file_{total};
  io_uring ring_{};
  bool is_registered_ = false;
};
#endif

/// Everything is written once before: the first write of a range costs more.
template <class Traffic>
void measure(benchmark::State& state, Load load) {
  Traffic traffic;
  traffic.move_all(Load::write);
  for (auto _ : state) traffic.move_all(load);
  report(state);
}

template <class Traffic>
void nvme_read(benchmark::State& state) {
  measure<Traffic>(state, Load::read);
}
template <class Traffic>
void nvme_write(benchmark::State& state) {
  measure<Traffic>(state, Load::write);
}
template <class Traffic>
void nvme_mixed(benchmark::State& state) {
  measure<Traffic>(state, Load::mixed);
}

using Threads = TierTraffic<zerospan::ThreadedIoEngine>;
BENCHMARK_TEMPLATE(nvme_read, Threads)->Name("nvme_read/threads")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_read, ThreadTraffic)->Name("nvme_read_raw/threads")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_write, Threads)->Name("nvme_write/threads")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_write, ThreadTraffic)->Name("nvme_write_raw/threads")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_mixed, Threads)->Name("nvme_mixed/threads")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_mixed, ThreadTraffic)->Name("nvme_mixed_raw/threads")->UseRealTime();

#if defined(ZEROSPAN_HAS_LIBAIO)
using Aio = TierTraffic<zerospan::LibaioEngine>;
BENCHMARK_TEMPLATE(nvme_read, Aio)->Name("nvme_read/libaio")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_read, AioTraffic)->Name("nvme_read_raw/libaio")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_write, Aio)->Name("nvme_write/libaio")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_write, AioTraffic)->Name("nvme_write_raw/libaio")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_mixed, Aio)->Name("nvme_mixed/libaio")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_mixed, AioTraffic)->Name("nvme_mixed_raw/libaio")->UseRealTime();
#endif

#if defined(ZEROSPAN_HAS_URING)
using Uring = TierTraffic<zerospan::UringEngine>;
BENCHMARK_TEMPLATE(nvme_read, Uring)->Name("nvme_read/io_uring")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_read, UringTraffic)->Name("nvme_read_raw/io_uring")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_write, Uring)->Name("nvme_write/io_uring")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_write, UringTraffic)->Name("nvme_write_raw/io_uring")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_mixed, Uring)->Name("nvme_mixed/io_uring")->UseRealTime();
BENCHMARK_TEMPLATE(nvme_mixed, UringTraffic)->Name("nvme_mixed_raw/io_uring")->UseRealTime();
#endif

}  // namespace
