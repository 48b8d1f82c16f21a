// The library zerospan::compiled_sim: the engines of devices in virtual time, compiled once instead of by each source
// that simulates or plans.
#include <memory>

#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/sim/detail/make_engine.hpp>

namespace zerospan::inline v0 {

template std::shared_ptr<detail::Engine> detail::make_engine<sim::Device>(
    AnyCommunicator, sim::Device&, const Placement&,
    std::shared_ptr<const detail::OptimizerInterface<detail::StreamOf<sim::Device>>>, const EngineOptions&, StageRules);
template std::shared_ptr<detail::Engine> detail::make_engine<sim::HostDevice>(
    AnyCommunicator, sim::HostDevice&, const Placement&,
    std::shared_ptr<const detail::OptimizerInterface<detail::StreamOf<sim::HostDevice>>>, const EngineOptions&,
    StageRules);

}  // namespace zerospan::inline v0
