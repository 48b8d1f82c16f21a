/// @file
/// The parameters of GPT-2, in the order of their use.
#pragma once

#include <cmath>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include <zerospan/core/initializer.hpp>

#include "dimensions.hpp"
#include "linear.hpp"

namespace gpt {

template <class Parameter>
struct Norm {
  template <class Engine>
  Norm(Engine& engine, const std::string& name, std::size_t width)
      : weight{engine, name + ".weight", {width}, zerospan::init::ones(), not_decayed},
        bias{engine, name + ".bias", {width}, zerospan::init::zeros(), not_decayed} {}

  Parameter weight;  // [width]
  Parameter bias;    // [width]
};

/// GPT-2's initialization: normal values of deviation 0.02; where a layer ends on the residual stream, divided by the
/// square root of how many do.
inline constexpr float initial_deviation = 0.02F;

inline float residual_deviation(const Dimensions& dimensions) {
  return initial_deviation / std::sqrt(2.0F * static_cast<float>(dimensions.layers));
}

template <class Parameter>
struct Block {
  template <class Engine>
  Block(Engine& engine, const std::string& name, const Dimensions& d)
      : norm1{engine, name + ".norm1", d.width},
        qkv{engine, name + ".attention.qkv", 3 * d.width, d.width, d.tiles, initial_deviation},
        projection{engine, name + ".attention.projection", d.width, d.width, d.tiles, residual_deviation(d)},
        norm2{engine, name + ".norm2", d.width},
        up{engine, name + ".mlp.up", 4 * d.width, d.width, d.tiles, initial_deviation},
        down{engine, name + ".mlp.down", d.width, 4 * d.width, d.tiles, residual_deviation(d)} {}

  Norm<Parameter> norm1;
  Linear<Parameter> qkv;
  Linear<Parameter> projection;
  Norm<Parameter> norm2;
  Linear<Parameter> up;
  Linear<Parameter> down;
};

template <class Parameter>
struct Parameters {
  /// @param declared Where given, called before each block is declared, with the number of those that are, and after
  /// all.
  template <class Engine>
  Parameters(Engine& engine, const Dimensions& d, const std::function<void(std::size_t)>& declared)
      : token{engine, "token_embedding", {Dimensions::vocabulary, d.width}, zerospan::init::normal(initial_deviation)},
        position{engine, "position_embedding", {d.context, d.width}, zerospan::init::normal(initial_deviation)},
        blocks{declare_blocks(engine, d, declared)},
        norm{engine, "norm", d.width},
        head{token.tie("head")} {}

  Parameter token;     // [vocabulary x width]
  Parameter position;  // [context x width]
  std::vector<Block<Parameter>> blocks;
  Norm<Parameter> norm;
  Parameter head;  // [vocabulary x width]: the token embedding, with a gradient of its own

 private:
  template <class Engine>
  static std::vector<Block<Parameter>> declare_blocks(Engine& engine, const Dimensions& d,
                                                      const std::function<void(std::size_t)>& declared) {
    std::vector<Block<Parameter>> blocks;
    for (std::size_t i = 0; i < d.layers; ++i) {
      if (declared) declared(i);
      blocks.emplace_back(engine, "blocks." + std::to_string(i), d);
    }
    if (declared) declared(d.layers);
    return blocks;
  }
};

}  // namespace gpt
