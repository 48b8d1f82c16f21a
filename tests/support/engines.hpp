/// @file
/// What most tests have is compiled once, in engines.cpp, and the engine of the host's memory in zerospan::compiled,
/// not again by each test. A test that has an engine of a device of its own includes
/// zerospan/engine/detail/make_engine.hpp.
#pragma once

#include <zerospan/zerospan.hpp>

namespace zerospan::inline v0 {

extern template class BasicThreadCommunicator<detail::HostExecution>;
extern template class NvmeTier<ThreadedIoEngine>;
extern template class ZeroEngine<Stage3, SelfCommunicator, HostDevice, AdamW>;
extern template class ZeroEngine<Stage3, ThreadCommunicator, HostDevice, AdamW>;

}  // namespace zerospan::inline v0
