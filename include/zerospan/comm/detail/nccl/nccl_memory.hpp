/// @file
/// NcclMemory: memory that is registered with a communicator.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/comm/detail/nccl/nccl_link.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// Memory that is registered with NCCL.
struct MemoryRange {
  std::byte* data;
  Bytes bytes;

  friend bool operator==(const MemoryRange&, const MemoryRange&) = default;
};

/// What is registered where NCCL can; elsewhere nothing is.
template <NcclLayer Api>
class NcclMemory {
 public:
  const std::vector<MemoryRange>& ranges() const noexcept { return ranges_; }
  bool has(const MemoryRange& range) const { return std::ranges::find(ranges_, range) != ranges_.end(); }

  /// @throws NcclError; what NcclLink::make throws.
  void add([[maybe_unused]] Api& api, [[maybe_unused]] NcclLink<Api>& link, [[maybe_unused]] const MemoryRange& range) {
    if constexpr (Api::registers) {
      void* handle = nullptr;
      link.make("ncclCommRegister",
                [&](auto& own) { return api.register_memory(own, range.data, range.bytes.count, handle); });
      handles_.push_back(handle);
      ranges_.push_back(range);
    }
  }

  /// Before the communicator ends.
  void give_back(Api& api, typename Api::Communicator communicator) {
    for (void* const handle : handles_) api.deregister_memory(communicator, handle);
  }

 private:
  std::vector<MemoryRange> ranges_;
  std::vector<void*> handles_;
};

}  // namespace zerospan::inline v0::detail
