/// @file
/// NvtxRange: a name for what a thread does, in NVIDIA's profilers.
#pragma once

#include <string>
#include <utility>

#include <nvtx3/nvToolsExt.h>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// A range of the calling thread, from the object's beginning to its end. Ranges are nested. Costs next to nothing
/// where no profiler is attached.
class NvtxRange {
 public:
  explicit NvtxRange(const std::string& name) : is_open_{true} { ::nvtxRangePushA(name.c_str()); }
  NvtxRange(NvtxRange&& other) noexcept : is_open_{std::exchange(other.is_open_, false)} {}
  NvtxRange& operator=(NvtxRange&&) = delete;
  ~NvtxRange() {
    if (is_open_) ::nvtxRangePop();
  }

 private:
  bool is_open_;
};

}  // namespace zerospan::inline v0::detail
