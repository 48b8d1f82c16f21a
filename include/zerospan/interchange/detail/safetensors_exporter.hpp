/// @file
/// SafetensorsExporter: writes what an engine's ranks hold as a safetensors model.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/engine/detail/engine.hpp>
#include <zerospan/engine/detail/engine_description.hpp>
#include <zerospan/interchange/detail/interchange_outcome.hpp>
#include <zerospan/interchange/detail/posix_files.hpp>
#include <zerospan/interchange/detail/safetensors_layout.hpp>
#include <zerospan/interchange/detail/safetensors_region.hpp>
#include <zerospan/interchange/safetensors_options.hpp>
#include <zerospan/interchange/safetensors_tensor.hpp>
#include <zerospan/interchange/safetensors_writer.hpp>

namespace zerospan::inline v0::detail {

/// Exports one model. Rank 0 creates the files, the others join; each writes its ranges, and when all of them are
/// durable, rank 0 gives the files their names.
/// @tparam Files The system's calls.
template <class Files = PosixFiles>
class BasicSafetensorsExporter {
 public:
  BasicSafetensorsExporter(Engine& engine, const std::string& path, const SafetensorsExportOptions& options,
                           Files files = {})
      : engine_{engine},
        path_{path},
        options_{options},
        files_{std::move(files)},
        model_{engine.describe()},
        ranks_{engine, model_.place, model_.places} {}

  ExportedSafetensors write() {
    plan();
    const bool is_first = model_.place == 0;
    const auto open = [&](SafetensorsRole role) {
      writer_.emplace(path_, tensors_, SafetensorsOptions{options_.file_limit, options_.metadata}, role, files_);
    };
    ranks_.together([&] {
      if (is_first) open(SafetensorsRole::creates);
    });
    ranks_.together([&] {
      if (!is_first) open(SafetensorsRole::joins);
    });
    ranks_.together([&] {
      write_pieces();
      writer_->synchronize();
    });
    const auto mine = static_cast<std::int64_t>(writer_->written());
    std::uint64_t all = 0;
    for (const std::int64_t written : ranks_.of_all({&mine, 1})) all += static_cast<std::uint64_t>(written);
    ranks_.together([&] {
      if (is_first) writer_->finish(all - writer_->written());
    });
    ExportedSafetensors exported{{}, Bytes{static_cast<std::size_t>(mine)}};
    for (const SafetensorsTensor& tensor : tensors_) exported.tensors.push_back(tensor.name);
    return exported;
  }

 private:
  /// The same on every rank. @throws ConfigurationError
  void plan() {
    std::map<std::string, std::vector<const SafetensorsRegion*>, std::less<>> parts;
    regions_.reserve(model_.parameters.size());
    for (const ParameterDescription& parameter : model_.parameters) {
      const auto place = options_.place ? options_.place(parameter.name)
                                        : std::optional{SafetensorsPlace{.tensor = parameter.name}};
      std::optional<SafetensorsRegion>& region = regions_.emplace_back();
      if (!place) continue;
      region.emplace(*place, parameter.name, parameter.shape);
      std::vector<const SafetensorsRegion*>& others = parts[region->tensor()];
      if (others.empty()) {
        tensors_.push_back({region->tensor(), safetensors_type(options_.type), region->shape()});
      } else if (others.front()->shape() != region->shape()) {
        throw_configuration_error("parameter " + parameter.name + " in " + FormatError::printable(region->tensor()) +
                                  " makes it another shape than the parameters before it");
      }
      others.push_back(&*region);
    }
    for (auto& [tensor, regions] : parts) check_rows(tensor, regions);
    SafetensorsLayoutMaker::make(path_, tensors_, options_.metadata, options_.file_limit);
    if (!path_.ends_with(".safetensors")) throw_configuration_error(path_ + " does not end in .safetensors");
  }

  static void check_rows(const std::string& tensor, std::vector<const SafetensorsRegion*>& regions) {
    std::ranges::sort(regions, {}, &SafetensorsRegion::first_row);
    std::uint64_t row = 0;
    const auto check = [&](std::uint64_t next) {
      if (next == row) return;
      throw_configuration_error("the parameters in " + FormatError::printable(tensor) + " are not each of its " +
                                std::to_string(regions.front()->rows()) + " rows once: see row " +
                                std::to_string(std::min(next, row)));
    };
    for (const SafetensorsRegion* region : regions) {
      check(region->first_row());
      row = region->end_row();
    }
    check(regions.front()->rows());
  }

  void write_pieces() {
    std::size_t parameter = 0;
    engine_.for_each_state(
        [&](const StatesPiece& piece) {
          while (model_.parameters[parameter].name != piece.parameter) ++parameter;
          std::optional<SafetensorsRegion>& region = regions_[parameter];
          if (!region) return;
          for_tensor(region->tensor(), [&] {
            region->write(piece.first, piece.master, [&](std::uint64_t first, std::span<const float> elements) {
              writer_->write(region->tensor(), first, elements);
            });
          });
        },
        options_.buffer);
  }

  Engine& engine_;
  const std::string& path_;
  const SafetensorsExportOptions& options_;
  Files files_;
  EngineDescription model_;
  InterchangeOutcome ranks_;
  std::vector<std::optional<SafetensorsRegion>> regions_;  ///< Of each parameter, if it is written.
  std::vector<SafetensorsTensor> tensors_;
  std::optional<BasicSafetensorsWriter<Files>> writer_;
};

using SafetensorsExporter = BasicSafetensorsExporter<>;

}  // namespace zerospan::inline v0::detail
