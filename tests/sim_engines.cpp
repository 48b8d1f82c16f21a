/// The definitions of what support/sim_engines.hpp declares.
#include "support/sim_engines.hpp"

namespace zerospan::inline v0 {

template std::shared_ptr<detail::Engine> detail::make_engine<sim::Device>(
    AnyCommunicator, sim::Device&, const Placement&,
    std::shared_ptr<const detail::OptimizerInterface<detail::StreamOf<sim::Device>>>, const EngineOptions&, StageRules);
template std::shared_ptr<detail::Engine> detail::make_engine<sim::HostDevice>(
    AnyCommunicator, sim::HostDevice&, const Placement&,
    std::shared_ptr<const detail::OptimizerInterface<detail::StreamOf<sim::HostDevice>>>, const EngineOptions&,
    StageRules);

}  // namespace zerospan::inline v0
