/// @file
/// Trains GPT-2 over the bytes of a text with ZeRO, on the CPU or on GPUs, with states in memory and on disk.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <zerospan/core/error.hpp>
#include <zerospan/core/timeline.hpp>

#include "gpt/checkpoints.hpp"
#include "gpt/command_line.hpp"
#include "gpt/cuda/run_on_cuda.hpp"
#include "gpt/forecast/report.hpp"
#include "gpt/hugging_face.hpp"
#include "gpt/job.hpp"
#include "gpt/mpi/run_on_mpi.hpp"
#include "gpt/openblas.hpp"
#include "gpt/run_on_cpu.hpp"
#include "gpt/sample.hpp"
#include "gpt/summary.hpp"
#include "gpt/terminal_reports.hpp"

namespace {

std::vector<gpt::Result> run(const gpt::Job& job) {
  if (job.options.communicator == gpt::CommunicatorKind::mpi) return gpt::run_on_mpi(job);
  return job.options.device == gpt::DeviceKind::cuda ? gpt::run_on_cuda(job) : gpt::run_on_cpu(job);
}

/// @param mpi What runs this process as a rank; empty if all ranks are this process's.
void train(const gpt::Options& options, const gpt::Text& text, const std::optional<gpt::MpiProcess>& mpi) {
  zerospan::Timeline timeline;
  gpt::TerminalReports reports{options, timeline};
  gpt::Checkpoints saves{options};
  std::optional<gpt::forecast::Forecast> forecast;
  if (options.plan && (!mpi || mpi->reports())) {
    forecast = gpt::forecast::foretell(options, gpt::forecast::rates_of(options));
    fmt::print(stderr, "{}", gpt::forecast::describe(*forecast));
  }
  const std::vector<gpt::Result> results = run({options, text, timeline, reports, saves});
  if ((mpi && !mpi->reports()) || results.front().is_interrupted) return;

  const gpt::Result& result = results.front();
  if (!result.sample.empty()) fmt::print("{}\n\n", gpt::printable(result.sample));
  fmt::print("{}", gpt::describe(result.summary, options));
  if (forecast) fmt::print("{}", gpt::forecast::compare(*forecast, result.summary.step_time));
}

/// One line on standard error. @return The exit code.
int fail(int code, std::string message) {
  std::ranges::replace(message, '\n', ' ');
  fmt::print(stderr, "train_gpt: {}\n", message);
  return code;
}

/// @return 0, or 2 if it was asked for something that cannot be, or 1 if something failed.
int run(int argc, char** argv, std::optional<gpt::MpiProcess>& mpi) {
  constexpr int failure = 1;
  constexpr int misuse = 2;
  CLI::App app{"Trains GPT-2 over the bytes of a text with zerospan, on the CPU or on GPUs."};
  try {
    gpt::Options options = gpt::parse(app, argc, argv);
    if (options.communicator == gpt::CommunicatorKind::mpi) {
      mpi.emplace(argc, argv);
      options.ranks = mpi->ranks();
      gpt::choose_budgets(app, options);
      if (!mpi->reports()) options.metrics.clear();
    }
    if (options.text.empty()) options.text = gpt::source_files(ZEROSPAN_SOURCE_DIR);
    const gpt::Text text = gpt::Text::read(options.text);
    gpt::validate(options, text);
    if (!options.init.empty()) gpt::check_gpt2(options.init, options.model);
    train(options, text, mpi);
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

}  // namespace

int main(int argc, char** argv) {
  gpt::openblas::choose_kernels(argv);
  std::optional<gpt::MpiProcess> mpi;
  const int code = run(argc, argv, mpi);
  if (mpi && code != 0) mpi->abort(code);
  return code;
}
