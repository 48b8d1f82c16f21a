/// @file
/// Training on the CPU, of parameters in fp32.
#include "cpu_math.hpp"
#include "train.hpp"
#include "train_on_cpu.hpp"

gpt::Result gpt::train_fp32(Engine& engine, zerospan::AnyCommunicator& ranks, const Job& job) {
  return train(CpuMath<float>{job.options.model}, engine, ranks, job);
}
