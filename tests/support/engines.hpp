// The engine of the host's device, compiled once for all tests: in engines.cpp.
#pragma once

#include <zerospan/zerospan.hpp>

namespace zerospan {

extern template std::shared_ptr<detail::Engine> detail::make_engine(
    AnyCommunicator, HostDevice&, const Placement&,
    std::shared_ptr<const detail::OptimizerInterface<detail::StreamOf<HostDevice>>>, const EngineOptions&, StageRules);

}  // namespace zerospan
