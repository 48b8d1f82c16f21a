/// The definitions of what support/engines.hpp declares.
#include "support/engines.hpp"

namespace zerospan::inline v0 {

template std::shared_ptr<detail::Engine> detail::make_engine<HostDevice>(
    AnyCommunicator, HostDevice&, const Placement&, std::shared_ptr<const detail::OptimizerInterface<StreamRef>>,
    const EngineOptions&, StageRules);
template class NvmeTier<ThreadedIoEngine>;

}  // namespace zerospan::inline v0
