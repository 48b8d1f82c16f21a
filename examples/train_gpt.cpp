/// @file
/// Trains GPT-2 over the bytes of a text with ZeRO, on the CPU, with states in memory and on disk.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <cblas.h>
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <zerospan/adapters/chrome_trace.hpp>
#include <zerospan/zerospan.hpp>

#include "gpt/command_line.hpp"
#include "gpt/summary.hpp"
#include "gpt/trainer.hpp"
#include "gpt/zerospan_adapter.hpp"

namespace {

using Communicator = zerospan::ThreadCommunicator;

/// What rank 0 has in the end; empty on the others.
struct Result {
  std::string sample;
  gpt::Summary summary;
};

/// What all ranks share.
struct Job {
  const gpt::Options& options;
  const gpt::Text& text;
  zerospan::Timeline& timeline;
  gpt::Reports& reports;
};

std::vector<gpt::TimeSpent> time_spent(const zerospan::LaneCounters& operations) {
  std::vector<gpt::TimeSpent> spent;
  for (std::size_t i = 0; i < zerospan::operation_kinds; ++i) {
    const auto kind = static_cast<zerospan::OperationKind>(i);
    if (operations[kind].count > 0) spent.push_back({zerospan::to_string(kind), operations[kind].seconds});
  }
  return spent;
}

void write_trace(const zerospan::Timeline& timeline, const std::filesystem::path& path) {
  std::ofstream stream{path};
  zerospan::write_chrome_trace(timeline, stream);
  stream.close();
  if (!stream) throw std::runtime_error{"cannot write the timeline to " + path.string()};
}

template <class Element, class Engine>
Result train(Engine& engine, Communicator& communicator, gpt::RankStorage& storage, const Job& job) {
  using Parameter = zerospan::PartitionedParameter<gpt::Tensor<Element>>;
  gpt::Reports* reports = communicator.rank() == zerospan::Rank{0} ? &job.reports : nullptr;
  gpt::Trainer<Parameter, Engine, Communicator> trainer{engine, communicator, storage, job.options, job.text, reports};
  const auto begin = std::chrono::steady_clock::now();
  trainer.train();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto statistics = engine.statistics();
  auto figures = trainer.figures();
  if (reports) write_trace(job.timeline, job.options.trace);  // the latest spans: those of training

  if (reports) reports->progress.say("validating");
  const double validation_loss = trainer.validate();
  const std::uint64_t hash = trainer.parameter_hash();
  if (reports && job.options.sample > 0) reports->progress.say("writing");
  std::string sample = trainer.write_text();
  if (!reports) return {};
  reports->progress.finish();
  reports->metrics.write(gpt::FinalMetrics{hash, validation_loss, statistics.parameters});
  return {std::move(sample),
          {statistics.parameters, validation_loss, seconds, trainer.skipped_steps(), std::move(figures),
           time_spent(statistics.operations)}};
}

/// fp16 alone needs one.
std::optional<zerospan::DynamicLossScale> loss_scale(gpt::Precision precision) {
  if (precision != gpt::Precision::fp16) return std::nullopt;
  return zerospan::DynamicLossScale{};
}

template <class Stage>
Result run_rank(Communicator communicator, const Job& job) {
  const gpt::Options& options = job.options;
  gpt::RankStorage storage{options, communicator.rank().value, job.timeline};
  zerospan::ZeroEngine engine{
      Stage{},
      communicator,
      storage.device(),
      storage.placement(options),
      zerospan::AdamW{.learning_rate = static_cast<float>(options.schedule.maximum),
                      .beta1 = options.beta1,
                      .beta2 = options.beta2,
                      .weight_decay = options.weight_decay},
      zerospan::EngineOptions{.micro_batches = options.micro_batches,
                              .max_gradient_norm = options.clip,
                              .loss_scale = loss_scale(options.precision),
                              .seed = options.seed,
                              .prefetch = {options.prefetch_bytes},
                              .timeout = std::chrono::milliseconds{std::llround(1000 * options.timeout)},
                              .timeline = &job.timeline}};
  if (options.precision == gpt::Precision::bf16) return train<gpt::BFloat16>(engine, communicator, storage, job);
  if (options.precision == gpt::Precision::fp16) return train<gpt::Float16>(engine, communicator, storage, job);
  return train<float>(engine, communicator, storage, job);
}

Result run_rank(Communicator communicator, const Job& job) {
  switch (job.options.stage) {
    case 0:
      return run_rank<zerospan::Stage0>(std::move(communicator), job);
    case 1:
      return run_rank<zerospan::Stage1>(std::move(communicator), job);
    case 2:
      return run_rank<zerospan::Stage2>(std::move(communicator), job);
    default:
      return run_rank<zerospan::Stage3>(std::move(communicator), job);
  }
}

void train(const gpt::Options& options, const gpt::Text& text) {
  ::openblas_set_num_threads(options.threads);
  zerospan::Timeline timeline;
  gpt::Progress progress{options.schedule.steps};
  gpt::MetricsWriter metrics{options.metrics};
  gpt::Reports reports{progress, metrics};
  const Job job{options, text, timeline, reports};
  const std::vector<Result> results = zerospan::run_ranks(
      options.ranks, [&](Communicator communicator) { return run_rank(std::move(communicator), job); },
      {.timeout = std::chrono::milliseconds{std::llround(1000 * options.timeout)}});

  const Result& result = results.front();
  if (!result.sample.empty()) fmt::print("{}\n\n", gpt::printable(result.sample));
  fmt::print("{}", gpt::describe(result.summary, options));
}

/// One line on standard error. @return The exit code.
int fail(int code, std::string message) {
  std::ranges::replace(message, '\n', ' ');
  fmt::print(stderr, "train_gpt: {}\n", message);
  return code;
}

}  // namespace

/// @return 0, or 2 if it was asked for something that cannot be, or 1 if something failed.
int main(int argc, char** argv) {
  constexpr int failure = 1;
  constexpr int misuse = 2;
  CLI::App app{"Trains GPT-2 over the bytes of a text with zerospan, on the CPU."};
  try {
    gpt::Options options = gpt::parse(app, argc, argv);
    if (options.text.empty()) options.text = gpt::source_files(ZEROSPAN_SOURCE_DIR);
    const gpt::Text text = gpt::Text::read(options.text);
    gpt::validate(options, text);
    train(options, text);
    return 0;
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return fail(misuse, std::string{error.what()} + " (--help lists the flags)");
  } catch (const zerospan::ConfigurationError& error) {
    return fail(misuse, error.what());
  } catch (const zerospan::BudgetError& error) {
    return fail(misuse, error.what());
  } catch (const std::exception& error) {
    return fail(failure, error.what());
  }
}
