/// @file
/// Products of matrices in bf16, on processors that have instructions for them.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "factor.hpp"
#include "tensor.hpp"

namespace gpt {

/// By oneDNN. Products are summed in fp32; each shape is compiled once. For one thread at a time.
class Bf16Products {
 public:
  /// Empty where the processor has no such instructions, where oneDNN was not there when this was built, or where
  /// ONEDNN_MAX_CPU_ISA forbids them: then there are none. Else what oneDNN calls them.
  static std::string instructions();

  /// @param threads Of a product. @pre There are `instructions`.
  explicit Bf16Products(int threads);
  Bf16Products(Bf16Products&&) noexcept;
  Bf16Products& operator=(Bf16Products&&) noexcept;
  ~Bf16Products();

  /// c = a b, or c += a b.
  void multiply(Factor<BFloat16> a, Factor<BFloat16> b, Tensor<float> c, Assignment assignment);
  /// c = a b, rounded.
  void multiply(Factor<BFloat16> a, Factor<BFloat16> b, Tensor<BFloat16> c);

 private:
  class Shapes;

  std::unique_ptr<Shapes> shapes_;
};

}  // namespace gpt
