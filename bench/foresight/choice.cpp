/// @file
/// Foretells thirty ways to train one model in the same memory, chooses the one that is foretold to be the fastest, and
/// then trains in all of them: how much longer does a step of what was chosen take than that of the best?
///
/// The choice is printed and written before anything is trained; it is made of the machine's rates alone. Beside it
/// stands what a null model chooses, which adds up everything, and what a blind choice gets: the median of all. All
/// candidates train the same, to the last bit: their losses are compared. The last line is a JSON object.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>

#include "../training_process.hpp"
#include "candidates.hpp"
#include "gpt/forecast/forecast.hpp"
#include "gpt/openblas.hpp"
#include "machine/rates_file.hpp"
#include "training.hpp"

namespace {

using foresight::median;
using nlohmann::ordered_json;

struct Wishes : foresight::TrainingWishes {
  std::size_t rounds = 3;
};

struct Candidate {
  foresight::Setting setting;
  gpt::forecast::Forecast forecast;
  std::vector<double> seconds{};  ///< Of the steps that count.
  double loss = 0;                ///< Of the last step.

  double foretold() const { return forecast.step_seconds; }
  double summed() const { return forecast.all_lanes; }
  double measured() const { return median(seconds); }
};

std::vector<std::string> arguments_of(const foresight::Setting& setting, const Wishes& wishes) {
  std::vector<std::string> all = setting.arguments;
  const std::vector<std::string> own{"--steps",     std::to_string(wishes.steps),
                                     "--nvme-path", wishes.directory.string(),
                                     "--trace",     (wishes.results / "foresight.trace.json").string(),
                                     "--metrics",   (wishes.results / "foresight.jsonl").string()};
  all.insert(all.end(), own.begin(), own.end());
  return foresight::with_defaults(std::move(all), foresight::common_of_candidates);
}

/// Adds the steps of one training. The first two learn, and the last one's updates hide behind no further step.
void train(Candidate& candidate, const Wishes& wishes) {
  const std::filesystem::path metrics = wishes.results / "foresight.jsonl";
  std::filesystem::remove(metrics);
  bench::run_to_the_end(TRAIN_GPT, arguments_of(candidate.setting, wishes), wishes.results / "foresight.training.txt");
  const std::vector<bench::MadeStep> steps = bench::read_steps(metrics, wishes.steps);
  for (std::size_t s = 2; s + 1 < steps.size(); ++s) candidate.seconds.push_back(steps[s].seconds);
  candidate.loss = steps.back().loss;
}

std::vector<Candidate> foretell_all(const Wishes& wishes) {
  const std::vector<foresight::Setting> settings = foresight::candidates();
  std::vector<gpt::Options> trainings;
  for (const foresight::Setting& each : settings) {
    trainings.push_back(foresight::options_of(arguments_of(each, wishes)));
  }
  const machine::Rates rates = foresight::rates_of(wishes.rates, wishes.directory, trainings);
  std::vector<Candidate> all;
  for (std::size_t i = 0; i < settings.size(); ++i) {
    all.push_back({.setting = settings[i], .forecast = gpt::forecast::foretell(trainings[i], rates)});
  }
  return all;
}

ordered_json to_json(const Candidate& c) {
  ordered_json json{{"arguments", c.setting.name},
                    {"predicted_seconds", c.foretold()},
                    {"compute_alone_seconds", c.forecast.compute_alone},
                    {"all_lanes_seconds", c.summed()}};
  if (!c.seconds.empty()) {
    json["measured_seconds"] = c.measured();
    json["steps"] = c.seconds;
  }
  return json;
}

ordered_json to_json(const std::vector<Candidate>& all) {
  ordered_json json = ordered_json::array();
  for (const Candidate& each : all) json.push_back(to_json(each));
  return json;
}

/// How much longer than the best the choice by `key` takes, and, if that is not to be had, its next choice among the
/// others, and so on to the last two.
template <class Key>
std::vector<double> ratios_of_choices(std::vector<Candidate> all, Key key) {
  std::ranges::stable_sort(all, {}, key);
  std::vector<double> ratios;
  for (auto choice = all.begin(); choice + 1 < all.end(); ++choice) {
    const auto best = std::min_element(
        choice, all.end(), [](const Candidate& a, const Candidate& b) { return a.measured() < b.measured(); });
    ratios.push_back(choice->measured() / best->measured());
  }
  return ratios;
}

/// How many candidates are faster than this one, and itself.
std::size_t place_of(const Candidate& candidate, const std::vector<Candidate>& all) {
  return 1 + static_cast<std::size_t>(std::ranges::count_if(
                 all, [&](const Candidate& each) { return each.measured() < candidate.measured(); }));
}

int run(const Wishes& wishes) {
  constexpr double goal = 1.05;
  std::vector<Candidate> all = foretell_all(wishes);
  std::ranges::stable_sort(all, {}, &Candidate::foretold);
  const Candidate& chosen = all.front();
  foresight::write(wishes.results / "foresight.choice.predictions.json",
                   {{"chosen", chosen.setting.name}, {"candidates", to_json(all)}});
  fmt::print("chosen of {} before any training: {}, foretold {:.1f} ms a step\n\n", all.size(), chosen.setting.name,
             1e3 * chosen.foretold());
  std::fflush(stdout);

  for (std::size_t round = 0; round < wishes.rounds; ++round) {
    for (std::size_t i = 0; i < all.size(); ++i) train(all[round % 2 == 0 ? i : all.size() - 1 - i], wishes);
  }
  const auto best = std::ranges::min_element(all, {}, &Candidate::measured);
  const std::vector<double> choices = ratios_of_choices(all, &Candidate::foretold);
  const std::vector<double> of_sum = ratios_of_choices(all, &Candidate::summed);
  const double least = best->measured();

  std::string table = fmt::format("{:<110}{:>10}{:>10}{:>9}{:>7}\n", "ms a step, by what was foretold", "foretold",
                                  "measured", "error", "place");
  std::vector<double> measured;
  for (const Candidate& each : all) {
    measured.push_back(each.measured());
    table += fmt::format("{:<110}{:>10.1f}{:>10.1f}{:>+8.1f}%{:>7}\n", each.setting.name, 1e3 * each.foretold(),
                         1e3 * each.measured(), 100 * (each.foretold() / each.measured() - 1), place_of(each, all));
  }
  const bool is_same = std::ranges::all_of(all, [&](const Candidate& each) { return each.loss == chosen.loss; });
  table += fmt::format("\nchosen  {}: {:.1f} ms, place {} of {}\nbest    {}: {:.1f} ms\n", chosen.setting.name,
                       1e3 * chosen.measured(), place_of(chosen, all), all.size(), best->setting.name, 1e3 * least);
  table +=
      fmt::format("ratio   {:.3f} (goal: at most {}); of the least sum of lanes {:.3f}, of the median of all {:.3f}\n",
                  choices[0], goal, of_sum[0], median(measured) / least);
  table += fmt::format(
      "were it not to be had, nor the next, ...: ratio {:.3f} in the median, {:.3f} at worst; of the least sum of "
      "lanes {:.3f}, {:.3f}\nlosses  {}\n",
      median(choices), std::ranges::max(choices), median(of_sum), std::ranges::max(of_sum),
      is_same ? "equal in all" : "NOT EQUAL");
  fmt::print("{}", table);
  std::ofstream{wishes.results / "foresight.choice.txt"} << table;

  const ordered_json summary{{"candidates", all.size()},
                             {"chosen", chosen.setting.name},
                             {"chosen_seconds", chosen.measured()},
                             {"best", best->setting.name},
                             {"best_seconds", least},
                             {"ratio", choices[0]},
                             {"place", place_of(chosen, all)},
                             {"ratio_of_all_lanes", of_sum[0]},
                             {"ratio_of_the_median", median(measured) / least},
                             {"median_ratio_of_next_choices", median(choices)},
                             {"median_ratio_of_next_choices_of_all_lanes", median(of_sum)},
                             {"losses_are_equal", is_same},
                             {"goal", goal},
                             {"goal_is_met", choices[0] <= goal}};
  foresight::write(wishes.results / "foresight.choice.json", {{"summary", summary}, {"candidates", to_json(all)}});
  fmt::print("{}\n", summary.dump());
  return is_same ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  gpt::openblas::choose_kernels(argv);
  Wishes wishes;
  CLI::App app{"Chooses the fastest of thirty ways to train by what is foretold of them, and trains in all."};
  foresight::add_options(app, wishes);
  app.add_option("--rounds", wishes.rounds, "Trainings of each candidate, in turns")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
    return run(wishes);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "foresight_choice: {}\n", error.what());
    return 1;
  }
}
