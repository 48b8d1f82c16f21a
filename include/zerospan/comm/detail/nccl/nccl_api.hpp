/// @file
/// NcclApi: the NcclLayer that is NCCL.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <span>
#include <string>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/comm/nccl_error.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/cuda_error.hpp>
#include <zerospan/device/cuda_runtime.hpp>
#include <zerospan/device/detail/cuda_current_device.hpp>
#include <zerospan/kernels/cuda_rank_order_sum.hpp>

#if NCCL_VERSION_CODE < NCCL_VERSION(2, 14, 0)
#error "zerospan needs NCCL 2.14 or newer: earlier versions have no non-blocking communicators."
#endif

namespace zerospan::inline v0::detail {

/// @param operation The call ("ncclCommInitAll").
/// @throws NcclError unless `result` is `ncclSuccess` or `ncclInProgress`.
inline void check_nccl(ncclResult_t result, const std::string& operation,
                       std::source_location where = std::source_location::current()) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  throw NcclError{operation + ": " + ncclGetErrorString(result) + " (" + std::to_string(static_cast<int>(result)) + ")",
                  static_cast<int>(result), where};
}

/// NCCL from version 2.14 on, on the current device of the thread that makes this.
class NcclApi {
 public:
  using Runtime = CudaRuntime;
  using CurrentDevice = CudaCurrentDevice;
  using Communicator = ncclComm_t;
  using UniqueId = ncclUniqueId;

  static constexpr bool splits = NCCL_VERSION_CODE >= NCCL_VERSION(2, 18, 1);
  static constexpr bool registers = NCCL_VERSION_CODE >= NCCL_VERSION(2, 19, 1);

  NcclResult make_unique_id(UniqueId& id) { return result(ncclGetUniqueId(&id)); }

  NcclResult create(Communicator& communicator, int size, const UniqueId& id, Rank rank) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return result(ncclCommInitRankConfig(&communicator, size, id, rank.value, &config));
  }

  NcclResult split([[maybe_unused]] Communicator parent, [[maybe_unused]] int color, [[maybe_unused]] Rank rank,
                   [[maybe_unused]] Communicator& child) {
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 18, 1)
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return result(ncclCommSplit(parent, color, rank.value, &child, &config));
#else
    return NcclResult::invalid_usage;
#endif
  }

  NcclResult place(Communicator communicator, Rank& rank, int& size) {
    const ncclResult_t counted = ncclCommCount(communicator, &size);
    return result(counted == ncclSuccess ? ncclCommUserRank(communicator, &rank.value) : counted);
  }

  NcclResult state_of(Communicator communicator, NcclResult& state) {
    ncclResult_t found = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(communicator, &found);
    state = result(found);
    return result(asked);
  }

  NcclResult finalize(Communicator communicator) { return result(ncclCommFinalize(communicator)); }
  NcclResult destroy(Communicator communicator) { return result(ncclCommDestroy(communicator)); }
  NcclResult abort(Communicator communicator) { return result(ncclCommAbort(communicator)); }

  NcclResult register_memory([[maybe_unused]] Communicator communicator, [[maybe_unused]] std::byte* data,
                             [[maybe_unused]] std::size_t bytes, [[maybe_unused]] void*& handle) {
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 19, 1)
    return result(ncclCommRegister(communicator, data, bytes, &handle));
#else
    return NcclResult::invalid_usage;
#endif
  }

  NcclResult deregister_memory([[maybe_unused]] Communicator communicator, [[maybe_unused]] void* handle) {
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 19, 1)
    return result(ncclCommDeregister(communicator, handle));
#else
    return NcclResult::invalid_usage;
#endif
  }

  std::string describe(NcclResult code, Communicator communicator) {
    const std::string last = ncclGetLastError(communicator);
    return ncclGetErrorString(static_cast<ncclResult_t>(code)) + (last.empty() ? last : ": " + last);
  }

  NcclResult begin_group() { return result(ncclGroupStart()); }
  NcclResult end_group() { return result(ncclGroupEnd()); }

  /// In place: the shard of `rank` is at `rank * shard_bytes`.
  NcclResult all_gather(Communicator communicator, std::byte* buffer, std::size_t shard_bytes, Rank rank,
                        StreamRef stream) {
    const std::byte* const shard = buffer + static_cast<std::size_t>(rank.value) * shard_bytes;
    return result(ncclAllGather(shard, buffer, shard_bytes, ncclUint8, communicator, native(stream)));
  }

  NcclResult reduce_scatter(Communicator communicator, const Reduction& r, StreamRef stream) {
    return result(
        ncclReduceScatter(r.input, r.output, r.elements, native(r.input_type), ncclSum, communicator, native(stream)));
  }

  NcclResult reduce(Communicator communicator, const Reduction& r, Rank root, StreamRef stream) {
    return result(ncclReduce(r.input, r.output, r.elements, native(r.input_type), ncclSum, root.value, communicator,
                             native(stream)));
  }

  NcclResult all_reduce(Communicator communicator, const Reduction& r, StreamRef stream) {
    return result(
        ncclAllReduce(r.input, r.output, r.elements, native(r.input_type), ncclSum, communicator, native(stream)));
  }

  NcclResult all_reduce(Communicator communicator, std::int64_t* integers, std::size_t count, StreamRef stream) {
    return result(ncclAllReduce(integers, integers, count, ncclInt64, ncclSum, communicator, native(stream)));
  }

  NcclResult broadcast(Communicator communicator, std::byte* data, std::size_t bytes, Rank root, StreamRef stream) {
    return result(ncclBroadcast(data, data, bytes, ncclUint8, root.value, communicator, native(stream)));
  }

  NcclResult send(Communicator communicator, const std::byte* data, std::size_t bytes, Rank to, StreamRef stream) {
    return result(ncclSend(data, bytes, ncclUint8, to.value, communicator, native(stream)));
  }

  NcclResult receive(Communicator communicator, std::byte* data, std::size_t bytes, Rank from, StreamRef stream) {
    return result(ncclRecv(data, bytes, ncclUint8, from.value, communicator, native(stream)));
  }

  CudaRuntime& runtime() noexcept { return runtime_; }
  int device() const noexcept { return runtime_.ordinal(); }

 private:
  static NcclResult result(ncclResult_t code) noexcept { return static_cast<NcclResult>(code); }
  static cudaStream_t native(StreamRef stream) noexcept { return static_cast<cudaStream_t>(stream.native_handle()); }
  static ncclDataType_t native(ElementType type) noexcept {
    switch (type) {
      case ElementType::float32:
        return ncclFloat32;
      case ElementType::bfloat16:
        return ncclBfloat16;
      case ElementType::float16:
        break;
    }
    return ncclFloat16;
  }
  static int current_device() {
    int ordinal = 0;
    check_cuda(cudaGetDevice(&ordinal), "asking for the current device");
    return ordinal;
  }

  CudaRuntime runtime_{current_device()};
};

static_assert(NcclLayer<NcclApi>);
static_assert(static_cast<int>(NcclResult::success) == ncclSuccess &&
              static_cast<int>(NcclResult::unhandled_cuda_error) == ncclUnhandledCudaError &&
              static_cast<int>(NcclResult::system_error) == ncclSystemError &&
              static_cast<int>(NcclResult::internal_error) == ncclInternalError &&
              static_cast<int>(NcclResult::invalid_argument) == ncclInvalidArgument &&
              static_cast<int>(NcclResult::invalid_usage) == ncclInvalidUsage &&
              static_cast<int>(NcclResult::remote_error) == ncclRemoteError &&
              static_cast<int>(NcclResult::in_progress) == ncclInProgress);

}  // namespace zerospan::inline v0::detail
