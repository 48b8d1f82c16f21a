/// Messages of more bytes than an int counts.

#include <doctest/doctest.h>

#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>

#include "support/mpi_world.hpp"

namespace {

using zerospan::calling_thread;
using zerospan::ElementType;
using zerospan::MpiCommunicator;

constexpr zerospan::MpiOptions patient{.timeout = std::chrono::minutes{5}};
constexpr std::size_t more_than_an_int = (std::size_t{1} << 31) + 4096;

/// Different in every word.
std::uint64_t word(int rank, std::size_t i) {
  return (i + 1) * 0x9e3779b97f4a7c15U + static_cast<std::uint64_t>(rank) * 0x94d049bb133111ebU;
}

}  // namespace

TEST_CASE("shards of more than 2^31 bytes are gathered" * doctest::skip()) {
  MpiCommunicator communicator{MPI_COMM_WORLD, patient};
  constexpr std::size_t words = more_than_an_int / sizeof(std::uint64_t);
  std::vector<std::uint64_t> buffer(2 * words);
  const auto me = static_cast<std::size_t>(communicator.rank().value);
  for (std::size_t i = 0; i < words; ++i) buffer[me * words + i] = word(communicator.rank().value, i);
  const zerospan::GatherPart part{std::as_writable_bytes(std::span{buffer}).data(), more_than_an_int};
  communicator.all_gather({calling_thread, "large"}, std::span{&part, 1});
  std::size_t wrong = 0;
  for (int rank = 0; rank < 2; ++rank) {
    for (std::size_t i = 0; i < words; ++i) {
      wrong += buffer[static_cast<std::size_t>(rank) * words + i] != word(rank, i) ? 1U : 0U;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("more than 2^31 bytes a rank are summed, in place" * doctest::skip()) {
  MpiCommunicator communicator{MPI_COMM_WORLD, patient};
  constexpr std::size_t elements = more_than_an_int / sizeof(float);
  std::vector<float> numbers(elements);
  const auto number = [](int rank, std::size_t i) { return static_cast<float>(word(rank, i) >> 40) * 0x1p-12F; };
  for (std::size_t i = 0; i < elements; ++i) numbers[i] = number(communicator.rank().value, i);
  std::byte* const bytes = std::as_writable_bytes(std::span{numbers}).data();
  communicator.all_reduce({calling_thread, "large"},
                          {ElementType::float32, bytes, ElementType::float32, bytes, elements});
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < elements; ++i) wrong += numbers[i] != number(0, i) + number(1, i) ? 1U : 0U;
  CHECK(wrong == 0);
}
