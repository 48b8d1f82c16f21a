/// What the kernels do, done by the host in their threads' stead: it needs no GPU.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <vector>

#include <zerospan/kernels/detail/cuda_convert_kernels.hpp>
#include <zerospan/kernels/detail/cuda_gradient_kernels.hpp>
#include <zerospan/kernels/detail/cuda_quantization_kernels.hpp>
#include <zerospan/kernels/detail/cuda_rank_order_sum_kernels.hpp>
#include <zerospan/kernels/detail/cuda_tiles.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/optimizer/detail/cuda_rule_kernels.hpp>
#include <zerospan/optimizer/lion.hpp>
#include <zerospan/optimizer/sgd.hpp>

#include "kernel_checks.hpp"
#include "quantization_checks.hpp"

namespace zerospan_test {

namespace device = zerospan::detail;

/// Calls for each block and thread what a kernel calls.
class HostMachine {
 public:
  static constexpr std::size_t blocks = 3;

  std::byte* allocate(std::size_t bytes) {
    memory_.emplace_back((bytes + sizeof(Line) - 1) / sizeof(Line));
    return reinterpret_cast<std::byte*>(memory_.back().data());
  }
  void release() { memory_.clear(); }
  void write(std::byte* to, const Bits& bits) { std::memcpy(to, bits.data(), bits.size()); }
  Bits read(const std::byte* from, std::size_t bytes) { return {from, from + bytes}; }

  void widen(ElementType type, const std::byte* from, float* to, std::size_t n) {
    zerospan::detail::dispatch_element_type(type, [&](auto source) {
      run(device::CudaConversion<source.value, ElementType::float32>{from, reinterpret_cast<std::byte*>(to)}, n);
    });
  }

  void narrow(const float* from, ElementType type, std::byte* to, std::size_t n) {
    zerospan::detail::dispatch_element_type(type, [&](auto target) {
      run(device::CudaConversion<ElementType::float32, target.value>{reinterpret_cast<const std::byte*>(from), to}, n);
    });
  }

  void rank_order_sum(std::span<const std::byte* const> inputs, ElementType input, std::byte* output,
                      ElementType output_type, std::size_t n) {
    zerospan::detail::dispatch_element_type(input, [&](auto type) {
      if (output_type == ElementType::float32) {
        run(device::CudaRankOrderSum<type.value, ElementType::float32>{inputs, output}, n);
      } else {
        run(device::CudaRankOrderSum<type.value, type.value>{inputs, output}, n);
      }
    });
  }

  /// The lanes of a warp in turn, as far as the point where they meet.
  void encode_blocks(ElementType element, const std::byte* from, QuantizedType type, std::byte* to, std::size_t n) {
    device::dispatch_quantization(element, type, [&](auto e, auto t) {
      const device::CudaBlockEncoding<e.value, t.value> work{from, to, n, device::quantized_access(from, element)};
      for (std::size_t block = 0; block < zerospan::quantized_blocks(n); ++block) {
        std::array<device::QuantizedLane::Values, device::QuantizedLane::lanes> values;
        std::uint32_t most = 0;
        for (std::size_t lane = 0; lane < values.size(); ++lane) {
          values[lane] = work.load({block, lane});
          most = std::max(most, work.largest(values[lane]));
        }
        for (std::size_t lane = 0; lane < values.size(); ++lane) work.store({block, lane}, values[lane], most);
      }
    });
  }

  void sum_blocks(std::span<const std::byte* const> inputs, QuantizedType type, ElementType element, std::byte* to,
                  std::size_t n) {
    device::dispatch_quantization(element, type, [&](auto e, auto t) {
      device::CudaBlockSum<e.value, t.value> work{{}, inputs.size(), to, n, device::quantized_access(to, element)};
      std::ranges::copy(inputs, work.inputs.begin());
      for (std::size_t block = 0; block < zerospan::quantized_blocks(n); ++block) {
        for (std::size_t lane = 0; lane < device::QuantizedLane::lanes; ++lane) work({block, lane});
      }
    });
  }

  void update(const zerospan::AdamW& adamw, std::span<const ShardUpdate> shards) {
    update_by_rule(shards, [&](const ShardUpdate& shard) { return adamw.rule(shard); });
  }
  void update(const zerospan::Lion& lion, std::span<const ShardUpdate> shards) {
    update_by_rule(shards, [&](const ShardUpdate& shard) { return lion.rule(shard); });
  }
  void update(const zerospan::Sgd& sgd, std::span<const ShardUpdate> shards) {
    if (sgd.momentum > 0) {
      update_by_rule(shards, [&](const ShardUpdate& shard) { return sgd.momentum_rule(shard); });
    } else {
      update_by_rule(shards, [&](const ShardUpdate& shard) { return sgd.plain_rule(shard); });
    }
  }

  void add_gradient(const GradientAddition& what) {
    device::visit_pair(what, [&]<class Pair>(std::type_identity<Pair>) {
      for (std::size_t first = 0; first < what.elements; first += device::WarpChunk::pair_elements) {
        const Pair pair{what, first};
        if (Pair::access(what) == device::Access::vector && pair.is_whole()) {
          add_pair<Pair, Pair::width>(pair, what.limbs);
        } else {
          add_pair<Pair, 1>(pair, what.limbs);
        }
      }
    });
  }

 private:
  using Line = std::array<std::max_align_t, 4>;
  using Chunk = device::WarpChunk;

  template <class Work>
  void run(const Work& work, std::size_t n) {
    const device::TileAlignment alignment = work.alignment();
    for_each_thread([&](std::size_t block, std::size_t thread) {
      device::run_tiles_of(work, alignment, n, block, blocks, thread);
    });
  }

  template <class RuleOf>
  void update_by_rule(std::span<const ShardUpdate> shards, RuleOf rule) {
    device::for_each_table(shards, rule, [&](const auto& runs) {
      for_each_thread([&](std::size_t block, std::size_t thread) {
        device::update_tiles_of(runs, runs.tiles(), block, blocks, thread);
      });
    });
  }

  template <class F>
  static void for_each_thread(F f) {
    for (std::size_t block = 0; block < blocks; ++block) {
      for (std::size_t thread = 0; thread < device::tile_threads; ++thread) f(block, thread);
    }
  }

  /// The threads of a warp in turn, as far as each point where they meet.
  template <class Pair, std::size_t Width>
  static void add_pair(const Pair& pair, std::int64_t* limbs) {
    const auto chunk = std::make_unique<Chunk>();
    std::array<double, Chunk::threads> sums{};
    for (std::size_t c = 0; c < Chunk::count; ++c) {
      for (std::size_t thread = 0; thread < Chunk::threads; ++thread) {
        pair.template finish<Width>(c, thread, pair.template load<Width>(c, thread), *chunk);
      }
      if (!pair.has_norm()) continue;
      for (std::size_t thread = 0; thread < Chunk::threads; ++thread) chunk->add_to(sums[thread], thread);
    }
    for (std::size_t width = Chunk::lanes / 2; width > 0; width /= 2) {
      const auto before = sums;
      for (std::size_t thread = 0; thread < Chunk::threads; ++thread) {
        const std::size_t lane = thread % Chunk::lanes;
        sums[thread] += before[lane + width < Chunk::lanes ? thread + width : thread];  // as __shfl_down_sync does
      }
    }
    for (std::size_t thread = 0; thread < Chunk::threads; thread += Chunk::lanes) {
      const ExactSum::Parts parts = ExactSum::parts(sums[thread]);
      for (std::size_t i = 0; i < parts.count; ++i) limbs[parts.first + i] += parts.values[i];
    }
  }

  std::vector<std::vector<Line>> memory_;
};

TEST_CASE("conversions") {
  HostMachine machine;
  check_conversions(machine);
}

TEST_CASE("sums in rank order") {
  HostMachine machine;
  check_sums(machine);
}

TEST_CASE("block quantization") {
  HostMachine machine;
  check_quantization(machine);
}

TEST_CASE("updates") {
  HostMachine machine;
  check_updates(machine, zerospan::AdamW{.learning_rate = 0.01F});
  check_updates(machine, zerospan::Lion{.weight_decay = 0.1F});
  check_updates(machine, zerospan::Sgd{.weight_decay = 0.1F});
  check_updates(machine, zerospan::Sgd{.momentum = 0.9F, .kind = zerospan::Momentum::nesterov});
}

TEST_CASE("updates of many runs") {
  HostMachine machine;
  check_many_updates(machine, zerospan::AdamW{});
  check_many_updates(machine, zerospan::Sgd{});
}

TEST_CASE("additions of gradients, with the norm") {
  HostMachine machine;
  check_additions(machine);
}

}  // namespace zerospan_test
