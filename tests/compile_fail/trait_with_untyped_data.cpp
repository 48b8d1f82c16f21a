// Expected: or data\(tensor\), which returns element_type\*
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
  static void bind(my::Matrix& matrix, float* data) { matrix.data = data; }
#if defined(FIXED)
  static float* data(const my::Matrix& matrix) { return static_cast<float*>(matrix.data); }
#else
  static void* data(const my::Matrix& matrix) { return matrix.data; }
#endif
};

void declare(Engine& engine) {
  const zerospan::PartitionedParameter<my::Matrix> weight{engine, "weight", {10, 10}, zerospan::init::ones()};
}
