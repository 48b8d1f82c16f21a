/// @file
/// What lies in one of the directories that a rank's nvme tier is striped over.
#pragma once

#include <cstddef>
#include <filesystem>

namespace gpt {

struct DirectoryUse {
  std::filesystem::path directory;
  double bytes;
  std::size_t weight;  ///< Its share, beside those of the others, by its bandwidth.
};

}  // namespace gpt
