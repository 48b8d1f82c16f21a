/// @file
/// Thirty ways to train one model on two ranks in the same memory.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "settings.hpp"

namespace foresight {

/// What all candidates have. A rank has 55 MiB of states, which fit in device and host memory if they are put well, and
/// are on disk in part, or all, if not.
inline constexpr std::string_view common_of_candidates =
    "--ranks 2 --layers 4 --heads 8 --width 384 --context 128 --batch 1 --device-budget 32MiB --host-budget 32MiB "
    "--clip inf --warmup 1 --eval-every 0 --sample 0 --skip-validation";

/// Places of parameters, gradients and optimizer states, look-ahead, staging memory, stages, and when updates are made.
inline std::vector<Setting> candidates() {
  constexpr std::string_view nothing_ahead = "--prefetch-bytes 0";
  constexpr std::string_view far_ahead = "--prefetch-bytes 8MiB";
  constexpr std::string_view early_updates = "--prefetch-bytes 2MiB --update during-backward";
  constexpr std::string_view little_staging = "--prefetch-bytes 2MiB --staging-bytes 4MiB";
  std::vector<Setting> all;
  const auto add = [&all](int stage, std::string_view parameters, std::string_view gradients,
                          std::string_view optimizer, const std::vector<std::string_view>& ways) {
    for (const std::string_view way : ways) {
      const std::string name = fmt::format("--stage {} --parameters {} --gradients {} --optimizer {} {}", stage,
                                           parameters, gradients, optimizer, way);
      all.push_back({.name = name, .arguments = words(name)});
    }
  };
  add(3, "device", "device", "host", {nothing_ahead, far_ahead});
  add(3, "device", "device", "nvme", {nothing_ahead, far_ahead, early_updates, little_staging});
  add(3, "device", "host", "nvme", {nothing_ahead, far_ahead, early_updates, little_staging});
  add(3, "host", "device", "nvme", {far_ahead, early_updates});
  add(3, "host", "nvme", "device", {nothing_ahead, far_ahead, early_updates});
  add(3, "host", "nvme", "nvme", {nothing_ahead, far_ahead, early_updates});
  add(3, "nvme", "host", "nvme", {nothing_ahead, far_ahead, early_updates});
  add(3, "nvme", "device", "nvme", {far_ahead, early_updates, little_staging});
  add(3, "nvme", "nvme", "nvme", {nothing_ahead, far_ahead, early_updates, little_staging});
  add(2, "device", "host", "nvme", {far_ahead});
  add(2, "device", "nvme", "nvme", {little_staging});
  return all;
}

}  // namespace foresight
