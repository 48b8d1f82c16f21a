/// @file
/// The engine of the host's memory is compiled once, in engines.cpp, and not again by each test.
#pragma once

#include <memory>

#include <zerospan/zerospan.hpp>

namespace zerospan::inline v0 {

extern template std::shared_ptr<detail::Engine> detail::make_engine<HostDevice>(
    AnyCommunicator, HostDevice&, const Placement&, std::shared_ptr<const detail::OptimizerInterface<StreamRef>>,
    const EngineOptions&, StageRules);
extern template class NvmeTier<ThreadedIoEngine>;

}  // namespace zerospan::inline v0
