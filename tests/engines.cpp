/// The definitions of what support/engines.hpp declares.
#include "support/engines.hpp"

namespace zerospan::inline v0 {

template class detail::ZeroStore<Stage0, SelfCommunicator, HostDevice, AdamW>;
template class detail::ZeroStore<Stage1, SelfCommunicator, HostDevice, AdamW>;
template class detail::ZeroStore<Stage2, SelfCommunicator, HostDevice, AdamW>;
template class detail::ZeroStore<Stage3, SelfCommunicator, HostDevice, AdamW>;
template class detail::ZeroStore<Stage0, ThreadCommunicator, HostDevice, AdamW>;
template class detail::ZeroStore<Stage1, ThreadCommunicator, HostDevice, AdamW>;
template class detail::ZeroStore<Stage2, ThreadCommunicator, HostDevice, AdamW>;
template class detail::ZeroStore<Stage3, ThreadCommunicator, HostDevice, AdamW>;

}  // namespace zerospan::inline v0
