// Frozen parameters that rest in the safetensors files that they came from.
#include <doctest/doctest.h>

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <random>
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
#include <zerospan/zerospan.hpp>
#if defined(ZEROSPAN_HAS_XXHASH)
#include <zerospan/checkpoint/checkpoint.hpp>
#endif

#include "support/faulty_io_engine.hpp"
#include "support/process_limits.hpp"
#include "support/safetensors.hpp"
#include "support/scratch.hpp"
#include "support/toy_rank.hpp"
#include "support/training_run.hpp"

namespace {

using zerospan::Bytes;
using zerospan::calling_thread;
using zerospan::ElementType;
using zerospan::FrozenValues;
using zerospan::import_safetensors;
using zerospan::ImportedSafetensors;
using zerospan::InterchangeError;
using zerospan::IoError;
using zerospan::SafetensorsImportOptions;
using zerospan::SafetensorsMatch;
using zerospan::SafetensorsModel;
using zerospan::SafetensorsPlace;
using zerospan::SafetensorsTensor;
using zerospan::SafetensorsWriter;
using zerospan::SelfCommunicator;
using zerospan::Shape;
using zerospan::StoredOrder;
using zerospan::ThreadCommunicator;
using zerospan::Training;
using zerospan_test::AnyEngine;
using zerospan_test::Array;
using zerospan_test::Configuration;
using zerospan_test::content;
using zerospan_test::everything_on;
using zerospan_test::FaultKind;
using zerospan_test::frozen;
using zerospan_test::has_words;
using zerospan_test::on_toy_ranks;
using zerospan_test::Place;
using zerospan_test::ScratchDirectory;
using zerospan_test::thrown_by;
using zerospan_test::ways;

/// Moves all data of a file by one byte: no element is where a processor would have it.
void make_odd(const std::string& path) {
  const std::string all = content(path);
  std::uint64_t length = 0;
  std::memcpy(&length, all.data(), sizeof length);
  zerospan_test::write_file(path, zerospan_test::safetensors(all.substr(sizeof length, length) + " ",
                                                             all.substr(sizeof length + length)));
}

/// The files of a model that was trained for a step.
struct TrainedModel {
  TrainedModel(ElementType type, Bytes file_limit) {
    on_toy_ranks(everything_on(Place::device, 2, type), [&](auto& rank) {
      rank.train(0, 1);
      return zerospan::export_safetensors(rank.engine(), directory.path() + "/model.safetensors",
                                          {.type = type, .file_limit = file_limit})
          .written.count;
    });
    for (const auto& entry : std::filesystem::directory_iterator{directory.path()}) {
      if (entry.path().extension() == ".safetensors") make_odd(entry.path().string());
    }
  }

  ScratchDirectory directory;
};

constexpr std::size_t frozen_elements = 2051 + 5;  // of the toy model

TEST_CASE("a training is the same, to the bit, whether what is frozen was copied or stays in its files") {
  for (const auto type : {ElementType::float32, ElementType::bfloat16, ElementType::float16}) {
    const TrainedModel model{type, type == ElementType::float32 ? Bytes{60000} : Bytes{1 << 30}};
    for (const int ranks : {1, 3}) {
      if (ranks == 1 && type != ElementType::float32) continue;
      for (const Configuration& c : ways(ranks, type)) {
        CAPTURE(c.describe());
        const auto trained = [&](FrozenValues values) {
          std::vector<std::size_t> left;
          const auto all = on_toy_ranks(c, [&](auto& rank) {
            rank.train(0, 1);
            const ImportedSafetensors imported =
                import_safetensors(rank.engine(), model.directory.path(), {.frozen = values});
            const std::uint64_t at_once = rank.hash();
            rank.train(1, 3);
            return std::tuple{at_once, rank.hash(), imported.left_in_files.count, imported.copied.count};
          });
          std::size_t in_files = 0;
          std::size_t copied = 0;
          for (const auto& each : all) {
            CHECK(std::get<0>(each) == std::get<0>(all[0]));
            CHECK(std::get<1>(each) == std::get<1>(all[0]));
            in_files += std::get<2>(each);
            copied += std::get<3>(each);
          }
          return std::tuple{std::get<0>(all[0]), std::get<1>(all[0]), in_files, copied};
        };
        const auto [copied_at_once, copied_later, none, all_copied] = trained(FrozenValues::copied);
        const auto [left_at_once, left_later, left, others_copied] = trained(FrozenValues::left_in_files);
        CHECK(left_at_once == copied_at_once);
        CHECK(left_later == copied_later);
        CHECK(none == 0);
        const bool can_rest = c.stage == 3 && c.parameters == Place::nvme;
        CHECK(left == (can_rest ? frozen_elements * element_bytes(type) : 0));
        CHECK(left + others_copied == all_copied);
      }
    }
  }
}

/// What a test's model has.
struct Declared {
  std::string name;
  Shape shape;
  Training training = Training::frozen;
  zerospan::Initializer initializer = zerospan::init::zeros();
};

const std::vector<Declared> ices{{"ice", {301, 67}}, {"floe", {5000}}, {"crumb", {3}}};

/// Pseudo-random values that every type has.
std::vector<float> values_of(std::string_view name, std::size_t elements) {
  std::mt19937 random{static_cast<unsigned>(zerospan::name_stream(name))};
  std::vector<float> values(elements);
  for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 255) - 127) / 16.0F;
  return values;
}

/// Writes a model of such values.
std::string write_model(const ScratchDirectory& scratch, ElementType type, const std::vector<Declared>& model = ices) {
  std::string path = scratch.path() + "/model.safetensors";
  std::vector<SafetensorsTensor> tensors;
  for (const Declared& each : model) {
    tensors.push_back({each.name, zerospan::safetensors_type(type),
                       {each.shape.extents().begin(), each.shape.extents().end()}});
  }
  SafetensorsWriter writer{path, tensors};
  for (const Declared& each : model) writer.write(each.name, 0, values_of(each.name, each.shape.elements()));
  writer.finish();
  make_odd(path);
  return path;
}

/// An engine whose parameters are on a disk, and nothing else is.
template <zerospan::Element E = float>
struct FrozenRank {
  using Io = zerospan_test::FaultyIoEngine<zerospan::ThreadedIoEngine>;
  using Parameter = zerospan::PartitionedParameter<Array<E>>;

  template <class Communicator>
  explicit FrozenRank(Communicator& communicator, const std::vector<Declared>& model = ices,
                      zerospan::AnyPartitioner partition = zerospan::Slices{}, Bytes persistence = {})
      : engine{3,
               communicator,
               device,
               zerospan::Placement{disk, host, host},
               zerospan::AdamW{},
               zerospan::EngineOptions{.partition = std::move(partition),
                                       .persistence_threshold = persistence,
                                       .prefetch = Bytes{0}}} {
    for (const Declared& each : model) {
      parameters.emplace_back(engine, each.name, each.shape, each.initializer,
                              zerospan::ParameterOptions{.group = {}, .training = each.training});
    }
  }

  ImportedSafetensors import(const std::string& path, SafetensorsImportOptions options = {}) {
    options.frozen = FrozenValues::left_in_files;
    return import_safetensors(engine, path, options);
  }

  std::vector<float> gathered(std::size_t i) const {
    const auto full = parameters[i].gather(calling_thread);
    std::vector<float> values;
    for (std::size_t k = 0; k < full->size; ++k) values.push_back(static_cast<float>(full->data[k]));
    return values;
  }

  std::map<std::string, std::vector<float>> masters() {
    std::map<std::string, std::vector<float>> all;
    engine.for_each_master([&](std::string_view name, std::uint64_t, std::span<const float> values) {
      auto& master = all[std::string{name}];
      master.insert(master.end(), values.begin(), values.end());
    });
    return all;
  }

  /// Bytes of a transfer of so many elements, on the tier.
  std::size_t whole(std::size_t elements) const { return zerospan::round_up(elements * sizeof(E), disk.alignment()); }

  std::size_t read() const { return disk.counters().read.count; }
  std::size_t written() const { return disk.counters().written.count; }

  ScratchDirectory scratch;
  zerospan::HostDevice device{{.device_budget = Bytes{4 << 20}, .host_budget = Bytes{4 << 20}}};
  zerospan::ThreadedIoEngine inner;
  Io io{inner};
  zerospan::NvmeTier<Io> disk{io, {.directory = scratch.path()}};
  zerospan::HostTier host{device};
  AnyEngine engine;
  std::vector<Parameter> parameters;
};

TEST_CASE_TEMPLATE("what stays in files is never written, and read there alone: every byte that a rank holds", E, float,
                   zerospan::bfloat16, zerospan::float16) {
  const ScratchDirectory scratch;
  const std::string path = write_model(scratch, zerospan::ElementTraits<E>::type);
  for (const int ranks : {1, 2, 3}) {
    for (const auto& partition :
         {zerospan::AnyPartitioner{zerospan::Slices{}}, zerospan::AnyPartitioner{zerospan::Owners{}}}) {
      CAPTURE(ranks);
      const auto held = zerospan::run_ranks(ranks, [&](ThreadCommunicator communicator) {
        FrozenRank<E> rank{communicator, ices, partition};
        const ImportedSafetensors imported = rank.import(path);
        CHECK(imported.copied.count == 0);
        CHECK(rank.read() == 0);
        for (std::size_t i = 0; i < ices.size(); ++i) {
          CHECK(rank.gathered(i) == values_of(ices[i].name, ices[i].shape.elements()));
        }
        CHECK(rank.read() == imported.left_in_files.count);
        for (const auto& [name, values] : rank.masters()) CHECK(values == values_of(name, values.size()));
        CHECK(rank.read() == 2 * imported.left_in_files.count);
        rank.engine.for_each_state([](const zerospan::StatesPiece& piece) {
          const std::vector<float> all = values_of(piece.parameter, piece.shape.elements());
          CHECK(std::ranges::equal(piece.master, std::span{all}.subspan(piece.first, piece.master.size())));
        });
        CHECK(rank.read() == 3 * imported.left_in_files.count);
        CHECK(rank.written() == 0);
        return imported.left_in_files.count;
      });
      std::size_t all = 0;
      for (const std::size_t each : held) all += each;
      CHECK(all == (301 * 67 + 5000 + 3) * sizeof(E));
    }
  }
}

TEST_CASE("what is frozen begins as it was declared, whether that is written or not") {
  SelfCommunicator self;
  FrozenRank<> zeros{self};
  CHECK(zeros.gathered(0) == std::vector<float>(301 * 67));
  CHECK(zeros.read() + zeros.written() == 0);
  const auto half_zeros = [&](float value) {
    FrozenRank<> rank{
        self, {{"zeros", {1000}}, {"others", {1000}, Training::frozen, zerospan::init::constant(value)}}};
    CHECK(rank.gathered(0) == std::vector<float>(1000));
    CHECK(rank.written() > 0);
    return rank.gathered(1);
  };
  CHECK(half_zeros(1) == std::vector<float>(1000, 1.0F));
  CHECK(std::ranges::all_of(half_zeros(-0.0F), [](float value) { return std::signbit(value); }));
}

TEST_CASE("a model can be imported again, with what is frozen in other places than before") {
  const ScratchDirectory scratch;
  const std::string path = write_model(scratch, ElementType::float32);
  SelfCommunicator self;
  FrozenRank<> rank{self};
  rank.import(path);
  CHECK(rank.written() == 0);
  const ImportedSafetensors copied = import_safetensors(rank.engine, path);
  CHECK(copied.left_in_files.count == 0);
  CHECK(copied.copied.count == (301 * 67 + 5000 + 3) * sizeof(float));
  CHECK(rank.written() == rank.whole(301 * 67) + rank.whole(5000) + rank.whole(3));
  const std::size_t read = rank.read();
  CHECK(rank.gathered(2) == values_of("crumb", 3));
  CHECK(rank.read() == read + rank.whole(3));  // on the tier
  rank.import(path);
  CHECK(rank.gathered(2) == values_of("crumb", 3));
  CHECK(rank.read() == read + rank.whole(3) + 3 * sizeof(float));  // and in the file again
}

TEST_CASE("what cannot stay in its file is copied: another type or order, a replica, a tier that cannot") {
  const ScratchDirectory scratch;
  const std::string path = write_model(scratch, ElementType::float32);
  const std::size_t ice = 301 * 67;
  SelfCommunicator self;
  {
    FrozenRank<zerospan::bfloat16> narrow{self};
    const ImportedSafetensors imported = narrow.import(path);
    CHECK(imported.left_in_files.count == 0);
    CHECK(imported.copied.count == (ice + 5003) * sizeof(zerospan::bfloat16));
    CHECK(narrow.gathered(1) == values_of("floe", 5000));
  }
  {
    FrozenRank<> rank{self, {{"ice", {67, 301}}, {"floe", {5000}}, {"crumb", {3}}}};
    const ImportedSafetensors imported =
        rank.import(path, {.place = [](std::string_view parameter, const SafetensorsModel&) {
                      const auto order = parameter == "ice" ? StoredOrder::transposed : StoredOrder::as_it_is;
                      return std::optional{SafetensorsPlace{std::string{parameter}, order}};
                    }});
    CHECK(imported.copied.count == ice * sizeof(float));
    CHECK(imported.left_in_files.count == 5003 * sizeof(float));
    const std::vector<float> turned = rank.gathered(0);
    const std::vector<float> expected = values_of("ice", ice);
    bool is_turned = true;
    for (std::size_t i = 0; i < ice; ++i) is_turned = is_turned && turned[i % 67 * 301 + i / 67] == expected[i];
    CHECK(is_turned);
  }
  zerospan::run_ranks(2, [&](ThreadCommunicator communicator) {
    FrozenRank<> rank{communicator, ices, zerospan::Slices{}, Bytes{32 << 10}};  // all but the first are replicated
    const ImportedSafetensors imported = rank.import(path);
    CHECK(imported.left_in_files.count + imported.copied.count >= ice / 2 * sizeof(float));
    CHECK(imported.left_in_files.count <= (ice / 2 + 1024) * sizeof(float));
    CHECK(rank.gathered(1) == values_of("floe", 5000));
    CHECK(rank.gathered(0) == values_of("ice", ice));
    CHECK(rank.written() == 0);
    return 0;
  });
  FrozenRank<> trained{self, {{"ice", {301, 67}}, {"floe", {5000}, Training::trainable}, {"crumb", {3}}}};
  const ImportedSafetensors imported = trained.import(path);
  CHECK(imported.left_in_files.count == (ice + 3) * sizeof(float));
  CHECK(imported.copied.count == 5000 * sizeof(float));
  CHECK(trained.gathered(1) == values_of("floe", 5000));

  zerospan::HostDevice device{{.device_budget = Bytes{4 << 20}, .host_budget = Bytes{4 << 20}}};
  zerospan::HostTier host{device};
  AnyEngine engine{3, self, device, zerospan::Placement{host, host, host}, zerospan::AdamW{}};
  const FrozenRank<>::Parameter parameter{engine, "ice", {301, 67}, zerospan::init::zeros(), frozen};
  CHECK(import_safetensors(engine, path, {.match = SafetensorsMatch::partial, .frozen = FrozenValues::left_in_files})
            .left_in_files.count == 0);
}

TEST_CASE("parameters that are rows of one tensor stay in it, each at its place") {
  const ScratchDirectory scratch;
  const std::string path = write_model(scratch, ElementType::float32, {{"all", {59, 101}}});
  zerospan::run_ranks(2, [&](ThreadCommunicator communicator) {
    FrozenRank<> rank{communicator, {{"0", {20, 101}}, {"20", {20, 101}}, {"40", {19, 101}}}};
    const ImportedSafetensors imported =
        rank.import(path, {.place = [](std::string_view parameter, const SafetensorsModel&) {
                      const auto first = static_cast<std::uint64_t>(std::stoi(std::string{parameter}));
                      return std::optional{SafetensorsPlace{"all", StoredOrder::as_it_is, first, 59}};
                    }});
    CHECK(imported.copied.count == 0);
    const std::vector<float> all = values_of("all", 59 * 101);
    for (std::size_t i = 0; i < 3; ++i) {
      const std::size_t rows = i < 2 ? 20 : 19;
      CHECK(std::ranges::equal(rank.gathered(i), std::span{all}.subspan(i * 20 * 101, rows * 101)));
    }
    CHECK(rank.written() == 0);
    return 0;
  });
}

TEST_CASE("who writes such a parameter has it on its tier from then on, and in its file what was not written") {
  const ScratchDirectory scratch;
  const std::string path = write_model(scratch, ElementType::float32);
  for (const int ranks : {1, 2}) {
    zerospan::run_ranks(ranks, [&](ThreadCommunicator communicator) {
      FrozenRank<> rank{communicator};
      rank.import(path);
      std::vector<float> ice = values_of("ice", 301 * 67);
      {
        auto lease = rank.parameters[0].write(calling_thread);
        CHECK(std::equal(ice.begin(), ice.end(), lease->data));
        lease->data[0] = ice[0] = 1.5F;
        lease->data[20000] = ice[20000] = 2.5F;
        lease.commit();
      }
      if (ranks == 1) CHECK(rank.written() == rank.whole(301 * 67));
      CHECK(rank.gathered(0) == ice);
      CHECK(rank.gathered(1) == values_of("floe", 5000));

      std::vector<float> floe = values_of("floe", 5000);
      const std::size_t written = rank.written();
      rank.engine.edit_states(
          [&](const zerospan::StatesEdit& edit) {
            if (edit.parameter != "floe" || edit.first != 0) return zerospan::EditOutcome::unchanged;
            CHECK(edit.master[0] == floe[0]);
            edit.master[0] = 7.0F;
            return zerospan::EditOutcome::changed;
          },
          {.buffer = Bytes{std::size_t{48} << 10}});  // pieces of 4096 elements
      floe[0] = 7.0F;
      if (ranks == 1) {
        CHECK(rank.written() == written + 4096 * sizeof(float));
        const std::size_t read = rank.read();
        CHECK(rank.gathered(1) == floe);
        CHECK(rank.read() == read + 5000 * sizeof(float));  // of two files
      }
      CHECK(rank.gathered(1) == floe);
      CHECK(rank.masters()["floe"] == floe);
      rank.import(path);
      CHECK(rank.gathered(0) == values_of("ice", 301 * 67));
      CHECK(rank.gathered(1) == values_of("floe", 5000));
      return 0;
    });
  }
}

/// What a gather says of a file that is not what it was.
template <class Change>
IoError failure_after(const std::string& path, Change change) {
  SelfCommunicator self;
  FrozenRank<> rank{self};
  rank.import(path);
  CHECK(rank.gathered(0) == values_of("ice", 301 * 67));
  change(rank);
  const IoError error = thrown_by<IoError>([&] { rank.gathered(0); });
  CHECK(error.path() == path);
  CHECK(error.bytes() > 0);
  CHECK_THROWS_AS(rank.gathered(1), IoError);  // the engine has failed
  return error;
}

TEST_CASE("a file that is changed, cut or not readable under the training is an error that names it") {
  const ScratchDirectory scratch;
  const std::string path = write_model(scratch, ElementType::float32);
  const std::uint64_t offset = SafetensorsModel{path}.tensor("ice").offset;
  const IoError unreadable = failure_after(path, [](auto& rank) {
    rank.io.inject({{.kind = FaultKind::error, .error_number = ENXIO}});
  });
  CHECK(unreadable.code().value() == ENXIO);
  CHECK(unreadable.offset() == offset);
  const IoError touched = failure_after(path, [&](auto&) {
    std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::seconds{1});
  });
  CHECK(touched.code().value() == ESTALE);
  const IoError cut = failure_after(path, [&](auto&) { std::filesystem::resize_file(path, offset + 100); });
  CHECK(cut.code().value() == EIO);
  CHECK(has_words(cut.what(), "unexpected end of file"));
}

TEST_CASE("an error of one rank's file ends the gather on all ranks") {
  const ScratchDirectory scratch;
  const std::string path = write_model(scratch, ElementType::float32);
  const auto said = zerospan::run_ranks(2, [&](ThreadCommunicator communicator) {
    FrozenRank<> rank{communicator};
    rank.import(path);
    if (communicator.rank().value == 1) rank.io.inject({{.kind = FaultKind::error, .error_number = ENXIO}});
    try {
      rank.gathered(0);
    } catch (const IoError& error) {
      return error.path();
    } catch (const zerospan::RankFailedError& error) {
      return std::string{error.what()};
    }
    return std::string{};
  });
  CHECK(said[1] == path);
  CHECK(has_words(said[0], path));
}

TEST_CASE("training goes on when a file has lost its name, or another one has it") {
  const ScratchDirectory scratch;
  const std::string path = write_model(scratch, ElementType::float32);
  SelfCommunicator self;
  FrozenRank<> rank{self};
  rank.import(path);
  std::filesystem::rename(path, path + ".old");
  zerospan_test::write_file(path, "another");
  CHECK(rank.gathered(0) == values_of("ice", 301 * 67));
  std::filesystem::remove(path + ".old");
  CHECK(rank.gathered(1) == values_of("floe", 5000));
}

TEST_CASE("an import that is refused leaves nothing in files") {
  const ScratchDirectory scratch;
  const std::string path = write_model(scratch, ElementType::float32);
  zerospan::run_ranks(2, [&](ThreadCommunicator communicator) {
    FrozenRank<> rank{communicator};
    const bool is_second = communicator.rank().value == 1;
    const auto place = [&](std::string_view parameter, const SafetensorsModel&) {
      return std::optional{SafetensorsPlace{is_second && parameter == "crumb" ? "none" : std::string{parameter}}};
    };
    CHECK_THROWS_AS(rank.import(path, {.place = place}), InterchangeError);
    CHECK(rank.gathered(0) == std::vector<float>(301 * 67));
    CHECK(rank.read() == 0);
    return 0;
  });
  SelfCommunicator self;
  FrozenRank<> rank{self};
  std::optional<zerospan_test::ProcessLimit> limit;
  const auto error = thrown_by<InterchangeError>([&] {
    rank.import(path, {.place = [&](std::string_view parameter, const SafetensorsModel&) {
                  if (!limit) limit.emplace(RLIMIT_NOFILE, zerospan_test::descriptors_in_use());  // the model is open
                  return std::optional{SafetensorsPlace{std::string{parameter}}};
                }});
  });
  limit.reset();
  CHECK(error.file() == path);
  CHECK(error.tensor() == "ice");
  CHECK(error.error_number() == EMFILE);
  CHECK(has_words(error.what(), "opening a file again"));
  CHECK(rank.gathered(0) == std::vector<float>(301 * 67));
  rank.import(path);
  CHECK(rank.gathered(0) == values_of("ice", 301 * 67));
}

#if defined(ZEROSPAN_HAS_XXHASH)

TEST_CASE("checkpoints have what rests in files, and loading one brings it to the tier") {
  const TrainedModel model{ElementType::bfloat16, Bytes{1 << 30}};
  for (const auto by : {zerospan::SaveBy::linking, zerospan::SaveBy::copying}) {
    for (const auto& c : {everything_on(Place::nvme, 2, ElementType::bfloat16),
                          everything_on(Place::host, 3, ElementType::bfloat16)}) {
      const ScratchDirectory scratch;
      const auto from = everything_on(Place::nvme, 2, ElementType::bfloat16);
      const auto hashes = on_toy_ranks(from, [&](auto& rank) {
        import_safetensors(rank.engine(), model.directory.path(), {.frozen = FrozenValues::left_in_files});
        rank.train(0, 2);
        zerospan::save_checkpoint(rank.engine(), scratch.path(), {.by = by});
        const std::uint64_t at_once = rank.hash();
        rank.train(2, 3);
        zerospan::save_checkpoint(rank.engine(), scratch.path() + "/later", {.by = by});
        return at_once;
      });
      const auto resumed = on_toy_ranks(c, [&](auto& rank) {
        zerospan::load_checkpoint(rank.engine(), scratch.path());
        return rank.hash();
      });
      CHECK(resumed == std::vector<std::uint64_t>(resumed.size(), hashes[0]));
      const auto later = on_toy_ranks(from, [&](auto& rank) {
        import_safetensors(rank.engine(), model.directory.path(), {.frozen = FrozenValues::left_in_files});
        zerospan::load_checkpoint(rank.engine(), scratch.path());
        const std::uint64_t at_once = rank.hash();
        rank.train(2, 3);
        const std::uint64_t trained = rank.hash();
        zerospan::load_checkpoint(rank.engine(), scratch.path() + "/later");
        CHECK(rank.hash() == trained);
        return at_once;
      });
      CHECK(later == hashes);
    }
  }
}

#endif

}  // namespace
