/// @file
/// What a disk reads and writes through the library's tier, as a training has it do.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <string>
#include <thread>

#include <time.h>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/detail/huge_pages.hpp>
#include <zerospan/io/any_io_engine.hpp>
#include <zerospan/tier/nvme_tier.hpp>
#include <zerospan/tier/offload_tier.hpp>

#include "../gpt/checks.hpp"
#include "../gpt/io.hpp"
#include "rates.hpp"
#include "work.hpp"

namespace machine {

/// An extent of a disk, which is gone however the program ends. All of it was written once: the first write of a range
/// costs more.
class DiskTrial {
 public:
  static constexpr std::size_t transfer = std::size_t{4} << 20;  ///< Bytes: about a piece of the staging ring.
  static constexpr std::size_t under_way = 8;                    ///< Transfers each way.

  /// While it is busy both ways: what a sub-group reads and writes, its weights and moments.
  static constexpr std::size_t mixed_transfer = std::size_t{1} << 20;
  static constexpr std::size_t mixed_under_way = 3;

  /// @param bytes Rounded up to an even number of transfers.
  DiskTrial(const std::string& directory, std::uint64_t bytes, bool is_checked)
      : tier_{io_, {.directory = directory}},
        ref_{is_checked ? checks_.over(tier_) : zerospan::TierRef{tier_}},
        transfers_{2 * ((static_cast<std::size_t>(bytes) / 2 + transfer - 1) / transfer)},
        extent_{ref_.place(transfers_ * transfer)},
        memory_{zerospan::detail::map_huge_pages(zerospan::Bytes{2 * each_way})} {
    auto* const words = reinterpret_cast<std::uint64_t*>(memory_.get());
    for (std::size_t i = 0; i < 2 * each_way / sizeof *words; ++i) {
      words[i] = (i + 1) * 0x9E3779B97F4A7C15U;  // nothing that a disk would shorten
    }
    write_all();
  }
  DiskTrial(const DiskTrial&) = delete;
  DiskTrial& operator=(const DiskTrial&) = delete;
  ~DiskTrial() { ref_.remove(extent_); }

  /// @return Bytes a second.
  double read_all() {
    return static_cast<double>(bytes()) / seconds_of([this] { move(true, 0, bytes(), 0, large); });
  }
  double write_all() {
    return static_cast<double>(bytes()) / seconds_of([this] { move(false, 0, bytes(), 0, large); });
  }

  struct Mixed {
    double read;
    double written;
  };

  /// Reads one half while it writes the other, until the first of both is through. @return Bytes a second, each way.
  Mixed read_and_write_halves() {
    std::atomic<bool> is_over = false;
    Mixed moved{};
    std::exception_ptr error;
    const double seconds = seconds_of([&] {
      std::jthread reader{[&] {
        try {
          moved.read = move(true, 0, bytes() / 2, 0, mixed, &is_over);
        } catch (...) {
          error = std::current_exception();
        }
        is_over = true;
      }};
      moved.written = move(false, bytes() / 2, bytes() / 2, each_way, mixed, &is_over);
      is_over = true;
    });
    if (error) std::rethrow_exception(error);
    return {moved.read / seconds, moved.written / seconds};
  }

  /// Seconds of a smallest request alone: the mean of many, for some wait for a core much longer than others.
  double latency(bool reads) {
    constexpr std::size_t requests = 64;
    return seconds_of([&] {
             for (std::size_t i = 0; i < requests; ++i) start(reads, i * transfer % bytes(), 0, alignment()).wait();
           }) /
           requests;
  }

  /// Bytes a second of one transfer by itself: of the sizes that an engine has, from a small parameter to a sub-group.
  WorkRate alone(bool reads) {
    WorkRate rate;
    for (std::size_t size = std::size_t{1} << 16; size <= each_way / 2; size *= 4) {
      std::array<double, 7> seconds;
      for (std::size_t i = 0; i < seconds.size(); ++i) {
        const std::size_t offset = (i * 37 + size / transfer) * transfer % (bytes() - size) / transfer * transfer;
        const std::size_t place = i * each_way / 4;
        seconds[i] = seconds_of([&] { start(reads, offset, place, size).wait(); });
      }
      std::ranges::sort(seconds);
      rate.points.push_back({static_cast<double>(size), static_cast<double>(size) / seconds[seconds.size() / 2]});
    }
    return rate;
  }

  std::size_t bytes() const { return transfers_ * transfer; }
  std::size_t alignment() const { return ref_.alignment(); }

 private:
  /// How something is moved.
  struct Pieces {
    std::size_t bytes;
    std::size_t under_way;
  };

  /// Bytes of memory that is read into, and of other that is written from, in turns, as in a ring of staging memory:
  /// were it less, the processor's caches would hold it, and a disk would seem a quarter faster than it is.
  static constexpr std::size_t each_way = under_way * transfer;

  static constexpr Pieces large{transfer, under_way};
  static constexpr Pieces mixed{mixed_transfer, mixed_under_way};

  template <class Work>
  static double seconds_of(Work work) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  zerospan::Completion start(bool reads, std::size_t offset, std::size_t place, std::size_t bytes) {
    std::byte* const data = memory_.get() + place;
    return reads ? ref_.read(extent_, offset, data, bytes) : ref_.write(extent_, offset, data, bytes);
  }

  /// @param place The first byte in memory. @param is_over Where it says so, it ends. @return Bytes that it moved.
  double move(bool reads, std::size_t first, std::size_t bytes, std::size_t place, Pieces pieces,
              const std::atomic<bool>* is_over = nullptr) {
    std::deque<zerospan::Completion> ends;
    std::size_t moved = 0;
    for (std::size_t i = 0; i < bytes / pieces.bytes && !(is_over && *is_over); ++i) {
      if (ends.size() == pieces.under_way) {
        ends.front().wait();
        ends.pop_front();
        moved += pieces.bytes;
      }
      const std::size_t offset = i * pieces.bytes;
      ends.push_back(start(reads, first + offset, place + offset % each_way, pieces.bytes));
    }
    for (const zerospan::Completion& end : ends) end.wait();
    return static_cast<double>(moved + ends.size() * pieces.bytes);
  }

  zerospan::AnyIoEngine io_ = gpt::make_io_engine();
  zerospan::NvmeTier<zerospan::AnyIoEngine> tier_;
  gpt::Checks checks_;
  zerospan::TierRef ref_;
  std::size_t transfers_;
  zerospan::Extent extent_;
  std::shared_ptr<std::byte> memory_;
};

/// Seconds of a core that all threads of this process have had.
inline double process_seconds() {
  ::timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Rates are the median of three. What transfers take of the cores is what all of them compute less meanwhile, and at
/// least what the process's threads need for them.
/// @param busy What all cores compute.
inline DiskRates measure_disk(const std::string& directory, std::uint64_t bytes, bool is_checked, Stopwatch& stopwatch,
                              const Work& busy) {
  DiskTrial disk{directory, bytes, is_checked};
  DiskRates rates;
  const auto median = [](auto rate) {
    std::array<double, 3> all;
    for (double& each : all) each = rate();
    std::ranges::sort(all);
    return all[1];
  };
  const auto core_time = [&](auto transfer) {
    const double before = process_seconds();
    transfer();
    return (process_seconds() - before) / static_cast<double>(disk.bytes());
  };
  rates.read_core_time = core_time([&] { disk.read_all(); });
  rates.write_core_time = core_time([&] { disk.write_all(); });
  rates.read = median([&] { return disk.read_all(); });
  rates.written = median([&] { return disk.write_all(); });
  rates.mixed_read = median([&] {
    const DiskTrial::Mixed mixed = disk.read_and_write_halves();
    rates.mixed_written = std::max(rates.mixed_written, mixed.written);
    return mixed.read;
  });
  rates.alignment = static_cast<double>(disk.alignment());
  rates.read_latency = disk.latency(true);
  rates.write_latency = disk.latency(false);
  rates.read_alone = disk.alone(true);
  rates.write_alone = disk.alone(false);

  const double undisturbed =
      stopwatch.all_cores(busy, [] { std::this_thread::sleep_for(std::chrono::milliseconds{300}); });
  const auto taken = [&](double disturbed, double rate) {
    return static_cast<double>(stopwatch.cores()) * (1 - disturbed / undisturbed) / rate;
  };
  const double while_reading =
      stopwatch.all_cores(busy, [&] { rates.busy_read = median([&] { return disk.read_all(); }); });
  const double while_writing =
      stopwatch.all_cores(busy, [&] { rates.busy_written = median([&] { return disk.write_all(); }); });
  static_cast<void>(stopwatch.all_cores(busy, [&] {
    rates.busy_read_latency = std::max(rates.read_latency, disk.latency(true));
    rates.busy_write_latency = std::max(rates.write_latency, disk.latency(false));
  }));
  rates.read_core_time = std::max(rates.read_core_time, taken(while_reading, rates.busy_read));
  rates.write_core_time = std::max(rates.write_core_time, taken(while_writing, rates.busy_written));
  return rates;
}

}  // namespace machine
