// Expected: this TensorTraits lacks unbound\(shape\), bind\(tensor, element_type\*\)
#include "setting.hpp"

namespace my {
struct Matrix {
  void* data;
};
}  // namespace my

template <>
struct zerospan::TensorTraits<my::Matrix> {
  using element_type = float;
  static my::Matrix unbound(const Shape&) { return {}; }
#if defined(FIXED)
  static void bind(my::Matrix& matrix, float* data) { matrix.data = data; }
#endif
  static float* data(const my::Matrix& matrix) { return static_cast<float*>(matrix.data); }
};

void declare(Engine& engine) {
  const zerospan::PartitionedParameter<my::Matrix> weight{engine, "weight", {10, 10}, zerospan::init::ones()};
}
