/// @file
/// Measures a machine: all that a prediction of a training on its processor asks for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>
#include <vector>

#include "../gpt/dimensions.hpp"
#include "rates.hpp"

namespace machine {

/// Sizes of a model, and the sequences of a micro-batch: what decides the shapes of its products.
struct ModelShape {
  gpt::Dimensions model;
  std::size_t batch = 1;

  std::size_t positions() const { return batch * model.context; }
};

struct MeasureOptions {
  std::filesystem::path directory = ".";                ///< On the disk that is measured; nothing is left there.
  std::uint64_t disk_bytes = std::uint64_t{256} << 20;  ///< Of the file that is written and read.
  std::vector<ModelShape> models{};                     ///< Whose products are measured besides those of a grid.
  std::vector<int> ranks{2, 4};                         ///< Numbers of ranks whose collectives are measured.
  double moment = 0.01;                                 ///< Seconds of a trial; there are three of each.
  std::function<void(std::string_view)> progress = [](std::string_view) {};  ///< Told what comes next.
};

/// Takes less than a minute. @throws zerospan::ConfigurationError or zerospan::IoError if there is no such disk.
Rates measure(const MeasureOptions& options);

}  // namespace machine
