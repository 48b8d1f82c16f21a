/// @file
/// Settings of train_gpt whose step time is foretold and measured.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace foresight {

struct Setting {
  std::string name;
  std::vector<std::string> arguments;  ///< Of train_gpt, besides those that all settings have.
};

inline std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> all;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    if (end > 0) all.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return all;
}

/// What all settings have, where they say nothing else.
inline constexpr std::string_view common =
    "--layers 4 --heads 8 --width 384 --context 128 --device-budget 1GiB --host-budget 1GiB --warmup 1 --eval-every 0 "
    "--sample 0 --skip-validation";

/// Stages, tiers, batches, look-ahead, checksums, checkpoints of activations, element types, and ranks.
inline std::vector<Setting> settings() {
  constexpr std::string_view memory = " --parameters device --gradients device --optimizer device";
  constexpr std::string_view resting = " --gradients device --optimizer device";  // below stage 3
  std::vector<Setting> all;
  const auto add = [&all](std::string_view name, std::string_view arguments, std::string_view more = "") {
    all.push_back({std::string{name}, words(std::string{arguments} + std::string{more})});
  };
  add("one rank, stage 0, in memory", "--ranks 1 --stage 0", resting);
  add("one rank, stage 3, in memory", "--ranks 1", memory);
  add("large batch, in memory", "--ranks 1 --batch 8", memory);
  add("optimizer in host memory", "--ranks 1 --parameters device --gradients device --optimizer host");
  add("optimizer on disk", "--ranks 1 --parameters device --gradients device --optimizer nvme");
  add("gradients and optimizer on disk", "--ranks 1 --parameters device");
  add("all on disk, nothing ahead", "--ranks 1 --prefetch-bytes 0");
  add("all on disk, a little ahead", "--ranks 1 --prefetch-bytes 4MiB");
  add("all on disk", "--ranks 1 --prefetch-bytes 64MiB");
  add("all on disk, checksums", "--ranks 1 --prefetch-bytes 64MiB --checksums on");
  add("all on disk, one sequence", "--ranks 1 --batch 1");
  add("all on disk, one sequence, nothing ahead", "--ranks 1 --batch 1 --prefetch-bytes 0");
  add("all on disk, little staging", "--ranks 1 --batch 1 --staging-bytes 16MiB");
  add("bf16, all on disk", "--ranks 1 --precision bf16");
  add("bf16, split master weights", "--ranks 1 --precision bf16 --master-weights split");
  add("8-bit moments, on disk", "--ranks 1 --moments 8bit");
  add("updates during the backward pass", "--ranks 1 --update during-backward --clip inf");
  add("tiles", "--ranks 1 --tiles 4");
  add("four micro-batches, in memory", "--ranks 1 --micro-batches 4 --batch 1", memory);
  add("four micro-batches, on disk", "--ranks 1 --micro-batches 4 --batch 1");
  add("four micro-batches, layer by layer", "--ranks 1 --micro-batches 4 --batch 1 --schedule vertical");
  add("activation checkpoints in memory", "--ranks 1 --checkpoint-every 1 --activations host", memory);
  add("activation checkpoints on disk", "--ranks 1 --checkpoint-every 1 --activations nvme");
  add("two ranks, stage 0", "--ranks 2 --stage 0", resting);
  add("two ranks, stage 1", "--ranks 2 --stage 1", resting);
  add("two ranks, stage 2", "--ranks 2 --stage 2", resting);
  add("two ranks, stage 3", "--ranks 2", memory);
  add("two ranks, on disk", "--ranks 2");
  add("two ranks, on disk, one sequence", "--ranks 2 --batch 1");
  add("two ranks, on disk, checksums", "--ranks 2 --checksums on");
  add("four ranks, stage 3", "--ranks 4 --batch 2", memory);
  add("four ranks, on disk", "--ranks 4 --batch 2");
  add("four ranks in two groups", "--ranks 4 --batch 2 --ranks-per-group 2");
  add("four ranks, states in each of two groups", "--ranks 4 --batch 2 --ranks-per-group 2 --sharding group");
  return all;
}

}  // namespace foresight
