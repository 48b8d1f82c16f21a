/// @file
/// Training on the CPU, of parameters in each precision. They are compiled apart, and side by side: train_fp32.cpp and
/// train_16_bits.cpp.
#pragma once

#include <zerospan/comm/any_communicator.hpp>

#include "engine.hpp"
#include "job.hpp"
#include "result.hpp"

namespace gpt {

Result train_fp32(Engine& engine, zerospan::AnyCommunicator& ranks, const Job& job);
/// @param has_narrow_products Whether weights are multiplied in bf16.
Result train_bf16(Engine& engine, zerospan::AnyCommunicator& ranks, const Job& job, bool has_narrow_products);
Result train_fp16(Engine& engine, zerospan::AnyCommunicator& ranks, const Job& job);

}  // namespace gpt
