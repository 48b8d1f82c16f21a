/// @file
/// NcclCommunicator: ranks that are GPUs, by NCCL.
#pragma once

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/nccl/basic_nccl_communicator.hpp>
#include <zerospan/comm/detail/nccl/nccl_api.hpp>
#include <zerospan/core/config.hpp>

namespace zerospan::inline v0 {

/// See BasicNcclCommunicator. Needs NCCL 2.14; duplicates and splits by `ncclCommSplit` from 2.18 on, and registers
/// memory from 2.19 on.
using NcclCommunicator = detail::BasicNcclCommunicator<detail::NcclApi>;

static_assert(TrainingCommunicator<NcclCommunicator> && ReportsFailures<NcclCommunicator> &&
              RegistersMemory<NcclCommunicator> && VerifiesCalls<NcclCommunicator> &&
              ExchangesSlices<NcclCommunicator> && Splits<NcclCommunicator>);

}  // namespace zerospan::inline v0
