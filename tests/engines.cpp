/// The definitions of what support/engines.hpp declares.
#include "support/engines.hpp"

#include <memory>

#include <zerospan/engine/detail/make_engine.hpp>

namespace zerospan::inline v0 {

template std::shared_ptr<detail::Engine> detail::make_engine<HostDevice>(
    AnyCommunicator, HostDevice&, const Placement&, std::shared_ptr<const detail::OptimizerInterface<StreamRef>>,
    const EngineOptions&, StageRules);
template class BasicThreadCommunicator<detail::HostExecution>;
template class NvmeTier<ThreadedIoEngine>;
template class ZeroEngine<Stage3, SelfCommunicator, HostDevice, AdamW>;
template class ZeroEngine<Stage3, ThreadCommunicator, HostDevice, AdamW>;

}  // namespace zerospan::inline v0
