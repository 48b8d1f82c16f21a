#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iomanip>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/tiling/tiled_linear.hpp>
#include <zerospan/zerospan.hpp>

#include "support/reference_linear.hpp"
#include "support/sample.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::Bytes;
using zerospan::calling_thread;
using zerospan::ConfigurationError;
using zerospan::ElementType;
using zerospan::LinearBias;
using zerospan::LinearExtents;
using zerospan::SelfCommunicator;
using zerospan::ThreadCommunicator;
using zerospan::ThreadedIoEngine;
using zerospan::Tile;
using zerospan::TileCounts;
using zerospan_test::Array;
using zerospan_test::Matrix;
using zerospan_test::Memory;
using zerospan_test::Place;
using zerospan_test::ReferenceLinear;
using zerospan_test::RuntimeArray;

using Layer = ReferenceLinear<float>;

/// One rank with all states on disk.
template <class Communicator = SelfCommunicator>
struct Rig {
  using Engine = zerospan::ZeroEngine<zerospan::Stage3, Communicator, zerospan::HostDevice, zerospan::AdamW>;

  explicit Rig(zerospan::EngineOptions options = {}, Bytes device_budget = 16_MiB,
               Communicator communicator_ = Communicator{})
      : memory{io, device_budget, 1_MiB}, communicator{std::move(communicator_)} {
    options.persistence_threshold = 0_KiB;
    options.timeout = std::chrono::seconds{30};
    engine = std::make_unique<Engine>(zerospan::Stage3{}, communicator, memory.device,
                                      memory.placement(Place::nvme, Place::nvme, Place::nvme),
                                      zerospan::AdamW{.learning_rate = 0.01F}, options);
  }

  ThreadedIoEngine io{};
  Memory<ThreadedIoEngine> memory;
  Communicator communicator;
  std::unique_ptr<Engine> engine;
};

/// Any input: its elements differ from rank to rank and from step to step.
Matrix noise(std::size_t rows, std::size_t columns, int rank, std::int64_t step) {
  Matrix result{rows, columns};
  for (std::size_t i = 0; i < result.values.size(); ++i) {
    result.values[i] = zerospan_test::noise(columns, {rank, step, 0}, i);
  }
  return result;
}

constexpr LinearExtents first_extents{.outputs = 90, .inputs = 53};
constexpr LinearExtents second_extents{.outputs = 37, .inputs = 90};
constexpr std::size_t rows = 3;

struct Tiling {
  TileCounts first;
  TileCounts second;
};

/// What a rank has seen, and the master weights put together.
struct Result {
  std::vector<float> outputs;  ///< Of every step.
  std::vector<float> dx;       ///< Likewise.
  std::map<std::string, std::vector<float>> masters;
  std::vector<double> norms;  ///< Likewise.
};

/// The whole matrix of a layer's master weights.
template <class L>
std::vector<float> reassemble(const std::map<std::string, std::vector<float>>& masters, const std::string& name,
                              const L& layer, LinearExtents extents, TileCounts tiles) {
  if (tiles.outputs * tiles.inputs == 1) return masters.at(name + ".weight");
  std::vector<float> whole(extents.outputs * extents.inputs);
  for (std::size_t part = 0; part < layer.parts().size(); ++part) {
    const std::string suffix =
        std::string{"["} + std::to_string(part / tiles.inputs) + "," + std::to_string(part % tiles.inputs) + "]";
    const std::vector<float>& values = masters.at(name + ".weight" + suffix);
    const Tile& tile = layer.parts()[part].tile;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::size_t row = tile.outputs.first + i / tile.inputs.count;
      whole[row * extents.inputs + tile.inputs.first + i % tile.inputs.count] = values[i];
    }
  }
  return whole;
}

template <class Engine>
std::map<std::string, std::vector<float>> masters_of(Engine& engine) {
  std::map<std::string, std::vector<float>> masters;
  engine.for_each_master([&](std::string_view name, std::uint64_t, std::span<const float> values) {
    auto& all = masters[std::string{name}];
    all.insert(all.end(), values.begin(), values.end());
  });
  return masters;
}

/// Two layers with a rectifier between them and a square loss, the second without a bias.
template <zerospan::Element E, zerospan::HostTensor T, class Engine>
Result train_network(Engine& engine, int rank, const Tiling& tiling, int steps) {
  const ReferenceLinear<E, T> first{engine, "first", first_extents, tiling.first, {}, LinearBias{}};
  const ReferenceLinear<E, T> second{engine, "second", second_extents, tiling.second};
  Result result;
  for (std::int64_t step = 0; step < steps; ++step) {
    const Matrix x = noise(rows, first_extents.inputs, rank, step);
    const Matrix wanted = noise(rows, second_extents.outputs, rank, step);
    const Matrix hidden = first.forward(x);
    Matrix active = hidden;
    for (float& value : active.values) value = std::max(value, 0.0F);
    const Matrix y = second.forward(active);
    Matrix dy = y;
    for (std::size_t i = 0; i < dy.values.size(); ++i) dy.values[i] -= wanted.values[i];
    Matrix dhidden = second.backward(active, dy);
    for (std::size_t i = 0; i < dhidden.values.size(); ++i) dhidden.values[i] *= hidden.values[i] > 0 ? 1.0F : 0.0F;
    const Matrix dx = first.backward(x, dhidden);
    result.norms.push_back(engine.step().gradient_norm);
    result.outputs.insert(result.outputs.end(), y.values.begin(), y.values.end());
    result.dx.insert(result.dx.end(), dx.values.begin(), dx.values.end());
  }
  const auto masters = masters_of(engine);
  result.masters["first.bias"] = masters.at("first.bias");
  result.masters["first"] = reassemble(masters, "first", first.layer(), first_extents, tiling.first);
  result.masters["second"] = reassemble(masters, "second", second.layer(), second_extents, tiling.second);
  return result;
}

/// @param ranks 0: one rank on the SelfCommunicator.
template <zerospan::Element E = float, zerospan::HostTensor T = Array<E>>
std::vector<Result> train(const Tiling& tiling, int ranks, int steps = 3, zerospan::EngineOptions options = {}) {
  if (ranks == 0) return {train_network<E, T>(*Rig<>{options}.engine, 0, tiling, steps)};
  return zerospan::run_ranks(ranks,
                             [&](ThreadCommunicator communicator) {
                               const int rank = communicator.rank().value;
                               const Rig<ThreadCommunicator> rig{options, 16_MiB, std::move(communicator)};
                               return train_network<E, T>(*rig.engine, rank, tiling, steps);
                             },
                             {.timeout = std::chrono::seconds{30}});
}

constexpr Tiling whole{};
constexpr Tiling tilings[]{{{.outputs = 2}, {.outputs = 2}},
                           {{.inputs = 3}, {.inputs = 3}},
                           {{.outputs = 4, .inputs = 4}, {.outputs = 4, .inputs = 4}},
                           {{.outputs = 7, .inputs = 5}, {.outputs = 5, .inputs = 7}},
                           {{.outputs = 90, .inputs = 1}, {.outputs = 1, .inputs = 90}}};

/// Norms are equal within rounding only.
void check_equal(const std::vector<Result>& a, const std::vector<Result>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t rank = 0; rank < a.size(); ++rank) {
    CHECK(a[rank].outputs == b[rank].outputs);
    CHECK(a[rank].dx == b[rank].dx);
    CHECK(a[rank].masters == b[rank].masters);
  }
}

TEST_CASE("no bit depends on the tiling") {
  zerospan_test::Sample sample{4};
  for (const int ranks : {0, 2, 3}) {
    CAPTURE(ranks);
    const std::vector<Result> expected = train(whole, ranks);
    CHECK(std::ranges::any_of(expected[0].masters.at("first.bias"), [](float value) { return value != 0; }));
    for (const Tiling& tiling : tilings) {
      if (!sample.takes()) continue;
      CAPTURE(tiling.first.outputs);
      check_equal(train(tiling, ranks), expected);
    }
  }
}

TEST_CASE("no bit depends on the tiling with 16-bit elements, typed at compile time or at run time") {
  const std::vector<Result> expected = train<zerospan::bfloat16>(whole, 2);
  check_equal(train<zerospan::bfloat16>(tilings[3], 2), expected);
  check_equal(train<zerospan::bfloat16, RuntimeArray>(tilings[2], 2), expected);
  CHECK(expected[0].masters.at("first") != train(whole, 2)[0].masters.at("first"));
}

TEST_CASE("initial values are those of one parameter with the layer's name") {
  Rig rig;
  const zerospan::PartitionedParameter<Array<float>> plain{
      *rig.engine, "first.weight", {90, 53}, zerospan::init::normal(0.25F)};
  const std::vector<float> expected = masters_of(*rig.engine).at("first.weight");
  CHECK(train(tilings[3], 0, 0)[0].masters.at("first") == expected);
  CHECK(train(whole, 0, 0)[0].masters.at("first") == expected);
}

TEST_CASE("with clipping, tilings agree within the rounding of the norm") {
  const zerospan::EngineOptions clipping{.max_gradient_norm = 0.5F};
  const Result expected = train(whole, 0, 3, clipping)[0];
  CHECK(expected.masters != train(whole, 0)[0].masters);
  for (const Tiling& tiling : tilings) {
    const Result result = train(tiling, 0, 3, clipping)[0];
    const double ulp = std::nextafter(expected.norms[0], std::numeric_limits<double>::infinity()) - expected.norms[0];
    CHECK(std::abs(result.norms[0] - expected.norms[0]) <= 4 * ulp);
    for (const char* name : {"first", "second"}) {
      const auto& a = result.masters.at(name);
      const auto& b = expected.masters.at(name);
      for (std::size_t i = 0; i < a.size(); ++i) REQUIRE(std::abs(a[i] - b[i]) <= 1e-6F);
    }
  }
}

/// A step of one layer.
template <class Engine>
void train_layer(Engine& engine, const Layer& layer, LinearExtents extents) {
  const Matrix x = noise(1, extents.inputs, 0, 0);
  layer.backward(x, layer.forward(x));
  engine.step();
}

TEST_CASE("working memory is that of one tile, or of one tile's gradient, and of what is prefetched") {
  // Extents that divide by the tiles, whole blocks: a tile takes 4 outputs inputs / tiles bytes, its gradient as much.
  // They are leased one after the other. The longest look-ahead finds one further use of each tile in the pass. Memory
  // beyond that would be used too, for tiles that stay between their uses: so there is none.
  constexpr LinearExtents extents{.outputs = 512, .inputs = 256};
  constexpr std::size_t matrix_bytes = 4 * extents.outputs * extents.inputs;
  for (const TileCounts tiles : {TileCounts{}, {.outputs = 4}, {.outputs = 4, .inputs = 4}, {.inputs = 16}}) {
    const std::size_t tile_bytes = matrix_bytes / (tiles.outputs * tiles.inputs);
    for (const std::size_t prefetch : {std::size_t{0}, tile_bytes, 3 * tile_bytes}) {
      const std::size_t predicted = tile_bytes + std::min(prefetch, matrix_bytes);
      Rig rig{{.prefetch = Bytes{prefetch}}, Bytes{predicted}};
      const Layer layer{*rig.engine, "layer", extents, tiles};
      for (int step = 0; step < 3; ++step) train_layer(*rig.engine, layer, extents);
      CAPTURE(prefetch);
      CHECK(rig.memory.device.memory().peak().count == predicted);
    }
  }
}

TEST_CASE("with several micro-batches and ranks, a tile's sum over ranks lies beside its gradient") {
  // A gradient of a tile: the whole in its own type, and this rank's half in fp32.
  constexpr LinearExtents extents{.outputs = 128, .inputs = 128};
  for (const std::size_t tiles : {1U, 4U, 8U}) {
    const std::size_t tile_bytes = 4 * extents.outputs * extents.inputs / tiles;
    const auto peaks = zerospan::run_ranks(2, [&](ThreadCommunicator communicator) {
      Rig<ThreadCommunicator> rig{{.micro_batches = 2, .prefetch = Bytes{0}}, 16_MiB, std::move(communicator)};
      const Layer layer{*rig.engine, "layer", extents, {.outputs = tiles}};
      const Matrix x = noise(1, extents.inputs, 0, 0);
      for (int micro_batch = 0; micro_batch < 2; ++micro_batch) layer.backward(x, layer.forward(x));
      rig.engine->step();
      return rig.memory.device.memory().peak();
    });
    for (const Bytes peak : peaks) CHECK(peak.count == tile_bytes + tile_bytes / 2);
  }
}

TEST_CASE("from the second pass on every tile is prefetched, where there is room for two") {
  constexpr LinearExtents extents{.outputs = 256, .inputs = 128};
  constexpr std::size_t tile_bytes = 4 * extents.outputs * extents.inputs / 8;
  for (const Bytes budget : {16_MiB, Bytes{2 * tile_bytes}}) {
    CAPTURE(budget.count);
    Rig rig{{}, budget};
    const Layer layer{*rig.engine, "layer", extents, {.outputs = 4, .inputs = 2}, {}, LinearBias{}};
    constexpr int steps = 4;
    for (int step = 0; step < steps; ++step) train_layer(*rig.engine, layer, extents);
    constexpr std::uint64_t gathers = 1 + 2 * 8;  // the bias, and each tile in forward and in backward
    const auto counters = rig.engine->statistics().prefetch;
    CHECK(counters.misses == gathers);
    CHECK(counters.hits + counters.kept == (steps - 1) * gathers);
    CHECK(counters.mended == 0);
  }
}

TEST_CASE("forward finishes each range of outputs, backward each range of inputs, and the callables are told") {
  Rig rig;
  const auto range = [](std::size_t first, std::size_t count) { return zerospan::IndexRange{first, count}; };
  const zerospan::TiledLinear<Array<float>> layer{
      *rig.engine, "layer", {.outputs = 3, .inputs = 5}, {.outputs = 2, .inputs = 2}, zerospan::init::zeros()};
  const zerospan::TiledLinear<Array<float>> biased{
      *rig.engine, "biased",    {.outputs = 3, .inputs = 5}, {.outputs = 2, .inputs = 2}, zerospan::init::ones(),
      {},          LinearBias{}};
  std::vector<Tile> tiles;
  std::vector<std::size_t> sizes;
  const auto visit = [&](const Tile& tile, const Array<float>& tensor) {
    tiles.push_back(tile);
    sizes.push_back(tensor.size);
  };
  const auto fill = [](const Tile& tile, Array<float>& gradient) {
    CHECK_FALSE(tile.accumulates);
    std::fill_n(gradient.data, gradient.size, 0.0F);
  };

  layer.forward(calling_thread, visit);
  CHECK(tiles == std::vector<Tile>{{range(0, 2), range(0, 3), false},
                                   {range(0, 2), range(3, 2), true},
                                   {range(2, 1), range(0, 3), false},
                                   {range(2, 1), range(3, 2), true}});
  CHECK(sizes == std::vector<std::size_t>{6, 4, 3, 2});

  tiles.clear();
  layer.backward(calling_thread, visit, fill);
  CHECK(tiles == std::vector<Tile>{{range(0, 2), range(0, 3), false},
                                   {range(2, 1), range(0, 3), true},
                                   {range(0, 2), range(3, 2), false},
                                   {range(2, 1), range(3, 2), true}});

  tiles.clear();
  biased.forward(calling_thread, visit, [&](const Array<float>& bias) {
    CHECK(tiles.empty());
    CHECK(bias.size == 3);
  });
  CHECK(tiles.size() == 4);
  CHECK(std::ranges::all_of(tiles, &Tile::accumulates));
}

/// A step of three micro-batches of different heights, together or one after the other.
struct StepOfThree {
  std::vector<std::vector<float>> dx;
  std::map<std::string, std::vector<float>> masters;
  std::uint64_t gathers;  ///< In backward.
};

StepOfThree make_step_of_three(TileCounts tiles, bool is_together) {
  constexpr LinearExtents extents{.outputs = 37, .inputs = 53};
  Rig rig{{.micro_batches = 3, .prefetch = 0_MiB}};
  const Layer layer{*rig.engine, "layer", extents, tiles, {}, LinearBias{}};
  std::vector<Matrix> x;
  std::vector<Matrix> dy;
  for (const std::size_t height : {3U, 1U, 4U}) {
    x.push_back(noise(height, extents.inputs, 0, static_cast<std::int64_t>(height)));
    dy.push_back(noise(height, extents.outputs, 1, static_cast<std::int64_t>(height)));
  }
  std::vector<Matrix> dx;
  if (is_together) {
    dx = layer.backward(x, dy);
  } else {
    for (std::size_t m = 0; m < x.size(); ++m) dx.push_back(layer.backward(x[m], dy[m]));
  }
  StepOfThree result{{}, {}, rig.engine->statistics().prefetch.misses};
  rig.engine->step({.commits = zerospan::Commits::in_every_micro_batch});
  for (const Matrix& each : dx) result.dx.push_back(each.values);
  result.masters = masters_of(*rig.engine);
  return result;
}

TEST_CASE("backward of micro-batches together gathers each tile once, and has the bits of one after the other") {
  for (const TileCounts tiles : {TileCounts{1, 1}, TileCounts{2, 3}}) {
    const StepOfThree in_turn = make_step_of_three(tiles, false);
    const StepOfThree together = make_step_of_three(tiles, true);
    CHECK(together.dx == in_turn.dx);
    CHECK(together.masters == in_turn.masters);
    CHECK(together.gathers == tiles.outputs * tiles.inputs);
    CHECK(in_turn.gathers == 3 * tiles.outputs * tiles.inputs);
  }
}

TEST_CASE("a layer is loaded tile by tile") {
  constexpr LinearExtents extents{.outputs = 5, .inputs = 7};
  constexpr TileCounts tiles{.outputs = 2, .inputs = 3};
  Rig rig;
  const Layer layer{*rig.engine, "layer", extents, tiles};
  std::vector<float> expected(extents.outputs * extents.inputs);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = static_cast<float>(i);
  for (const auto& [tile, weight] : layer.layer().parts()) {
    auto lease = weight.write(calling_thread);
    for (std::size_t i = 0; i < lease->size; ++i) {
      const std::size_t row = tile.outputs.first + i / tile.inputs.count;
      lease->data[i] = expected[row * extents.inputs + tile.inputs.first + i % tile.inputs.count];
    }
    lease.commit();
  }
  CHECK(reassemble(masters_of(*rig.engine), "layer", layer.layer(), extents, tiles) == expected);
  Matrix x{1, extents.inputs};
  x(0, 3) = 1;
  CHECK(layer.forward(x).values == std::vector<float>{3, 10, 17, 24, 31});
}

TEST_CASE("a first layer's backward gathers nothing, and frozen parameters have no gradient") {
  constexpr LinearExtents extents{.outputs = 8, .inputs = 6};
  Rig rig;
  const Layer trained{*rig.engine, "trained", extents, {.outputs = 2}, {}, LinearBias{}};
  const Layer frozen{*rig.engine, "frozen", extents, {.outputs = 2}, zerospan_test::frozen, LinearBias{}};
  const Layer all_frozen{*rig.engine,    "all frozen",          extents,
                         {.outputs = 2}, zerospan_test::frozen, LinearBias{.options = zerospan_test::frozen}};
  const auto before = masters_of(*rig.engine);
  const Matrix x = noise(rows, extents.inputs, 0, 0);
  const Matrix dy = noise(rows, extents.outputs, 0, 0);
  trained.layer().backward_weight(
      calling_thread,
      [&](const Tile& tile, Array<float>& gradient) { Layer::write_weight_gradient(x, dy, tile, gradient.data); },
      [&](Array<float>& gradient) { Layer::write_bias_gradient(dy, gradient.data); });
  CHECK(rig.engine->statistics().prefetch.misses == 0);
  CHECK(frozen.backward(x, dy).values != all_frozen.backward(x, dy).values);
  rig.engine->step();
  const auto after = masters_of(*rig.engine);
  for (const auto& [name, values] : before) {
    const bool is_trained = name.starts_with("trained") || name == "frozen.bias";
    CHECK_MESSAGE((after.at(name) != values) == is_trained, name);
  }
}

TEST_CASE("parameters that are frozen between steps have no gradient until they are unfrozen") {
  constexpr LinearExtents extents{.outputs = 8, .inputs = 6};
  Rig rig;
  const Layer layer{*rig.engine, "layer", extents, {.outputs = 2, .inputs = 2}, {}, LinearBias{}};
  train_layer(*rig.engine, layer, extents);
  const auto& tiled = layer.layer();
  for (const auto& part : tiled.parts()) part.weight.freeze();
  tiled.bias()->freeze();
  const auto before = masters_of(*rig.engine);
  train_layer(*rig.engine, layer, extents);
  CHECK(masters_of(*rig.engine) == before);
  tiled.bias()->unfreeze();
  train_layer(*rig.engine, layer, extents);
  const auto after = masters_of(*rig.engine);
  for (const auto& [name, values] : before) CHECK_MESSAGE((after.at(name) != values) == (name == "layer.bias"), name);
}

TEST_CASE("a layer is refused more tiles than it has outputs or inputs, and a bias that nobody looks at") {
  Rig rig;
  CHECK_THROWS_WITH_AS((Layer{*rig.engine, "up", {.outputs = 4, .inputs = 2}, {.outputs = 2, .inputs = 3}}),
                       "the 2 inputs of up cannot be cut into 3 tiles", ConfigurationError);
  const zerospan::TiledLinear<Array<float>> layer{
      *rig.engine, "layer", {.outputs = 4, .inputs = 4}, {}, zerospan::init::zeros(), {}, LinearBias{}};
  const auto never = [](const auto&...) { FAIL("it was called"); };
  const std::string reason = "layer has a bias: it takes one callable more";
  CHECK_THROWS_WITH_AS(layer.forward(calling_thread, never), reason.c_str(), ConfigurationError);
  CHECK_THROWS_WITH_AS(layer.backward(calling_thread, never, never), reason.c_str(), ConfigurationError);
  CHECK_THROWS_WITH_AS(layer.backward_weight(calling_thread, never), reason.c_str(), ConfigurationError);
}

TEST_CASE("a callable that throws leaves no lease behind") {
  struct Thrown {};
  constexpr LinearExtents extents{.outputs = 8, .inputs = 6};
  const auto works = [](const auto&...) {};
  for (int which = 0; which < 6; ++which) {
    CAPTURE(which);
    Rig rig;
    const Layer layer{*rig.engine, "layer", extents, {.outputs = 2, .inputs = 2}, {}, LinearBias{}};
    int calls = 0;
    const auto throws = [&](const auto&...) {
      if (++calls == (which < 2 ? 1 : 3)) throw Thrown{};
    };
    const auto throws_at_once = [](const auto&...) { throw Thrown{}; };
    const auto& tiled = layer.layer();
    const auto call = [&] {
      if (which == 0) tiled.forward(calling_thread, works, throws);
      if (which == 1) tiled.backward(calling_thread, works, works, throws);
      if (which == 2) tiled.forward(calling_thread, throws, works);
      if (which == 3) tiled.backward(calling_thread, throws, works, works);
      if (which == 4) tiled.backward(calling_thread, works, throws, works);
      if (which == 5) tiled.backward_weight(calling_thread, works, throws_at_once);
    };
    CHECK_THROWS_AS(call(), Thrown);
    CHECK(rig.memory.device.memory().used() == 0_KiB);
    rig.engine->abandon();
    REQUIRE_NOTHROW(rig.engine->step());
    REQUIRE_NOTHROW(train_layer(*rig.engine, layer, extents));
  }
}

/// Whether a layer of `width` to four times as many outputs trains a step in a device memory whose free ranges are of
/// `piece` bytes.
bool trains_in_pieces(std::size_t width, std::size_t tiles, Bytes piece, std::size_t pieces) {
  ThreadedIoEngine io;
  constexpr Bytes wedge{zerospan::Arena::alignment};
  Memory<ThreadedIoEngine> memory{io, Bytes{pieces * (piece + wedge).count}, 1_MiB};
  std::vector<zerospan::Allocation> filling;
  std::vector<zerospan::Allocation> wedges;
  for (std::size_t i = 0; i < pieces; ++i) {
    filling.push_back(memory.device.memory().allocate(piece, "what is freed"));
    wedges.push_back(memory.device.memory().allocate(wedge, "a wedge"));
  }
  filling.clear();
  REQUIRE(memory.device.memory().largest_free() == piece.count);

  SelfCommunicator self;
  zerospan::ZeroEngine engine{zerospan::Stage3{}, self,
                              memory.device,      memory.placement(Place::nvme, Place::nvme, Place::nvme),
                              zerospan::AdamW{},  zerospan::EngineOptions{.persistence_threshold = 0_KiB}};
  const LinearExtents extents{.outputs = 4 * width, .inputs = width};
  try {
    const Layer layer{engine, "up", extents, {.outputs = tiles}, {}, LinearBias{}};
    train_layer(engine, layer, extents);
  } catch (const zerospan::BudgetError&) {
    return false;
  }
  return true;
}

// ZeRO-Infinity, section 8.5 and figure 6b: GPU memory is cut into pieces of 2 GB beforehand, and the largest hidden
// width that trains grows from 8K without tiling to 64K with 16 tiles, in powers of two. Here a piece is 256 KiB.
// Working memory is one range, the largest that is free: one piece, and the others lie idle, however much is free in
// all. It holds one tile or one tile's gradient at a time. So the largest width is where a tile fills the piece, with
// 4 width^2 / tiles elements of 4 bytes: width = sqrt(tiles piece / 16), which doubles for four times the tiles.
TEST_CASE("in fragmented memory the largest width grows with the square root of the tiles") {
  constexpr Bytes piece = 256_KiB;
  std::ostringstream table;
  table << "tiles  predicted width  largest width";
  for (const std::size_t tiles : {1U, 4U, 16U}) {
    const auto predicted = static_cast<std::size_t>(std::sqrt(static_cast<double>(tiles * piece.count / 16)));
    std::size_t trains = 0;
    std::size_t fails = 1024;
    while (fails - trains > 1) {
      const std::size_t width = (trains + fails) / 2;
      (width >= (tiles + 3) / 4 && trains_in_pieces(width, tiles, piece, 8) ? trains : fails) = width;
    }
    table << '\n' << std::setw(5) << tiles << std::setw(17) << predicted << std::setw(15) << trains;
    CHECK(trains == predicted);
  }
  MESSAGE(table.str());
}

// A tile takes a parameter of any kind that lends tensors, and nothing else.

struct WithoutGradient {
  using tensor_type = Array<float>;
  zerospan::ReadLease<Array<float>> gather(zerospan::StreamRef) const;
};

struct WithoutCommit : WithoutGradient {
  zerospan::WriteLease<Array<float>>* gradient(zerospan::StreamRef) const;
};

struct OfAnotherTensor : zerospan::PartitionedParameter<Array<float>> {
  using tensor_type = RuntimeArray;
};

template <class T>
using Parameter = zerospan::PartitionedParameter<T>;

static_assert(zerospan::LeasedParameter<Parameter<Array<float>>>);
static_assert(zerospan::LeasedParameter<Parameter<RuntimeArray>>);
static_assert(!zerospan::LeasedParameter<WithoutGradient>);
static_assert(!zerospan::LeasedParameter<WithoutCommit>);
static_assert(!zerospan::LeasedParameter<OfAnotherTensor>);
static_assert(!zerospan::LeasedParameter<Array<float>>);

template <class T, class... Arguments>
concept Declares = std::constructible_from<zerospan::TiledLinear<T>, Rig<>::Engine&, std::string, LinearExtents,
                                           TileCounts, Arguments...>;

static_assert(Declares<Array<float>, zerospan::Initializer>);
static_assert(!Declares<Array<float>, ElementType, zerospan::Initializer>);
static_assert(Declares<RuntimeArray, ElementType, zerospan::Initializer>);
static_assert(!Declares<RuntimeArray, zerospan::Initializer>);

}  // namespace
