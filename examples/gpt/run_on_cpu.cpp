/// @file
/// Ranks that are threads, and what computes their matrix products.
#include "run_on_cpu.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <cblas.h>
#include <fmt/format.h>

#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/kernels/cpu.hpp>

#include "blas.hpp"
#include "cpu_platform.hpp"
#include "progress.hpp"

namespace gpt {

namespace {

/// Seconds that the matrix products of all steps take, by trial: a layer's, for a moment, on one rank.
double product_seconds(const Options& o) {
  using Clock = std::chrono::steady_clock;
  const std::size_t rows = o.batch * o.model.context;
  const std::size_t width = o.model.width;
  const std::vector<float> x(rows * width, 1.0F);
  const std::vector<float> weight(4 * width * width, 1.0F);
  std::vector<float> y(rows * 4 * width);
  const auto product = [&] {
    multiply<float>(Tensor<const float>{x.data(), rows, width},
                    transposed(Tensor<const float>{weight.data(), 4 * width, width}),
                    Tensor<float>{y.data(), rows, 4 * width});
  };
  product();  // what happens once only
  const auto begin = Clock::now();
  double tries = 0;
  double seconds = 0;
  for (; seconds < 0.05; ++tries) {
    product();
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  const double tokens_a_second = tries * static_cast<double>(rows) / seconds;
  const double layers = 3 * static_cast<double>(o.model.parameters()) / static_cast<double>(4 * width * width);
  const double busy = static_cast<double>(o.ranks * o.threads);
  const double cores = std::max(std::thread::hardware_concurrency(), 1U);
  const double tokens = static_cast<double>(o.schedule.steps * o.tokens_a_step()) / o.ranks;
  return tokens * layers / tokens_a_second * std::max(busy / cores, 1.0);
}

/// OpenBLAS chooses kernels by the processor; one that it does not know yet gets the oldest ones.
bool kernels_are_too_old(const std::string& kernels) {
  const bool old = kernels == "Prescott" || kernels == "Core2" || kernels == "Nehalem" || kernels == "Generic";
  return old && zerospan::best_instruction_set() == zerospan::InstructionSet::avx2;
}

}  // namespace

std::string CpuPlatform::products(const Options& options) {
  const std::string kernels = ::openblas_get_corename();
  const double seconds = product_seconds(options);
  std::string text = fmt::format("OpenBLAS with its kernels for {}", kernels);
  if (seconds >= 1) text += fmt::format("; those of all steps take {} or more", describe_seconds(seconds));
  if (kernels_are_too_old(kernels)) {
    text +=
        "\n  (it does not know this processor, which has AVX2: the environment's OPENBLAS_CORETYPE=Haswell is faster)";
  }
  return text;
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
