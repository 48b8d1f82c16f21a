/// @file
/// Matrix products through cuBLASLt: of bfloat16, fp16 or fp32, accumulated in fp32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "cublas.hpp"
#include "memory.hpp"
#include "product.hpp"

namespace gpt::cuda {

/// One stream's. cuBLASLt's algorithm for each shape is chosen once.
class Products {
 public:
  /// What NVIDIA recommends for its latest GPUs.
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

  explicit Products(cudaStream_t stream)
      : stream_{stream}, handle_{make_blas_handle()}, workspace_{allocate_device(workspace_bytes)} {}

  /// @note Enqueued.
  void multiply(const Product& product) {
    const Plan& plan = plan_of(product);
    const float addend_scale = product.addend ? 1.0F : 0.0F;
    const void* const addend = product.addend ? product.addend : product.result.data;
    if (product.bias) set_bias(plan, product.bias);
    check_cublas(cublasLtMatmul(handle_.get(), plan.description.get(), &product.scale, product.b.data, plan.b.get(),
                                product.a.data, plan.a.get(), &addend_scale, addend, plan.addend.get(),
                                const_cast<void*>(product.result.data), plan.result.get(), &plan.algorithm,
                                workspace_.get(), workspace_bytes, stream_),
                 "a matrix product");
  }

 private:
  /// cuBLAS counts rows first: what is row-major here is the transpose there. So result^T = b^T a^T.
  struct Plan {
    ProductDescription description;
    MatrixLayout a, b, addend, result;
    cublasLtMatmulAlgo_t algorithm;
  };

  const Plan& plan_of(const Product& product) {
    const auto [place, is_new] = plans_.try_emplace(key_of(product));
    if (is_new) {
      try {
        place->second = make_plan(product);
      } catch (...) {
        plans_.erase(place);
        throw;
      }
    }
    return place->second;
  }

  Plan make_plan(const Product& p) {
    Plan plan{make_description(p),
              make_layout(p.a, p.batch),
              make_layout(p.b, p.batch),
              make_layout(p.result, p.batch),
              make_layout(p.result, p.batch),
              {}};
    if (p.addend) {
      const auto stride = static_cast<std::int64_t>(p.addend_stride);
      check_cublas(
          cublasLtMatrixLayoutSetAttribute(plan.addend.get(), CUBLASLT_MATRIX_LAYOUT_LD, &stride, sizeof stride),
          "the layout of an addend");
    }
    if (p.bias) {
      constexpr cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      set(plan.description, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
      set_bias(plan, p.bias);
    }
    plan.algorithm = choose(plan, p);
    return plan;
  }

  static ProductDescription make_description(const Product& p) {
    cublasLtMatmulDesc_t handle = nullptr;
    check_cublas(cublasLtMatmulDescCreate(&handle, CUBLAS_COMPUTE_32F, CUDA_R_32F), "the description of a product");
    ProductDescription description{handle};
    set(description, CUBLASLT_MATMUL_DESC_TRANSA, operation(p.order_b));
    set(description, CUBLASLT_MATMUL_DESC_TRANSB, operation(p.order_a));
    return description;
  }

  static cublasOperation_t operation(Order order) { return order == Order::straight ? CUBLAS_OP_N : CUBLAS_OP_T; }

  template <class Value>
  static void set(const ProductDescription& description, cublasLtMatmulDescAttributes_t attribute, Value value) {
    check_cublas(cublasLtMatmulDescSetAttribute(description.get(), attribute, &value, sizeof value),
                 "the description of a product");
  }

  static void set_bias(const Plan& plan, const void* bias) {
    set(plan.description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  }

  static MatrixLayout make_layout(const Operand& operand, std::size_t batch) {
    cublasLtMatrixLayout_t handle = nullptr;
    check_cublas(cublasLtMatrixLayoutCreate(&handle, operand.type, operand.columns, operand.rows,
                                            static_cast<std::int64_t>(operand.stride)),
                 "the layout of a matrix");
    MatrixLayout layout{handle};
    const auto set_layout = [&](cublasLtMatrixLayoutAttribute_t attribute, auto value) {
      check_cublas(cublasLtMatrixLayoutSetAttribute(handle, attribute, &value, sizeof value), "the layout of matrices");
    };
    if (batch > 1) {
      set_layout(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(batch));
      set_layout(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, static_cast<std::int64_t>(operand.batch_stride));
    }
    return layout;
  }

  cublasLtMatmulAlgo_t choose(const Plan& plan, const Product& p) const {
    const ProductPreference preference = make_preference(p);
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_.get(), plan.description.get(), plan.b.get(), plan.a.get(),
                                       plan.addend.get(), plan.result.get(), preference.get(), 1, &found, &count);
    if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
      throw std::runtime_error{"cuBLASLt has no algorithm for a product of [" + std::to_string(p.result.rows) + " x " +
                               std::to_string(p.result.columns) + "]: " + cublasLtGetStatusString(status)};
    }
    return found.algo;
  }

  static ProductPreference make_preference(const Product& p) {
    cublasLtMatmulPreference_t handle = nullptr;
    check_cublas(cublasLtMatmulPreferenceCreate(&handle), "a preference of cuBLASLt");
    ProductPreference preference{handle};
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check_cublas(cublasLtMatmulPreferenceSetAttribute(handle, attribute, &value, sizeof value),
                   "a preference of cuBLASLt");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{workspace_bytes});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.addend ? p.addend : p.result.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.result.data));
    return preference;
  }

  cudaStream_t stream_;
  BlasHandle handle_;
  std::shared_ptr<std::byte> workspace_;
  std::map<ProductKey, Plan> plans_;
};

}  // namespace gpt::cuda
