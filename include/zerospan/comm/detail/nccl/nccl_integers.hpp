/// @file
/// IntegerSums: sums over ranks of integers that lie on the host.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <zerospan/comm/detail/nccl/nccl_buffers.hpp>
#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/comm/detail/nccl/nccl_link.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>

namespace zerospan::inline v0::detail {

/// Through a small buffer there and on the device. They are done on return.
template <NcclLayer Api>
class IntegerSums {
 public:
  explicit IntegerSums(Api api)
      : api_{api}, pinned_{api, most * sizeof(std::int64_t)}, device_{api, most * sizeof(std::int64_t)}, done_{api} {}

  void sum(NcclLink<Api>& link, std::span<std::int64_t> integers, StreamRef stream) {
    while (!integers.empty()) {
      const auto chunk = integers.first(std::min(integers.size(), most));
      std::memcpy(pinned_.data(), chunk.data(), chunk.size_bytes());
      api_.copy(stream, device_.data(), pinned_.data(), chunk.size_bytes());
      link.launch("ncclAllReduce", [&](auto& handle) {
        return api_.all_reduce(handle, reinterpret_cast<std::int64_t*>(device_.data()), chunk.size(), stream);
      });
      api_.copy(stream, pinned_.data(), device_.data(), chunk.size_bytes());
      api_.record(done_.get(), stream);
      link.await(done_.get());
      std::memcpy(chunk.data(), pinned_.data(), chunk.size_bytes());
      integers = integers.subspan(chunk.size());
    }
  }

 private:
  static constexpr std::size_t most = 4096;

  Api api_;
  PinnedBuffer<Api> pinned_;
  DeviceBuffer<Api> device_;
  OwnedEvent<Api> done_;
};

}  // namespace zerospan::inline v0::detail
