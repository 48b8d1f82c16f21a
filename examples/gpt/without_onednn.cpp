/// @file
/// Without oneDNN there are no products in bf16.
#include <stdexcept>

#include "bf16_products.hpp"

namespace gpt {

class Bf16Products::Shapes {};

std::string Bf16Products::instructions() { return ""; }

Bf16Products::Bf16Products(int) { throw std::logic_error{"there are no products in bf16"}; }
Bf16Products::Bf16Products(Bf16Products&&) noexcept = default;
Bf16Products& Bf16Products::operator=(Bf16Products&&) noexcept = default;
Bf16Products::~Bf16Products() = default;

void Bf16Products::multiply(Factor<BFloat16>, Factor<BFloat16>, Tensor<float>, Assignment) {}
void Bf16Products::multiply(Factor<BFloat16>, Factor<BFloat16>, Tensor<BFloat16>) {}

}  // namespace gpt
