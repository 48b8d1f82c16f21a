/// @file
/// plan::paper_gpt and plan::example_gpt: transformers as plans have them.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/plan/model.hpp>

namespace zerospan::inline v0::plan {

struct GptExtents {
  std::size_t layers;
  std::size_t hidden;
  std::size_t vocabulary = 0;  ///< 0: no embedding.
  std::size_t sequence;        ///< Tokens of one.
  std::size_t batch;           ///< Sequences of a micro-batch, of one rank.
  ElementType type = ElementType::bfloat16;
};

/// The model of ZeRO-Infinity's estimates (arXiv 2104.07857, sections 3 and 4): of 12 layers hidden^2 parameters, in
/// four weights a block; what enters a block is a checkpoint of 2 bytes an element, and its forward pass is computed
/// again, 2 operations a token and parameter, and 4 in the backward pass itself. A vocabulary adds an embedding that is
/// tied to the head.
inline Model paper_gpt(const GptExtents& e) {
  Model model;
  const auto tokens = static_cast<double>(e.sequence * e.batch);
  const auto hidden = static_cast<double>(e.hidden);
  std::vector<PassStep> head;
  if (e.vocabulary > 0) {
    const std::size_t embedding =
        model.declare({.name = "embedding", .shape = {e.vocabulary, e.hidden}, .type = e.type});
    const std::size_t tied = model.declare({.name = "head", .shape = {1}, .tied_to = embedding});
    model.forward.push_back({.name = "embedding", .gathers = {embedding}});
    model.backward.push_back({.name = "embedding", .gradients = {embedding}});
    const double flops = 2 * tokens * hidden * static_cast<double>(e.vocabulary);
    head = {{.name = "head", .gathers = {tied}, .flops = flops},
            {.name = "head", .gathers = {tied}, .gradients = {tied}, .flops = 2 * flops}};
  }
  const std::array<std::pair<const char*, Shape>, 4> weights{{{"qkv", {3 * e.hidden, e.hidden}},
                                                              {"projection", {e.hidden, e.hidden}},
                                                              {"up", {4 * e.hidden, e.hidden}},
                                                              {"down", {e.hidden, 4 * e.hidden}}}};
  for (std::size_t l = 0; l < e.layers; ++l) {
    Layer layer{.name = "block " + std::to_string(l)};
    for (const auto& [name, shape] : weights) {
      layer.parameters.push_back("blocks." + std::to_string(l) + "." + name);
      model.declare({.name = layer.parameters.back(), .shape = shape, .type = e.type});
    }
    layer.forward_flops = 2 * tokens * 12 * hidden * hidden;
    layer.backward_flops = 3 * layer.forward_flops;
    layer.checkpoint = Bytes{2 * e.sequence * e.batch * e.hidden};
    model.append(layer);
  }
  if (!head.empty()) {
    model.forward.push_back(head[0]);
    model.backward.insert(model.backward.begin(), head[1]);
  }
  return model;
}

/// The GPT-2 of examples/gpt, with weights in one tile, without activation checkpoints: the same parameters, leased in
/// the same order.
inline Model example_gpt(const GptExtents& e) {
  if (e.vocabulary == 0) throw_configuration_error("the GPT of the examples has a vocabulary");
  Model model;
  const auto tokens = static_cast<double>(e.sequence * e.batch);
  const auto declare = [&](std::string name, Shape shape) {
    return model.declare({.name = std::move(name), .shape = std::move(shape), .type = e.type});
  };
  std::vector<PassStep> backward;  // of what is used later, in the reverse order
  const auto add_norm = [&](const std::string& name, std::size_t weight, std::size_t bias) {
    model.forward.push_back({.name = name, .gathers = {weight, bias}});
    backward.push_back({.name = name, .gathers = {weight}});
    backward.push_back({.name = name, .gradients = {weight}});
    backward.push_back({.name = name, .gradients = {bias}});
  };
  const auto add_linear = [&](const std::string& name, std::size_t weight, std::size_t bias) {
    const double flops = 2 * tokens * static_cast<double>(model.parameters[weight].shape.elements());
    model.forward.push_back({.name = name, .gathers = {bias}});
    model.forward.push_back({.name = name, .gathers = {weight}, .flops = flops});
    backward.push_back({.name = name, .gathers = {weight}, .flops = flops});
    backward.push_back({.name = name, .gradients = {weight}, .flops = flops});
    backward.push_back({.name = name, .gradients = {bias}});
  };
  const std::size_t token = declare("token_embedding", {e.vocabulary, e.hidden});
  const std::size_t position = declare("position_embedding", {e.sequence, e.hidden});
  model.forward.push_back({.name = "embedding", .gathers = {token, position}});
  backward.push_back({.name = "embedding", .gradients = {token}});
  backward.push_back({.name = "embedding", .gradients = {position}});
  for (std::size_t l = 0; l < e.layers; ++l) {
    const std::string block = "blocks." + std::to_string(l);
    const auto norm = [&](const std::string& name) {
      const std::size_t weight = declare(block + name + ".weight", {e.hidden});
      return std::pair{weight, declare(block + name + ".bias", {e.hidden})};
    };
    const auto linear = [&](const std::string& name, std::size_t out, std::size_t in) {
      const std::size_t weight = declare(block + name + ".weight", {out, in});
      return std::pair{weight, declare(block + name + ".bias", {out})};
    };
    const auto norm1 = norm(".norm1");
    const auto qkv = linear(".attention.qkv", 3 * e.hidden, e.hidden);
    const auto projection = linear(".attention.projection", e.hidden, e.hidden);
    const auto norm2 = norm(".norm2");
    const auto up = linear(".mlp.up", 4 * e.hidden, e.hidden);
    const auto down = linear(".mlp.down", e.hidden, 4 * e.hidden);
    add_norm(block + ".norm1", norm1.first, norm1.second);
    add_linear(block + ".attention.qkv", qkv.first, qkv.second);
    const double attention = 4 * tokens * static_cast<double>(e.sequence * e.hidden);
    model.forward.push_back({.name = block + ".attention", .flops = attention});
    backward.push_back({.name = block + ".attention", .flops = 2 * attention});
    add_linear(block + ".attention.projection", projection.first, projection.second);
    add_norm(block + ".norm2", norm2.first, norm2.second);
    add_linear(block + ".mlp.up", up.first, up.second);
    add_linear(block + ".mlp.down", down.first, down.second);
  }
  const std::size_t weight = declare("norm.weight", {e.hidden});
  add_norm("norm", weight, declare("norm.bias", {e.hidden}));
  const std::size_t head = model.declare({.name = "head", .shape = {1}, .tied_to = token});
  const double flops = 2 * tokens * static_cast<double>(e.vocabulary * e.hidden);
  model.forward.push_back({.name = "head", .gathers = {head}, .flops = flops});
  backward.push_back({.name = "head", .gathers = {head}, .flops = flops});
  backward.push_back({.name = "head", .gradients = {head}, .flops = flops});
  model.backward.assign(backward.rbegin(), backward.rend());
  return model;
}

}  // namespace zerospan::inline v0::plan
