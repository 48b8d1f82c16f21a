/// @file
/// One rank's training, validation and sample, with given arithmetic.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/core/timeline.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>

#include "directory_use.hpp"
#include "engine.hpp"
#include "figures.hpp"
#include "job.hpp"
#include "math.hpp"
#include "reports.hpp"
#include "result.hpp"
#include "step_time.hpp"
#include "tensor.hpp"
#include "trainer.hpp"
#include "zerospan_adapter.hpp"

namespace gpt {

namespace detail {

inline std::vector<TimeSpent> time_spent(const zerospan::LaneCounters& operations) {
  std::vector<TimeSpent> spent;
  for (std::size_t i = 0; i < zerospan::operation_kinds; ++i) {
    const auto kind = static_cast<zerospan::OperationKind>(i);
    if (operations[kind].count > 0) spent.push_back({zerospan::to_string(kind), operations[kind].seconds});
  }
  return spent;
}

/// Of rank 0, whose activation checkpoints have lanes of their own. @see RankStorage
template <class MadeSteps>
StepTime time_of(const MadeSteps& made, const Job& job) {
  const Options& options = job.options;
  RanksOfTimeline ranks{.engine = zerospan::Rank{0}, .checkpoints = zerospan::Rank{options.ranks}};
  const int together = options.sharding == Sharding::group ? options.ranks_per_group : options.ranks;
  for (int rank = 1; rank < together; ++rank) ranks.peers.push_back(zerospan::Rank{rank});
  std::vector<TimeInterval> steps;
  for (const auto& [begin, end] : made) {
    steps.push_back({job.timeline.nanoseconds(begin), job.timeline.nanoseconds(end)});
  }
  return time_of_steps(job.timeline.spans(), ranks, std::move(steps));
}

}  // namespace detail

/// Declares the model in `engine`, and trains it. @param ranks For the host's figures.
template <Math M>
Result train(M math, Engine& engine, zerospan::AnyCommunicator& ranks, const Job& job) {
  Reports* reports = job.reports_of(ranks.rank());
  Trainer<zerospan::PartitionedParameter<Tensor<typename M::Weight>>, M> trainer{engine,      math,     ranks,
                                                                                 job.options, job.text, reports,
                                                                                 job.saves};
  const auto begin = std::chrono::steady_clock::now();
  trainer.train();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto statistics = engine.statistics();
  StepTime step_time = reports ? detail::time_of(trainer.made(), job) : StepTime{};
  std::vector<DirectoryUse> directories = engine.directories();
  auto figures = trainer.figures();
  if (reports) reports->trained();
  if (trainer.is_interrupted()) return {{}, {}, true};
  std::optional<double> validation_loss;
  std::optional<std::uint64_t> hash;
  if (!job.options.skip_validation) {
    validation_loss = trainer.validate();
    hash = trainer.parameter_hash();
  }
  trainer.export_model();
  std::string sample = trainer.write_text();
  if (!reports) return {};
  reports->end(FinalMetrics{hash, validation_loss, statistics.parameters});
  return {std::move(sample),
          {statistics.parameters, validation_loss, seconds, trainer.steps(), trainer.steps_here(),
           trainer.skipped_steps(), std::move(figures), {}, std::move(step_time),
           std::move(directories), detail::time_spent(statistics.operations)}};
}

}  // namespace gpt
