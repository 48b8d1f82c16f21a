/// @file
/// plan::choose: the fastest setting of a grid that fits a machine, found by simulating.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/plan/detail/rehearsal.hpp>
#include <zerospan/plan/detail/simulated_rank.hpp>
#include <zerospan/plan/footprint.hpp>
#include <zerospan/plan/model.hpp>
#include <zerospan/plan/predict.hpp>
#include <zerospan/plan/setting.hpp>
#include <zerospan/sim/cluster.hpp>
#include <zerospan/sim/topology.hpp>
#include <zerospan/tier/cached_tier.hpp>

namespace zerospan::inline v0::plan {

/// The ranks of a training, with the links between them, and the memory that each of them has.
struct Machine {
  sim::Topology topology{};
  Bytes device_budget{};
  Bytes host_budget{};
  Disk disk{};
};

/// A cache of the disk that has all the host memory that nothing else takes, in whole lines.
struct RestAsCache {
  Bytes line = 1_MiB;
};

/// What is chosen among; of each, one at least.
struct Grid {
  std::vector<Placing> placings{
      {Place::device, Place::device, Place::device}, {Place::device, Place::device, Place::host},
      {Place::device, Place::host, Place::host},     {Place::host, Place::host, Place::host},
      {Place::host, Place::host, Place::nvme},       {Place::nvme, Place::host, Place::nvme},
      {Place::nvme, Place::nvme, Place::nvme}};
  std::vector<std::optional<PlacedShare>> shares{std::nullopt};
  std::vector<Bytes> prefetch{Bytes{std::size_t{64} << 20}, Bytes{std::size_t{256} << 20}, Bytes{std::size_t{2} << 30},
                              Bytes{std::size_t{8} << 30}};
  std::vector<Bytes> persistence_threshold{Bytes{std::size_t{32} << 10}, Bytes{std::size_t{1} << 20}};
  std::vector<Bytes> staging{Bytes{std::size_t{64} << 20}, Bytes{std::size_t{1} << 30}, Bytes{std::size_t{8} << 30}};
  std::vector<std::size_t> sub_group_elements{std::size_t{8} << 20, std::size_t{64} << 20};
  std::vector<std::size_t> micro_batches{1};  ///< Into how many the batch of a rank is divided.
  std::vector<MicroBatches> orders{MicroBatches::in_passes};
  std::vector<std::size_t> tiles{1};  ///< Of each linear layer: what a `TiledFamily` is asked for.
  std::vector<std::optional<RestAsCache>> caches{std::nullopt, RestAsCache{}};
  std::vector<UpdateTime> updates{UpdateTime::after_step};
  std::vector<std::optional<GroupSetting>> groups{std::nullopt};  ///< Those that the ranks do not fall into are not
                                                                  ///< chosen.
};

/// Makes a model whose linear layers are cut into so many tiles, or throws a ConfigurationError if they cannot be: that
/// is not chosen then.
using TiledFamily = std::function<Model(std::size_t tiles)>;

/// What was found.
struct Choice {
  Setting setting;
  std::size_t tiles;  ///< Of the model. @see Grid::tiles
  double step_seconds;
  std::size_t simulated;  ///< Settings that were looked at.
};

struct SearchOptions {
  /// Grids of at most so many settings are simulated one by one. Larger ones are searched one coordinate after the
  /// other, from several starts: what is found is then the best in each coordinate alone, and no worse than any placing
  /// with any number of tiles and the first value of everything else.
  std::size_t exhaustive = 64;

  /// The best of these, the grid's last corner, and others drawn from a fixed seed.
  std::size_t starts = 4;
  std::size_t steps = 4;  ///< Of each simulation. @see predict
};

/// The same model for the `parts`-th part of its batch: a micro-batch of so many.
inline Model divided(Model model, std::size_t parts) {
  for (std::vector<PassStep>* const pass : {&model.forward, &model.backward}) {
    for (PassStep& step : *pass) {
      step.flops /= static_cast<double>(parts);
      step.pushes = Bytes{step.pushes.count / parts};
    }
  }
  return model;
}

namespace detail {

inline constexpr std::size_t coordinates = 12;

/// A setting of a grid, by the index of each of its values.
using Point = std::array<std::size_t, coordinates>;

inline Point sizes_of(const Grid& grid) {
  const Point sizes{grid.placings.size(),      grid.shares.size(),
                    grid.prefetch.size(),      grid.persistence_threshold.size(),
                    grid.staging.size(),       grid.sub_group_elements.size(),
                    grid.micro_batches.size(), grid.orders.size(),
                    grid.tiles.size(),         grid.caches.size(),
                    grid.updates.size(),       grid.groups.size()};
  if (std::ranges::count(sizes, std::size_t{0}) > 0) throw_configuration_error("a grid has one value of each, or more");
  return sizes;
}

/// The setting of a point but for its cache, on a machine. @param base What is not chosen.
inline Setting setting_at(const Grid& grid, const Point& at, const Machine& machine, Setting base) {
  base.ranks = machine.topology.ranks();
  base.device_budget = machine.device_budget;
  base.host_budget = machine.host_budget;
  base.disk = machine.disk;
  base.placing = grid.placings[at[0]];
  base.optimizer_share = grid.shares[at[1]];
  base.options.prefetch = grid.prefetch[at[2]];
  base.options.persistence_threshold = grid.persistence_threshold[at[3]];
  base.options.staging = grid.staging[at[4]];
  base.options.sub_group_elements = grid.sub_group_elements[at[5]];
  base.options.micro_batches = grid.micro_batches[at[6]];
  base.micro_batches = grid.orders[at[7]];
  base.options.updates = grid.updates[at[10]];
  base.groups = grid.groups[at[11]];
  base.disk_cache.reset();
  return base;
}

inline bool uses_disk(const Setting& setting) {
  const auto is_disk = [](Place place) { return place == Place::nvme; };
  return is_disk(setting.placing.parameters) || is_disk(setting.placing.gradients) ||
         is_disk(setting.placing.optimizer) || (setting.optimizer_share && is_disk(setting.optimizer_share->place)) ||
         (setting.groups && setting.groups->copies && is_disk(*setting.groups->copies)) ||
         (setting.activations && is_disk(setting.activations->place));
}

/// The cache that has what a setting without one leaves of the host memory of any rank; nothing, if that is no line, or
/// nothing is on the disk. @throws as `bytes_of`.
inline std::optional<CachedTierOptions> rest_as_cache(const Model& model, const Setting& setting, Bytes line) {
  if (!uses_disk(setting) || line.count == 0) return std::nullopt;
  const std::size_t rest = with_device(setting, [&]<sim::DeviceMemory Where>() {
    std::size_t least = std::numeric_limits<std::size_t>::max();
    std::vector<Rank> ranks{Rank{}};  // one of each kind, as the cluster has them
    for (std::size_t i = 0; i < ranks.size(); ++i) {
      sim::Cluster cluster = timeless(setting);
      SimulatedRank<Where> machine{cluster, setting, ranks[i]};
      rehearse(model, setting, machine, 0, [&](const Rehearsed& now) {
        least = std::min(least, machine.device.host_memory().largest_free());
        if (i > 0) return;
        const RankKinds kinds{model, setting.ranks, now.engine.owners()};
        for (const std::vector<Rank>& kind : kinds.all()) {
          const Rank first = RankNumbers{setting}.in_cluster(kind.front());
          if (first != Rank{}) ranks.push_back(first);
        }
      });
    }
    return least / line.count * line.count;
  });
  if (rest == 0) return std::nullopt;
  return CachedTierOptions{.bytes = Bytes{rest}, .line = line};
}

/// Simulates points of a grid, each once.
class GridSearch {
 public:
  static constexpr double does_not_fit = std::numeric_limits<double>::infinity();

  GridSearch(const TiledFamily& family, const Machine& machine, const Setting& base, const Grid& grid,
             const SearchOptions& options)
      : family_{family}, machine_{machine}, base_{base}, grid_{grid}, options_{options}, sizes_{sizes_of(grid)} {}

  /// The best point, as it was simulated. Nothing, if none fits.
  std::optional<Choice> choice() {
    const Point at = best();
    if (seconds(at) == does_not_fit) return std::nullopt;
    return Choice{*setting(at), grid_.tiles[at[8]], seconds(at), seconds_.size()};
  }

 private:
  /// Seconds of a step; `does_not_fit` also where a setting contradicts itself.
  double seconds(const Point& at) {
    const auto [known, is_new] = seconds_.try_emplace(at, does_not_fit);
    if (!is_new) return known->second;
    try {
      if (const std::optional<Setting> s = setting(at)) {
        known->second = predict(model(at), *s, machine_.topology, options_.steps).step_seconds;
      }
    } catch (const BudgetError&) {
    } catch (const ConfigurationError&) {
    }
    return known->second;
  }

  /// Nothing, if its cache would have nothing. @throws as `bytes_of`.
  std::optional<Setting> setting(const Point& at) {
    Setting result = setting_at(grid_, at, machine_, base_);
    if (const std::optional<RestAsCache>& cache = grid_.caches[at[9]]) {
      result.disk_cache = rest_as_cache(model(at), result, cache->line);
      if (!result.disk_cache) return std::nullopt;
    }
    return result;
  }

  Point best_of_all() {
    Point best{};
    for (Point at{};;) {
      if (seconds(at) < seconds(best)) best = at;
      std::size_t c = 0;
      while (c < coordinates && ++at[c] == sizes_[c]) at[c++] = 0;
      if (c == coordinates) return best;
    }
  }

  /// From a point to one that no single coordinate makes better.
  Point descend(Point at) {
    for (bool is_better = true; is_better;) {
      is_better = false;
      for (std::size_t c = 0; c < coordinates; ++c) {
        Point other = at;
        for (other[c] = 0; other[c] < sizes_[c]; ++other[c]) {
          if (seconds(other) < seconds(at)) {
            at = other;
            is_better = true;
          }
        }
      }
    }
    return at;
  }

  /// The best of all placings and tiles, with the first value of everything else.
  Point best_placing() {
    Point best{};
    Point at{};
    for (at[0] = 0; at[0] < sizes_[0]; ++at[0]) {
      for (at[8] = 0; at[8] < sizes_[8]; ++at[8]) {
        if (seconds(at) < seconds(best)) best = at;
      }
    }
    return best;
  }

  Point start(std::size_t number) {
    if (number == 0) return best_placing();
    Point at{};
    for (std::size_t c = 0; c < coordinates; ++c) {
      if (number == 1) at[c] = sizes_[c] - 1;
      if (number > 1) at[c] = static_cast<std::size_t>(next() % sizes_[c]);
    }
    return at;
  }

  Point best() {
    std::size_t points = 1;
    for (const std::size_t size : sizes_) points *= size;
    if (points <= options_.exhaustive) return best_of_all();
    Point best = descend(start(0));
    for (std::size_t s = 1; s < options_.starts; ++s) {
      if (const Point other = descend(start(s)); seconds(other) < seconds(best)) best = other;
    }
    return best;
  }

  /// The model of a point; each is made once.
  const Model& model(const Point& at) {
    const std::pair key{at[8], at[6]};
    const auto known = models_.find(key);
    if (known != models_.end()) return known->second;
    return models_.emplace(key, divided(family_(grid_.tiles[at[8]]), grid_.micro_batches[at[6]])).first->second;
  }

  /// A linear congruential generator (Knuth's MMIX): the same everywhere.
  std::uint64_t next() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return state_ >> 33;
  }

  const TiledFamily& family_;
  const Machine& machine_;
  const Setting& base_;
  const Grid& grid_;
  const SearchOptions& options_;
  Point sizes_;
  std::map<std::pair<std::size_t, std::size_t>, Model> models_;  ///< By the indices of tiles and micro-batches.
  std::map<Point, double> seconds_;
  std::uint64_t state_ = 1;
};

}  // namespace detail

/// The fastest setting that fits, of those that were simulated, with as many tiles as are best for it.
/// @param family Of models for a rank's whole batch. @param base What the grid leaves as it is: stage, optimizer,
/// activation checkpoints, the other options.
/// @return Nothing if none fits.
inline std::optional<Choice> choose(const TiledFamily& family, const Machine& machine, const Setting& base,
                                    const Grid& grid, const SearchOptions& options = {}) {
  return detail::GridSearch{family, machine, base, grid, options}.choice();
}

/// The same for a model that is as it is. @throws ConfigurationError if the grid has other numbers of tiles than 1.
inline std::optional<Choice> choose(const Model& model, const Machine& machine, const Setting& base, const Grid& grid,
                                    const SearchOptions& options = {}) {
  if (grid.tiles != std::vector<std::size_t>{1}) {
    throw_configuration_error("one model has its tiles: give choose() a family of models to choose among");
  }
  return choose(TiledFamily{[&model](std::size_t) { return model; }}, machine, base, grid, options);
}

/// Whether a model trains on a machine with any of the grid's placings, in its other first values. No time is
/// simulated.
inline bool fits(const Model& model, const Machine& machine, const Setting& base, const Grid& grid) {
  detail::Point at{};
  const Model part = divided(model, grid.micro_batches.at(0));
  for (at[0] = 0; at[0] < detail::sizes_of(grid)[0]; ++at[0]) {
    try {
      bytes_of(part, detail::setting_at(grid, at, machine, base), Rank{}, 2);
      return true;
    } catch (const BudgetError&) {
    } catch (const ConfigurationError&) {
    }
  }
  return false;
}

/// The largest number up to `most` of which something holds that holds of all smaller ones too; 0 if of none.
inline std::size_t largest_of(std::size_t most, const std::function<bool(std::size_t)>& holds) {
  std::size_t found = 0;
  std::size_t step = 1;
  while (found < most && holds(std::min(most, found + step))) {
    found = std::min(most, found + step);
    step *= 2;
  }
  for (; step > 0; step /= 2) {
    if (found + step <= most && holds(found + step)) found += step;
  }
  return found;
}

/// The largest model of a family that fits a machine.
/// @param family `family(n)` is its n-th model, each larger than the one before; from 1 on. @param most The last.
/// @return Its n; 0 if none fits.
inline std::size_t largest_that_fits(const std::function<Model(std::size_t)>& family, std::size_t most,
                                     const Machine& machine, const Setting& base, const Grid& grid) {
  return largest_of(most, [&](std::size_t n) { return fits(family(n), machine, base, grid); });
}

/// The first of several machines on which a model fits. @return Its index; their number if it fits none.
inline std::size_t smallest_that_fits(const Model& model, const std::vector<Machine>& machines, const Setting& base,
                                      const Grid& grid) {
  std::size_t m = 0;
  while (m < machines.size() && !fits(model, machines[m], base, grid)) ++m;
  return m;
}

}  // namespace zerospan::inline v0::plan
