// The library zerospan::compiled: what is large and always the same, compiled once instead of by each source that uses it:
// the engine of the host's device, its disk tier and its ranks that are threads.
#include <memory>

#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/zerospan.hpp>

namespace zerospan::inline v0 {

template class BasicThreadedIoEngine<PosixTransfers>;
template class detail::NvmeTransfer<ThreadedIoEngine>;
template class NvmeTier<ThreadedIoEngine>;
template class BasicThreadCommunicator<detail::HostExecution>;

template std::shared_ptr<detail::Engine> detail::make_engine<HostDevice>(
    AnyCommunicator, HostDevice&, const Placement&, std::shared_ptr<const detail::OptimizerInterface<StreamRef>>,
    const EngineOptions&, StageRules);

}  // namespace zerospan::inline v0
