// Models in the safetensors format become a training's, and the other way round: by all ranks, range by range.
#include <doctest/doctest.h>

#include <algorithm>
#include <barrier>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <zerospan/core/error.hpp>
#include <zerospan/interchange/safetensors_export.hpp>
#include <zerospan/interchange/safetensors_import.hpp>
#include <zerospan/interchange/safetensors_model.hpp>
#include <zerospan/interchange/safetensors_writer.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/zerospan.hpp>

#include "support/child_process.hpp"
#include "support/own_mounts.hpp"
#include "support/safetensors.hpp"
#include "support/sample.hpp"
#include "support/scratch.hpp"
#include "support/scripted_files.hpp"
#include "support/toy_rank.hpp"
#include "support/training_run.hpp"

namespace {

using zerospan::Bytes;
using zerospan::ConfigurationError;
using zerospan::ElementType;
using zerospan::export_safetensors;
using zerospan::import_safetensors;
using zerospan::ImportedSafetensors;
using zerospan::InterchangeError;
using zerospan::SafetensorsExportOptions;
using zerospan::SafetensorsMatch;
using zerospan::SafetensorsModel;
using zerospan::SafetensorsPlace;
using zerospan::SafetensorsTensor;
using zerospan::SafetensorsType;
using zerospan::SafetensorsWriter;
using zerospan::StoredOrder;
using zerospan_test::AnyEngine;
using zerospan_test::Array;
using zerospan_test::Configuration;
using zerospan_test::everything_on;
using zerospan_test::FileScript;
using zerospan_test::on_toy_ranks;
using zerospan_test::Place;
using zerospan_test::ScratchDirectory;
using zerospan_test::ScriptedFiles;
using zerospan_test::ways;

constexpr Bytes small_buffer{std::size_t{48} << 10};  // 4096 elements of AdamW's

/// What ranks say of the error that they get: its words without the rank's name, its file and its tensor.
using Said = std::tuple<std::string, std::string, std::string, int>;

template <class Work>
Said said(Work work) {
  try {
    work();
  } catch (const InterchangeError& error) {
    return {error.what(), error.file(), error.tensor(), error.error_number()};
  }
  return {};
}

/// Trains so many steps and exports. @return The hash of the master weights.
std::uint64_t export_after(const Configuration& c, std::int64_t steps, const std::string& path) {
  return on_toy_ranks(c, [&](auto& rank) {
    rank.train(0, steps);
    export_safetensors(rank.engine(), path, {.buffer = small_buffer});
    return rank.hash();
  })[0];
}

TEST_CASE("what is exported from any way to keep a model is imported into any other, to the bit") {
  zerospan_test::Sample sample{3};
  for (const auto type : {ElementType::float32, ElementType::bfloat16}) {
    const std::vector<Configuration> from = ways(2, type);
    const std::vector<Configuration> to = ways(3, type);
    for (std::size_t i = 0; i < from.size(); ++i) {
      if (!sample.takes()) continue;
      const ScratchDirectory scratch;
      const std::string path = scratch.path() + "/model.safetensors";
      const std::uint64_t hash = export_after(from[i], 2, path);
      const Configuration& other = to[(i + 1) % to.size()];
      CAPTURE(from[i].describe());
      CAPTURE(other.describe());
      const auto hashes = on_toy_ranks(other, [&](auto& rank) {
        rank.train(0, 1);
        const ImportedSafetensors imported =
            import_safetensors(rank.engine(), scratch.path(), {.buffer = small_buffer});
        CHECK(imported.path == path);
        CHECK(imported.taken.size() == zerospan_test::layers.size());
        rank.engine().for_each_state([](const zerospan::StatesPiece& piece) {
          CHECK(piece.updates == 0);
          for (const auto states : piece.states) {
            CHECK(std::ranges::all_of(states, [](std::byte byte) { return byte == std::byte{0}; }));
          }
        });
        const std::uint64_t at_once = rank.hash();
        rank.train(1, 2);
        CHECK(rank.hash() != at_once);
        return at_once;
      });
      CHECK(hashes == std::vector<std::uint64_t>(3, hash));
    }
  }
}

TEST_CASE("what is imported is what is gathered") {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/model.safetensors";
  export_after(everything_on(Place::host, 2, ElementType::bfloat16), 2, path);
  const auto trained_on = [&](const Configuration& c) {
    return on_toy_ranks(c, [&](auto& rank) {
      import_safetensors(rank.engine(), path);
      rank.train(0, 2);
      return rank.hash();
    });
  };
  const auto expected = trained_on(ways(2, ElementType::bfloat16)[0]);
  for (const Configuration& c : ways(2, ElementType::bfloat16)) CHECK(trained_on(c) == expected);
}

/// Matrices of odd extents, a vector, a scalar, a block of three extents, and three tiles of one matrix.
struct Shapes {
  using Parameter = zerospan::PartitionedParameter<Array<float>>;

  explicit Shapes(AnyEngine& engine)
      : wide{engine, "wide", {37, 211}, zerospan::init::normal(1)},
        tall{engine, "tall", {301, 2}, zerospan::init::normal(1)},
        row{engine, "row", {1, 77}, zerospan::init::normal(1)},
        column{engine, "column", {77, 1}, zerospan::init::normal(1)},
        vector{engine, "vector", {515}, zerospan::init::normal(1), zerospan_test::frozen},
        scalar{engine, "scalar", {}, zerospan::init::normal(1)},
        block{engine, "block", {3, 5, 7}, zerospan::init::normal(1)},
        first{engine, "first", {20, 101}, zerospan::init::normal(1)},
        second{engine, "second", {20, 101}, zerospan::init::normal(1)},
        third{engine, "third", {19, 101}, zerospan::init::normal(1)} {}

  Parameter wide, tall, row, column, vector, scalar, block, first, second, third;
};

/// @param order Of all matrices.
std::optional<SafetensorsPlace> place_of(std::string_view parameter, StoredOrder order) {
  if (parameter == "first") return SafetensorsPlace{"tiled", order, 0, 59};
  if (parameter == "second") return SafetensorsPlace{"tiled", order, 20, 59};
  if (parameter == "third") return SafetensorsPlace{"tiled", order, 40, 59};
  const bool is_matrix = parameter != "vector" && parameter != "scalar" && parameter != "block";
  return SafetensorsPlace{"model." + std::string{parameter}, is_matrix ? order : StoredOrder::as_it_is};
}

/// Calls `f(engine)` on each of some ranks of stage 3, whose model is that of all shapes. @return What `f` returns.
template <class F>
auto on_ranks(int ranks, std::uint64_t seed, F f) {
  return zerospan::run_ranks(ranks, [&](zerospan::ThreadCommunicator communicator) {
    zerospan::HostDevice device{{.device_budget = Bytes{16 << 20}, .host_budget = Bytes{16 << 20}}};
    zerospan::HostTier host{device};
    AnyEngine engine{3,
                     communicator,
                     device,
                     zerospan::Placement{host, host, host},
                     zerospan::AdamW{},
                     zerospan::EngineOptions{.seed = seed, .persistence_threshold = Bytes{0}}};
    const Shapes shapes{engine};
    return f(engine, communicator.rank().value);
  });
}

using Masters = std::map<std::string, std::vector<float>, std::less<>>;

Masters masters_of(AnyEngine& engine) {
  Masters masters;
  engine.for_each_master([&](std::string_view name, std::uint64_t, std::span<const float> values) {
    auto& master = masters[std::string{name}];
    master.insert(master.end(), values.begin(), values.end());
  });
  return masters;
}

std::vector<float> read(const SafetensorsModel& model, const std::string& tensor) {
  std::vector<float> values(model.tensor(tensor).elements);
  model.read(tensor, 0, values);
  return values;
}

/// The other order of a matrix.
std::vector<float> transposed(const std::vector<float>& matrix, std::size_t columns) {
  std::vector<float> result(matrix.size());
  const std::size_t rows = matrix.size() / columns;
  for (std::size_t i = 0; i < matrix.size(); ++i) result[i % columns * rows + i / columns] = matrix[i];
  return result;
}

TEST_CASE("the host's function says what a tensor is called, how it lies, and which rows of it a parameter is") {
  for (const auto order : {StoredOrder::as_it_is, StoredOrder::transposed}) {
    for (const int ranks : {1, 3}) {
      for (const Bytes buffer : {small_buffer, Bytes{4 << 20}}) {  // of 4096 elements, and more than there are
        CAPTURE(ranks);
        const ScratchDirectory scratch;
        const std::string path = scratch.path() + "/a.safetensors";
        const Masters expected = on_ranks(ranks, 1, [&](AnyEngine& engine, int) {
          const auto exported = export_safetensors(
              engine, path,
              {.place = [&](std::string_view parameter) { return place_of(parameter, order); }, .buffer = buffer});
          CHECK(exported.tensors.size() == 8);
          return masters_of(engine);
        })[0];
        const SafetensorsModel model{path};
        const auto is_stored = [&](const std::string& tensor, const std::vector<float>& values, std::size_t columns) {
          const bool is_turned = order == StoredOrder::transposed;
          CHECK(read(model, tensor) == (is_turned ? transposed(values, columns) : values));
        };
        is_stored("model.wide", expected.at("wide"), 211);
        is_stored("model.tall", expected.at("tall"), 2);
        is_stored("model.row", expected.at("row"), 77);
        is_stored("model.column", expected.at("column"), 1);
        std::vector<float> tiled = expected.at("first");
        for (const char* tile : {"second", "third"}) {
          tiled.insert(tiled.end(), expected.at(tile).begin(), expected.at(tile).end());
        }
        is_stored("tiled", tiled, 101);
        CHECK(read(model, "model.vector") == expected.at("vector"));
        CHECK(read(model, "model.scalar") == expected.at("scalar"));
        CHECK(read(model, "model.block") == expected.at("block"));
        using Extents = std::vector<std::uint64_t>;
        CHECK(model.tensor("tiled").shape == (order == StoredOrder::as_it_is ? Extents{59, 101} : Extents{101, 59}));
        CHECK(model.tensor("model.scalar").shape.empty());
        CHECK(model.tensor("model.block").shape == Extents{3, 5, 7});
        CHECK(model.file("tiled").metadata() == std::map<std::string, std::string>{{"format", "pt"}});

        const auto imported = on_ranks(2, 2, [&](AnyEngine& engine, int) {
          CHECK((masters_of(engine) != expected));
          import_safetensors(engine, path,
                             {.place = [&](std::string_view parameter,
                                           const SafetensorsModel&) { return place_of(parameter, order); },
                              .buffer = buffer});
          return masters_of(engine);
        });
        CHECK((imported == std::vector{expected, expected}));
      }
    }
  }
}

TEST_CASE("exports are rounded to the type that is asked for, in as many files as the limit makes") {
  for (const auto type : {ElementType::bfloat16, ElementType::float16}) {
    const ScratchDirectory scratch;
    const Masters masters = on_ranks(2, 1, [&](AnyEngine& engine, int) {
      export_safetensors(engine, scratch.path() + "/model.safetensors", {.type = type, .file_limit = Bytes{8000}});
      return masters_of(engine);
    })[0];
    const SafetensorsModel model{scratch.path()};
    CHECK(model.path() == scratch.path() + "/model.safetensors.index.json");
    CHECK(model.tensors().size() == masters.size());
    for (const auto& [name, master] : masters) {
      CHECK(element_type(model.tensor(name).type) == type);
      std::vector<std::byte> rounded(master.size() * element_bytes(type));
      zerospan::from_float(master.data(), type, rounded.data(), master.size());
      std::vector<float> expected(master.size());
      zerospan::to_float(type, rounded.data(), expected.data(), master.size());
      CHECK(read(model, name) == expected);
    }
    on_ranks(3, 2, [&](AnyEngine& engine, int) {
      import_safetensors(engine, scratch.path());
      for (const auto& [name, master] : masters_of(engine)) CHECK(master == read(model, name));
      return 0;
    });
  }
}

/// Writes a model of zeros.
std::string write_zeros(const ScratchDirectory& scratch, const std::vector<SafetensorsTensor>& tensors) {
  std::string path = scratch.path() + "/other.safetensors";
  SafetensorsWriter writer{path, tensors};
  for (const SafetensorsTensor& tensor : tensors) {
    const std::uint64_t elements = zerospan::detail::elements_of(tensor.shape).value();
    writer.write_bytes(tensor.name, 0, std::vector<std::byte>(elements * element_bits(tensor.type) / 8));
  }
  writer.finish();
  return path;
}

std::vector<SafetensorsTensor> tensors_of_all() {
  return {{"wide", SafetensorsType::float32, {37, 211}}, {"tall", SafetensorsType::bfloat16, {301, 2}},
          {"row", SafetensorsType::float32, {1, 77}},    {"column", SafetensorsType::float64, {77, 1}},
          {"vector", SafetensorsType::float32, {515}},   {"scalar", SafetensorsType::float32, {}},
          {"block", SafetensorsType::float16, {3, 5, 7}}, {"first", SafetensorsType::float32, {20, 101}},
          {"second", SafetensorsType::float32, {20, 101}}, {"third", SafetensorsType::float32, {19, 101}}};
}

TEST_CASE("a model that is not the engine's is refused on every rank alike, by file and tensor, and nothing changes") {
  struct Case {
    const char* words;
    std::string tensor;
    void (*change)(std::vector<SafetensorsTensor>&);
  };
  using Tensors = std::vector<SafetensorsTensor>;
  for (const auto& [words, tensor, change] :
       {Case{"is not there, for the parameter block", "block", [](Tensors& all) { all.erase(all.begin() + 6); }},
        Case{"F32 of shape [211, 37], and F32 of shape [37, 211] for the parameter wide", "wide",
             [](Tensors& all) { std::swap(all[0].shape[0], all[0].shape[1]); }},
        Case{"F32 of shape [1, 515]", "vector", [](Tensors& all) { all[4].shape = {1, 515}; }},
        Case{"its elements are I64", "third", [](Tensors& all) { all[9].type = SafetensorsType::int64; }},
        Case{"is of no parameter of the model", "fourth", [](Tensors& all) {
               all.push_back({"fourth", SafetensorsType::boolean, {2}});
             }}}) {
    CAPTURE(std::string{words});
    const ScratchDirectory scratch;
    std::vector<SafetensorsTensor> tensors = tensors_of_all();
    change(tensors);
    const std::string path = write_zeros(scratch, tensors);
    const std::string name = tensor;
    const char* const expected = words;
    const auto heard = on_ranks(3, 1, [&](AnyEngine& engine, int) {
      const Masters before = masters_of(engine);
      const Said error = said([&] { import_safetensors(engine, path); });
      CHECK((masters_of(engine) == before));
      return error;
    });
    for (const Said& error : heard) CHECK(error == heard[0]);
    CHECK(std::get<0>(heard[0]).find(expected) != std::string::npos);
    CHECK(std::get<0>(heard[0]).starts_with("rank 0: " + name + " in " + path));
    CHECK(std::get<1>(heard[0]) == path);
    CHECK(std::get<2>(heard[0]) == name);
  }
}

TEST_CASE("what is not a safetensors model is refused on every rank alike") {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/other.safetensors";
  const auto heard = [&] {
    const auto all =
        on_ranks(2, 1, [&](AnyEngine& engine, int) { return said([&] { import_safetensors(engine, path); }); });
    CHECK(all[0] == all[1]);
    CHECK(std::get<1>(all[0]) == path);
    return all[0];
  };
  CHECK(std::get<3>(heard()) == ENOENT);
  std::ofstream{path} << "not so";
  CHECK(std::get<3>(heard()) == 0);
}

TEST_CASE("a partial import takes what there is, says what it took, and leaves the rest") {
  const ScratchDirectory scratch;
  std::vector<SafetensorsTensor> tensors = tensors_of_all();
  tensors[0].shape = {211, 37};
  tensors.erase(tensors.begin() + 6);
  tensors.push_back({"fourth", SafetensorsType::boolean, {2}});
  tensors.push_back({"mask", SafetensorsType::boolean, {2}});
  const std::string path = write_zeros(scratch, tensors);
  on_ranks(2, 1, [&](AnyEngine& engine, int) {
    const Masters before = masters_of(engine);
    const ImportedSafetensors imported = import_safetensors(
        engine, path,
        {.place = [](std::string_view parameter, const SafetensorsModel&) -> std::optional<SafetensorsPlace> {
           if (parameter == "first") return std::nullopt;
           return SafetensorsPlace{std::string{parameter}};
         },
         .ignores = [](std::string_view tensor) { return tensor == "mask"; },
         .match = SafetensorsMatch::partial});
    using Names = std::vector<std::string>;
    CHECK(imported.taken == Names{"tall", "row", "column", "vector", "scalar", "second", "third"});
    CHECK(imported.unplaced == Names{"first"});
    CHECK(imported.reshaped == Names{"wide"});
    CHECK(imported.missing == Names{"block"});
    CHECK(imported.extra == Names{"first", "fourth"});
    for (const auto& [name, master] : masters_of(engine)) {
      const bool is_taken = std::ranges::count(imported.taken, name) > 0;
      CHECK(master == (is_taken ? std::vector<float>(master.size()) : before.at(name)));
    }
    return 0;
  });
}

TEST_CASE("a file that becomes shorter after it was looked at is told on every rank, and the training can go on") {
  const ScratchDirectory scratch;
  const std::string path = write_zeros(scratch, tensors_of_all());
  std::barrier all_have_opened{2};
  const auto heard = on_ranks(2, 1, [&](AnyEngine& engine, int) {
    const Said error = said([&] {
      import_safetensors(engine, path, {.place = [&](std::string_view parameter, const SafetensorsModel&) {
                           if (parameter == "third") {
                             all_have_opened.arrive_and_wait();
                             std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
                           }
                           return std::optional{SafetensorsPlace{std::string{parameter}}};
                         }});
    });
    engine.step();
    return error;
  });
  CHECK(heard[0] == heard[1]);
  CHECK(std::get<0>(heard[0]).find("has become shorter") != std::string::npos);
  CHECK(std::get<0>(heard[0]).find("the model is imported in part") != std::string::npos);
  CHECK(std::get<1>(heard[0]) == path);
  CHECK(!std::get<2>(heard[0]).empty());
}

TEST_CASE("places without sense are refused") {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/model.safetensors";
  struct Case {
    const char* words;
    SafetensorsPlace wide, first, second;
  };
  const SafetensorsPlace wide{"wide"}, first{"first"}, second{"second"};
  for (const Case& c : {Case{"its 37 rows from 10 on leave the tensor's 46", {"wide", {}, 10, 46}, first, second},
                        Case{"its 37 rows from 0 on leave the tensor's 36", {"wide", {}, 0, 36}, first, second},
                        Case{"rows once: see row 19", wide, {"one", {}, 0, 40}, {"one", {}, 19, 40}},
                        Case{"rows once: see row 20", wide, {"one", {}, 0, 41}, {"one", {}, 21, 41}},
                        Case{"rows once: see row 40", wide, {"one", {}, 0, 41}, {"one", {}, 20, 41}},
                        Case{"rows once: see row 0", wide, {"one"}, {"one"}},
                        Case{"makes it another shape", wide, {"one", {}, 0, 40}, {"one", {}, 20, 41}},
                        Case{"makes it another shape", {"one"}, {"one"}, second}}) {
    CAPTURE(std::string{c.words});
    const auto heard = on_ranks(2, 1, [&](AnyEngine& engine, int) {
      try {
        export_safetensors(engine, path, {.place = [&](std::string_view parameter) {
                             if (parameter == "wide") return std::optional{c.wide};
                             if (parameter == "first") return std::optional{c.first};
                             if (parameter == "second") return std::optional{c.second};
                             return std::optional{SafetensorsPlace{std::string{parameter}}};
                           }});
      } catch (const ConfigurationError& error) {
        return std::string{error.what()};
      }
      return std::string{};
    });
    CHECK(heard[0] == heard[1]);
    CHECK(heard[0].find(c.words) != std::string::npos);
  }
  on_ranks(2, 1, [&](AnyEngine& engine, int) {
    const auto turned = [](std::string_view parameter) {
      return std::optional{SafetensorsPlace{std::string{parameter}, StoredOrder::transposed}};
    };
    CHECK_THROWS_WITH_AS(export_safetensors(engine, path, {.place = turned}),
                         doctest::Contains("a shape of 1 extents is not transposed"), ConfigurationError);
    CHECK_THROWS_WITH_AS(export_safetensors(engine, scratch.path() + "/model"),
                         doctest::Contains("does not end in .safetensors"), ConfigurationError);
    return 0;
  });
  CHECK(scratch.is_empty());
}

TEST_CASE("an export that fails on one rank fails on all of them alike, leaves nothing, and can be made again") {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/model.safetensors";
  const auto heard = [&](const std::string& to, bool differs) {
    const auto all = on_ranks(2, 1, [&](AnyEngine& engine, int rank) {
      const Said error = said([&] {
        export_safetensors(engine, to, {.place = [&](std::string_view parameter) {
                             const std::string prefix = differs && rank == 1 ? "x" : "";
                             return std::optional{SafetensorsPlace{prefix + std::string{parameter}}};
                           }});
      });
      engine.step();
      return error;
    });
    CHECK(all[0] == all[1]);
    return all[0];
  };
  CHECK(std::get<3>(heard(scratch.path() + "/none/model.safetensors", false)) == ENOENT);
  const Said told = heard(path, true);
  CHECK(std::get<0>(told).find("rank 1: ") == 0);
  CHECK(std::get<0>(told).find("was created for other tensors") != std::string::npos);
  CHECK(scratch.is_empty());
  {
    const SafetensorsWriter somebody{path, std::vector<SafetensorsTensor>{{"a", SafetensorsType::float32, {1}}}};
    CHECK(std::get<3>(heard(path, false)) == EWOULDBLOCK);
  }
  std::ofstream{path + ".index.json"} << "{}";
  CHECK(std::get<3>(heard(path, false)) == EEXIST);
  std::filesystem::remove(path + ".index.json");
  CHECK(heard(path, false) == Said{});
  CHECK(heard(path, false) == Said{});  // in place of the one before
  CHECK(std::filesystem::exists(path));
}

/// Names and contents of all that is in a directory.
std::map<std::string, std::string> snapshot(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator{directory}) {
    files[entry.path().filename().string()] = zerospan_test::content(entry.path().string());
  }
  return files;
}

/// Exports by calls of the system that fail as the script says.
Said said_of_export(AnyEngine& engine, const std::string& path, const SafetensorsExportOptions& options,
                    FileScript& script) {
  const auto store = engine.store();
  zerospan::detail::Engine& inner = zerospan::detail::engine_of(*store, "an export");
  return said([&] {
    zerospan::detail::BasicSafetensorsExporter<ScriptedFiles>{inner, path, options, ScriptedFiles{script}}.write();
  });
}

/// Two ranks export again and again, and train in between; of each rank every call of the system fails once.
/// @param is_there Whether an export of the same name is there before.
void check_full_disks(const Configuration& c, const SafetensorsExportOptions& options, bool is_there) {
  const ScratchDirectory scratch;
  std::barrier both{2};
  std::vector<Said> heard(2);
  std::vector<std::size_t> calls(2);
  std::int64_t steps = 0;
  const auto export_again_and_again = [&](auto& rank) {
    const auto number = static_cast<std::size_t>(rank.rank().value);
    FileScript sound;
    CHECK(said_of_export(rank.engine(), scratch.path() + "/before.safetensors", options, sound) == Said{});
    calls[number] = sound.calls.size();
    both.arrive_and_wait();
    std::int64_t step = 0;
    for (std::size_t culprit = 0; culprit < 2; ++culprit) {
      for (std::size_t call = 0; call < calls[culprit]; ++call, ++step) {
        const std::string directory = scratch.path() + "/" + std::to_string(culprit) + "-" + std::to_string(call);
        const std::string path = directory + "/model.safetensors";
        if (number == 0) std::filesystem::create_directory(directory);
        if (number == 0 && is_there) std::filesystem::copy(scratch.path() + "/before.safetensors", path);
        rank.train(step, step + 1);
        both.arrive_and_wait();
        const auto before = snapshot(directory);
        FileScript script{.failing = number == culprit ? static_cast<int>(call) : -1, .error_number = ENOSPC};
        both.arrive_and_wait();
        heard[number] = said_of_export(rank.engine(), path, options, script);
        both.arrive_and_wait();
        CAPTURE(culprit);
        CAPTURE(call);
        const auto& [words, file, tensor, error_number] = heard[number];
        CAPTURE(words);
        CHECK(heard[0] == heard[1]);
        CHECK(words.starts_with("rank " + std::to_string(culprit) + ": "));
        CHECK(words.find(file) != std::string::npos);
        CHECK(file.starts_with(directory));
        CHECK(error_number == ENOSPC);
        const bool has_name = culprit == 0 && call + 2 >= calls[0];  // the directory alone is not synchronized
        CHECK((snapshot(directory) == before) == !has_name);
      }
    }
    if (number == 0) steps = step;
    return rank.hash();
  };
  const auto hashes = on_toy_ranks(c, export_again_and_again);
  CHECK(steps > 30);
  const auto train_alone = [&](auto& rank) {
    rank.train(0, steps);
    return rank.hash();
  };
  CHECK(hashes == on_toy_ranks(c, train_alone));
}

TEST_CASE("a disk that is full at any call of an export is told on all ranks, and what was there stays") {
  check_full_disks(everything_on(Place::nvme, 2), {.buffer = small_buffer}, true);
  check_full_disks(everything_on(Place::host, 2), {.file_limit = Bytes{50000}, .buffer = small_buffer}, false);
}

/// Leaves so many bytes on a disk, a multiple of its blocks'. @return The file that takes the rest.
std::string fill(const std::string& directory, std::size_t free) {
  std::string path = directory + "/filler";
  std::ofstream file{path};
  const std::string block(4096, 'x');
  std::size_t written = 0;
  while (file.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) written += block.size();
  file.close();
  std::filesystem::resize_file(path, written - free);
  return path;
}

/// What becomes of an export onto a disk that has room for one and a half.
std::string said_of_full_disk(const std::string& directory) {
  const std::string path = directory + "/model.safetensors";
  on_ranks(1, 1, [&](AnyEngine& engine, int) { return export_safetensors(engine, path).tensors.size(); });
  const std::string old = zerospan_test::content(path);
  const std::string filler = fill(directory, old.size() / 2 / 4096 * 4096);
  std::barrier both{2};
  const auto heard = on_ranks(2, 2, [&](AnyEngine& engine, int rank) {
    const auto [words, file, tensor, error_number] =
        said([&] { export_safetensors(engine, path, {.buffer = small_buffer}); });
    both.arrive_and_wait();  // rank 0 may have been removing what was written
    const bool is_intact = zerospan_test::content(path) == old && !std::filesystem::exists(path + ".partial");
    both.arrive_and_wait();
    if (rank == 0) std::filesystem::remove(filler);
    both.arrive_and_wait();
    engine.step();
    export_safetensors(engine, path, {.buffer = small_buffer});
    return std::to_string(error_number) + " of " + file + (is_intact ? ", intact" : ", lost");
  });
  return heard[0] == heard[1] && zerospan_test::content(path) != old ? heard[0] : heard[0] + ", not alike or not new";
}

/// @param said_on_mount Mounts a disk at the directory, and says what becomes of an export onto it.
void check_full_disk(const std::function<std::string(const std::string& directory)>& said_on_mount) {
  const ScratchDirectory scratch;
  const std::string said = zerospan_test::in_child([&]() -> std::string {
    try {
      zerospan_test::enter_own_mounts();
      return said_on_mount(scratch.path());
    } catch (const zerospan_test::NotPermitted& error) {
      return std::string{"not permitted: "} + error.what();
    }
  });
  if (said.starts_with("not permitted")) {
    MESSAGE("left out: ", said);
  } else {
    CHECK(said == std::to_string(ENOSPC) + " of " + scratch.path() + "/model.safetensors.partial, intact");
  }
}

TEST_CASE("a disk without room for a file is told on all ranks, and the file before it stays") {
  check_full_disk([](const std::string& directory) {
    const zerospan_test::Mount disk{directory, {.data = "size=1m"}};
    return said_of_full_disk(directory);
  });
}

TEST_CASE("a disk that becomes full in a write is told on all ranks, and the file before it stays") {
  const ScratchDirectory backing;
  check_full_disk([&](const std::string& directory) {
    const zerospan_test::LoopDisk blocks{backing.path() + "/blocks", 4 << 20, 512};
    zerospan_test::make_ext4(blocks, "^has_journal,^extent,^64bit");
    const zerospan_test::Mount disk{directory, {.source = blocks.path(), .type = "ext4"}};
    return said_of_full_disk(directory);
  });
}

}  // namespace
