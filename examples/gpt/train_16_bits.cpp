/// @file
/// Training on the CPU, of parameters in bf16 and fp16: computed in fp32, but for products of weights in bf16, which may
/// be in bf16.
#include <utility>

#include "cpu_math.hpp"
#include "products.hpp"
#include "train.hpp"
#include "train_on_cpu.hpp"

gpt::Result gpt::train_bf16(Engine& engine, zerospan::AnyCommunicator& ranks, const Job& job,
                            bool has_narrow_products) {
  if (!has_narrow_products) return train(CpuMath<BFloat16>{job.options.model}, engine, ranks, job);
  NarrowProducts products{job.options.threads};
  return train(CpuMath<BFloat16, NarrowProducts>{job.options.model, std::move(products)}, engine, ranks, job);
}

gpt::Result gpt::train_fp16(Engine& engine, zerospan::AnyCommunicator& ranks, const Job& job) {
  return train(CpuMath<Float16>{job.options.model}, engine, ranks, job);
}
