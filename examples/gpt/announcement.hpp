/// @file
/// What is printed before anything is done: what is going to be.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <thread>

#include <fmt/format.h>

#include "matrix_products.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "states.hpp"
#include "text.hpp"

namespace gpt {

/// "1.50 MiB".
inline std::string describe_bytes(double bytes) {
  constexpr std::array units{"bytes", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < units.size()) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} bytes", bytes) : fmt::format("{:.2f} {}", bytes, units[unit]);
}

inline std::string describe_bytes(std::uint64_t bytes) { return describe_bytes(static_cast<double>(bytes)); }

/// "10.1": the states over the memory that they are trained in.
inline std::string describe_ratio(const Options& o) {
  return fmt::format("{:.1f}", static_cast<double>(state_bytes(o)) / static_cast<double>(budget_bytes(o)));
}

constexpr std::string_view to_string(TierKind kind) {
  return kind == TierKind::device ? "device memory" : kind == TierKind::host ? "host memory" : "disk";
}

constexpr std::string_view to_string(Precision precision) {
  return precision == Precision::fp32 ? "fp32" : precision == Precision::bf16 ? "bf16" : "fp16";
}

/// "; those of all steps take 2 min 10 s or more", if they take long enough; ranks share the cores.
inline std::string describe_time(const MatrixProducts& products, const Options& o) {
  if (products.flops_per_second <= 0) return "";
  const double cores = std::max(std::thread::hardware_concurrency(), 1U);
  const double busy = static_cast<double>(o.ranks * products.threads);
  const double seconds = flops_of_products(o) / products.flops_per_second * std::max(busy / cores, 1.0);
  return seconds >= 1 ? fmt::format("; those of all steps take {} or more", describe_seconds(seconds)) : "";
}

inline std::string announce(const Options& o, const Text& text, const MatrixProducts& products) {
  std::string disks;
  for (const auto& path : o.nvme_path) disks += (disks.empty() ? "" : ", ") + path.string();
  std::string lines;
  lines += fmt::format("model     GPT of {} parameters in {}: {} layers, {} heads, width {}, context {}\n",
                       o.model.parameters(), to_string(o.precision), o.model.layers, o.model.heads, o.model.width,
                       o.model.context);
  lines += fmt::format("states    {}: parameters on {}, gradients on {}, master weights and moments on {} (disk: {})\n",
                       describe_bytes(state_bytes(o)), to_string(o.parameters), to_string(o.gradients),
                       to_string(o.optimizer), disks);
  lines += fmt::format("memory    {}: each of {} ranks has {} of device and {} of host memory\n",
                       describe_bytes(budget_bytes(o)), o.ranks, describe_bytes(o.device_budget),
                       describe_bytes(o.host_budget));
  const std::string together =
      o.micro_batches_at_once() > 1 ? fmt::format(", {} micro-batches layer by layer", o.micro_batches) : "";
  lines += fmt::format("training  stage {}, {} steps of {} tokens{}, over {} bytes of text\n", o.stage,
                       o.schedule.steps, o.tokens_a_step(), together, text.train().size());
  lines += fmt::format("products  {}{}\n", describe(products), describe_time(products, o));
  if (!products.remark.empty()) lines += "          " + products.remark + "\n";
  return lines;
}

}  // namespace gpt
