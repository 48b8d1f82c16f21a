/// @file
/// What the model of train_gpt does on the processor besides the library: its matrix products, attention, and what goes
/// element by element.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../gpt/cpu_math.hpp"
#include "../gpt/dimensions.hpp"
#include "../gpt/tensor.hpp"
#include "measure.hpp"
#include "work.hpp"

namespace machine {

/// The products of all layers, each shape once.
inline std::vector<ProductShape> products_of(const ModelShape& shape) {
  const std::size_t n = shape.positions();
  const std::size_t w = shape.model.width;
  std::vector<ProductShape> all;
  const auto add = [&](std::size_t outputs, std::size_t inputs) {
    for (const ProductShape& each :
         {ProductShape{ProductKind::forward, n, outputs, inputs}, ProductShape{ProductKind::input, n, inputs, outputs},
          ProductShape{ProductKind::weight, outputs, inputs, n}}) {
      if (std::ranges::find(all, each) == all.end()) all.push_back(each);
    }
  };
  const auto add_layer = [&](std::size_t outputs, std::size_t inputs) {  // the last tile is smaller, where it is
    const std::size_t rows = (outputs + shape.model.tiles - 1) / shape.model.tiles;
    add(rows, inputs);
    if (outputs % rows != 0) add(outputs % rows, inputs);
  };
  add_layer(3 * w, w);
  add_layer(w, w);
  add_layer(4 * w, w);
  add_layer(w, 4 * w);
  add(gpt::Dimensions::vocabulary, w);
  return all;
}

/// A product as the model has it. The size is its operations.
inline Work product(const ProductShape& shape) {
  return {std::string{product_kinds[static_cast<std::size_t>(shape.kind)]}, WorkKind::product, shape.flops(),
          [shape](Memory& memory) {
            return [&memory, shape] {
              const auto [kind, m, n, k] = shape;
              using Matrix = gpt::Tensor<const float>;
              const float* const a = memory.in.take(m * k);
              const float* const b = memory.in.take(k * n);
              const gpt::Tensor<float> c{memory.out.take(m * n), m, n};
              if (kind == ProductKind::forward) {
                gpt::multiply<float>(Matrix{a, m, k}, gpt::transposed(Matrix{b, n, k}), c, 1, 1);
              } else if (kind == ProductKind::input) {
                gpt::multiply<float>(Matrix{a, m, k}, Matrix{b, k, n}, c);
              } else {
                gpt::multiply<float>(gpt::transposed(Matrix{a, k, m}), Matrix{b, k, n}, c);
              }
            };
          }};
}

/// The same of weights in bf16. @pre The processor has gpt::Bf16Products.
inline Work bf16_product(const ProductShape& shape) {
  return {std::string{product_kinds[static_cast<std::size_t>(shape.kind)]}, WorkKind::product, shape.flops(),
          [shape](Memory& memory) {
            return [&memory, shape, products = std::make_shared<gpt::NarrowProducts>(1)] {
              const auto [kind, m, n, k] = shape;
              gpt::Scratch<gpt::BFloat16> no_scratch{0};
              using Matrix = gpt::Tensor<const float>;
              using Weight = gpt::Tensor<const gpt::BFloat16>;
              const Matrix a = kind == ProductKind::weight ? Matrix{memory.in.take(m * k), k, m}
                                                           : Matrix{memory.in.take(m * k), m, k};
              if (kind == ProductKind::weight) {
                products->write(no_scratch, {memory.out.take<gpt::BFloat16>(m * n), m, n}, gpt::transposed(a),
                                Matrix{memory.in.take(k * n), k, n});
                return;
              }
              const gpt::BFloat16* const b = memory.in.take<gpt::BFloat16>(k * n);
              const gpt::Tensor<float> c{memory.out.take(m * n), m, n};
              if (kind == ProductKind::forward) {
                products->multiply(a, gpt::transposed(Weight{b, n, k}), c, gpt::Assignment::add);
              } else {
                products->multiply(a, Weight{b, k, n}, c, gpt::Assignment::replace);
              }
            };
          }};
}

/// Causal attention of sequences with these heads. The size is the number of heads of all sequences.
inline Work attention(std::size_t length, std::size_t head, bool is_backward) {
  constexpr std::size_t heads = 4;
  const gpt::AttentionShape shape{std::max(std::size_t{1}, 512 / length), length, heads};
  const std::size_t width = heads * head;
  return {is_backward ? "attention backward" : "attention forward", WorkKind::elementwise,
          static_cast<double>(shape.sequences * heads), [=](Memory& m) {
            return [=, &m] {
              const std::size_t n = shape.positions();
              const gpt::Tensor<const float> qkv{m.in.take(n * 3 * width), n, 3 * width};
              if (!is_backward) {
                const gpt::Tensor<float> weights{m.out.take(n * heads * length), n * heads, length};
                return gpt::attention_forward<float>(qkv, shape, weights, {m.out.take(n * width), n, width});
              }
              const gpt::Tensor<const float> weights{m.in.take(n * heads * length), n * heads, length};
              gpt::attention_backward<float>(qkv, weights, {m.in.take(n * width), n, width}, shape,
                                             {m.out.take(length * length), length, length},
                                             {m.out.take(n * 3 * width), n, 3 * width});
            };
          }};
}

/// What goes element by element over a matrix [rows x columns]. The size is its elements.
inline std::vector<Work> elementwise(std::size_t rows, std::size_t columns) {
  using gpt::Tensor;
  using Math = gpt::CpuMath<float>;
  std::vector<Work> all;
  const std::size_t size = rows * columns;
  const auto in = [rows, columns](Memory& m) { return Tensor<const float>{m.in.take(rows * columns), rows, columns}; };
  const auto out = [rows, columns](Memory& m) { return Tensor<float>{m.out.take(rows * columns), rows, columns}; };
  const auto vector = [columns](Memory& m) { return Tensor<float>{m.in.take(columns), 1, columns}; };
  const auto statistics = [rows](Memory& m) {
    return gpt::RowStatistics<float>{{m.in.take(rows), 1, rows}, {m.in.take(rows), 1, rows}};
  };
  const auto math = std::make_shared<Math>(gpt::Dimensions{.layers = 1, .heads = 1, .width = 1, .context = 1});
  const auto add = [&all, size, math](std::string name, auto piece) {
    all.push_back({std::move(name), WorkKind::elementwise, static_cast<double>(size),
                   [piece, math](Memory& m) { return [piece, math, &m] { piece(*math, m); }; }});
  };
  add("layer norm forward",
      [=](Math& f, Memory& m) { f.layer_norm_forward(in(m), vector(m), vector(m), out(m), statistics(m)); });
  add("layer norm backward weight",
      [=](Math& f, Memory& m) { f.layer_norm_backward_weight(in(m), in(m), statistics(m), vector(m)); });
  add("layer norm backward input",
      [=](Math& f, Memory& m) { f.layer_norm_backward_input(in(m), vector(m), in(m), statistics(m), out(m)); });
  add("gelu forward", [=](Math& f, Memory& m) { f.gelu_forward(in(m), out(m)); });
  add("gelu backward", [=](Math& f, Memory& m) { f.gelu_backward(in(m), out(m)); });
  add("sum of rows", [=](Math& f, Memory& m) { f.sum_of_rows(in(m), vector(m)); });
  add("bias", [=](Math& f, Memory& m) { f.sum_into(out(m), {}).set_bias(vector(m)); });
  add("residual", [=](Math& f, Memory& m) { f.sum_into(out(m), in(m)).finish(); });
  add("copy of activations", [=](Math& f, Memory& m) { f.copy(in(m), out(m)); });
  add("clear", [=](Math& f, Memory& m) { f.clear(out(m)); });

  const auto tokens = std::make_shared<std::vector<std::uint8_t>>(rows);
  for (std::size_t i = 0; i < rows; ++i) (*tokens)[i] = static_cast<std::uint8_t>(i * 37);
  const auto table = [columns](Memory& m) {
    return Tensor<float>{m.in.take(gpt::Dimensions::vocabulary * columns), gpt::Dimensions::vocabulary, columns};
  };
  const std::size_t length = std::min(rows, gpt::Dimensions::vocabulary);
  add("embedding forward",
      [=](Math& f, Memory& m) { f.embedding_forward(*tokens, length, table(m), table(m), out(m)); });
  add("embedding backward", [=](Math& f, Memory& m) { f.embedding_backward_token(*tokens, in(m), table(m)); });

  const std::size_t vocabulary = gpt::Dimensions::vocabulary;
  const std::size_t logit_rows = std::max(size / vocabulary, std::size_t{1});
  const auto targets = std::make_shared<std::vector<std::uint8_t>>(logit_rows, std::uint8_t{7});
  const auto logits = [=](Memory& m) {
    return Tensor<float>{m.out.take(logit_rows * vocabulary), logit_rows, vocabulary};
  };
  add("cross entropy forward", [=](Math& f, Memory& m) { f.cross_entropy_forward(logits(m), *targets, 1.0); });
  add("cross entropy backward", [=](Math& f, Memory& m) { f.cross_entropy_backward(*targets, logits(m), 1.0F); });
  return all;
}

/// Elements of 16 bits as the model's scalars, and back. The size is the elements.
template <class E>
std::vector<Work> scratch_work(const std::string& type, std::size_t elements) {
  using gpt::Tensor;
  const auto math =
      std::make_shared<gpt::CpuMath<E>>(gpt::Dimensions{.layers = 1, .heads = 1, .width = 1, .context = elements});
  const auto narrow = [elements](Pool& pool) { return Tensor<E>{pool.take<E>(elements), 1, elements}; };
  return {{"operand " + type, WorkKind::elementwise, static_cast<double>(elements),
           [=](Memory& m) { return [=, &m] { static_cast<void>(math->operand(narrow(m.in))); }; }},
          {"gradient " + type, WorkKind::elementwise, static_cast<double>(elements),
           [=](Memory& m) { return [=, &m] { math->write(narrow(m.out), [](Tensor<float>) {}); }; }}};
}

/// All that goes element by element, each at a few sizes, in ascending order.
inline std::vector<Work> model_work() {
  std::vector<Work> all;
  const auto append = [&all](std::vector<Work> some) {
    for (Work& each : some) all.push_back(std::move(each));
  };
  append(elementwise(64, 256));
  append(elementwise(256, 512));
  append(elementwise(512, 2048));
  for (const std::size_t elements : {std::size_t{1} << 16, std::size_t{1} << 20}) {
    append(scratch_work<gpt::BFloat16>("bfloat16", elements));
    append(scratch_work<gpt::Float16>("float16", elements));
  }
  return all;
}

}  // namespace machine
