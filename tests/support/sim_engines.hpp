/// @file
/// The engines of devices in virtual time, compiled once and optimized a little, in sim_engines.cpp: not again by each
/// test that simulates.
#pragma once

#include <memory>

#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/sim/device.hpp>
#include <zerospan/zerospan.hpp>

namespace zerospan::inline v0 {

extern template std::shared_ptr<detail::Engine> detail::make_engine<sim::Device>(
    AnyCommunicator, sim::Device&, const Placement&,
    std::shared_ptr<const detail::OptimizerInterface<detail::StreamOf<sim::Device>>>, const EngineOptions&, StageRules);
extern template std::shared_ptr<detail::Engine> detail::make_engine<sim::HostDevice>(
    AnyCommunicator, sim::HostDevice&, const Placement&,
    std::shared_ptr<const detail::OptimizerInterface<detail::StreamOf<sim::HostDevice>>>, const EngineOptions&,
    StageRules);

}  // namespace zerospan::inline v0
