/// The definitions of what support/engines.hpp declares.
#include "support/engines.hpp"

namespace zerospan::inline v0 {

template class BasicThreadCommunicator<detail::HostExecution>;
template class NvmeTier<ThreadedIoEngine>;
template class ZeroEngine<Stage3, SelfCommunicator, HostDevice, AdamW>;
template class ZeroEngine<Stage3, ThreadCommunicator, HostDevice, AdamW>;

}  // namespace zerospan::inline v0
