/// @file
/// Questions about clusters, answered by the library's planner.
#include "cluster_plan.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/plan/plan.hpp>

namespace cluster {

namespace {

using namespace zerospan::literals;
namespace plan = zerospan::plan;
using plan::Place;
using zerospan::Bytes;

Bytes whole_pages(double bytes) {
  constexpr std::size_t page = 4096;
  return Bytes{bytes > 0 ? static_cast<std::size_t>(bytes) / page * page : 0};
}

std::size_t tokens_of(const Training& t) { return t.model.batch * t.model.sequence; }  // of a micro-batch

/// What a GPU holds at once while it computes a block again, by ZeRO-Infinity's formula (arXiv 2104.07857, equation 5);
/// or the logits and their gradients in fp32, if that is more.
double activations_of(const Training& t) {
  const auto tokens = static_cast<double>(tokens_of(t));
  const auto element = static_cast<double>(zerospan::element_bytes(t.model.type));
  const double scores = t.keeps_scores ? static_cast<double>(t.heads * t.model.sequence) : 0;
  const double block = tokens * element * (8 * static_cast<double>(t.model.hidden) + scores);
  return std::max(block, 8 * tokens * static_cast<double>(t.model.vocabulary));
}

plan::Machine machine_of(const Cluster& c, const Training& t) {
  const double ranks = c.topology.ranks_per_node;
  return {.topology = c.topology,
          .device_budget = whole_pages(c.gpu_memory - c.framework_memory - activations_of(t)),
          .host_budget = whole_pages(c.host_memory / ranks),
          .disk = {.capacity = whole_pages(c.disk_capacity / ranks)}};
}

/// Of a rank's whole batch.
plan::TiledFamily family_of(const Training& t) {
  return [extents = t.model, parts = t.micro_batches](std::size_t tiles) {
    plan::GptExtents e = extents;
    e.batch *= parts;
    e.tiles = tiles;
    return plan::paper_gpt(e);
  };
}

/// What is the same for all ways. A checkpoint is 2 bytes an element.
plan::Setting base_of(const Training& t, const plan::Machine& machine, Place activations) {
  const std::size_t checkpoint = 2 * tokens_of(t) * t.model.hidden;
  plan::Setting setting{.stage = t.stage,
                        .ranks = machine.topology.ranks(),
                        .processor = plan::Processor::gpu,
                        .device_budget = machine.device_budget,
                        .host_budget = machine.host_budget,
                        .disk = machine.disk,
                        .options = {.micro_batches = t.micro_batches, .max_gradient_norm = t.max_gradient_norm},
                        .micro_batches = t.order};
  setting.activations = plan::ActivationSetting{
      activations,
      {.bytes = Bytes{(t.model.layers + 1) * t.micro_batches * checkpoint}, .device_bytes = Bytes{3 * checkpoint}}};
  return setting;
}

/// Of each, first what fits where anything does.
plan::Grid grid_of(const Training& t, const plan::Machine& machine, plan::Placing placing) {
  plan::Grid grid;
  grid.placings = {placing};
  grid.prefetch = {64_MiB, 256_MiB, 1_GiB, 4_GiB};
  grid.persistence_threshold = {32_KiB, 1_MiB};
  grid.staging = {64_MiB, 1_GiB, 8_GiB};
  grid.sub_group_elements = {std::size_t{8} << 20, std::size_t{64} << 20};
  grid.micro_batches = {t.micro_batches};
  if (t.micro_batches > 1) grid.orders.push_back(plan::MicroBatches::layer_by_layer);
  grid.tiles = {t.model.tiles};
  for (const std::size_t times : {2U, 4U}) {
    if (times * t.model.tiles <= t.model.hidden) grid.tiles.push_back(times * t.model.tiles);
  }
  if (std::isinf(t.max_gradient_norm)) grid.updates.push_back(zerospan::UpdateTime::during_backward);
  const int node = machine.topology.ranks_per_node;
  if (machine.topology.nodes > 1 && node > 1) {
    grid.groups.push_back(plan::GroupSetting{node});
    grid.groups.push_back(plan::GroupSetting{node, Place::host});
  }
  return grid;
}

std::vector<Place> places_of_activations(const Question& q) {
  return q.activations ? std::vector{*q.activations} : std::vector{Place::host, Place::device};
}

/// The model of one micro-batch.
plan::Model micro_batch_of(const Training& t, std::size_t tiles) {
  return plan::divided(family_of(t)(tiles), t.micro_batches);
}

/// The fastest setting, or the one that was asked for, with states in these places. Nothing, if none fits.
/// @throws zerospan::BudgetError instead, where it can be said what does not fit.
std::optional<plan::Choice> choice_of(const Question& q, const plan::Machine& machine, plan::Placing placing,
                                      Place activations) {
  const std::size_t tiles = q.training.model.tiles;
  plan::Setting setting = base_of(q.training, machine, activations);
  if (q.choose) {
    const plan::Grid grid = grid_of(q.training, machine, placing);
    auto found = plan::choose(family_of(q.training), machine, setting, grid, {.starts = 1, .steps = 3});
    if (found) return found;
  }
  setting.placing = placing;
  setting.options.prefetch = q.prefetch;
  plan::bytes_of(micro_batch_of(q.training, tiles), setting);
  if (q.choose) return std::nullopt;  // what was tried is not what the engine takes by itself, which fits
  return plan::Choice{setting, tiles,
                      plan::predict(micro_batch_of(q.training, tiles), setting, machine.topology).step_seconds, 1};
}

/// The fastest way to train with states in these places. Where checkpoints rest is chosen last: in the host's memory
/// there is most often room for them.
Way way_of(const Question& q, const plan::Machine& machine, plan::Placing placing) {
  Way way{.placing = placing};
  for (const Place activations : places_of_activations(q)) {
    try {
      if (!way.choice) {
        way.choice = choice_of(q, machine, placing, activations);
        continue;
      }
      plan::Choice other = *way.choice;
      other.setting.activations = base_of(q.training, machine, activations).activations;
      other.step_seconds =
          plan::predict(micro_batch_of(q.training, other.tiles), other.setting, machine.topology, 3).step_seconds;
      ++other.simulated;
      if (other.step_seconds < way.choice->step_seconds) way.choice = other;
    } catch (const zerospan::BudgetError& error) {
      if (!way.choice) way.refusal = error.what();
    }
  }
  if (!way.choice && way.refusal.empty()) way.refusal = "no setting that was tried fits";
  return way;
}

std::vector<plan::Placing> placings_of(const Question& q) {
  if (!q.choose) return {q.placing};
  std::vector<plan::Placing> placings = plan::Grid{}.placings;
  if (q.training.stage < 3) {
    std::erase_if(placings, [](const plan::Placing& p) { return p.parameters != Place::device; });
    placings.push_back({Place::device, Place::host, Place::nvme});
  }
  if (q.cluster.disk_capacity == 0) {
    std::erase_if(placings, [](const plan::Placing& p) {
      return p.parameters == Place::nvme || p.gradients == Place::nvme || p.optimizer == Place::nvme;
    });
  }
  return placings;
}

double flops_of(const plan::Model& model) {
  double sum = 0;
  for (const auto* const pass : {&model.forward, &model.backward}) {
    for (const plan::PassStep& step : *pass) sum += step.flops;
  }
  return sum;
}

double tokens_per_second(const Training& t, const plan::Machine& machine, double step_seconds) {
  return static_cast<double>(tokens_of(t) * t.micro_batches) * machine.topology.ranks() / step_seconds;
}

/// Whether any places of states would do, in the grid's first values.
bool fits(const Question& q) {
  const plan::Machine machine = machine_of(q.cluster, q.training);
  for (const Place activations : places_of_activations(q)) {
    plan::Grid grid = grid_of(q.training, machine, {});
    grid.placings = placings_of(q);
    if (plan::fits(family_of(q.training)(grid.tiles.back()), machine, base_of(q.training, machine, activations),
                   grid)) {
      return true;
    }
  }
  return false;
}

void add_gains(const Question& q, const plan::Choice& best, Answer& a) {
  const plan::Model model = micro_batch_of(q.training, best.tiles);
  for (const plan::Advice& each : plan::advice(model, best.setting, a.machine.topology)) {
    if (each.seconds) a.gains.push_back({each.change, each.ratio});
  }
  // A larger batch takes its part of the memory.
  Question other = q;
  other.training.model.batch *= 2;
  const plan::Machine machine = machine_of(other.cluster, other.training);
  plan::Setting setting = best.setting;
  setting.device_budget = machine.device_budget;
  setting.activations = base_of(other.training, machine, best.setting.activations->place).activations;
  try {
    const plan::Model twice = micro_batch_of(other.training, best.tiles);
    const double seconds = plan::predict(twice, setting, machine.topology).step_seconds;
    a.gains.push_back({"twice the batch", tokens_per_second(other.training, machine, seconds) / a.tokens_per_second});
  } catch (const zerospan::BudgetError&) {
  }
  std::ranges::stable_sort(a.gains, std::ranges::greater{}, &Gain::ratio);
}

}  // namespace

Answer answer(const Question& q, const std::function<void(const std::string&)>& progress) {
  Answer a;
  a.machine = machine_of(q.cluster, q.training);
  a.activations = activations_of(q.training);
  a.parameters = family_of(q.training)(1).elements();
  for (const plan::Placing& placing : placings_of(q)) {
    progress(fmt::format("parameters in {}, gradients in {}, optimizer states in {}", to_string(placing.parameters),
                         to_string(placing.gradients), to_string(placing.optimizer)));
    a.ways.push_back(way_of(q, a.machine, placing));
  }
  std::ranges::stable_sort(a.ways, {}, [](const Way& way) {
    return way.choice ? way.choice->step_seconds : std::numeric_limits<double>::infinity();
  });
  if (const std::optional<plan::Choice>& best = a.ways.front().choice) {
    const plan::Model model = micro_batch_of(q.training, best->tiles);
    a.prediction = plan::predict(model, best->setting, a.machine.topology);
    a.footprint = plan::bytes_of(model, best->setting);
    a.tokens_per_second = tokens_per_second(q.training, a.machine, a.prediction.step_seconds);
    a.flops_per_second = flops_of(model) * static_cast<double>(q.training.micro_batches) / a.prediction.step_seconds;
    progress("what would make it faster");
    add_gains(q, *best, a);
  }
  if (!q.choose) return a;
  progress("what fits");
  a.most_layers = plan::largest_of(most_times * q.training.model.layers, [&](std::size_t layers) {
    Question other = q;
    other.training.model.layers = layers;
    return fits(other);
  });
  const int node = q.cluster.topology.ranks_per_node;
  for (int gpus = 1; gpus <= 1024 && a.fewest_gpus == 0; gpus = gpus < node ? std::min(2 * gpus, node) : 2 * gpus) {
    Question other = q;
    other.cluster = with_gpus(q.cluster, gpus);
    if (fits(other)) a.fewest_gpus = gpus;
  }
  return a;
}

}  // namespace cluster
