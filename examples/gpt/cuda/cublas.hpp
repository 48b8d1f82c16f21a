/// @file
/// What the example owns of cuBLASLt, and its errors.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include <cublasLt.h>

#include "../tensor.hpp"

namespace gpt::cuda {

/// @throws std::runtime_error unless `status` is success.
inline void check_cublas(cublasStatus_t status, std::string_view operation) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error{std::string{operation} + ": " + cublasLtGetStatusString(status)};
}

template <auto destroy>
struct Destroy {
  template <class T>
  void operator()(T* handle) const {
    static_cast<void>(destroy(handle));
  }
};

template <class Handle, auto destroy>
using CublasOwner = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<destroy>>;

using BlasHandle = CublasOwner<cublasLtHandle_t, cublasLtDestroy>;
using ProductDescription = CublasOwner<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using MatrixLayout = CublasOwner<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using ProductPreference = CublasOwner<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

inline BlasHandle make_blas_handle() {
  cublasLtHandle_t handle = nullptr;
  check_cublas(cublasLtCreate(&handle), "a handle of cuBLASLt");
  return BlasHandle{handle};
}

template <class E>
inline constexpr cudaDataType_t blas_type = CUDA_R_32F;
template <>
inline constexpr cudaDataType_t blas_type<BFloat16> = CUDA_R_16BF;
template <>
inline constexpr cudaDataType_t blas_type<Float16> = CUDA_R_16F;

}  // namespace gpt::cuda
