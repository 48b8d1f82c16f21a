#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include "support/collective_exercise.hpp"
#include "support/cuda_place.hpp"

#include <zerospan/comm/nccl_communicator.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_exchange.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/device/cuda_error.hpp>
#include <zerospan/kernels/convert.hpp>

namespace {

using exercise::Buffer;
using exercise::Outcome;
using zerospan::check_cuda;
using zerospan::NcclCommunicator;
using zerospan::NcclOptions;
using zerospan::NcclReductions;
using zerospan::Rank;
using zerospan::ThreadCommunicator;
using zerospan::ThreadExchange;
using zerospan_test::CudaPlace;

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

/// Runs one rank a GPU.
template <class F>
auto run(const NcclOptions& options, F f) {
  return zerospan::run_ranks(device_count(), [&](ThreadCommunicator threads) {
    CudaPlace place{threads.rank().value};
    NcclCommunicator communicator{ThreadExchange{std::move(threads)}, options};
    return f(communicator, place);
  });
}

std::vector<Outcome> expected(std::uint32_t octaves) {
  return zerospan::run_ranks(device_count(), [&](ThreadCommunicator communicator) {
    exercise::HostPlace place;
    return exercise::Exercise<ThreadCommunicator, exercise::HostPlace>{communicator, place, octaves}.run();
  });
}

std::vector<Outcome> outcomes_of(const NcclOptions& options, std::uint32_t octaves) {
  return run(options, [&](NcclCommunicator& communicator, CudaPlace& place) {
    return exercise::Exercise<NcclCommunicator, CudaPlace>{communicator, place, octaves}.run();
  });
}

bool are_close(const Buffer& a, const Buffer& b, zerospan::ElementType type) {
  if (a == b) return true;
  std::vector<float> x(a.size() / element_bytes(type));
  std::vector<float> y(x.size());
  zerospan::to_float(type, a.data(), x.data(), x.size());
  zerospan::to_float(type, b.data(), y.data(), y.size());
  const float tolerance = type == zerospan::ElementType::float32 ? 1e-4F : 0.25F;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (!(std::abs(x[i] - y[i]) <= tolerance)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("sums in rank order have the bits of the CPU, in one chunk and in many") {
  const auto bits = expected(24);
  for (const std::size_t scratch : {std::size_t{32} << 20, std::size_t{8} << 10}) {
    CAPTURE(scratch);
    const auto outcomes = outcomes_of({.scratch = zerospan::Bytes{scratch}}, 24);
    for (std::size_t rank = 0; rank < bits.size(); ++rank) {
      CHECK(outcomes[rank].results == bits[rank].results);
      CHECK(outcomes[rank].integers == bits[rank].integers);
    }
  }
}

TEST_CASE("NCCL's own sums come close to those of the CPU") {
  const auto bits = expected(2);
  const auto outcomes = outcomes_of({.reductions = NcclReductions::nccl}, 2);
  for (std::size_t rank = 0; rank < bits.size(); ++rank) {
    CHECK(outcomes[rank].integers == bits[rank].integers);
    for (std::size_t i = 0; i < bits[rank].results.size(); ++i) {
      CHECK(are_close(outcomes[rank].results[i], bits[rank].results[i], bits[rank].types[i]));
    }
  }
}

TEST_CASE("duplicates are independent, and register memory") {
  run({}, [](NcclCommunicator& communicator, CudaPlace& place) {
    auto memory = place.memory(Buffer(1 << 20));
    communicator.register_memory(memory.data(), zerospan::Bytes{memory.size()});
    NcclCommunicator twin = communicator.duplicate();
    twin.barrier({place.stream(), "twin"});
    communicator.barrier({place.stream(), "first"});
    CHECK_NOTHROW(twin.verify());
    CHECK_NOTHROW(communicator.verify());
  });
}

TEST_CASE("slices go to their ranks") {
  run({}, [](NcclCommunicator& communicator, CudaPlace& place) {
    constexpr std::size_t slice = 5000;
    const int me = communicator.rank().value;
    Buffer sent;
    Buffer expected;
    for (int peer = 0; peer < communicator.size(); ++peer) {
      sent.insert(sent.end(), slice, static_cast<std::byte>(16 * me + peer));
      expected.insert(expected.end(), slice, static_cast<std::byte>(16 * peer + me));
    }
    auto input = place.memory(sent);
    auto output = place.memory(Buffer(sent.size()));
    communicator.all_to_all({place.stream(), "slices"}, {input.data(), output.data(), slice});
    CHECK(place.read(output) == expected);
  });
}

TEST_CASE("ranks are split into pairs, which have every collective") {
  const auto outcomes = run({}, [](NcclCommunicator& communicator, CudaPlace& place) {
    NcclCommunicator pair = communicator.split({communicator.rank().value / 2, communicator.rank().value});
    const auto outcome = exercise::Exercise<NcclCommunicator, CudaPlace>{pair, place}.run();
    communicator.barrier({place.stream(), "all pairs"});
    return std::pair{pair.size(), outcome};
  });
  for (std::size_t rank = 0; rank < outcomes.size(); ++rank) {
    const auto& [size, outcome] = outcomes[rank];
    const auto expected = zerospan::run_ranks(size, [](ThreadCommunicator communicator) {
      exercise::HostPlace place;
      return exercise::Exercise<ThreadCommunicator, exercise::HostPlace>{communicator, place}.run();
    });
    CHECK(outcome.results == expected[rank % 2].results);
    CHECK(outcome.integers == expected[rank % 2].integers);
  }
}

TEST_CASE("a communicator of the host's is duplicated") {
  std::vector<ncclComm_t> hosts(static_cast<std::size_t>(device_count()));
  zerospan::detail::check_nccl(ncclCommInitAll(hosts.data(), device_count(), nullptr), "ncclCommInitAll");
  zerospan::run_ranks(device_count(), [&](ThreadCommunicator threads) {
    CudaPlace place{threads.rank().value};
    const auto rank = static_cast<std::size_t>(threads.rank().value);
    NcclCommunicator communicator = NcclCommunicator::duplicate_of(hosts[rank], ThreadExchange{std::move(threads)});
    std::int64_t one = 1;
    communicator.all_reduce({place.stream(), "ones"}, std::span{&one, 1});
    CHECK(one == device_count());
  });
  for (const ncclComm_t host : hosts) zerospan::detail::check_nccl(ncclCommDestroy(host), "ncclCommDestroy");
}

TEST_CASE("an abort ends what is under way, and fails every rank") {
  run({}, [](NcclCommunicator& communicator, CudaPlace& place) {
    std::promise<std::exception_ptr> told;
    communicator.on_failure([&](std::exception_ptr error) { told.set_value(std::move(error)); });
    if (communicator.rank() == Rank{0}) communicator.abort("enough");
    const std::exception_ptr error = told.get_future().get();
    CHECK_THROWS_AS(std::rethrow_exception(error), zerospan::RankFailedError);
    CHECK_THROWS_AS(communicator.barrier({place.stream(), "late"}), zerospan::RankFailedError);
    place.synchronize();
  });
}

TEST_CASE("a rank that does not arrive is a timeout on every rank") {
  if (device_count() < 2) return;  // alone, nobody can be late
  run({.timeout = std::chrono::seconds{2}}, [](NcclCommunicator& communicator, CudaPlace& place) {
    std::promise<std::exception_ptr> told;
    communicator.barrier({place.stream(), "all are there"});
    communicator.on_failure([&](std::exception_ptr error) { told.set_value(std::move(error)); });
    auto memory = place.memory(Buffer(4096 * static_cast<std::size_t>(communicator.size())));
    const zerospan::GatherPart part{memory.data(), 4096};
    if (communicator.rank() != Rank{1}) communicator.all_gather({place.stream(), "w"}, std::span{&part, 1});
    const std::exception_ptr error = told.get_future().get();
    CHECK_THROWS_AS(std::rethrow_exception(error), zerospan::RankTimeoutError);
    place.synchronize();
  });
}
