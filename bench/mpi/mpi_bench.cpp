/// MpiCommunicator with two ranks beside raw MPI, in turns: to be started by mpirun -n 2. With an argument, rank 0
/// writes what it measured to that file, too: the list of measurements that `ratios` reads.
#include <mpi.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>

namespace {

using zerospan::calling_thread;
using zerospan::ElementType;

/// One rank's buffers, touched once: finite numbers.
struct Buffers {
  explicit Buffers(std::size_t size) : input(size, std::byte{0x3c}), output(size, std::byte{0x3c}) {}

  std::vector<std::byte> input;
  std::vector<std::byte> output;
};

/// Seconds that a call takes on the slower rank.
template <class Call>
double seconds(Call call) {
  MPI_Barrier(MPI_COMM_WORLD);
  const auto begin = std::chrono::steady_clock::now();
  call();
  double taken = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  MPI_Allreduce(MPI_IN_PLACE, &taken, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return taken;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

/// What rank 0 has measured.
class Measurements {
 public:
  /// @param unit "bytes" or "calls", a second.
  void add(const std::string& name, const char* unit, double ours, double raw) {
    std::array<char, 256> entry{};
    std::snprintf(entry.data(), entry.size(),
                  R"({"name": "mpi/%s", "unit": "%s_per_second", "ours": %g, "baseline": %g})", name.c_str(), unit,
                  ours, raw);
    list_ += (list_.empty() ? "[\n" : ",\n") + std::string{entry.data()};
  }

  /// @return Whether the file was written.
  bool write(const char* path) const {
    std::ofstream file{path};
    file << list_ << "\n]\n";
    file.close();
    return !file.fail();
  }

 private:
  std::string list_;
};

/// Prints the bandwidth of either side, and ours as a part of raw MPI's: medians of measurements in turns.
/// @param calls Of each, in one measurement.
template <class Ours, class Raw>
void compare(Measurements& measurements, const std::string& name, std::size_t bytes, int calls, Ours ours, Raw raw) {
  constexpr int repetitions = 15;
  std::vector<double> of_ours;
  std::vector<double> of_raw;
  const auto repeat = [&](auto& call) {
    return seconds([&] {
             for (int i = 0; i < calls; ++i) call();
           }) /
           calls;
  };
  for (int i = 0; i <= repetitions; ++i) {
    const double a = repeat(ours);
    const double b = repeat(raw);
    if (i == 0) continue;  // memory is touched, connections are made
    of_ours.push_back(a);
    of_raw.push_back(b);
  }
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank != 0) return;
  const double our_time = median(of_ours);
  const double raw_time = median(of_raw);
  if (bytes == 0) {
    std::printf("%-28s | %9.2f us | %9.2f us | %5.2f\n", name.c_str(), 1e6 * our_time, 1e6 * raw_time,
                raw_time / our_time);
    measurements.add(name, "calls", 1 / our_time, 1 / raw_time);
  } else {
    const double ours_a_second = static_cast<double>(bytes) / our_time;
    const double raw_a_second = static_cast<double>(bytes) / raw_time;
    std::printf("%-28s | %7.2f GB/s | %7.2f GB/s | %5.2f\n", name.c_str(), 1e-9 * ours_a_second, 1e-9 * raw_a_second,
                raw_time / our_time);
    measurements.add(name, "bytes", ours_a_second, raw_a_second);
  }
  std::fflush(stdout);
}

void compare_all_gather(Measurements& measurements, zerospan::MpiCommunicator& communicator, std::size_t mebibytes) {
  Buffers buffers{mebibytes << 20};
  const std::size_t shard = buffers.input.size() / static_cast<std::size_t>(communicator.size());
  compare(
      measurements, "all_gather/" + std::to_string(mebibytes) + "MiB", buffers.input.size(), mebibytes < 16 ? 16 : 1,
      [&] {
        const zerospan::GatherPart part{buffers.input.data(), shard};
        communicator.all_gather({calling_thread, "weights"}, {&part, 1});
      },
      [&] {
        MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, buffers.input.data(), static_cast<int>(shard), MPI_BYTE,
                      MPI_COMM_WORLD);
      });
}

void compare_reduce_scatter(Measurements& measurements, zerospan::MpiCommunicator& communicator,
                            std::size_t mebibytes) {
  Buffers buffers{mebibytes << 20};
  const std::size_t elements = buffers.input.size() / sizeof(float) / static_cast<std::size_t>(communicator.size());
  compare(
      measurements, "reduce_scatter/fp32_" + std::to_string(mebibytes) + "MiB", buffers.input.size(),
      mebibytes < 16 ? 4 : 1,
      [&] {
        communicator.reduce_scatter(
            {calling_thread, "gradients"},
            {ElementType::float32, buffers.input.data(), ElementType::float32, buffers.output.data(), elements});
      },
      [&] {
        MPI_Reduce_scatter_block(buffers.input.data(), buffers.output.data(), static_cast<int>(elements), MPI_FLOAT,
                                 MPI_SUM, MPI_COMM_WORLD);
      });
}

void compare_all_reduce(Measurements& measurements, zerospan::MpiCommunicator& communicator, std::size_t mebibytes) {
  Buffers buffers{mebibytes << 20};
  const std::size_t elements = buffers.input.size() / sizeof(float);
  compare(
      measurements, "all_reduce/fp32_" + std::to_string(mebibytes) + "MiB", buffers.input.size(),
      mebibytes < 16 ? 4 : 1,
      [&] {
        communicator.all_reduce({calling_thread, "gradients"}, {ElementType::float32, buffers.input.data(),
                                                                ElementType::float32, buffers.output.data(), elements});
      },
      [&] {
        MPI_Allreduce(buffers.input.data(), buffers.output.data(), static_cast<int>(elements), MPI_FLOAT, MPI_SUM,
                      MPI_COMM_WORLD);
      });
}

void compare_small(Measurements& measurements, zerospan::MpiCommunicator& communicator) {
  constexpr int calls = 2000;
  std::vector<std::int64_t> integers(70, 1);
  compare(
      measurements, "barrier", 0, calls,
      [&] {
        communicator.barrier({calling_thread, "step"});
      },
      [] { MPI_Barrier(MPI_COMM_WORLD); });
  compare(
      measurements, "all_reduce/70_integers", 0, calls,
      [&] {
        communicator.all_reduce({calling_thread, "norm"}, std::span{integers});
      },
      [&] {
        MPI_Allreduce(MPI_IN_PLACE, integers.data(), static_cast<int>(integers.size()), MPI_INT64_T, MPI_SUM,
                      MPI_COMM_WORLD);
      });
}

}  // namespace

int main(int argc, char** argv) {
  int provided = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  bool is_written = true;
  {
    Measurements all;
    zerospan::MpiCommunicator communicator{MPI_COMM_WORLD};
    const bool reports = communicator.rank().value == 0;
    if (reports) std::printf("%-28s | %12s | %12s | ratio\n", "name", "ours", "raw");
    compare_small(all, communicator);
    for (const std::size_t mebibytes : {1U, 16U, 128U}) compare_all_gather(all, communicator, mebibytes);
    for (const std::size_t mebibytes : {1U, 16U, 128U}) compare_reduce_scatter(all, communicator, mebibytes);
    for (const std::size_t mebibytes : {1U, 16U, 128U}) compare_all_reduce(all, communicator, mebibytes);
    if (reports && argc > 1) is_written = all.write(argv[1]);
  }
  MPI_Finalize();
  if (!is_written) std::fprintf(stderr, "mpi_bench: cannot write %s\n", argv[1]);
  return is_written ? 0 : 1;
}
