/// @file
/// The concept NcclLayer: the calls of NCCL that a communicator makes.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/stream_runtime.hpp>

namespace zerospan::inline v0::detail {

/// `ncclResult_t`, by its values.
enum class NcclResult : int {
  success = 0,
  unhandled_cuda_error = 1,
  system_error = 2,
  internal_error = 3,
  invalid_argument = 4,
  invalid_usage = 5,
  remote_error = 6,
  in_progress = 7
};

inline bool is_good(NcclResult result) noexcept {
  return result == NcclResult::success || result == NcclResult::in_progress;
}

/// One call of NCCL each, with nothing around it: what it promises is what the vendor's manual says. Copies are alike.
/// What `NcclApi` is for the library, a test's fake is for itself.
///
/// @concept
/// 1. `Communicator` is a non-blocking `ncclComm_t`, null at first; `UniqueId` an `ncclUniqueId`;
/// 2. calls return a NcclResult; those that start something may return `in_progress`, and `state_of` tells when it
///    ends; `splits` and `registers` say whether the version of NCCL has those calls; `split(parent, color, rank,
///    child)` has as its key the rank in the child;
/// 3. collectives are enqueued on the stream that they are given;
/// 4. `runtime()` is that of the device that was the thread's current one when the layer was made, and `device()` its
///    number; an object `CurrentDevice{device}` makes it the calling thread's current one for a while;
/// 5. the runtime's memory is given back when nothing on the device uses it any more: to free it waits for that.
template <class A>
concept NcclLayer = std::copyable<A> && StreamRuntime<typename A::Runtime> &&
    std::constructible_from<typename A::CurrentDevice, int> && std::is_trivially_copyable_v<typename A::UniqueId> &&
    requires(A& api, typename A::UniqueId& id, typename A::Communicator& communicator, int& n, Rank rank,
             StreamRef stream, std::byte* bytes, const std::byte* source, std::size_t count, void*& handle,
             NcclResult& result, const Reduction& reduction, std::int64_t* integers) {
  { A::splits } -> std::convertible_to<bool>;
  { A::registers } -> std::convertible_to<bool>;
  { api.make_unique_id(id) } -> std::same_as<NcclResult>;
  { api.create(communicator, n, id, rank) } -> std::same_as<NcclResult>;
  { api.split(communicator, n, rank, communicator) } -> std::same_as<NcclResult>;
  { api.place(communicator, rank, n) } -> std::same_as<NcclResult>;
  { api.state_of(communicator, result) } -> std::same_as<NcclResult>;
  { api.finalize(communicator) } -> std::same_as<NcclResult>;
  { api.destroy(communicator) } -> std::same_as<NcclResult>;
  { api.abort(communicator) } -> std::same_as<NcclResult>;
  { api.register_memory(communicator, bytes, count, handle) } -> std::same_as<NcclResult>;
  { api.deregister_memory(communicator, handle) } -> std::same_as<NcclResult>;
  { api.describe(result, communicator) } -> std::same_as<std::string>;

  { api.begin_group() } -> std::same_as<NcclResult>;
  { api.end_group() } -> std::same_as<NcclResult>;
  { api.all_gather(communicator, bytes, count, rank, stream) } -> std::same_as<NcclResult>;
  { api.reduce_scatter(communicator, reduction, stream) } -> std::same_as<NcclResult>;
  { api.reduce(communicator, reduction, rank, stream) } -> std::same_as<NcclResult>;
  { api.all_reduce(communicator, reduction, stream) } -> std::same_as<NcclResult>;
  { api.all_reduce(communicator, integers, count, stream) } -> std::same_as<NcclResult>;
  { api.broadcast(communicator, bytes, count, rank, stream) } -> std::same_as<NcclResult>;
  { api.send(communicator, source, count, rank, stream) } -> std::same_as<NcclResult>;
  { api.receive(communicator, bytes, count, rank, stream) } -> std::same_as<NcclResult>;

  { api.runtime() } -> std::same_as<typename A::Runtime&>;
  { api.device() } -> std::same_as<int>;
};

}  // namespace zerospan::inline v0::detail
