/// @file
/// The answer to a question about a cluster: as a person reads it, and as JSON.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <zerospan/engine/memory_account.hpp>
#include <zerospan/plan/plan.hpp>
#include <zerospan/tier/offload_tier.hpp>

#include "../gpt/announcement.hpp"
#include "cluster_plan.hpp"

namespace cluster {

namespace plan = zerospan::plan;
using gpt::describe_bytes;

namespace detail {

inline std::string describe_seconds(double seconds) {
  return seconds < 10 ? fmt::format("{:.1f} ms", 1e3 * seconds) : fmt::format("{:.1f} s", seconds);
}

inline std::string describe_groups(const plan::Setting& setting) {
  if (!setting.groups) return "no groups";
  const bool has_copies = setting.groups->copies.has_value();
  return fmt::format("groups of {}{}", setting.groups->ranks, has_copies ? " with copies" : "");
}

inline void add_way(std::string& text, const Way& way) {
  text += fmt::format("{:<12}{:<12}{:<12}", to_string(way.placing.parameters), to_string(way.placing.gradients),
                      to_string(way.placing.optimizer));
  if (!way.choice) {
    text += way.refusal + "\n";
    return;
  }
  const plan::Setting& s = way.choice->setting;
  std::string how = way.choice->tiles > 1 ? fmt::format("{} tiles, ", way.choice->tiles) : "";
  how += fmt::format("checkpoints on {}", to_string(s.activations->place));
  if (s.options.prefetch) how += fmt::format(", {} ahead", describe_bytes(s.options.prefetch->count));
  if (s.options.staging) how += fmt::format(", {} staging", describe_bytes(s.options.staging->count));
  if (s.disk_cache) how += fmt::format(", {} cache", describe_bytes(s.disk_cache->bytes.count));
  if (s.groups) how += ", " + describe_groups(s);
  if (s.micro_batches == plan::MicroBatches::layer_by_layer) how += ", micro-batches layer by layer";
  if (s.options.updates == zerospan::UpdateTime::during_backward) how += ", updates during the backward pass";
  text += fmt::format("{:>12}  {}\n", describe_seconds(way.choice->step_seconds), how);
}

inline constexpr std::array memories{std::pair{zerospan::Addressable::on_device, "GPU"},
                                     std::pair{zerospan::Addressable::on_host, "host"},
                                     std::pair{zerospan::Addressable::nowhere, "NVMe"}};

/// Peaks by purpose, of one rank.
inline std::vector<std::pair<std::string, std::array<std::size_t, memories.size()>>> peaks_of(
    const plan::Footprint& f) {
  std::vector<std::pair<std::string, std::array<std::size_t, memories.size()>>> rows;
  for (const zerospan::MemoryLine& line : f.account.lines) {
    const std::string purpose{to_string(line.purpose)};
    if (rows.empty() || rows.back().first != purpose) rows.push_back({purpose, {}});
    for (std::size_t m = 0; m < memories.size(); ++m) {
      if (line.addressable == memories[m].first) rows.back().second[m] += line.peak.count;
    }
  }
  return rows;
}

}  // namespace detail

inline std::string describe(const Question& q, const Answer& a) {
  const zerospan::sim::Topology& topology = a.machine.topology;
  const plan::GptExtents& e = q.training.model;
  std::string text = fmt::format(
      "{:.4g} G parameters: {} blocks of width {}, {} tokens, {} sequences of a GPU in each of {} micro-batches, stage "
      "{}\n",
      1e-9 * static_cast<double>(a.parameters), e.layers, e.hidden, e.sequence, e.batch, q.training.micro_batches,
      q.training.stage);
  text += fmt::format("on {}: {} GPUs in {} nodes\n", q.cluster.name, topology.ranks(), topology.nodes);
  text += fmt::format(
      "a GPU has {}: {} for the framework, {} for the activations of a block, {} for states; {} of host memory, {} of "
      "disk\n\n",
      describe_bytes(q.cluster.gpu_memory), describe_bytes(q.cluster.framework_memory), describe_bytes(a.activations),
      describe_bytes(a.machine.device_budget.count), describe_bytes(a.machine.host_budget.count),
      describe_bytes(a.machine.disk.capacity.count));
  text += fmt::format("{:<12}{:<12}{:<12}{:>12}\n", "parameters", "gradients", "optimizer", "a step");
  for (const Way& way : a.ways) detail::add_way(text, way);
  if (a.ways.front().choice) {
    text += fmt::format("\n{:<18}", "peaks of a GPU");
    for (const auto& [where, name] : detail::memories) text += fmt::format("{:>14}", name);
    for (const auto& [purpose, bytes] : detail::peaks_of(a.footprint)) {
      text += fmt::format("\n  {:<16}", purpose);
      for (const std::size_t each : bytes) text += fmt::format("{:>14}", each > 0 ? describe_bytes(each) : "");
    }
    text += fmt::format("\n\na step of {}: {:.4g} tokens a second, {:.4g} TFLOP/s a GPU; it waits most for {}\n",
                        detail::describe_seconds(a.prediction.step_seconds), a.tokens_per_second,
                        1e-12 * a.flops_per_second, a.prediction.bottleneck());
    for (const plan::TrackTime& track : a.prediction.tracks) {
      if (track.busy <= 0) continue;
      text += fmt::format("  {:<18}{:>12}, of which the step waits for {}\n", track.track,
                          detail::describe_seconds(track.busy), detail::describe_seconds(track.critical));
    }
    text += "what would make it faster, each simulated alone\n";
    std::size_t shown = 0;
    for (const Gain& gain : a.gains) {
      if (gain.ratio < 1.02 || ++shown > 6) break;
      text += fmt::format("  {:.2f} x  {}\n", gain.ratio, gain.change);
    }
    if (shown == 0) text += "  nothing by itself\n";
  }
  if (q.choose) {
    const bool is_all = a.most_layers == most_times * e.layers;
    text += fmt::format("of this width {}{} blocks fit these GPUs", a.most_layers, is_all ? " or more" : "");
    text += a.fewest_gpus > 0 ? fmt::format("; of these nodes {} GPUs are enough for this model\n", a.fewest_gpus)
                              : "; more than 1024 of them are needed for this model\n";
  }
  return text;
}

inline nlohmann::ordered_json to_json(const Question& q, const Answer& a) {
  nlohmann::ordered_json json{{"cluster", q.cluster.name},
                              {"gpus", a.machine.topology.ranks()},
                              {"parameters", a.parameters},
                              {"device_bytes_for_states", a.machine.device_budget.count},
                              {"activation_bytes", a.activations}};
  for (const Way& way : a.ways) {
    nlohmann::ordered_json row{{"parameters", to_string(way.placing.parameters)},
                               {"gradients", to_string(way.placing.gradients)},
                               {"optimizer", to_string(way.placing.optimizer)}};
    if (way.choice) {
      const plan::Setting& s = way.choice->setting;
      row["step_seconds"] = way.choice->step_seconds;
      row["tiles"] = way.choice->tiles;
      row["activations"] = to_string(s.activations->place);
      if (s.options.prefetch) row["prefetch_bytes"] = s.options.prefetch->count;
      if (s.options.staging) row["staging_bytes"] = s.options.staging->count;
      row["persistence_threshold_bytes"] = s.options.persistence_threshold.count;
      row["sub_group_elements"] = s.options.sub_group_elements;
      row["cache_bytes"] = s.disk_cache ? s.disk_cache->bytes.count : 0;
      row["groups"] = detail::describe_groups(s);
      row["settings_simulated"] = way.choice->simulated;
    } else {
      row["refusal"] = way.refusal;
    }
    json["ways"].push_back(std::move(row));
  }
  if (a.ways.front().choice) {
    json["step_seconds"] = a.prediction.step_seconds;
    json["bottleneck"] = a.prediction.bottleneck();
    json["tokens_per_second"] = a.tokens_per_second;
    json["flops_per_second_of_a_gpu"] = a.flops_per_second;
    for (const plan::TrackTime& track : a.prediction.tracks) {
      json["tracks"][std::string{track.track}] = {{"busy_seconds", track.busy}, {"critical_seconds", track.critical}};
    }
    for (const auto& [purpose, bytes] : detail::peaks_of(a.footprint)) {
      for (std::size_t m = 0; m < detail::memories.size(); ++m)
        json["peak_bytes"][purpose][detail::memories[m].second] = bytes[m];
    }
    for (const Gain& gain : a.gains) json["gains"].push_back({{"change", gain.change}, {"ratio", gain.ratio}});
  }
  if (q.choose) {
    json["most_layers"] = a.most_layers;
    json["fewest_gpus"] = a.fewest_gpus;
  }
  return json;
}

}  // namespace cluster
