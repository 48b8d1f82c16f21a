/// @file
/// Matrix products through CBLAS, in float and in double.
#pragma once

#include <cblas.h>

#include "factor.hpp"
#include "tensor.hpp"

namespace gpt {

namespace blas {

inline CBLAS_TRANSPOSE order_of(Order order) { return order == Order::straight ? CblasNoTrans : CblasTrans; }

inline void gemm(CBLAS_TRANSPOSE order_a, CBLAS_TRANSPOSE order_b, int m, int n, int k, float alpha, const float* a,
                 int stride_a, const float* b, int stride_b, float beta, float* c, int stride_c) {
  cblas_sgemm(CblasRowMajor, order_a, order_b, m, n, k, alpha, a, stride_a, b, stride_b, beta, c, stride_c);
}

inline void gemm(CBLAS_TRANSPOSE order_a, CBLAS_TRANSPOSE order_b, int m, int n, int k, double alpha, const double* a,
                 int stride_a, const double* b, int stride_b, double beta, double* c, int stride_c) {
  cblas_dgemm(CblasRowMajor, order_a, order_b, m, n, k, alpha, a, stride_a, b, stride_b, beta, c, stride_c);
}

}  // namespace blas

/// c = alpha a b + beta c. With `beta` zero, c may be uninitialized.
template <class S>
void multiply(std::type_identity_t<Factor<S>> a, std::type_identity_t<Factor<S>> b, Tensor<S> c,
              std::type_identity_t<S> alpha = 1, std::type_identity_t<S> beta = 0) {
  const std::size_t k = a.order == Order::straight ? a.matrix.columns : a.matrix.rows;
  blas::gemm(blas::order_of(a.order), blas::order_of(b.order), static_cast<int>(c.rows), static_cast<int>(c.columns),
             static_cast<int>(k), alpha, a.matrix.data, static_cast<int>(a.matrix.stride), b.matrix.data,
             static_cast<int>(b.matrix.stride), beta, c.data, static_cast<int>(c.stride));
}

}  // namespace gpt
