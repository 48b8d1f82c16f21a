/// @file
/// Training on the CPU, of parameters in bf16 and fp16, which are computed with in fp32, but for products in bf16 where
/// the processor has them.
#include <utility>

#include "bf16_products.hpp"
#include "cpu_math.hpp"
#include "products.hpp"
#include "train.hpp"
#include "train_on_cpu.hpp"

gpt::Result gpt::train_bf16(Engine& engine, zerospan::AnyCommunicator& ranks, const Job& job) {
  if (Bf16Products::instructions().empty()) return train(CpuMath<BFloat16>{job.options.model}, engine, ranks, job);
  NarrowProducts products{job.options.threads};
  return train(CpuMath<BFloat16, NarrowProducts>{job.options.model, std::move(products)}, engine, ranks, job);
}

gpt::Result gpt::train_fp16(Engine& engine, zerospan::AnyCommunicator& ranks, const Job& job) {
  return train(CpuMath<Float16>{job.options.model}, engine, ranks, job);
}
