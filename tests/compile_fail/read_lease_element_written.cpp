// Expected: read-only location|returns a const value
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
  static my::ConstMatrix constant(const my::Matrix& matrix) { return {matrix.data}; }
};

void change(const zerospan::PartitionedParameter<my::Matrix>& weight) {
#if defined(FIXED)
  auto full = weight.write(zerospan::calling_thread);
#else
  auto full = weight.gather(zerospan::calling_thread);
#endif
  full->data[0] = 1;
}
