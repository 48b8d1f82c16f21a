// Expected: constant\(tensor\) of this TensorTraits takes a const tensor, and returns a movable view
#include "setting.hpp"

namespace my {
struct Matrix {
  float* data;
};
struct ConstMatrix {
  const float* data;
};
}  // namespace my

template <>
struct zerospan::TensorTraits<my::Matrix> {
  using element_type = float;
  static my::Matrix unbound(const Shape&) { return {}; }
  static void bind(my::Matrix& matrix, float* data) { matrix.data = data; }
  static float* data(const my::Matrix& matrix) { return matrix.data; }
#if defined(FIXED)
  static my::ConstMatrix constant(const my::Matrix& matrix) { return {matrix.data}; }
#else
  static my::ConstMatrix constant(my::Matrix& matrix) { return {matrix.data}; }
#endif
};

void declare(Engine& engine) {
  const zerospan::PartitionedParameter<my::Matrix> weight{engine, "weight", {10, 10}, zerospan::init::ones()};
}
