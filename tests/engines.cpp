#include "support/engines.hpp"

namespace zerospan {

template std::shared_ptr<detail::Engine> detail::make_engine(
    AnyCommunicator, HostDevice&, const Placement&,
    std::shared_ptr<const detail::OptimizerInterface<detail::StreamOf<HostDevice>>>, const EngineOptions&, StageRules);

}  // namespace zerospan
