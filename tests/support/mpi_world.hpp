/// @file
/// Worlds of processes: some ranks of MPI_COMM_WORLD run a function each, and all of them get to know every result.
#pragma once

#include <mpi.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/comm/mpi_options.hpp>

namespace zerospan_test {

/// A result as bytes, and back.
class Packed {
 public:
  Packed() = default;
  explicit Packed(std::vector<std::byte> bytes) : bytes_{std::move(bytes)} {}
  const std::vector<std::byte>& bytes() const { return bytes_; }

  template <class T>
  requires std::is_trivially_copyable_v<T>
  void put(const T& value) {
    const auto* const first = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), first, first + sizeof value);
  }
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void take(T& value) {
    std::memcpy(&value, bytes_.data() + taken_, sizeof value);
    taken_ += sizeof value;
  }

  template <class A, class B>
  void put(const std::pair<A, B>& pair) {
    put(pair.first);
    put(pair.second);
  }
  template <class A, class B>
  void take(std::pair<A, B>& pair) {
    take(pair.first);
    take(pair.second);
  }

  template <class Container>
  requires requires(Container& c) { c.resize(1); }
  void put(const Container& values) {
    put(values.size());
    for (const auto& value : values) put(value);
  }
  template <class Container>
  requires requires(Container& c) { c.resize(1); }
  void take(Container& values) {
    std::size_t size = 0;
    take(size);
    values.resize(size);
    for (auto& value : values) take(value);
  }

 private:
  std::vector<std::byte> bytes_;
  std::size_t taken_ = 0;
};

/// Every rank's result, on every rank of a communicator of the host.
template <class Result>
std::vector<Result> share(MPI_Comm host, const Result& own) {
  Packed packed;
  packed.put(own);
  int ranks = 0;
  MPI_Comm_size(host, &ranks);
  const int size = static_cast<int>(packed.bytes().size());
  std::vector<int> sizes(static_cast<std::size_t>(ranks));
  MPI_Allgather(&size, 1, MPI_INT, sizes.data(), 1, MPI_INT, host);
  std::vector<int> offsets;
  int total = 0;
  for (const int each : sizes) {
    offsets.push_back(total);
    total += each;
  }
  std::vector<std::byte> all(static_cast<std::size_t>(total));
  MPI_Allgatherv(packed.bytes().data(), size, MPI_BYTE, all.data(), sizes.data(), offsets.data(), MPI_BYTE, host);
  Packed unpacked{std::move(all)};
  std::vector<Result> results(static_cast<std::size_t>(ranks));
  for (Result& result : results) unpacked.take(result);
  return results;
}

/// Some of the processes, as a communicator of the host. The others have MPI_COMM_NULL.
class SomeRanks {
 public:
  explicit SomeRanks(int count) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_split(MPI_COMM_WORLD, rank < count ? 0 : MPI_UNDEFINED, rank, &host_);
  }
  SomeRanks(const SomeRanks&) = delete;
  SomeRanks& operator=(const SomeRanks&) = delete;
  ~SomeRanks() {
    if (host_ != MPI_COMM_NULL) MPI_Comm_free(&host_);
  }

  bool is_one() const { return host_ != MPI_COMM_NULL; }
  MPI_Comm host() const { return host_; }

 private:
  MPI_Comm host_ = MPI_COMM_NULL;
};

inline int process_count() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

inline int process_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

/// Everything at once.
inline constexpr zerospan::MpiOptions at_large{.timeout = std::chrono::seconds{60}};

/// Many rounds, many messages.
inline constexpr zerospan::MpiOptions in_pieces{
    .timeout = std::chrono::seconds{60}, .scratch = zerospan::Bytes{0}, .largest_message = zerospan::Bytes{4096}};

/// A world of the first processes, for the suite of all communicators.
struct MpiWorld {
  /// On every process, whether it is a rank of this world or not.
  template <class F>
  auto run(F f) const {
    using Result = std::invoke_result_t<F&, zerospan::MpiCommunicator>;
    const SomeRanks ranks{size};
    Result own{};
    if (ranks.is_one()) own = f(zerospan::MpiCommunicator{ranks.host(), options});
    std::vector<Result> results = share(MPI_COMM_WORLD, own);
    results.resize(static_cast<std::size_t>(size));
    return results;
  }

  int size;
  zerospan::MpiOptions options = at_large;
};

}  // namespace zerospan_test
