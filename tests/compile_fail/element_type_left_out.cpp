// Expected: pass an ElementType after the Shape
#include "setting.hpp"

namespace my {
struct Matrix {
  void* data;
};
}  // namespace my

template <>
struct zerospan::TensorTraits<my::Matrix> {
  static my::Matrix unbound(const Shape&, ElementType) { return {}; }
  static void bind(my::Matrix& matrix, std::byte* data) { matrix.data = data; }
  static std::byte* data(const my::Matrix& matrix) { return static_cast<std::byte*>(matrix.data); }
};

void declare(Engine& engine) {
#if defined(FIXED)
  const zerospan::PartitionedParameter<my::Matrix> weight{
      engine, "weight", {10, 10}, zerospan::ElementType::bfloat16, zerospan::init::ones()};
#else
  const zerospan::PartitionedParameter<my::Matrix> weight{engine, "weight", {10, 10}, zerospan::init::ones()};
#endif
}
