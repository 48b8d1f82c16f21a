#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include <cuda_runtime_api.h>

#include <zerospan/core/error.hpp>
#include <zerospan/device/cuda_error.hpp>
#include <zerospan/io/cufile_engine.hpp>
#include <zerospan/io/cufile_error.hpp>
#include <zerospan/io/io_engine.hpp>

#include "support/io_engine_conformance.hpp"

namespace {

using zerospan::CufileEngine;
using zerospan::detail::cufile_result;

static_assert(cufile_result(4096, EIO) == 4096);
static_assert(cufile_result(-1, ENOSPC) == -ENOSPC);
static_assert(cufile_result(-1, 0) == -EIO);
static_assert(cufile_result(-CU_FILE_INVALID_VALUE, 0) == -EINVAL);
static_assert(cufile_result(-CU_FILE_CUDA_MEMORY_TYPE_INVALID, 0) == -EFAULT);
static_assert(cufile_result(-CU_FILE_INTERNAL_ERROR, 0) == -EIO);

/// Ends the program where cuFile does not begin: the test is skipped.
CufileEngine make_engine() {
  if (!CufileEngine::available()) {
    std::puts("skipped, for cuFile's driver does not open");
    std::exit(77);
  }
  return CufileEngine{{.threads = 4}};
}

struct CufileRig {
  CufileEngine engine = make_engine();
};

}  // namespace

ZEROSPAN_TEST_IO_ENGINES(CufileRig);

namespace {

using zerospan::IoDirection;
using zerospan::IoRequest;
using zerospan_test::outcome_of;
using zerospan_test::Slots;

std::shared_ptr<std::byte> device_memory(std::size_t bytes) {
  void* memory = nullptr;
  zerospan::check_cuda(cudaMalloc(&memory, bytes), "device memory");
  return {static_cast<std::byte*>(memory), [](std::byte* data) { cudaFree(data); }};
}

TEST_CASE("bytes go from host memory through a file and device memory, and back") {
  CufileEngine engine = make_engine();
  MESSAGE("direct: ", engine.is_direct());
  const Slots slots{2};
  slots.buffer.fill(7);
  const auto memory = device_memory(Slots::bytes);
  constexpr std::int64_t whole = Slots::bytes;
  CHECK(outcome_of(engine, slots.request(IoDirection::write, 0)) == whole);
  const int file = slots.file.descriptor();
  CHECK(outcome_of(engine, IoRequest{IoDirection::read, file, 0, memory.get(), Slots::bytes}) == whole);
  CHECK(outcome_of(engine, IoRequest{IoDirection::write, file, Slots::bytes, memory.get(), Slots::bytes}) == whole);
  const zerospan_test::AlignedBuffer read{Slots::bytes};
  CHECK(outcome_of(engine, IoRequest{IoDirection::read, file, Slots::bytes, read.data(), Slots::bytes}) == whole);
  const zerospan_test::AlignedBuffer written{Slots::bytes};
  std::copy_n(slots.buffer.data(), Slots::bytes, written.data());
  CHECK((read == written));
}

TEST_CASE("an engine outlives its files, and knows another one by the same descriptor") {
  CufileEngine engine = make_engine();
  for (int i = 0; i < 4; ++i) {
    const Slots slots{1};
    CHECK(outcome_of(engine, slots.request(IoDirection::write, 0)) == static_cast<std::int64_t>(Slots::bytes));
  }
}

TEST_CASE("a GPU that there is not is a typed error") {
  CHECK_THROWS_AS((CufileEngine{{.ordinal = 1000}}), zerospan::CudaError);
}

}  // namespace
