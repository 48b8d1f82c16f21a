#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/reference_linear.hpp"
#include "support/sample.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::ActivationCheckpoints;
using zerospan::bfloat16;
using zerospan::calling_thread;
using zerospan::TileCounts;
using zerospan_test::Array;
using zerospan_test::Disk;
using zerospan_test::Matrix;
using zerospan_test::Place;
using zerospan_test::ReferenceLinear;
using zerospan_test::RuntimeArray;
using zerospan_test::Typing;

constexpr std::size_t layers = 5;
constexpr std::size_t width = 61;
constexpr std::size_t rows = 4;
constexpr int steps = 3;

/// One way to train a network of linear layers. Nothing but the ranks and the precision may matter.
struct Configuration {
  int ranks = 1;
  bool is_narrow = false;  ///< Weights of 16 bit.

  int stage = 0;
  TileCounts tiles{};
  std::size_t segment = 0;  ///< Layers from one checkpoint to the next; 0: all activations are kept.
  Place activations = Place::device;
  Place states = Place::device;
  Disk disk = Disk::plain;
  Typing typing = Typing::compile_time;
  zerospan::AnyPartitioner partition = zerospan::Slices{};
  zerospan::Bytes prefetch = 0_MiB;

  std::string describe() const {
    std::string text = std::to_string(ranks) + (is_narrow ? " ranks, bf16, stage " : " ranks, fp32, stage ");
    text += std::to_string(stage) + ", tiles " + std::to_string(tiles.outputs) + " x " + std::to_string(tiles.inputs);
    text += ", segments of " + std::to_string(segment) + " on " + std::string{to_string(activations)};
    text += ", states on " + std::string{to_string(states)} + " " + std::to_string(static_cast<int>(disk));
    text += ", typing " + std::to_string(static_cast<int>(typing));
    text += ", " + std::string{partition.name()};
    return text + ", prefetch " + std::to_string(prefetch.count);
  }
};

/// What a rank has seen, and the master weights put together.
struct Result {
  std::vector<float> outputs;
  std::map<std::string, std::vector<float>> masters;

  friend bool operator==(const Result&, const Result&) = default;
};

/// y = tanh(x W^T), layer by layer, with weights in tiles and activations kept or recomputed.
template <zerospan::Element E, zerospan::HostTensor T>
class Network {
 public:
  template <class Engine>
  Network(Engine& engine, const Configuration& c, ActivationCheckpoints* checkpoints)
      : segment_{checkpoints ? c.segment : layers}, checkpoints_{checkpoints} {
    for (std::size_t l = 0; l < layers; ++l) {
      layers_.emplace_back(engine, std::string{"layer "} + std::to_string(l), zerospan::LinearExtents{width, width},
                           c.tiles);
    }
  }

  /// @return The last layer's output; its gradient is itself.
  Matrix train(Matrix x) const {
    std::vector<Matrix> inputs;  // of the layers of one segment
    for (std::size_t l = 0; l < layers; ++l) {
      if (l % segment_ == 0) save(x);
      if (l % segment_ == 0) inputs.clear();
      inputs.push_back(x);
      x = forward(l, x);
    }
    Matrix gradient = x;
    for (std::size_t end = layers; end > 0; end = (end - 1) / segment_ * segment_) {
      const std::size_t first = (end - 1) / segment_ * segment_;
      if (checkpoints_) inputs = recompute(first, end);
      for (std::size_t l = end; l-- > first;) gradient = backward(l, inputs[l - first], gradient);
    }
    return x;
  }

  const std::vector<ReferenceLinear<E, T>>& all() const { return layers_; }

 private:
  Matrix forward(std::size_t l, const Matrix& x) const {
    Matrix y = layers_[l].forward(x);
    for (float& value : y.values) value = std::tanh(value);
    return y;
  }

  Matrix backward(std::size_t l, const Matrix& x, Matrix dy) const {
    const Matrix y = forward(l, x);
    for (std::size_t i = 0; i < dy.values.size(); ++i) dy.values[i] *= std::fma(-y.values[i], y.values[i], 1.0F);
    return layers_[l].backward(x, dy);
  }

  void save(const Matrix& x) const {
    if (!checkpoints_) return;
    auto saved = checkpoints_->push<Array<float>>(calling_thread, {rows, width});
    std::ranges::copy(x.values, saved->data);
    saved.commit();
  }

  std::vector<Matrix> recompute(std::size_t first, std::size_t end) const {
    Matrix x{rows, width};
    const auto saved = checkpoints_->pop<Array<float>>(calling_thread);
    std::copy_n(saved->data, saved->size, x.values.begin());
    std::vector<Matrix> inputs{x};
    for (std::size_t l = first; l + 1 < end; ++l) inputs.push_back(forward(l, inputs.back()));
    return inputs;
  }

  std::size_t segment_;
  ActivationCheckpoints* checkpoints_;
  std::vector<ReferenceLinear<E, T>> layers_;
};

/// The master weights, whole matrices whatever the tiles are.
template <class Engine, class N>
std::map<std::string, std::vector<float>> masters_of(Engine& engine, const N& network) {
  std::map<std::string, std::vector<float>> parts;
  engine.for_each_master([&](std::string_view name, std::uint64_t, std::span<const float> values) {
    auto& all = parts[std::string{name}];
    all.insert(all.end(), values.begin(), values.end());
  });
  std::map<std::string, std::vector<float>> wholes;
  for (std::size_t l = 0; l < layers; ++l) {
    std::vector<float>& whole = wholes[std::string{"layer "} + std::to_string(l)];
    whole.resize(width * width);
    for (const auto& [name, values] : parts) {
      if (!name.starts_with(std::string{"layer "} + std::to_string(l) + ".")) continue;
      const auto bracket = name.find('[');
      const std::size_t row = bracket == std::string::npos ? 0 : std::stoul(name.substr(bracket + 1));
      const std::size_t column = bracket == std::string::npos ? 0 : std::stoul(name.substr(name.find(',') + 1));
      const auto tiles = network.all()[l].layer().parts();
      const std::size_t columns = static_cast<std::size_t>(
          std::ranges::count(tiles, std::size_t{0}, [](const auto& part) { return part.tile.outputs.first; }));
      const zerospan::Tile& tile = tiles[row * columns + column].tile;
      for (std::size_t i = 0; i < values.size(); ++i) {
        whole[(tile.outputs.first + i / tile.inputs.count) * width + tile.inputs.first + i % tile.inputs.count] =
            values[i];
      }
    }
  }
  return wholes;
}

template <zerospan::Element E, zerospan::HostTensor T, class Engine>
Result train_network(Engine& engine, int rank, const Configuration& c, ActivationCheckpoints* checkpoints) {
  const Network<E, T> network{engine, c, checkpoints};
  Result result;
  for (std::int64_t step = 0; step < steps; ++step) {
    Matrix x{rows, width};
    for (std::size_t i = 0; i < x.values.size(); ++i) x.values[i] = zerospan_test::noise(0, {rank, step, 0}, i);
    const Matrix y = network.train(std::move(x));
    result.outputs.insert(result.outputs.end(), y.values.begin(), y.values.end());
    engine.step();
  }
  result.masters = masters_of(engine, network);
  return result;
}

std::vector<Result> train(const Configuration& c) {
  return zerospan::run_ranks(
      c.ranks,
      [&](zerospan::ThreadCommunicator communicator) {
        zerospan::ThreadedIoEngine io;
        zerospan_test::Memory memory{io, 16_MiB, 16_MiB};  // small tiles are rounded up to pages
        const zerospan_test::DiskStack disk{io, memory, c.disk};
        const auto tier = [&](Place place) { return place == Place::nvme ? disk.tier() : memory.tier(place); };
        std::optional<ActivationCheckpoints> checkpoints;
        if (c.segment > 0) {
          checkpoints.emplace(memory.device, tier(c.activations),
                              zerospan::ActivationOptions{.bytes = 64_KiB, .device_bytes = 2_KiB, .staging = 64_KiB});
        }
        ActivationCheckpoints* const used = checkpoints ? &*checkpoints : nullptr;
        const zerospan::TierRef states = tier(c.states);
        zerospan_test::AnyEngine engine{
            c.stage,
            communicator,
            memory.device,
            zerospan::Placement{.parameters = c.stage == 3 ? states : memory.tier(Place::device),
                                .gradients = c.stage >= 2 ? states : memory.tier(Place::host),
                                .optimizer = states},
            zerospan::AdamW{.learning_rate = 0.01F},
            zerospan::EngineOptions{.partition = c.partition,
                                    .persistence_threshold = zerospan::Bytes{0},
                                    .prefetch = c.prefetch,
                                    .timeout = std::chrono::seconds{30}}};
        const int rank = communicator.rank().value;
        const bool is_typed = c.typing == Typing::compile_time;
        if (c.is_narrow) {
          return is_typed ? train_network<bfloat16, Array<bfloat16>>(engine, rank, c, used)
                          : train_network<bfloat16, RuntimeArray>(engine, rank, c, used);
        }
        return is_typed ? train_network<float, Array<float>>(engine, rank, c, used)
                        : train_network<float, RuntimeArray>(engine, rank, c, used);
      },
      {.timeout = std::chrono::seconds{30}});
}

Configuration draw(std::mt19937_64& random) {
  const auto pick = [&](auto... values) { return std::array{values...}[random() % sizeof...(values)]; };
  Configuration c;
  c.ranks = pick(1, 2, 3);
  c.is_narrow = pick(false, true);
  c.stage = pick(0, 1, 2, 3, 3, 3);
  c.tiles = pick(TileCounts{1, 1}, TileCounts{4, 1}, TileCounts{1, 3}, TileCounts{3, 2}, TileCounts{7, 5});
  c.segment = pick(std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{5});
  c.activations = pick(Place::device, Place::host, Place::nvme);
  c.states = pick(Place::device, Place::host, Place::nvme, Place::nvme);
  c.disk = pick(Disk::plain, Disk::striped, Disk::cached, Disk::checked);
  c.typing = pick(Typing::compile_time, Typing::run_time);
  c.partition = pick(zerospan::AnyPartitioner{zerospan::Slices{}}, zerospan::AnyPartitioner{zerospan::Owners{}});
  c.prefetch = pick(0_MiB, 1_MiB);
  return c;
}

void compare(std::size_t count) {
  std::mt19937_64 random{20250111};
  std::map<std::pair<int, bool>, std::vector<Result>> oracles;
  for (std::size_t i = 0; i < count; ++i) {
    const Configuration c = draw(random);
    CAPTURE(c.describe());
    const auto [oracle, is_new] = oracles.try_emplace({c.ranks, c.is_narrow});
    if (is_new) oracle->second = train({.ranks = c.ranks, .is_narrow = c.is_narrow});
    std::vector<Result> actual;
    REQUIRE_NOTHROW(actual = train(c));
    CHECK(actual == oracle->second);
  }
  MESSAGE(count, " combinations compared with ", oracles.size(), " oracles");
}

TEST_CASE("tiles, checkpoints, disks, types and partitions train to the bits of the oracle") {
  compare(zerospan_test::is_sanitized ? 12 : 40);
}

TEST_CASE("many more of them train to the bits of the oracle" * doctest::skip()) { compare(1000); }

TEST_CASE("another precision, number of ranks or of steps gives other bits") {
  const auto oracle = train({});
  CHECK(train({.ranks = 2})[0].masters != oracle[0].masters);
  CHECK(train({.is_narrow = true})[0].masters != oracle[0].masters);
}

}  // namespace
