/// @file
/// plan::advice: what would make a step faster, and by how much.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/plan/choose.hpp>
#include <zerospan/plan/model.hpp>
#include <zerospan/plan/predict.hpp>
#include <zerospan/plan/setting.hpp>
#include <zerospan/sim/topology.hpp>

namespace zerospan::inline v0::plan {

/// A change that was simulated.
struct Advice {
  std::string change;             ///< "twice the disk's bytes a second".
  std::optional<double> seconds;  ///< Of a step; none, if it would not fit then.
  double ratio;                   ///< How many times as fast; 0 if it would not fit.
};

/// What changes of machine and setting would do to a training, each alone; all of them were simulated. The best first.
/// @param model Of one micro-batch. @throws as `predict`, of the training as it is.
inline std::vector<Advice> advice(const Model& model, const Setting& setting, const sim::Topology& topology,
                                  std::size_t steps = 4) {
  const double now = predict(model, setting, topology, steps).step_seconds;
  std::vector<Advice> result;
  const auto try_out = [&](std::string change, const auto& make) {
    Setting other = setting;
    sim::Topology faster = topology;
    make(other, faster);
    Advice advised{std::move(change), std::nullopt, 0};
    try {
      advised.seconds = predict(model, other, faster, steps).step_seconds;
      advised.ratio = now / *advised.seconds;
    } catch (const BudgetError&) {
    } catch (const ConfigurationError&) {
    }
    result.push_back(std::move(advised));
  };
  const auto twice = [](Bytes bytes) { return Bytes{2 * bytes.count}; };
  try_out("twice the device memory", [&](Setting& s, sim::Topology&) { s.device_budget = twice(s.device_budget); });
  try_out("half the device memory", [&](Setting& s, sim::Topology&) { s.device_budget.count /= 2; });
  try_out("twice the host memory, and staging", [&](Setting& s, sim::Topology&) {
    s.host_budget = twice(s.host_budget);
    if (s.options.staging) s.options.staging = twice(*s.options.staging);
  });
  if (setting.options.prefetch) {
    try_out("twice the prefetch", [&](Setting& s, sim::Topology&) { s.options.prefetch = twice(*s.options.prefetch); });
  }
  try_out("no prefetch", [&](Setting& s, sim::Topology&) { s.options.prefetch = Bytes{0}; });
  try_out("updates during the backward pass",
          [&](Setting& s, sim::Topology&) { s.options.updates = UpdateTime::during_backward; });
  if (setting.options.micro_batches > 1) {
    try_out("micro-batches layer by layer",
            [&](Setting& s, sim::Topology&) { s.micro_batches = MicroBatches::layer_by_layer; });
  }
  if (setting.placing.optimizer == Place::nvme && !setting.optimizer_share) {
    for (const double fraction : {0.25, 0.5}) {
      try_out(std::to_string(static_cast<int>(100 * fraction)) + " % of the optimizer's states in host memory",
              [&](Setting& s, sim::Topology&) {
                s.optimizer_share = PlacedShare{Place::host, fraction};
              });
    }
  }
  if (setting.placing.optimizer == Place::host && !setting.optimizer_share) {
    try_out("25 % of the optimizer's states in device memory", [&](Setting& s, sim::Topology&) {
      s.optimizer_share = PlacedShare{Place::device, 0.25};
    });
  }
  if (!setting.disk_cache) {
    if (const auto cache = detail::rest_as_cache(model, setting, RestAsCache{}.line)) {
      try_out("the rest of the host memory as a cache of the disk",
              [&](Setting& s, sim::Topology&) { s.disk_cache = cache; });
    }
  }
  try_out("twice the disk's bytes a second", [&](Setting&, sim::Topology& t) {
    for (double* const rate : {&t.disk.read, &t.disk.write, &t.disk.mixed}) *rate *= 2;
  });
  try_out("twice the network's bytes a second", [&](Setting&, sim::Topology& t) {
    for (double* const rate : {&t.within.bytes_per_second, &t.between.bytes_per_second, &t.adapter}) *rate *= 2;
  });
  try_out("twice the bytes a second between host and device", [&](Setting&, sim::Topology& t) {
    for (sim::Link* const link : {&t.host_link.to_device, &t.host_link.to_host}) link->bytes_per_second *= 2;
  });
  try_out("twice the speed of memory, and of updates", [&](Setting&, sim::Topology& t) {
    for (sim::Memory* const memory : {&t.host_memory, &t.device_memory}) {
      for (double* const rate : {&memory->bytes_per_second, &memory->fill, &memory->accumulate, &memory->update}) {
        *rate *= 2;
      }
    }
  });
  try_out("twice the operations a second", [&](Setting&, sim::Topology& t) { t.flops_per_second *= 2; });
  std::ranges::stable_sort(result, std::ranges::greater{}, &Advice::ratio);
  return result;
}

}  // namespace zerospan::inline v0::plan
