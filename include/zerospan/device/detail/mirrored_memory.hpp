/// @file
/// MirroredMemory: a little memory that the device writes and the host reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/arena.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/kernels/stream_operations.hpp>

namespace zerospan::inline v0::detail {

/// As many bytes of device memory as of host memory, from the device's arenas; where the device is unified, the same
/// bytes, outside of its arenas. Aligned for 64-bit integers.
template <Device D>
class MirroredMemory {
 public:
  using lanes_type = typename D::lanes_type;

  /// @param what Names it in errors. @throws BudgetError if it does not fit.
  MirroredMemory(D& device, Bytes bytes, std::string_view what) : bytes_{bytes.count} {
    if constexpr (lanes_type::is_unified) {
      shared_.resize((bytes.count + sizeof(std::int64_t) - 1) / sizeof(std::int64_t));
    } else {
      on_device_ = device.memory().allocate(bytes, what);
      on_host_ = device.host_memory().allocate(bytes, what);
    }
  }

  std::size_t bytes() const noexcept { return bytes_; }

  std::byte* on_device() noexcept {
    if constexpr (lanes_type::is_unified) return reinterpret_cast<std::byte*>(shared_.data());
    return on_device_.data();
  }

  std::byte* on_host() noexcept {
    if constexpr (lanes_type::is_unified) return reinterpret_cast<std::byte*>(shared_.data());
    return on_host_.data();
  }

  /// Posts the copy of the first `bytes` from the device to the host.
  /// @return Its end; where the device is unified there is none, and `after` are returned.
  std::vector<Completion> bring_to_host(lanes_type& lanes, std::string_view name, std::size_t bytes,
                                        std::vector<Completion> after) {
    if constexpr (lanes_type::is_unified) return after;
    return {lanes.post(Lane::copy, std::move(after), {OperationKind::copy, name, bytes},
                       [to = on_host(), from = on_device(), bytes](auto& stream) -> Completion {
                         copy_bytes(stream, to, from, bytes);
                         return {};
                       })};
  }

 private:
  std::size_t bytes_;
  std::vector<std::int64_t> shared_;
  Allocation on_device_;
  Allocation on_host_;
};

}  // namespace zerospan::inline v0::detail
