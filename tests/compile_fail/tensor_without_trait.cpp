// Expected: TensorTraits is not specialized for this tensor type
#include "setting.hpp"

namespace my {
struct Matrix {
  float* data;
};
}  // namespace my

#if defined(FIXED)
using Weight = my::Tensor;
#else
using Weight = my::Matrix;
#endif

void declare(Engine& engine) {
  const zerospan::PartitionedParameter<Weight> weight{engine, "weight", {10, 10}, zerospan::init::ones()};
}
