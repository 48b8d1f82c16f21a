/// @file
/// The engines that most tests have are compiled once, in engines.cpp, and not again by each test.
#pragma once

#include <zerospan/zerospan.hpp>

namespace zerospan::inline v0 {

extern template class detail::ZeroStore<Stage0, SelfCommunicator, HostDevice, AdamW>;
extern template class detail::ZeroStore<Stage1, SelfCommunicator, HostDevice, AdamW>;
extern template class detail::ZeroStore<Stage2, SelfCommunicator, HostDevice, AdamW>;
extern template class detail::ZeroStore<Stage3, SelfCommunicator, HostDevice, AdamW>;
extern template class detail::ZeroStore<Stage0, ThreadCommunicator, HostDevice, AdamW>;
extern template class detail::ZeroStore<Stage1, ThreadCommunicator, HostDevice, AdamW>;
extern template class detail::ZeroStore<Stage2, ThreadCommunicator, HostDevice, AdamW>;
extern template class detail::ZeroStore<Stage3, ThreadCommunicator, HostDevice, AdamW>;

}  // namespace zerospan::inline v0
