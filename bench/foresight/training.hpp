/// @file
/// A training by train_gpt that is foretold and measured: its command line, what its machine does, and what is written
/// of it.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "gpt/command_line.hpp"
#include "machine/measure.hpp"
#include "machine/rates_file.hpp"
#include "settings.hpp"

namespace foresight {

/// How all settings are trained.
struct TrainingWishes {
  std::filesystem::path rates;  ///< Where empty, the machine is measured.
  std::filesystem::path results = ".";
  std::filesystem::path directory = ".";
  std::size_t steps = 8;
};

/// @param wishes Outlives the parsing.
inline void add_options(CLI::App& app, TrainingWishes& wishes) {
  app.add_option("--rates", wishes.rates,
                 "What this machine does, as measure_rates has written it; measured if not given")
      ->check(CLI::ExistingFile);
  app.add_option("--results", wishes.results, "Where predictions and results are written")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  app.add_option("--directory", wishes.directory, "On the disk of the states; nothing is left there")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  app.add_option("--steps", wishes.steps, "Steps of each training")->check(CLI::Range(4, 1000))->capture_default_str();
}

/// The arguments, and those of `defaults` of which they say nothing themselves.
inline std::vector<std::string> with_defaults(std::vector<std::string> arguments, std::string_view defaults) {
  const std::vector<std::string> all = words(defaults);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const bool has_value = i + 1 < all.size() && !all[i + 1].starts_with("--");
    if (std::ranges::find(arguments, all[i]) == arguments.end()) {
      arguments.push_back(all[i]);
      if (has_value) arguments.push_back(all[i + 1]);
    }
    if (has_value) ++i;
  }
  return arguments;
}

inline gpt::Options options_of(const std::vector<std::string>& arguments) {
  CLI::App app;
  std::vector<const char*> argv{"train_gpt"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  return gpt::parse(app, static_cast<int>(argv.size()), argv.data());
}

inline double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

/// The file's; without one, what this machine does when trainings like these are to come. @param directory On its disk.
inline machine::Rates rates_of(const std::filesystem::path& file, const std::filesystem::path& directory,
                               const std::vector<gpt::Options>& trainings) {
  if (!file.empty()) return machine::read_rates(file);
  machine::MeasureOptions options{.directory = directory};
  for (const gpt::Options& each : trainings) options.models.push_back({each.model, each.batch});
  options.progress = [](std::string_view what) { fmt::print(stderr, "measuring {}\n", what); };
  return machine::measure(options);
}

/// @throws std::system_error
inline void write(const std::filesystem::path& path, const nlohmann::ordered_json& json) {
  std::ofstream stream{path};
  stream << json.dump(1) << '\n';
  stream.close();
  if (!stream) throw std::system_error{errno, std::generic_category(), "cannot write " + path.string()};
}

}  // namespace foresight
