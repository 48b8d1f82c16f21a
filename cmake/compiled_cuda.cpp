// Of the library zerospan::compiled_cuda what needs no nvcc: the engine of GPUs.
#include <memory>

#include <zerospan/cuda.hpp>
#include <zerospan/engine/detail/make_engine.hpp>

namespace zerospan::inline v0 {

template std::shared_ptr<detail::Engine> detail::make_engine<CudaDevice>(
    AnyCommunicator, CudaDevice&, const Placement&, std::shared_ptr<const detail::OptimizerInterface<CudaStream>>,
    const EngineOptions&, StageRules);

}  // namespace zerospan::inline v0
