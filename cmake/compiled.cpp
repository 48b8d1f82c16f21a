// The library zerospan::compiled: what is large and always the same, compiled once instead of by each source that makes
// an engine.
#include <memory>

#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/zerospan.hpp>

namespace zerospan::inline v0 {

template std::shared_ptr<detail::Engine> detail::make_engine<HostDevice>(
    AnyCommunicator, HostDevice&, const Placement&, std::shared_ptr<const detail::OptimizerInterface<StreamRef>>,
    const EngineOptions&, StageRules);

}  // namespace zerospan::inline v0
