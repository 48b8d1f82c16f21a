/// @file
/// CufileDriver: a use of cuFile's driver.
#pragma once

#include <cufile.h>

#include <zerospan/core/config.hpp>
#include <zerospan/io/cufile_error.hpp>

namespace zerospan::inline v0 {

/// The driver is open while there is one of these. cuFile counts its uses in the process.
class CufileDriver {
 public:
  /// @throws CufileError if there is no driver, and cuFile is not allowed to do without.
  CufileDriver() {
    const CUfileError_t status = ::cuFileDriverOpen();
    is_ours_ = status.err != CU_FILE_DRIVER_ALREADY_OPEN;
    if (is_ours_) check_cufile(status, "the opening of cuFile's driver");
  }
  CufileDriver(const CufileDriver&) = delete;
  CufileDriver& operator=(const CufileDriver&) = delete;
  ~CufileDriver() {
    if (is_ours_) static_cast<void>(::cuFileDriverClose());
  }

  /// Whether disks and GPUs exchange data without the host's memory. Otherwise cuFile copies through it.
  bool is_direct() const {
    CUfileDrvProps_t properties{};
    check_cufile(::cuFileDriverGetProperties(&properties), "asking for the properties of cuFile's driver");
    constexpr unsigned nvme = 1U << CU_FILE_NVME_SUPPORTED;
    constexpr unsigned nvme_peer_to_peer = 1U << CU_FILE_NVME_P2P_SUPPORTED;
    return (properties.nvfs.dstatusflags & (nvme | nvme_peer_to_peer)) != 0;
  }

 private:
  bool is_ours_;
};

}  // namespace zerospan::inline v0
