/// @file
/// Ranks that are threads, and what computes their matrix products.
#include "run_on_cpu.hpp"

#include <cstddef>
#include <utility>
#include <vector>

#include <cblas.h>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>

#include "bf16_products.hpp"
#include "cpu_platform.hpp"
#include "fastest_products.hpp"
#include "openblas.hpp"
#include "products.hpp"
#include "trial.hpp"

namespace gpt {

namespace {

/// Operations a second of a layer's product, or of a tile's, by trial for a moment.
double measure_products(const Options& o, bool are_narrow) {
  const std::size_t rows = o.batch * o.model.context;
  const std::size_t width = o.model.width;
  const std::size_t outputs = 4 * ((width + o.model.tiles - 1) / o.model.tiles);
  const std::vector<float> x(rows * width, 1.0F);
  std::vector<float> y(rows * outputs);
  const auto measure = [&](auto products, auto element) {
    const std::vector<decltype(element)> weight(outputs * width, element);
    const double times = times_a_second([&] {
      products.multiply(Tensor<const float>{x.data(), rows, width},
                        transposed(Tensor<const decltype(element)>{weight.data(), outputs, width}),
                        Tensor<float>{y.data(), rows, outputs}, Assignment::replace);
    });
    return times * 2 * static_cast<double>(rows * width * outputs);
  };
  return are_narrow ? measure(NarrowProducts{o.threads}, to_bfloat16(1)) : measure(WideProducts<float>{}, 1.0F);
}

}  // namespace

bool CpuPlatform::multiplies_in_bf16(zerospan::AnyCommunicator& ranks, const Options& options) {
  if (options.precision != Precision::bf16 || options.products == Products::fp32) return false;
  const bool can_here = options.products == Products::bf16 ? !Bf16Products::instructions().empty()
                                                           : narrow_products_are_faster(options.threads);
  return agree_on_narrow_products(ranks, options.products, can_here);
}

MatrixProducts CpuPlatform::products(const Options& options) const {
  openblas::Kernels kernels = openblas::kernels();
  return {.library = "OpenBLAS",
          .kernels = std::move(kernels.core),
          .instructions = has_narrow_products_ ? Bf16Products::instructions() : "",
          .threads = options.threads,
          .flops_per_second = measure_products(options, has_narrow_products_),
          .remark = std::move(kernels.remark)};
}

std::vector<Result> run_on_cpu(const Job& job) {
  ::openblas_set_num_threads(job.options.threads);
  return zerospan::run_ranks(job.options.ranks,
                             [&job](zerospan::ThreadCommunicator communicator) {
                               CpuPlatform platform{std::move(communicator), job};
                               return run_rank_on_cpu(platform, job);
                             },
                             {.timeout = timeout_of(job.options)});
}

}  // namespace gpt
