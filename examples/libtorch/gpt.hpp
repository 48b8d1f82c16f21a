/// @file
/// A small GPT of ordinary libtorch modules. Nothing here knows of zerospan.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include <torch/nn.h>

namespace gpt {

/// The sizes of a model. The vocabulary is the bytes.
struct Dimensions {
  static constexpr std::int64_t vocabulary = 256;

  std::int64_t layers;
  std::int64_t heads;
  std::int64_t width;
  std::int64_t context;
};

struct EmbeddingImpl : torch::nn::Module {
  explicit EmbeddingImpl(const Dimensions& d)
      : token{register_module("token", torch::nn::Embedding{Dimensions::vocabulary, d.width})},
        position{register_module("position", torch::nn::Embedding{d.context, d.width})} {}

  /// @param tokens [batch x length]
  torch::Tensor forward(torch::Tensor tokens) { return token(tokens) + position(torch::arange(tokens.size(1))); }

  torch::nn::Embedding token;
  torch::nn::Embedding position;
};
TORCH_MODULE(Embedding);

struct AttentionImpl : torch::nn::Module {
  explicit AttentionImpl(const Dimensions& d)
      : heads{d.heads},
        qkv{register_module("qkv", torch::nn::Linear{d.width, 3 * d.width})},
        projection{register_module("projection", torch::nn::Linear{d.width, d.width})} {}

  /// @param x [batch x length x width]
  torch::Tensor forward(torch::Tensor x) {
    const std::int64_t batch = x.size(0), length = x.size(1), width = x.size(2);
    const auto parts = qkv(x).view({batch, length, 3, heads, width / heads}).permute({2, 0, 3, 1, 4}).unbind();
    const auto future = torch::ones({length, length}, torch::kBool).triu(1);
    const auto scores = parts[0].matmul(parts[1].transpose(-2, -1)) / std::sqrt(static_cast<double>(width / heads));
    const auto weights = scores.masked_fill(future, -std::numeric_limits<double>::infinity()).softmax(-1);
    return projection(weights.matmul(parts[2]).transpose(1, 2).reshape({batch, length, width}));
  }

  std::int64_t heads;
  torch::nn::Linear qkv;
  torch::nn::Linear projection;
};
TORCH_MODULE(Attention);

struct BlockImpl : torch::nn::Module {
  explicit BlockImpl(const Dimensions& d)
      : norm1{register_module("norm1", torch::nn::LayerNorm{torch::nn::LayerNormOptions{{d.width}}})},
        attention{register_module("attention", Attention{d})},
        norm2{register_module("norm2", torch::nn::LayerNorm{torch::nn::LayerNormOptions{{d.width}}})},
        up{register_module("up", torch::nn::Linear{d.width, 4 * d.width})},
        gelu{register_module("gelu", torch::nn::GELU{})},
        down{register_module("down", torch::nn::Linear{4 * d.width, d.width})} {}

  torch::Tensor forward(torch::Tensor x) {
    x = x + attention(norm1(x));
    return x + down(gelu(up(norm2(x))));
  }

  torch::nn::LayerNorm norm1;
  Attention attention;
  torch::nn::LayerNorm norm2;
  torch::nn::Linear up;
  torch::nn::GELU gelu;
  torch::nn::Linear down;
};
TORCH_MODULE(Block);

struct HeadImpl : torch::nn::Module {
  explicit HeadImpl(const Dimensions& d)
      : norm{register_module("norm", torch::nn::LayerNorm{torch::nn::LayerNormOptions{{d.width}}})},
        logits{register_module("logits", torch::nn::Linear{d.width, Dimensions::vocabulary})} {}

  torch::Tensor forward(torch::Tensor x) { return logits(norm(x)); }

  torch::nn::LayerNorm norm;
  torch::nn::Linear logits;
};
TORCH_MODULE(Head);

/// The whole model, one layer after the other.
/// @param wrap `wrap(name, layer)` is the module to put in a layer's place; each layer is made when its turn comes.
template <class Wrap>
torch::nn::Sequential make_gpt(const Dimensions& d, Wrap wrap) {
  torch::nn::Sequential model;
  const auto add = [&](std::string name, auto layer) {
    auto wrapped = wrap(name, layer);
    model->push_back(std::move(name), std::move(wrapped));
  };
  add("embedding", Embedding{d});
  for (std::int64_t i = 0; i < d.layers; ++i) add("block" + std::to_string(i), Block{d});
  add("head", Head{d});
  return model;
}

}  // namespace gpt
