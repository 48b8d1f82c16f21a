/// @file
/// The transformer of ZeRO-Infinity (arXiv 2104.07857), and the bytes and operations that its formulas give it.
#pragma once

#include <cstddef>

namespace paper {

inline constexpr double kibi = 1024;
inline constexpr double gibi = kibi * kibi * kibi;
inline constexpr double tebi = kibi * gibi;

/// A transformer and its batch. Where a sequence is shorter than a GPU's share of the batch, as 1.25 sequences a GPU,
/// the GPUs that share a layer (model parallelism) share the sequences too.
struct Model {
  std::size_t hidden;      ///< hd
  std::size_t layers;      ///< nl
  double batch;            ///< bsz: sequences a GPU.
  std::size_t heads;       ///< Of attention.
  int model_parallel = 1;  ///< GPUs that share each matrix.
  std::size_t sequence = 1024;

  constexpr double hd() const { return static_cast<double>(hidden); }
  constexpr double nl() const { return static_cast<double>(layers); }
  constexpr double seq() const { return static_cast<double>(sequence); }

  /// 12 nl hd^2: four of each layer's twelve are attention's.
  constexpr double parameters() const { return 12 * nl() * hd() * hd(); }

  /// Of a GPU.
  constexpr double tokens() const { return batch * seq(); }
};

/// fp16 parameter and gradient, and fp32 master weight, momentum, variance and gradient.
constexpr double bytes_of_states(const Model& model) { return 20 * model.parameters(); }

/// One of `every` layers leaves its input: 2 bsz seq hd nl / ci.
constexpr double bytes_of_checkpoints(const Model& model, double batch, double every = 1) {
  return 2 * batch * model.seq() * model.hd() * model.nl() / every;
}

/// Of one layer: bsz seq (16 hd + 2 heads seq). Activation working memory is that of the layers between checkpoints.
constexpr double bytes_of_activations(const Model& model, double batch) {
  return batch * model.seq() * (16 * model.hd() + 2 * static_cast<double>(model.heads) * model.seq());
}

/// Model-state working memory: the matrix of hd x 4 hd and its gradient in fp16.
constexpr double bytes_of_largest_layer(const Model& model) { return 4 * model.hd() * 4 * model.hd(); }

/// Forward, recomputed forward and backward, which counts twice, of one GPU in a step: 2 * 4 * 12 bsz seq nl hd^2.
constexpr double flops_of_step(const Model& model) { return 2 * 4 * model.tokens() * model.parameters(); }

}  // namespace paper
