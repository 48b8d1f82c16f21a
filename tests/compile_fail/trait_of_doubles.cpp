// Expected: the element_type of this TensorTraits is no known format
#include "setting.hpp"

namespace my {
struct Matrix {
  void* data;
};
}  // namespace my

template <>
struct zerospan::TensorTraits<my::Matrix> {
#if defined(FIXED)
  using element_type = float;
#else
  using element_type = double;
#endif
  static my::Matrix unbound(const Shape&) { return {}; }
  static void bind(my::Matrix& matrix, element_type* data) { matrix.data = data; }
  static element_type* data(const my::Matrix& matrix) { return static_cast<element_type*>(matrix.data); }
};

void declare(Engine& engine) {
  const zerospan::PartitionedParameter<my::Matrix> weight{engine, "weight", {10, 10}, zerospan::init::ones()};
}
