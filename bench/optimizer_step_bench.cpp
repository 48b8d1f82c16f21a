/// A step of an engine whose optimizer rests on disk beside the way in which DeepSpeed's optimizer uses a disk (ZeRO-
/// Infinity, arXiv 2104.07857; deepspeed/runtime/swap_tensor/pipelined_optimizer_swapper.py), as a plain loop over the
/// same I/O engine, disk, memory and update. All files are made in the working directory.
///
/// A parameter has 16 bits, its gradient too, and three fp32 numbers of states: its master weight, and AdamW's two.
/// DeepSpeed keeps gradients in fp32: in each step a parameter moves 4 bytes of gradient to the disk, 16 bytes from it
/// and 12 back, 32 bytes together. The engine keeps the gradient as it is: 2 bytes to the disk, 14 from it and 12 back,
/// 28 together. Where the disk alone decides, 32 / 28 is what is to be expected. What hides behind the model's own
/// computation is no part of this: there is none.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <zerospan/zerospan.hpp>

#if defined(ZEROSPAN_HAS_LIBAIO)
#include <zerospan/io/libaio_engine.hpp>
#endif

#include "raw_file.hpp"

template <>
struct zerospan::TensorTraits<zerospan::bfloat16*> {  // the host's tensor is a pointer
  using element_type = zerospan::bfloat16;
  static zerospan::bfloat16* unbound(const Shape&) { return nullptr; }
  static void bind(zerospan::bfloat16*& tensor, zerospan::bfloat16* data) { tensor = data; }
  static zerospan::bfloat16* data(zerospan::bfloat16* const& tensor) { return tensor; }
};

namespace {

using namespace zerospan;

#if defined(ZEROSPAN_HAS_LIBAIO)
using Io = LibaioEngine;
#else
using Io = ThreadedIoEngine;
#endif

constexpr std::size_t layers = 16;
constexpr std::size_t layer_elements = std::size_t{1} << 20;
constexpr std::size_t elements = layers * layer_elements;
constexpr Bytes staging = 64_MiB;          // what transfers pass through, on either side
constexpr std::int64_t steps_at_once = 4;  // that are measured
constexpr std::size_t width = sizeof(float);

void report(benchmark::State& state) {
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * steps_at_once *
                          static_cast<std::int64_t>(elements));
}

/// Some gradient of a layer.
void backward(const bfloat16* values, bfloat16* gradient) { std::copy_n(values, layer_elements, gradient); }

/// A training on one rank: its parameters are in the host's memory, all else rests on disk.
class Training {
 public:
  Training() {
    for (std::size_t i = 0; i < layers; ++i) {
      layers_.push_back(std::make_unique<PartitionedParameter<bfloat16*>>(engine_, "layer." + std::to_string(i),
                                                                          Shape{layer_elements}, init::normal(0.02F)));
    }
  }

  void step() {
    for (const auto& layer : layers_) {
      const auto values = layer->gather(calling_thread);
      auto gradient = layer->gradient(calling_thread);
      backward(*values, *gradient);
      gradient.commit();
    }
    engine_.step();
  }

  void synchronize() { engine_.synchronize(); }

 private:
  HostDevice device_{{.device_budget = 32_MiB, .host_budget = staging + Bytes{2 * elements} + 1_MiB}};
  SelfCommunicator ranks_;
  Io io_;
  NvmeTier<Io> disk_{io_, {.directory = "."}};
  HostTier host_{device_};
  ZeroEngine<Stage3, SelfCommunicator, HostDevice, AdamW> engine_{
      Stage3{},
      ranks_,
      device_,
      Placement{.parameters = host_, .gradients = disk_, .optimizer = disk_},
      AdamW{},
      EngineOptions{.persistence_threshold = Bytes{0}, .staging = staging}};
  std::vector<std::unique_ptr<PartitionedParameter<bfloat16*>>> layers_;
};

void optimizer_step(benchmark::State& state) {
  Training training;
  training.step();
  training.synchronize();
  for (auto _ : state) {
    for (std::int64_t step = 0; step < steps_at_once; ++step) training.step();
    training.synchronize();
  }
  report(state);
}

/// A file that is read and written by blocks of 1 MiB.
class RawDisk {
 public:
  /// Transfers that have been started, and may be waited for.
  class Transfers {
   public:
    Transfers() = default;
    Transfers(const Transfers&) = delete;
    Transfers& operator=(const Transfers&) = delete;
    ~Transfers() { wait_for_all(); }

    /// @throws std::runtime_error if one has failed.
    void wait() {
      wait_for_all();
      if (failed_) throw std::runtime_error{"a transfer failed or fell short"};
    }

   private:
    friend class RawDisk;

    void wait_for_all() noexcept {
      for (std::size_t left = under_way_; left != 0; left = under_way_) under_way_.wait(left);
    }

    std::atomic<std::size_t> under_way_ = 0;
    std::atomic<bool> failed_ = false;
  };

  explicit RawDisk(std::size_t bytes) : file_{bytes} {}

  void start(Transfers& transfers, IoDirection direction, std::size_t offset, std::byte* data, std::size_t bytes) {
    transfers.under_way_ += bytes / block;
    for (std::size_t done = 0; done < bytes; done += block) {
      io_.submit({direction, file_.descriptor(), offset + done, data + done, block}, [&transfers](std::int64_t moved) {
        if (moved != static_cast<std::int64_t>(block)) transfers.failed_ = true;
        if (--transfers.under_way_ == 0) transfers.under_way_.notify_all();
      });
    }
  }

 private:
  static constexpr std::size_t block = std::size_t{1} << 20;

  bench::RawFile file_;
  Io io_;
};

/// Gradients are widened, and written behind the backward pass. Then sub-groups go around in slots: while one is
/// updated, the next one is read, and those before it are written.
class DeepSpeedPattern {
 public:
  DeepSpeedPattern() {
    std::fill_n(slots_.data(), slots_.bytes(), std::byte{0});
    std::fill_n(values_.data(), values_.size(), bfloat16{0.02F});
    for (std::size_t group = 0; group < groups; ++group) {  // states that are there
      disk_.start(transfers_[0], IoDirection::write, group * group_bytes, slots_.data(), group_bytes);
    }
    transfers_[0].wait();
  }

  void step() {
    for (std::size_t layer = 0; layer < layers; ++layer) write_gradient(layer);
    wait_for_all();
    ++step_;
    read(0);
    for (std::size_t group = 0; group < groups; ++group) {
      if (group + 1 < groups) {
        transfers_[(group + 1) % slots].wait();  // what has been written from there
        read(group + 1);
      }
      transfers_[group % slots].wait();
      update(group);
      disk_.start(transfers_[group % slots], IoDirection::write, group * group_bytes, slot(group),
                  3 * width * group_elements);
    }
    wait_for_all();
  }

 private:
  static constexpr std::size_t slots = 4;
  static constexpr std::size_t group_elements = staging.count / slots / (4 * width);  // p, m, v and g in a slot
  static constexpr std::size_t group_bytes = 4 * width * group_elements;              // they lie so on disk, too
  static constexpr std::size_t groups = elements / group_elements;
  static_assert(group_elements == layer_elements && elements % group_elements == 0);

  std::byte* slot(std::size_t group) { return slots_.data() + group % slots * group_bytes; }
  std::byte* gradient_in(std::size_t group) { return slot(group) + 3 * width * group_elements; }

  void write_gradient(std::size_t layer) {
    transfers_[layer % slots].wait();
    backward(values_.data() + layer * layer_elements, gradient_.data());
    to_float(ElementType::bfloat16, reinterpret_cast<const std::byte*>(gradient_.data()),
             reinterpret_cast<float*>(gradient_in(layer)), layer_elements);
    disk_.start(transfers_[layer % slots], IoDirection::write, layer * group_bytes + 3 * width * group_elements,
                gradient_in(layer), width * group_elements);
  }

  void read(std::size_t group) {
    disk_.start(transfers_[group % slots], IoDirection::read, group * group_bytes, slot(group), group_bytes);
  }

  void update(std::size_t group) {
    AdamW{}.update({.master = reinterpret_cast<float*>(slot(group)),
                    .states = slot(group) + width * group_elements,
                    .capacity = group_elements,
                    .first = 0,
                    .elements = group_elements,
                    .gradient = gradient_in(group),
                    .gradient_type = ElementType::float32,
                    .parameter = reinterpret_cast<std::byte*>(values_.data() + group * group_elements),
                    .parameter_type = ElementType::bfloat16,
                    .gradient_scale = 1.0F,
                    .step = step_,
                    .group = {}});
  }

  void wait_for_all() {
    for (RawDisk::Transfers& each : transfers_) each.wait();
  }

  HostDevice device_{{.device_budget = 1_MiB, .host_budget = staging}};
  Allocation slots_ = device_.host_memory().allocate(staging, "slots");
  std::vector<bfloat16> values_ = std::vector<bfloat16>(elements);
  std::vector<bfloat16> gradient_ = std::vector<bfloat16>(layer_elements);
  std::int64_t step_ = 0;
  std::array<RawDisk::Transfers, slots> transfers_;
  RawDisk disk_{groups * group_bytes};
};

void deepspeed_pattern(benchmark::State& state) {
  DeepSpeedPattern pattern;
  pattern.step();
  for (auto _ : state) {
    for (std::int64_t step = 0; step < steps_at_once; ++step) pattern.step();
  }
  report(state);
}

BENCHMARK(optimizer_step)->Name("optimizer_step/against_deepspeed_pattern")->Iterations(1)->UseRealTime();
BENCHMARK(deepspeed_pattern)->Name("optimizer_step_raw/against_deepspeed_pattern")->Iterations(1)->UseRealTime();

}  // namespace
