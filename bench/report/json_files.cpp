#include "json_files.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>
#include <optional>
#include <sstream>
#include <type_traits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>

#include "error.hpp"

namespace bench {

namespace {

using nlohmann::json;

std::string read_file(const std::string& path) {
  errno = 0;
  std::ifstream file{path};
  const std::string text{std::istreambuf_iterator<char>{file}, {}};
  if (!file.is_open() || file.bad()) zerospan::throw_io_error(errno, "reading", path, 0, 0);
  return text;
}

/// @param where Is told in errors: the file, or its line.
json parse(const std::string& text, const std::string& where) {
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    zerospan::throw_format_error(where, "", fmt::format("is no JSON: {}", error.what()));
  }
}

/// What `read` makes of the JSON. @throws zerospan::FormatError with `where`, if that lacks what `read` asks it for.
template <class Read>
auto interpret(const json& found, const std::string& where, Read read) {
  try {
    return read(found);
  } catch (const json::exception& error) {
    zerospan::throw_format_error(where, "", fmt::format("is not what it should be: {}", error.what()));
  }
}

/// What `read` makes of each entry of the list in a file.
template <class Read>
auto read_list(const std::string& path, Read read) {
  const json list = parse(read_file(path), path);
  if (!list.is_array()) zerospan::throw_format_error(path, "", "is no list");
  if (list.empty()) zerospan::throw_format_error(path, "", "is an empty list");
  std::vector<std::invoke_result_t<Read, const json&>> entries;
  for (std::size_t i = 0; i < list.size(); ++i) {
    entries.push_back(interpret(list[i], fmt::format("{}, entry {}", path, i + 1), read));
  }
  return entries;
}

/// What is measured against a goal alone is told in this unit; its baseline is one of it.
constexpr auto latency_unit = "microseconds";

/// The speed that the aggregate `entry` tells: bytes a second, else items a second, else runs per unit of real time; or
/// the latency, where it has one.
std::pair<std::string, double> speed_of(const json& entry) {
  if (entry.contains(latency_unit)) return {latency_unit, entry.at(latency_unit).get<double>()};
  for (const std::string unit : {"bytes_per_second", "items_per_second"}) {
    if (entry.contains(unit)) return {unit, entry.at(unit).get<double>()};
  }
  return {"runs_per_" + entry.at("time_unit").get<std::string>(), 1.0 / entry.at("real_time").get<double>()};
}

/// A speed, and its standard error as a part of it.
struct Speed {
  std::string unit;
  double median;
  std::optional<double> error{};
};

/// The standard error of the median of `count` values, by their standard deviation: of a normal distribution,
/// sqrt(pi/2) of that of the mean.
double error_of_median(double deviation, std::size_t count) {
  return 1.2533 * deviation / std::sqrt(static_cast<double>(count));
}

std::optional<double> noise_of(const Speed& ours, const Speed& baseline) {
  if (!ours.error || !baseline.error) return std::nullopt;
  return std::hypot(*ours.error, *baseline.error);
}

/// The name without what says how Google Benchmark measures: "load/iterations:2/repeats:3/real_time" is "load".
std::string without_settings(std::string name) {
  for (const std::string setting : {"/real_time", "/manual_time", "/iterations:", "/min_time:", "/repeats:"}) {
    const auto begin = name.find(setting);
    if (begin != std::string::npos) name.erase(begin, name.find('/', begin + 1) - begin);
  }
  return name;
}

/// The name of the baseline of `name`: the part before the first '/' followed by "_raw".
std::string baseline_of(const std::string& name) {
  const auto end = std::min(name.find('/'), name.size());
  return name.substr(0, end) + "_raw" + name.substr(end);
}

/// What `read` makes of each line of a file: one JSON object a line.
template <class Read>
auto read_lines(const std::string& path, Read read) {
  std::vector<std::invoke_result_t<Read, const json&>> entries;
  std::istringstream file{read_file(path)};
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    const std::string where = fmt::format("{}, line {}", path, ++number);
    entries.push_back(interpret(parse(line, where), where, read));
  }
  return entries;
}

}  // namespace

void write_file(const std::string& path, const std::string& text) {
  errno = 0;
  std::ofstream file{path};
  file << text;
  file.close();
  if (!file) zerospan::throw_io_error(errno, "writing", path, 0, text.size());
}

std::vector<Goal> read_goals(const std::string& path) {
  return read_list(path, [](const json& entry) {
    return Goal{entry.at("name").get<std::string>(), entry.at("goal").get<double>(),
                entry.at("prediction").get<double>(), entry.value("at_most", false),
                entry.at("reason").get<std::string>()};
  });
}

std::vector<Row> read_table(const std::string& path) {
  return read_list(path, [](const json& entry) {
    Row row{entry.at("name").get<std::string>(), entry.at("ratio").get<double>(), entry.at("goal").get<double>(),
            entry.at("prediction").get<double>(), entry.value("at_most", false)};
    if (entry.contains("previous")) row.previous = entry.at("previous").get<double>();
    if (entry.contains("noise")) row.noise = entry.at("noise").get<double>();
    for (const double figure : {row.ratio, row.goal, row.prediction, row.previous.value_or(1)}) {
      detail::check_figure(row.name, "ratio, goal, prediction or ratio before", figure);
    }
    return row;
  });
}

void write_table(const std::string& path, const std::vector<Row>& rows) {
  auto list = nlohmann::ordered_json::array();
  for (const Row& row : rows) {
    auto& entry = list.emplace_back(nlohmann::ordered_json{{"name", row.name},
                                                           {"ratio", row.ratio},
                                                           {"goal", row.goal},
                                                           {"prediction", row.prediction},
                                                           {"unit", row.unit},
                                                           {"ours", row.ours},
                                                           {"baseline", row.baseline}});
    if (row.at_most) entry["at_most"] = true;
    if (row.previous) entry["previous"] = *row.previous;
    if (row.noise) entry["noise"] = *row.noise;
  }
  write_file(path, list.dump(2) + '\n');
}

std::vector<Measurement> read_measurements(const std::string& path) {
  return read_list(path, [](const json& entry) {
    return Measurement{entry.at("name").get<std::string>(), entry.at("unit").get<std::string>(),
                       entry.at("ours").get<double>(), entry.at("baseline").get<double>()};
  });
}

std::vector<Measurement> read_report(const std::string& path) {
  const auto read = [](const json& report) {
    std::map<std::string, Speed> speeds;
    std::map<std::string, double> errors;
    for (const auto& entry : report.at("benchmarks")) {
      const auto name = entry.at("run_name").get<std::string>();
      if (entry.value("error_occurred", false)) {
        throw ReportError{fmt::format("{} failed: {}", name, entry.value("error_message", ""))};
      }
      const std::string aggregate = entry.value("aggregate_name", "");
      if (aggregate == "median") {
        const auto [unit, median] = speed_of(entry);
        if (!speeds.emplace(without_settings(name), Speed{unit, median}).second) {
          throw ReportError{fmt::format("{} was measured twice", without_settings(name))};
        }
      }
      if (aggregate == "cv") {  // standard deviations, as parts of means
        const auto deviation =
            entry.contains(latency_unit) ? entry.at(latency_unit).get<double>() : entry.at("real_time").get<double>();
        errors[without_settings(name)] = error_of_median(deviation, entry.at("repetitions").get<std::size_t>());
      }
    }
    for (const auto& [name, error] : errors) {
      if (const auto found = speeds.find(name); found != speeds.end()) found->second.error = error;
    }
    return speeds;
  };
  const auto speeds = interpret(parse(read_file(path), path), path, read);
  std::vector<Measurement> measurements;
  for (const auto& [name, ours] : speeds) {
    if (ours.unit == latency_unit) {
      measurements.push_back({name, ours.unit, ours.median, 1.0, ours.error});
      continue;
    }
    const auto baseline = speeds.find(baseline_of(name));
    if (baseline == speeds.end()) continue;
    if (baseline->second.unit != ours.unit) throw ReportError{name + " and its baseline differ in their unit"};
    measurements.push_back({name, ours.unit, ours.median, baseline->second.median, noise_of(ours, baseline->second)});
  }
  return measurements;
}

namespace {

Speed tokens_per_second(const std::string& path) {
  constexpr int warm_up = 2;
  const auto told = read_lines(path, [](const json& metrics) {
    const bool counts = metrics.contains("tokens_per_second") && metrics.at("step").get<int>() > warm_up;
    return counts ? std::optional{metrics.at("tokens_per_second").get<double>()} : std::nullopt;
  });
  std::vector<double> rates;
  for (const auto& rate : told) {
    if (rate) rates.push_back(*rate);
  }
  if (rates.empty()) zerospan::throw_format_error(path, "", "tells no tokens_per_second of a third step");
  const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2);
  std::ranges::nth_element(rates, middle);
  Speed speed{"tokens_per_second", *middle};
  if (rates.size() < 2) return speed;
  const double mean = std::accumulate(rates.begin(), rates.end(), 0.0) / static_cast<double>(rates.size());
  double squares = 0;
  for (const double rate : rates) squares += (rate - mean) * (rate - mean);
  const double deviation = std::sqrt(squares / static_cast<double>(rates.size() - 1)) / mean;
  speed.error = error_of_median(deviation, rates.size());
  return speed;
}

}  // namespace

Measurement read_trainings(const std::string& name, const std::string& ours, const std::string& baseline) {
  const Speed one = tokens_per_second(ours);
  const Speed other = tokens_per_second(baseline);
  return {name, one.unit, one.median, other.median, noise_of(one, other)};
}

std::string matrix_products(const std::string& path) {
  const auto told = read_lines(path, [](const json& metrics) -> std::string {
    if (!metrics.contains("matrix_library")) return {};
    return fmt::format("{} with its kernels for {}, threads {}: {:.1f} GFLOP/s",
                       metrics.at("matrix_library").get<std::string>(), metrics.value("matrix_kernels", "?"),
                       metrics.value("matrix_threads", 1), metrics.value("matrix_gflops", 0.0));
  });
  return told.empty() ? std::string{} : told.front();
}

LossCurve read_losses(const std::string& name, const std::string& path) {
  const auto told = read_lines(path, [](const json& metrics) -> std::optional<Loss> {
    if (!metrics.contains("step")) return std::nullopt;  // the last line is of the whole run
    return Loss{metrics.at("step").get<std::int64_t>(), metrics.at("loss").get<double>()};
  });
  LossCurve curve{name, {}};
  for (const auto& loss : told) {
    if (!loss) continue;
    if (!curve.losses.empty() && loss->step <= curve.losses.back().step) {
      zerospan::throw_format_error(path, "", fmt::format("has step {} twice: it is of more than one run", loss->step));
    }
    curve.losses.push_back(*loss);
  }
  if (curve.losses.empty()) zerospan::throw_format_error(path, "", "tells no losses");
  return curve;
}

std::vector<drawing::TracedLane> read_lanes(const std::string& path, int rank) {
  const auto read = [rank](const json& trace) {
    std::map<int, drawing::TracedLane> tracks;
    for (const auto& event : trace.at("traceEvents")) {
      if (event.at("pid").get<int>() != rank) continue;
      const auto phase = event.at("ph").get<std::string>();
      if (phase == "X") {
        const double begin = event.at("ts").get<double>() * 1e-3;
        tracks[event.at("tid").get<int>()].spans.push_back({event.at("cat").get<std::string>(),
                                                            event.at("name").get<std::string>(), begin,
                                                            begin + event.at("dur").get<double>() * 1e-3});
      } else if (phase == "M" && event.at("name") == "thread_name") {
        tracks[event.at("tid").get<int>()].name = event.at("args").at("name").get<std::string>();
      }
    }
    return tracks;
  };
  const auto tracks = interpret(parse(read_file(path), path), path, read);
  if (tracks.empty()) zerospan::throw_format_error(path, "", fmt::format("has nothing of rank {}", rank));
  std::vector<drawing::TracedLane> lanes;
  for (const auto& [track, lane] : tracks) lanes.push_back(lane);
  return lanes;
}

}  // namespace bench
