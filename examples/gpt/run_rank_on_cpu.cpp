/// @file
/// The engines that compute on the CPU.
#include "cpu_platform.hpp"
#include "run.hpp"
#include "train_on_cpu.hpp"

namespace gpt {

Result CpuPlatform::train(Engine& engine, const Job& job) {
  switch (job.options.precision) {
    case Precision::bf16:
      return train_bf16(engine, ranks_, job, has_narrow_products_);
    case Precision::fp16:
      return train_fp16(engine, ranks_, job);
    default:
      return train_fp32(engine, ranks_, job);
  }
}

Result run_rank_on_cpu(CpuPlatform& platform, const Job& job) { return run_rank(platform, job); }

}  // namespace gpt
