/// @file
/// Training on the CPU, of parameters in bf16 and fp16, which are computed with in fp32.
#include "cpu_math.hpp"
#include "train.hpp"
#include "train_on_cpu.hpp"

gpt::Result gpt::train_bf16(Engine& engine, zerospan::AnyCommunicator& ranks, const Job& job) {
  return train(CpuMath<BFloat16>{job.options.model}, engine, ranks, job);
}

gpt::Result gpt::train_fp16(Engine& engine, zerospan::AnyCommunicator& ranks, const Job& job) {
  return train(CpuMath<Float16>{job.options.model}, engine, ranks, job);
}
