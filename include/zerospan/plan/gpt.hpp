/// @file
/// plan::paper_gpt and plan::example_gpt: transformers as plans have them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <ranges>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/plan/linear.hpp>
#include <zerospan/plan/model.hpp>

namespace zerospan::inline v0::plan {

struct GptExtents {
  std::size_t layers;
  std::size_t hidden;
  std::size_t vocabulary = 0;  ///< 0: no embedding.
  std::size_t sequence;        ///< Tokens of one.
  std::size_t batch;           ///< Sequences of a micro-batch, of one rank.
  ElementType type = ElementType::bfloat16;
  std::size_t tiles = 1;  ///< Into how many the outputs of each linear layer are cut. @see DeclaredLinear
};

namespace detail {

/// Appends layers of which the first one's input alone is kept to the forward pass.
/// @return Their part of the backward pass, in which they are computed forward again.
inline std::vector<PassStep> append_recomputed(Model& model, const std::vector<DeclaredLinear>& layers,
                                               Bytes checkpoint) {
  std::vector<PassStep> forward;
  for (const DeclaredLinear& layer : layers) {
    for (PassStep& step : layer.forward()) forward.push_back(std::move(step));
  }
  std::vector<PassStep> again = forward;
  forward.front().pushes = checkpoint;
  again.front().pops = checkpoint.count > 0;
  for (std::size_t l = layers.size(); l-- > 0;) {
    for (PassStep& step : layers[l].backward()) again.push_back(std::move(step));
  }
  model.forward.insert(model.forward.end(), forward.begin(), forward.end());
  return again;
}

}  // namespace detail

/// The model of ZeRO-Infinity's estimates (arXiv 2104.07857, sections 3 and 4): of 12 layers hidden^2 parameters, in
/// four weights a block; what enters a block is a checkpoint of 2 bytes an element, and its forward pass is computed
/// again, 2 operations a token and parameter, and 4 in the backward pass itself. A vocabulary adds an embedding that is
/// tied to the head. The weights of a block are gathered together; in tiles, one after the other, and once more where
/// the forward pass is computed again.
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
  const std::array<std::pair<const char*, LinearExtents>, 4> weights{{{"qkv", {3 * e.hidden, e.hidden}},
                                                                      {"projection", {e.hidden, e.hidden}},
                                                                      {"up", {4 * e.hidden, e.hidden}},
                                                                      {"down", {e.hidden, 4 * e.hidden}}}};
  std::vector<std::vector<PassStep>> in_tiles;  // the backward passes of blocks
  for (std::size_t l = 0; l < e.layers; ++l) {
    const std::string block = "blocks." + std::to_string(l) + ".";
    const Bytes checkpoint{2 * e.sequence * e.batch * e.hidden};
    if (e.tiles > 1) {
      std::vector<DeclaredLinear> layers;
      for (const auto& [name, extents] : weights) {
        layers.emplace_back(model, LinearLayer{.name = block + name,
                                               .extents = extents,
                                               .tiles = {.outputs = e.tiles},
                                               .type = e.type,
                                               .rows = tokens});
      }
      in_tiles.push_back(detail::append_recomputed(model, layers, checkpoint));
      continue;
    }
    Layer layer{.name = "block " + std::to_string(l)};
    for (const auto& [name, extents] : weights) {
      layer.parameters.push_back(block + name);
      model.declare({.name = layer.parameters.back(), .shape = {extents.outputs, extents.inputs}, .type = e.type});
    }
    layer.forward_flops = 2 * tokens * 12 * hidden * hidden;
    layer.backward_flops = 3 * layer.forward_flops;
    layer.checkpoint = checkpoint;
    model.append(layer);
  }
  if (!in_tiles.empty()) {
    std::vector<PassStep> backward;
    for (std::vector<PassStep>& block : std::views::reverse(in_tiles)) {
      std::ranges::move(block, std::back_inserter(backward));
    }
    std::ranges::move(model.backward, std::back_inserter(backward));
    model.backward = std::move(backward);
  }
  if (!head.empty()) {
    model.forward.push_back(head[0]);
    model.backward.insert(model.backward.begin(), head[1]);
  }
  return model;
}

/// The GPT-2 of examples/gpt, without activation checkpoints: the same parameters, leased in the same order.
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
  const auto add_linear = [&](const DeclaredLinear& layer) {
    const std::vector<PassStep> forward = layer.forward();
    const std::vector<PassStep> steps = layer.backward();
    model.forward.insert(model.forward.end(), forward.begin(), forward.end());
    backward.insert(backward.end(), steps.rbegin(), steps.rend());
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
    const auto linear = [&](const std::string& name, LinearExtents extents) {
      return DeclaredLinear{model,
                            {.name = block + name,
                             .extents = extents,
                             .tiles = {.outputs = e.tiles},
                             .type = e.type,
                             .bias = Bias::of_outputs,
                             .rows = tokens}};
    };
    const auto norm1 = norm(".norm1");
    const auto qkv = linear(".attention.qkv", {3 * e.hidden, e.hidden});
    const auto projection = linear(".attention.projection", {e.hidden, e.hidden});
    const auto norm2 = norm(".norm2");
    const auto up = linear(".mlp.up", {4 * e.hidden, e.hidden});
    const auto down = linear(".mlp.down", {e.hidden, 4 * e.hidden});
    add_norm(block + ".norm1", norm1.first, norm1.second);
    add_linear(qkv);
    const double attention = 4 * tokens * static_cast<double>(e.sequence * e.hidden);
    model.forward.push_back({.name = block + ".attention", .flops = attention});
    backward.push_back({.name = block + ".attention", .flops = 2 * attention});
    add_linear(projection);
    add_norm(block + ".norm2", norm2.first, norm2.second);
    add_linear(up);
    add_linear(down);
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
