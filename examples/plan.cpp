/// @file
/// Plans a training of GPT-2 on a machine that measure_rates has measured: what a rank needs of its memories, how long
/// a step takes and where the time goes, without training; and, if asked, where states should rest for the fastest
/// step, and into how many tiles linear layers should be cut.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
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

#include "drawing/timeline.hpp"
#include "gpt/announcement.hpp"
#include "gpt/command_line.hpp"
#include "gpt/forecast/forecast.hpp"
#include "gpt/forecast/report.hpp"
#include "machine/rates_file.hpp"

namespace {

using gpt::describe_bytes;
using gpt::TierKind;
using gpt::forecast::Forecast;

struct Wishes {
  gpt::Options options;
  std::filesystem::path model;
  std::optional<std::uint64_t> nvme;  ///< Bytes of the disk that all ranks may take.
  bool choose = false;
  std::filesystem::path svg;
  std::filesystem::path json;
  std::filesystem::path trace;
};

/// What was asked about, and what comes of it.
struct Plan {
  gpt::Options options;
  std::optional<Forecast> forecast;
  std::string refusal{};  ///< Why it cannot be trained so.
};

/// The sizes in a config.json of Hugging Face's GPT-2. @throws zerospan::ConfigurationError if one is missing.
void read_model(const std::filesystem::path& path, gpt::Dimensions& model) {
  std::ifstream stream{path};
  const auto json = nlohmann::json::parse(stream, nullptr, false);
  if (!json.is_object()) zerospan::throw_configuration_error(path.string() + ": is no JSON object");
  for (const auto& [key, size] : {std::pair{"n_layer", &model.layers}, std::pair{"n_head", &model.heads},
                                  std::pair{"n_embd", &model.width}, std::pair{"n_positions", &model.context}}) {
    if (!json.contains(key) || !json[key].is_number_unsigned() || json[key].get<std::size_t>() == 0) {
      zerospan::throw_configuration_error(path.string() + ": " + key + " is missing, or no positive number");
    }
    *size = json[key].get<std::size_t>();
  }
}

/// @param disk_limit Of all ranks together.
Plan make_plan(const gpt::Options& options, const machine::Rates& rates, const std::optional<std::uint64_t>& disk_limit,
               zerospan::Timeline* timeline = nullptr) {
  Plan plan{.options = options, .forecast = std::nullopt};
  try {
    plan.forecast = gpt::forecast::foretell(options, rates, timeline);
    const double disk = plan.forecast->peak_disk_bytes * options.ranks;
    if (disk_limit && disk > static_cast<double>(*disk_limit)) {
      plan.refusal = fmt::format("takes {} of disk", describe_bytes(disk));
      plan.forecast.reset();
    }
  } catch (const zerospan::BudgetError& error) {
    plan.refusal = error.what();
  }
  return plan;
}

bool is_faster(const Plan& a, const Plan& b) {
  if (!a.forecast || !b.forecast) return a.forecast.has_value() && !b.forecast;
  return a.forecast->step_seconds < b.forecast->step_seconds;
}

/// The same with as many tiles as are asked for, twice, or four times as many: the fastest, with the fewest of those
/// that are as fast; with the most, if none fits.
Plan best_tiles(const gpt::Options& options, const machine::Rates& rates,
                const std::optional<std::uint64_t>& disk_limit) {
  std::optional<Plan> best;
  for (const std::size_t times : {1U, 2U, 4U}) {
    gpt::Options other = options;
    other.model.tiles *= times;
    if (times > 1 && other.model.tiles > other.model.width) break;
    Plan plan = make_plan(other, rates, disk_limit);
    if (!best || !best->forecast || is_faster(plan, *best)) best = std::move(plan);
  }
  return std::move(*best);
}

/// Every place of parameters, gradients and optimizer states, and some depths of look-ahead, each with its best number
/// of tiles: the fastest first, and then what does not fit.
std::vector<Plan> all_plans(const Wishes& wishes, const machine::Rates& rates) {
  constexpr std::array places{TierKind::device, TierKind::host, TierKind::nvme};
  std::vector<Plan> plans;
  for (const TierKind parameters : places) {
    for (const TierKind gradients : places) {
      for (const TierKind optimizer : places) {
        if (wishes.options.stage < 3 && parameters != TierKind::device) continue;
        for (const std::uint64_t divisor : {std::uint64_t{0}, std::uint64_t{16}, std::uint64_t{4}}) {
          gpt::Options options = wishes.options;
          options.parameters = parameters;
          options.gradients = gradients;
          options.optimizer = optimizer;
          options.prefetch_bytes = divisor == 0 ? 0 : options.device_budget / divisor;
          plans.push_back(best_tiles(options, rates, wishes.nvme));
        }
      }
    }
  }
  std::ranges::stable_sort(plans, is_faster);
  return plans;
}

void print_row(const Plan& plan) {
  const gpt::Options& o = plan.options;
  fmt::print("{:<15}{:<15}{:<15}{:>12}{:>7}", to_string(o.parameters), to_string(o.gradients), to_string(o.optimizer),
             describe_bytes(o.prefetch_bytes), o.model.tiles);
  if (plan.forecast) {
    fmt::print("{:>12.1f}{:>14}{:>14}{:>14}\n", 1e3 * plan.forecast->step_seconds,
               describe_bytes(plan.forecast->peak_device_bytes), describe_bytes(plan.forecast->peak_host_bytes),
               describe_bytes(plan.forecast->peak_disk_bytes));
  } else {
    fmt::print("  {}\n", plan.refusal);
  }
}

nlohmann::ordered_json to_json(const Plan& plan) {
  const gpt::Options& o = plan.options;
  nlohmann::ordered_json json{{"parameters", to_string(o.parameters)},
                              {"gradients", to_string(o.gradients)},
                              {"optimizer", to_string(o.optimizer)},
                              {"prefetch_bytes", o.prefetch_bytes},
                              {"tiles", o.model.tiles}};
  if (!plan.forecast) {
    json["refusal"] = plan.refusal;
    return json;
  }
  const Forecast& f = *plan.forecast;
  json["step_seconds"] = f.step_seconds;
  for (const auto& track : f.tracks) {
    json["seconds"][track.what] = track.seconds;
    json["seconds_alone"][track.what] = track.alone;
  }
  json["bytes"] = {{"read", f.bytes.read},         {"written", f.bytes.written}, {"copied", f.bytes.copied},
                   {"gathered", f.bytes.gathered}, {"reduced", f.bytes.reduced}, {"updated", f.bytes.updated}};
  json["peak_bytes"] = {{"device", f.peak_device_bytes}, {"host", f.peak_host_bytes}, {"disk", f.peak_disk_bytes}};
  return json;
}

void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream stream{path};
  stream << text;
  stream.close();
  if (!stream) zerospan::throw_configuration_error("cannot write " + path.string());
}

/// One step of rank 0, lane by lane; the first line is the path that makes it as long as it is.
std::string draw(const Forecast& forecast) {
  std::vector<drawing::TracedLane> lanes;
  const auto lane = [&lanes](const std::string& name) -> drawing::TracedLane& {
    const auto found = std::ranges::find(lanes, name, &drawing::TracedLane::name);
    return found != lanes.end() ? *found : lanes.emplace_back(drawing::TracedLane{name, {}});
  };
  const auto add = [&](const std::string& to, const gpt::forecast::ForecastSpan& span) {
    lane(to).spans.push_back({span.kind, span.kind + " " + span.name, 1e3 * span.begin, 1e3 * span.end});
  };
  for (const auto& span : forecast.critical_path) add("critical path", span);
  static_cast<void>(lane("host"));
  for (const std::string_view name : zerospan::lane_names) static_cast<void>(lane(std::string{name}));
  double end = 0;
  for (const auto& span : forecast.spans) {
    add(span.track, span);
    end = std::max(end, span.end);
  }
  return drawing::draw_timeline(lanes, {0, 1e3 * end}, "rank 0, as planned");
}

int run(const Wishes& wishes) {
  const machine::Rates rates = gpt::forecast::rates_of(wishes.options);
  std::vector<Plan> plans =
      wishes.choose ? all_plans(wishes, rates) : std::vector{make_plan(wishes.options, rates, wishes.nvme)};
  fmt::print("{} parameters on {} ranks, stage {}\n", wishes.options.model.parameters(), wishes.options.ranks,
             wishes.options.stage);
  fmt::print("{:<15}{:<15}{:<15}{:>12}{:>7}{:>12}{:>14}{:>14}{:>14}\n", "parameters", "gradients", "optimizer", "ahead",
             "tiles", "ms a step", "device", "host", "disk");
  for (const Plan& plan : plans) print_row(plan);
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const Plan& plan : plans) all.push_back(to_json(plan));
  if (!wishes.json.empty()) write_text(wishes.json, all.dump(1) + "\n");
  const Plan& best = plans.front();
  if (!best.forecast) return 3;
  fmt::print("\n{}", gpt::forecast::describe(*best.forecast));
  if (!wishes.svg.empty()) write_text(wishes.svg, draw(*best.forecast));
  if (!wishes.trace.empty()) {
    zerospan::Timeline timeline{{.max_spans = std::size_t{1} << 22}};
    static_cast<void>(make_plan(best.options, rates, wishes.nvme, &timeline));
    zerospan::write_chrome_trace(timeline, wishes.trace.string());
  }
  return 0;
}

Wishes parse(CLI::App& app, int argc, char** argv) {
  Wishes w;
  gpt::Options& o = w.options;
  gpt::detail::add_model(app, o);
  app.add_option("--model", w.model, "A config.json of GPT-2, whose sizes are taken")->check(CLI::ExistingFile);
  const std::map<std::string, TierKind> tiers{
      {"device", TierKind::device}, {"host", TierKind::host}, {"nvme", TierKind::nvme}};
  app.add_option("--stage", o.stage, "Stage of ZeRO")->check(CLI::Range(0, 3))->capture_default_str();
  gpt::detail::add_choice(app, "--parameters", o.parameters, tiers, "Where shards of parameters rest");
  gpt::detail::add_choice(app, "--gradients", o.gradients, tiers, "Where gradients rest");
  gpt::detail::add_choice(app, "--optimizer", o.optimizer, tiers, "Where optimizer states rest");
  app.add_option("--gpus", o.ranks, "Ranks")->check(CLI::Range(1, 64))->capture_default_str();
  gpt::detail::add_bytes(app, "--gpu-memory", o.device_budget, "Device memory of a rank");
  gpt::detail::add_bytes(app, "--host-memory", o.host_budget, "Host memory of a rank");
  gpt::detail::add_bytes(app, "--prefetch-bytes", o.prefetch_bytes, "Device memory of what is fetched ahead");
  app.add_option("--nvme", w.nvme, "Disk that all ranks together may take")->transform(CLI::AsSizeValue(false));
  app.add_option("--rates", o.rates, "What the machine does, as measure_rates has written it; measured if not given")
      ->check(CLI::ExistingFile);
  app.add_flag("--choose", w.choose, "Tries all places for states, some depths of look-ahead, and more tiles");
  app.add_option("--svg", w.svg, "File for a picture of the (fastest) step, its critical path above the lanes");
  app.add_option("--json", w.json, "File for all figures");
  app.add_option("--trace", w.trace, "File for the timeline, which ui.perfetto.dev shows");
  app.parse(argc, argv);
  if (!w.model.empty()) read_model(w.model, o.model);
  if (o.stage < 3) o.parameters = TierKind::device;
  if (o.model.width % o.model.heads != 0) zerospan::throw_configuration_error("--width is no multiple of --heads");
  o.nvme_path = {std::filesystem::temp_directory_path()};
  return w;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Plans a training: what it needs, and how long a step takes."};
  try {
    return run(parse(app, argc, argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const zerospan::ConfigurationError& error) {
    fmt::print(stderr, "plan: {}\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "plan: {}\n", error.what());
    return 1;
  }
}
