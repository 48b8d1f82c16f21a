/// @file
/// Settings of train_gpt whose step time is foretold and measured.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace foresight {

/// Where ranks that are processes run, and what a training does there that is measured of links.
struct Hosts {
  int count = 0;  ///< 0: ranks are threads of one process.
  int ranks_each = 1;
  int megabits = 0;  ///< A second, of what leaves a host.
  int ranks_per_group = 0;
  std::string types = "fp32";  ///< Of gradients.

  int ranks() const { return count * ranks_each; }
  std::string name() const {
    return std::to_string(count) + "x" + std::to_string(ranks_each) + "_" + std::to_string(megabits);
  }
};

struct Setting {
  std::string name;
  std::vector<std::string> arguments;  ///< Of train_gpt, besides those that all settings have.
  Hosts hosts{};
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

/// On hosts with slow links: stages, places of states, element types, ranks of a host.
inline std::vector<Setting> settings_on_hosts() {
  constexpr std::string_view memory = " --parameters device --gradients device --optimizer device";
  constexpr std::string_view resting = " --gradients device --optimizer device";
  constexpr std::string_view model = " --comm mpi --layers 2 --width 256";
  const Hosts slow{.count = 2, .megabits = 200, .types = "fp32,bf16"};
  const Hosts fast{.count = 2, .megabits = 1000};
  const Hosts shared{.count = 2, .ranks_each = 2, .megabits = 1000, .ranks_per_group = 2};
  const Hosts four{.count = 4, .megabits = 1000};
  std::vector<Setting> all;
  const auto add = [&](std::string_view name, const Hosts& hosts, std::string_view arguments, std::string_view more) {
    all.push_back({std::string{name}, words(std::string{arguments} + std::string{more} + std::string{model}), hosts});
  };
  add("two hosts, 200 Mbit/s, stage 3", slow, "--stage 3", memory);
  add("two hosts, 200 Mbit/s, bf16, on disk", slow, "--stage 3 --precision bf16", "");
  add("two hosts, 1000 Mbit/s, stage 2", fast, "--stage 2", resting);
  add("two hosts, 1000 Mbit/s, on disk", fast, "--stage 3", "");
  add("two hosts of two ranks, in two groups", shared, "--stage 3 --batch 2 --ranks-per-group 2", memory);
  add("four hosts, 1000 Mbit/s, stage 0", four, "--stage 0 --batch 2", resting);
  return all;
}

}  // namespace foresight
