/// @file
/// What the library does on the host's processor: copies, fills, conversions, sums of gradients, optimizers' updates.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/exact_sum.hpp>
#include <zerospan/kernels/gradient_operations.hpp>
#include <zerospan/kernels/split_float.hpp>
#include <zerospan/kernels/stream_operations.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/optimizer/adamw8bit.hpp>
#include <zerospan/optimizer/lion.hpp>
#include <zerospan/optimizer/sgd.hpp>

#include "work.hpp"

namespace machine {

/// "add bfloat16 to float32": how a gradient joins its sum.
inline std::string sum_name(zerospan::Addition addition, zerospan::ElementType source, zerospan::ElementType target) {
  const std::string_view verb = addition == zerospan::Addition::add ? "add " : "write ";
  return std::string{verb} + to_string(source) + " to " + to_string(target);
}

/// "update AdamW bfloat16": of a parameter of that type.
inline std::string update_name(std::string_view optimizer, zerospan::ElementType parameter, bool is_split = false) {
  return "update " + std::string{optimizer} + " " + to_string(parameter) + (is_split ? " split" : "");
}

/// Bytes from one place in memory to another.
inline Work copies(std::size_t bytes) {
  return {"copy", WorkKind::copy, static_cast<double>(bytes), [bytes](Memory& m) {
            return [&m, bytes] {
              zerospan::copy_bytes(zerospan::calling_thread, m.out.take<std::byte>(bytes), m.in.take<std::byte>(bytes),
                                   bytes);
            };
          }};
}

inline Work fills(std::size_t bytes) {
  return {"fill", WorkKind::copy, static_cast<double>(bytes), [bytes](Memory& m) {
            return [&m, bytes] { zerospan::fill_zero(zerospan::calling_thread, m.out.take<std::byte>(bytes), bytes); };
          }};
}

/// Elements of 16 bits that become floats, or the other way round.
inline Work conversions(zerospan::ElementType type, bool widens, std::size_t elements) {
  return {(widens ? "widen " : "narrow ") + std::string{to_string(type)}, WorkKind::copy, static_cast<double>(elements),
          [type, widens, elements](Memory& m) {
            return [&m, type, widens, elements] {
              if (widens) {
                zerospan::widen(zerospan::calling_thread, type, m.in.take<std::byte>(2 * elements),
                                m.out.take(elements), elements);
              } else {
                zerospan::narrow(zerospan::calling_thread, m.in.take(elements), type,
                                 m.out.take<std::byte>(2 * elements), elements);
              }
            };
          }};
}

/// Elements of a gradient that join their sum, with their norm.
inline Work sums(zerospan::Addition addition, zerospan::ElementType source, zerospan::ElementType target,
                 std::size_t elements) {
  using Limbs = std::array<std::int64_t, zerospan::detail::ExactSum::limb_count>;
  return {sum_name(addition, source, target), WorkKind::sum, static_cast<double>(elements), [=](Memory& m) {
            return [=, &m, limbs = std::make_shared<Limbs>()] {
              limbs->fill(0);
              zerospan::add_gradient(zerospan::calling_thread,
                                     {.type = target,
                                      .target = m.out.take<std::byte>(elements * zerospan::element_bytes(target)),
                                      .source_type = source,
                                      .source = m.in.take<std::byte>(elements * zerospan::element_bytes(source)),
                                      .elements = elements,
                                      .addition = addition,
                                      .norm_begin = 0,
                                      .norm_end = elements,
                                      .limbs = limbs->data()});
            };
          }};
}

/// Elements that an optimizer updates: of a sub-group, as the engine has them updated.
/// @param is_split Whether master weights are the parameter and its lower halves.
template <class Optimizer>
Work updates(const Optimizer& optimizer, std::string_view name, zerospan::ElementType type, std::size_t elements,
             bool is_split = false) {
  const std::size_t state_bytes = optimizer.state_bytes(elements);
  return {update_name(name, type, is_split), WorkKind::update, static_cast<double>(elements), [=](Memory& m) {
            return [=, &m, step = std::int64_t{0}]() mutable {
              std::byte* const parameter = m.out.take<std::byte>(elements * zerospan::element_bytes(type));
              const bool has_master = type != zerospan::ElementType::float32;
              float* const master = is_split     ? nullptr
                                    : has_master ? m.out.take(elements)
                                                 : reinterpret_cast<float*>(parameter);
              zerospan::ShardUpdate update{.master = master,
                                           .states = m.out.take<std::byte>(state_bytes),
                                           .capacity = elements,
                                           .first = 0,
                                           .elements = elements,
                                           .gradient = m.in.take<std::byte>(elements * zerospan::element_bytes(type)),
                                           .gradient_type = type,
                                           .parameter = parameter,
                                           .parameter_type = type,
                                           .gradient_scale = 1.0F,
                                           .step = ++step,
                                           .group = {}};
              if (!is_split) return optimizer.update(update);
              auto* const lower = m.out.take<std::uint16_t>(elements);
              std::array<float, 4096> joined;
              for (std::size_t done = 0; done < elements; done += joined.size()) {
                zerospan::ShardUpdate piece = update.part(done, std::min(joined.size(), elements - done));
                auto* const upper = reinterpret_cast<zerospan::bfloat16*>(piece.parameter);
                const std::span some = std::span{joined}.first(piece.elements);
                zerospan::join(upper, lower + done, some);
                piece.master = some.data();
                piece.parameter = reinterpret_cast<std::byte*>(some.data());
                piece.parameter_type = zerospan::ElementType::float32;
                optimizer.update(piece);
                zerospan::split(some, upper, lower + done);
              }
            };
          }};
}

/// All of it, each at a few sizes, in ascending order.
inline std::vector<Work> library_work() {
  using zerospan::Addition;
  using zerospan::ElementType;
  std::vector<Work> all;
  for (const std::size_t bytes : {std::size_t{1} << 16, std::size_t{1} << 20, std::size_t{1} << 23}) {
    all.push_back(copies(bytes));
    all.push_back(fills(bytes));
  }
  for (const std::size_t elements : {std::size_t{1} << 14, std::size_t{1} << 18, std::size_t{1} << 21}) {
    for (const ElementType type : {ElementType::float32, ElementType::bfloat16, ElementType::float16}) {
      all.push_back(sums(Addition::replace, type, type, elements));
      all.push_back(sums(Addition::add, type, type, elements));
      if (type == ElementType::float32) continue;
      all.push_back(sums(Addition::replace, type, ElementType::float32, elements));
      all.push_back(sums(Addition::add, type, ElementType::float32, elements));
      for (const bool widens : {true, false}) all.push_back(conversions(type, widens, elements));
    }
  }
  for (const std::size_t elements : {std::size_t{1} << 14, std::size_t{1} << 20}) {
    for (const ElementType type : {ElementType::float32, ElementType::bfloat16, ElementType::float16}) {
      all.push_back(updates(zerospan::AdamW{}, "AdamW", type, elements));
      all.push_back(updates(zerospan::AdamW8bit{}, "AdamW8bit", type, elements));
    }
    all.push_back(updates(zerospan::AdamW{}, "AdamW", ElementType::bfloat16, elements, true));
    all.push_back(updates(zerospan::AdamW8bit{}, "AdamW8bit", ElementType::bfloat16, elements, true));
    for (const ElementType type : {ElementType::float32, ElementType::bfloat16}) {
      all.push_back(updates(zerospan::Sgd{.momentum = 0.9F}, "Sgd", type, elements));
      all.push_back(updates(zerospan::Lion{}, "Lion", type, elements));
    }
  }
  return all;
}

}  // namespace machine
