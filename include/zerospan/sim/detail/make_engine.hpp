/// @file
/// The engines of devices in virtual time: what whoever makes one includes.
#pragma once

#if defined(ZEROSPAN_COMPILED_SIM)  // by the target zerospan::compiled_sim, which has them

#include <memory>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/engine/detail/engine.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/engine/placement.hpp>
#include <zerospan/sim/device.hpp>

namespace zerospan::inline v0 {

extern template std::shared_ptr<detail::Engine> detail::make_engine<sim::Device>(
    AnyCommunicator, sim::Device&, const Placement&,
    std::shared_ptr<const detail::OptimizerInterface<detail::StreamOf<sim::Device>>>, const EngineOptions&, StageRules);
extern template std::shared_ptr<detail::Engine> detail::make_engine<sim::HostDevice>(
    AnyCommunicator, sim::HostDevice&, const Placement&,
    std::shared_ptr<const detail::OptimizerInterface<detail::StreamOf<sim::HostDevice>>>, const EngineOptions&,
    StageRules);

}  // namespace zerospan::inline v0

#else

#include <zerospan/engine/detail/make_engine.hpp>

#endif
