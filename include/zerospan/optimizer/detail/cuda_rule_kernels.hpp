/// @file
/// Kernels of updates by an optimizer's rule: many runs in one launch. For nvcc.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/device/cuda_stream.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/detail/arithmetic.hpp>
#include <zerospan/kernels/detail/cuda_elements.hpp>
#include <zerospan/kernels/detail/cuda_launch.hpp>
#include <zerospan/kernels/detail/cuda_tiles.hpp>
#include <zerospan/optimizer/optimizer.hpp>

namespace zerospan::inline v0::detail {

/// One run: its arrays, each from the run's first element on.
template <class Rule, ElementType Gradient, ElementType Parameter>
class CudaRun {
 public:
  static constexpr std::size_t width = word_bytes / sizeof(float);
  static constexpr std::size_t packs = 2;

  CudaRun() = default;

  CudaRun(const Rule& rule, const ShardUpdate& shard)
      : rule_{rule},
        gradient_scale_{shard.gradient_scale},
        master_{reinterpret_cast<std::byte*>(shard.master)},
        gradient_{shard.gradient},
        parameter_{shard.parameter},
        elements_{shard.elements} {
    alignment_.add(master_, sizeof(float), width);
    alignment_.add(gradient_, element_bytes(Gradient), width);
    alignment_.add(parameter_, element_bytes(Parameter), width);
    for (std::size_t s = 0; s != Rule::states; ++s) {
      states_[s] = shard.states + (s * shard.capacity + shard.first) * sizeof(float);
      alignment_.add(states_[s], sizeof(float), width);
    }
  }

  __host__ __device__ std::size_t elements() const { return elements_; }

  __host__ __device__ TileAlignment alignment() const { return alignment_; }

  template <std::size_t Width, std::size_t Count>
  __host__ __device__ void operator()(std::size_t first, std::size_t stride) const {
    const auto gradients = load_packs<Gradient, Width, Count>(gradient_, first, stride);
    auto weights = load_packs<ElementType::float32, Width, Count>(master_, first, stride);
    std::array<States<Width>, Count> old;
    for (std::size_t k = 0; k < Count; ++k) {
      for (std::size_t s = 0; s != Rule::states; ++s) {
        old[k][s] = load_pack<ElementType::float32, Width>(states_[s], first + k * stride);
      }
    }
    finish_loads();
    for (std::size_t k = 0; k < Count; ++k) {
      update(first + k * stride, weights[k], old[k], to_floats<Gradient>(gradients[k]));
    }
  }

 private:
  template <std::size_t Width>
  using States = std::array<Pack<ElementType::float32, Width>, Rule::states>;

  /// Updates and stores the elements from `first` on.
  template <std::size_t Width>
  __host__ __device__ void update(std::size_t first, Floats<Width>& weights, States<Width>& values,
                                  const Floats<Width>& gradients) const {
    for (std::size_t i = 0; i < Width; ++i) {
      const float g = product(gradients[i], gradient_scale_);
      if constexpr (Rule::states == 0) {
        weights[i] = rule_(weights[i], g);
      } else if constexpr (Rule::states == 1) {
        weights[i] = rule_(weights[i], g, values[0][i]);
      } else {
        weights[i] = rule_(weights[i], g, values[0][i], values[1][i]);
      }
    }
    for (std::size_t s = 0; s != Rule::states; ++s) {
      store_pack<ElementType::float32, Width>(states_[s], first, values[s]);
    }
    store_pack<ElementType::float32, Width>(master_, first, weights);
    if (parameter_ != master_) store_pack<Parameter, Width>(parameter_, first, to_elements<Parameter>(weights));
  }

  Rule rule_;
  float gradient_scale_;
  std::byte* master_;
  std::array<std::byte*, std::max<std::size_t>(Rule::states, 1)> states_;
  const std::byte* gradient_;
  std::byte* parameter_;
  std::size_t elements_;
  TileAlignment alignment_;
};

/// The runs of one launch: parameters of the kernel, of which there are at most 4 KiB.
template <class Run>
struct CudaRuns {
  static constexpr std::size_t capacity = 30;

  bool full() const { return count == capacity; }
  std::size_t tiles() const { return count == 0 ? 0 : ends[count - 1]; }

  void add(const Run& run) {
    ends[count] = tiles() + tile_count<Run>(run.alignment(), run.elements());
    runs[count++] = run;
  }

  std::array<Run, capacity> runs{};
  std::array<std::size_t, capacity> ends{};  ///< Tiles up to the end of each run.
  std::size_t count = 0;
};

/// Each block of threads takes every `blocks`-th tile of all runs.
template <class Run>
__host__ __device__ void update_tiles_of(const CudaRuns<Run>& table, std::size_t tiles, std::size_t block,
                                         std::size_t blocks, std::size_t thread) {
  std::size_t r = 0;
  std::size_t begin = 0;
  for (std::size_t tile = block; tile < tiles; tile += blocks) {
    for (; tile >= table.ends[r]; ++r) begin = table.ends[r];
    const Run& run = table.runs[r];
    run_tile(run, run.alignment(), run.elements(), tile - begin, thread);
  }
}

template <class Run>
__global__ void __launch_bounds__(tile_threads, tile_residency)
    update_runs(const __grid_constant__ CudaRuns<Run> table, const std::size_t tiles) {
  update_tiles_of(table, tiles, blockIdx.x, gridDim.x, threadIdx.x);
}

/// Calls `use(runs)` for tables of the runs of `shards` that have these types, the last of which may be empty.
/// @param rule `rule(shard)` is the arithmetic of the update of a shard.
template <ElementType Gradient, ElementType Parameter, class RuleOf, class Use>
void for_each_table_of(std::span<const ShardUpdate> shards, RuleOf rule, Use use) {
  using Run = CudaRun<decltype(rule(shards[0])), Gradient, Parameter>;
  static_assert(sizeof(CudaRuns<Run>) + sizeof(std::size_t) <= 4096);
  CudaRuns<Run> runs;
  for (const ShardUpdate& shard : shards) {
    if (shard.gradient_type != Gradient || shard.parameter_type != Parameter) continue;
    runs.add(Run{rule(shard), shard});
    if (!runs.full()) continue;
    use(runs);
    runs.count = 0;
  }
  use(runs);
}

/// The same for all types that there are.
template <class RuleOf, class Use>
void for_each_table(std::span<const ShardUpdate> shards, RuleOf rule, Use use) {
  std::array<bool, 9> done{};
  for (const ShardUpdate& shard : shards) {
    bool& is_done =
        done[3 * static_cast<std::size_t>(shard.gradient_type) + static_cast<std::size_t>(shard.parameter_type)];
    if (is_done) continue;
    is_done = true;
    dispatch_element_type(shard.gradient_type, [&](auto gradient) {
      dispatch_element_type(shard.parameter_type, [&](auto parameter) {
        for_each_table_of<gradient.value, parameter.value>(shards, rule, use);
      });
    });
  }
}

template <class O, class Rule>
void launch_updates(const CudaStream& stream, const O& optimizer, Rule (O::*rule)(const ShardUpdate&) const,
                    std::span<const ShardUpdate> shards) {
  const auto rule_of = [&](const ShardUpdate& shard) { return (optimizer.*rule)(shard); };
  for_each_table(shards, rule_of, [&]<class Run>(const CudaRuns<Run>& runs) {
    launch(stream, O::name, {.work = runs.tiles(), .threads = tile_threads, .residency = tile_residency},
           &update_runs<Run>, runs, runs.tiles());
  });
}

}  // namespace zerospan::inline v0::detail
