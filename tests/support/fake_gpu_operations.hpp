/// @file
/// The stream operations of FakeGpu: the host's own, enqueued.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/kernels/block_quantization.hpp>
#include <zerospan/kernels/gradient_operations.hpp>
#include <zerospan/kernels/rank_order_sum.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/optimizer/optimizer.hpp>

#include "fake_gpu_runtime.hpp"

namespace zerospan_test {

inline void copy_bytes(FakeStream& stream, std::byte* target, const std::byte* source, std::size_t bytes) {
  stream.enqueue([to = stream.gpu().at(target), from = stream.gpu().at(source), bytes] {
    zerospan::copy_bytes(zerospan::calling_thread, to, from, bytes);
  });
}

inline void fill_zero(FakeStream& stream, std::byte* target, std::size_t bytes) {
  stream.enqueue([to = stream.gpu().at(target), bytes] { zerospan::fill_zero(zerospan::calling_thread, to, bytes); });
}

inline void widen(FakeStream& stream, zerospan::ElementType type, const std::byte* source, float* target,
                  std::size_t elements) {
  stream.enqueue([=, from = stream.gpu().at(source), to = stream.gpu().at(target)] {
    zerospan::widen(zerospan::calling_thread, type, from, to, elements);
  });
}

inline void narrow(FakeStream& stream, const float* source, zerospan::ElementType type, std::byte* target,
                   std::size_t elements) {
  stream.enqueue([=, from = stream.gpu().at(source), to = stream.gpu().at(target)] {
    zerospan::narrow(zerospan::calling_thread, from, type, to, elements);
  });
}

inline void add_gradient(FakeStream& stream, zerospan::GradientAddition addition) {
  addition.target = stream.gpu().at(addition.target);
  addition.source = stream.gpu().at(addition.source);
  addition.limbs = stream.gpu().at(addition.limbs);
  stream.enqueue([addition] { zerospan::add_gradient(zerospan::calling_thread, addition); });
}

inline void rank_order_sum(FakeStream& stream, std::span<const std::byte* const> inputs, zerospan::ElementType in,
                           std::byte* output, zerospan::ElementType out, std::size_t elements) {
  std::vector<const std::byte*> operands;
  for (const std::byte* input : inputs) operands.push_back(stream.gpu().at(input));
  stream.enqueue([=, to = stream.gpu().at(output)] {
    zerospan::rank_order_sum(std::span<const std::byte* const>{operands}, in, to, out, elements);
  });
}

inline void encode_blocks(FakeStream& stream, zerospan::ElementType element, const std::byte* source,
                          zerospan::QuantizedType type, std::byte* target, std::size_t elements) {
  stream.enqueue([=, from = stream.gpu().at(source), to = stream.gpu().at(target)] {
    zerospan::encode_blocks(zerospan::calling_thread, element, from, type, to, elements);
  });
}

inline void sum_blocks(FakeStream& stream, std::span<const std::byte* const> inputs, zerospan::QuantizedType type,
                       zerospan::ElementType element, std::byte* target, std::size_t elements) {
  std::vector<const std::byte*> operands;
  for (const std::byte* input : inputs) operands.push_back(stream.gpu().at(input));
  stream.enqueue([=, to = stream.gpu().at(target)] {
    zerospan::sum_blocks(zerospan::calling_thread, operands, type, element, to, elements);
  });
}

template <zerospan::Optimizer O>
void update(FakeStream& stream, const O& optimizer, std::span<const zerospan::ShardUpdate> runs) {
  for (zerospan::ShardUpdate run : runs) {
    run.master = stream.gpu().at(run.master);
    run.states = stream.gpu().at(run.states);
    run.gradient = stream.gpu().at(run.gradient);
    run.parameter = stream.gpu().at(run.parameter);
    stream.enqueue([optimizer, run] { optimizer.update(run); });
  }
}

}  // namespace zerospan_test
