/// @file
/// Foretells how long a step of train_gpt takes in many settings, writes that down, and then trains in each of them.
///
/// What is foretold is made of the machine's rates alone: nothing is fitted to a training. Beside it stand two null
/// models: the time that computing takes by itself, and the sum of everything, one after the other. The last line is a
/// JSON object. Some settings train on several hosts, by MPI: those need a launcher (on_hosts.sh), and are left out
/// without one, in words.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <zerospan/adapters/chrome_trace.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/timeline.hpp>

#include "../training_process.hpp"
#include "gpt/forecast/forecast.hpp"
#include "gpt/openblas.hpp"
#include "machine/rates_file.hpp"
#include "settings.hpp"
#include "training.hpp"

namespace {

using foresight::median;
using foresight::options_of;
using foresight::write;

struct Wishes : foresight::TrainingWishes {
  std::string only;
  std::filesystem::path launcher;  ///< Starts processes on hosts.
  bool keeps_timelines = false;
};

/// How far off a prediction is: 0.1 is ten percent, above or below.
double error_of(double predicted, double measured) { return std::abs(predicted / measured - 1); }

/// A setting, what was foretold of it, and what it took.
struct Case {
  foresight::Setting setting;
  gpt::forecast::Forecast forecast;
  double foretelling_seconds = 0;
  double measured = 0;  ///< Seconds a step: the median of those that are neither of the first two nor the last.
};

/// @param what "trace", of what was measured, or "predicted".
std::filesystem::path timeline_of(const foresight::Setting& setting, const Wishes& wishes, std::string_view what) {
  if (!wishes.keeps_timelines) return wishes.results / "foresight.trace.json";
  std::string name = setting.name;
  std::ranges::replace_if(
      name, [](char each) { return each == ' ' || each == ','; }, '_');
  return wishes.results / fmt::format("foresight.{}.{}.json", name, what);
}

std::vector<std::string> arguments_of(const foresight::Setting& setting, const Wishes& wishes) {
  std::vector<std::string> all = setting.arguments;
  const std::vector<std::string> own{"--steps",     std::to_string(wishes.steps),
                                     "--nvme-path", wishes.directory.string(),
                                     "--trace",     timeline_of(setting, wishes, "trace").string(),
                                     "--metrics",   (wishes.results / "foresight.jsonl").string()};
  all.insert(all.end(), own.begin(), own.end());
  return foresight::with_defaults(std::move(all), foresight::common);
}

gpt::Options training_of(const foresight::Setting& setting, const Wishes& wishes) {
  gpt::Options options = options_of(arguments_of(setting, wishes));
  if (setting.hosts.count > 0) options.ranks = setting.hosts.ranks();
  return options;
}

void run_on(const foresight::Hosts& hosts, const std::string& program, const std::vector<std::string>& arguments,
            const Wishes& wishes) {
  std::vector<std::string> all{std::to_string(hosts.count), std::to_string(hosts.ranks_each),
                               std::to_string(hosts.megabits), program};
  all.insert(all.end(), arguments.begin(), arguments.end());
  bench::run_to_the_end(wishes.launcher.string(), std::move(all), wishes.results / "foresight.hosts.txt");
}

double measure(const foresight::Setting& setting, const Wishes& wishes) {
  const std::filesystem::path metrics = wishes.results / "foresight.jsonl";
  std::filesystem::remove(metrics);
  if (setting.hosts.count > 0) {
    run_on(setting.hosts, TRAIN_GPT, arguments_of(setting, wishes), wishes);
  } else {
    bench::run_to_the_end(TRAIN_GPT, arguments_of(setting, wishes));
  }
  std::vector<double> seconds;
  for (const bench::MadeStep& step : bench::read_steps(metrics, wishes.steps)) seconds.push_back(step.seconds);
  return median({seconds.begin() + 2, seconds.end() - 1});
}

machine::Rates rates_of(const Wishes& wishes, const std::vector<foresight::Setting>& settings) {
  std::vector<gpt::Options> trainings;
  for (const foresight::Setting& setting : settings) trainings.push_back(training_of(setting, wishes));
  machine::Rates rates = foresight::rates_of(wishes.rates, wishes.directory, trainings);
  if (wishes.rates.empty()) machine::write_rates(rates, wishes.results / "foresight.rates.json");
  return rates;
}

/// The machine's, with what the links between hosts add: measured for each set of hosts that settings have.
std::map<std::string, machine::Rates> rates_on_hosts(const Wishes& wishes,
                                                     const std::vector<foresight::Setting>& settings) {
  const std::filesystem::path known = wishes.rates.empty() ? wishes.results / "foresight.rates.json" : wishes.rates;
  std::map<std::string, machine::Rates> rates;
  for (const auto& [name, arguments, hosts] : settings) {
    if (hosts.count == 0 || rates.contains(hosts.name())) continue;
    fmt::print(stderr, "measuring links: {} hosts of {} ranks, {} Mbit/s\n", hosts.count, hosts.ranks_each,
               hosts.megabits);
    const std::filesystem::path output = wishes.results / ("foresight.rates." + hosts.name() + ".json");
    run_on(hosts, MEASURE_RATES,
           {"--add-links", known.string(), "--output", output.string(), "--types", hosts.types, "--ranks-per-group",
            std::to_string(hosts.ranks_per_group)},
           wishes);
    rates.emplace(hosts.name(), machine::read_rates(output));
  }
  return rates;
}

/// Those that were asked for and can be had.
std::vector<foresight::Setting> settings_of(const Wishes& wishes) {
  std::vector<foresight::Setting> all = foresight::settings();
  const std::vector<foresight::Setting> on_hosts = foresight::settings_on_hosts();
  all.insert(all.end(), on_hosts.begin(), on_hosts.end());
  std::erase_if(all, [&](const foresight::Setting& each) { return each.name.find(wishes.only) == std::string::npos; });
  if (all.empty()) zerospan::throw_configuration_error("no setting has '" + wishes.only + "' in its name");
  if (!wishes.launcher.empty()) return all;
  const std::size_t left_out = std::erase_if(all, [](const foresight::Setting& each) { return each.hosts.count > 0; });
  if (left_out > 0) fmt::print("skipped: {} settings on hosts, for there are no hosts to train on\n", left_out);
  return all;
}

nlohmann::ordered_json to_json(const Case& c) {
  nlohmann::ordered_json json{{"name", c.setting.name},
                              {"arguments", c.setting.arguments},
                              {"predicted_seconds", c.forecast.step_seconds},
                              {"compute_alone_seconds", c.forecast.compute_alone},
                              {"all_lanes_seconds", c.forecast.all_lanes},
                              {"foretold_in_seconds", c.foretelling_seconds}};
  for (const auto& track : c.forecast.tracks) json["tracks"][track.what] = track.seconds;
  if (c.measured > 0) {
    json["measured_seconds"] = c.measured;
    json["error"] = c.forecast.step_seconds / c.measured - 1;
  }
  return json;
}

int run(const Wishes& wishes) {
  const std::vector<foresight::Setting> settings = settings_of(wishes);
  if (settings.empty()) return 0;
  const machine::Rates of_machine = rates_of(wishes, settings);
  const std::map<std::string, machine::Rates> of_hosts = rates_on_hosts(wishes, settings);

  std::vector<Case> cases;
  nlohmann::ordered_json predictions = nlohmann::ordered_json::array();
  for (const foresight::Setting& setting : settings) {
    const auto begin = std::chrono::steady_clock::now();
    const gpt::Options options = training_of(setting, wishes);
    const machine::Rates& rates = setting.hosts.count > 0 ? of_hosts.at(setting.hosts.name()) : of_machine;
    Case c{.setting = setting, .forecast = gpt::forecast::foretell(options, rates)};
    c.foretelling_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    predictions.push_back(to_json(c));
    if (wishes.keeps_timelines) {
      zerospan::Timeline timeline{{.max_spans = std::size_t{1} << 22}};
      static_cast<void>(gpt::forecast::foretell(options, rates, &timeline));
      zerospan::write_chrome_trace(timeline, timeline_of(setting, wishes, "predicted").string());
    }
    cases.push_back(std::move(c));
  }
  write(wishes.results / "foresight.predictions.json", predictions);

  std::string table = fmt::format("{:<42}{:>12}{:>12}{:>9}{:>14}{:>14}\n", "ms a step", "predicted", "measured",
                                  "error", "compute alone", "sum of lanes");
  fmt::print("{}", table);
  std::vector<double> errors;
  std::vector<double> of_compute;
  std::vector<double> of_sum;
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  for (Case& c : cases) {
    c.measured = measure(c.setting, wishes);
    errors.push_back(error_of(c.forecast.step_seconds, c.measured));
    of_compute.push_back(error_of(c.forecast.compute_alone, c.measured));
    of_sum.push_back(error_of(c.forecast.all_lanes, c.measured));
    const std::string line =
        fmt::format("{:<42}{:>12.1f}{:>12.1f}{:>+8.1f}%{:>+13.1f}%{:>+13.1f}%\n", c.setting.name,
                    1e3 * c.forecast.step_seconds, 1e3 * c.measured, 100 * (c.forecast.step_seconds / c.measured - 1),
                    100 * (c.forecast.compute_alone / c.measured - 1), 100 * (c.forecast.all_lanes / c.measured - 1));
    fmt::print("{}", line);
    std::fflush(stdout);
    table += line;
    results.push_back(to_json(c));
  }
  const auto summary = [&](std::string_view name, auto of) {
    return fmt::format("{:<66}{:>8.1f}%{:>13.1f}%{:>13.1f}%\n", name, 100 * of(errors), 100 * of(of_compute),
                       100 * of(of_sum));
  };
  const auto worst = [](const std::vector<double>& all) { return std::ranges::max(all); };
  const auto middle = [](const std::vector<double>& all) { return median(all); };
  const std::string end = summary("median error", middle) + summary("worst error", worst);
  fmt::print("{}", end);
  std::ofstream{wishes.results / "foresight.txt"} << table << end;
  write(wishes.results / "foresight.json", results);

  constexpr double goal_of_median = 0.05;
  constexpr double goal_of_worst = 0.15;
  const nlohmann::ordered_json line{
      {"settings", cases.size()},
      {"median_error", median(errors)},
      {"worst_error", worst(errors)},
      {"median_error_of_compute_alone", median(of_compute)},
      {"worst_error_of_compute_alone", worst(of_compute)},
      {"median_error_of_all_lanes", median(of_sum)},
      {"worst_error_of_all_lanes", worst(of_sum)},
      {"goal_is_met", median(errors) <= goal_of_median && worst(errors) <= goal_of_worst}};
  fmt::print("{}\n", line.dump());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  gpt::openblas::choose_kernels(argv);
  Wishes wishes;
  CLI::App app{"Foretells the step time of train_gpt in many settings, and measures it."};
  foresight::add_options(app, wishes);
  app.add_option("--only", wishes.only, "Settings whose name has this in it");
  app.add_option("--launcher", wishes.launcher,
                 "Starts processes on hosts: LAUNCHER HOSTS RANKS_EACH MBIT PROGRAM ARGUMENT... (on_hosts.sh has one)")
      ->check(CLI::ExistingFile);
  app.add_flag("--timelines", wishes.keeps_timelines,
               "Keeps the timelines of each setting among the results: what was foretold, and what happened");
  try {
    app.parse(argc, argv);
    return run(wishes);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "foresight: {}\n", error.what());
    return 1;
  }
}
