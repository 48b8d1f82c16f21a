/// @file
/// What is printed in the end: where the bytes were, how many moved, and where the time went.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "announcement.hpp"
#include "directory_use.hpp"
#include "figures.hpp"
#include "matrix_products.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "result.hpp"
#include "states.hpp"
#include "step_time.hpp"

namespace gpt {

namespace detail {

inline std::string describe_memory(std::string_view name, const std::vector<Figures>& ranks, double Figures::*now,
                                   double Figures::*peak, double budget) {
  const std::string of = budget > 0 ? " of " + describe_bytes(budget) : "";
  return fmt::format("  {:<18}{} now, {} at peak{}\n", name, describe_bytes(largest(ranks, now)),
                     describe_bytes(largest(ranks, peak)), of);
}

/// How several directories share the bytes of rank 0; empty for fewer.
inline std::string describe_stripes(const std::vector<DirectoryUse>& directories) {
  if (directories.size() < 2) return "";
  std::string shares;
  std::string weights;
  for (const DirectoryUse& use : directories) {
    shares += fmt::format("{}{} in {}", shares.empty() ? "" : ", ", describe_bytes(use.bytes), use.directory.string());
    weights += fmt::format("{}{}", weights.empty() ? "" : " : ", use.weight);
  }
  return fmt::format("  {:<18}{}; dealt {}, by their bandwidths\n", "of rank 0", shares, weights);
}

}  // namespace detail

/// Names the bottleneck of a step. Empty where the timeline had too little room for one.
inline std::string describe(const StepTime& time) {
  if (time.steps == 0) return "";
  std::string busy;
  for (const PartOfMachine& part : time.parts) {
    busy += fmt::format("{}{} {:.1f}%", busy.empty() ? "" : ", ", part.what, 100 * part.share);
  }
  if (time.peers_share > 0) busy += fmt::format(", waiting for other ranks {:.1f}%", 100 * time.peers_share);
  const std::string steps = time.steps == 1 ? "the last step" : fmt::format("the last {} steps", time.steps);
  const double milliseconds = 1e3 * time.seconds / static_cast<double>(time.steps);
  return fmt::format("a step of rank 0 takes {:.1f} ms, by {}: {} of its time\n", milliseconds, steps, busy) +
         fmt::format("bottleneck of a step: {}; {:.1f}% of the transfer time was hidden\n", time.parts.front().what,
                     100 * time.hidden_share);
}

inline std::string describe(const Summary& s, const Options& o) {
  const auto steps = static_cast<double>(std::max(s.steps_here, std::size_t{1}));
  std::string text;
  const std::string loss =
      s.validation_loss ? fmt::format("validation loss {:.4f}", *s.validation_loss) : "not validated";
  text += fmt::format("{} parameters, {} ranks, stage {}; {} after {} steps ({} skipped) in {}\n", s.parameters,
                      o.ranks, o.stage, loss, s.steps, s.skipped_steps, describe_seconds(s.training_seconds));
  text += fmt::format("states {}, trained in {}: {} times the memory (device and host budgets of all ranks)\n",
                      describe_bytes(state_bytes(o)), describe_bytes(budget_bytes(o)), describe_ratio(o));
  text += "memory of the rank that needs most:\n";
  text += detail::describe_memory("device", s.ranks, &Figures::device_bytes, &Figures::peak_device_bytes,
                                  static_cast<double>(o.device_budget));
  text += detail::describe_memory("host", s.ranks, &Figures::host_bytes, &Figures::peak_host_bytes,
                                  static_cast<double>(o.host_budget));
  text += detail::describe_memory("nvme", s.ranks, &Figures::disk_bytes, &Figures::peak_disk_bytes, 0);
  text += detail::describe_stripes(s.directories);
  text += fmt::format("  {:<18}{}, beside the budgets\n", "activations",
                      describe_bytes(largest(s.ranks, &Figures::activation_bytes)));
  text += fmt::format("storage, all ranks: {} read and {} written a step\n",
                      describe_bytes(total(s.ranks, &Figures::bytes_read) / steps),
                      describe_bytes(total(s.ranks, &Figures::bytes_written) / steps));
  if (o.checkpoint_every > 0) {
    text += fmt::format("activation checkpoints, all ranks: {} offloaded and {} fetched back a step\n",
                        describe_bytes(total(s.ranks, &Figures::activation_bytes_offloaded) / steps),
                        describe_bytes(total(s.ranks, &Figures::activation_bytes_fetched) / steps));
  }
  text += fmt::format("gathers, all ranks: {:.0f} prefetched, {:.0f} kept in memory, {:.0f} on demand\n",
                      total(s.ranks, &Figures::prefetch_hits), total(s.ranks, &Figures::prefetch_kept),
                      total(s.ranks, &Figures::prefetch_misses));
  text += fmt::format("traces, all ranks: {:.0f} passes mended, {:.0f} prefetches dropped\n",
                      total(s.ranks, &Figures::passes_mended), total(s.ranks, &Figures::prefetch_dropped));
  text += fmt::format("matrix products of a rank: {}\n", describe(s.products));
  if (!s.products.remark.empty()) text += "  " + s.products.remark + "\n";
  text += describe(s.step_time);
  text += "time of rank 0 from its first parameter on (what runs on different lanes overlaps):\n";
  for (const TimeSpent& spent : s.time) text += fmt::format("  {:<18}{:.2f} s\n", spent.what, spent.seconds);
  text += fmt::format("timeline of the last steps: {} (open it in ui.perfetto.dev or chrome://tracing)\n",
                      o.trace.string());
  return text;
}

}  // namespace gpt
