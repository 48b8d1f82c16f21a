/// @file
/// Plans a training of a GPT: what a rank needs of its memories, how long a step takes and where the time goes, without
/// training; and, if asked, where states should rest for the fastest step, and into how many tiles linear layers should
/// be cut. On a machine that measure_rates has measured it is train_gpt's own training; on a cluster of GPUs that a
/// file describes, the model of ZeRO-Infinity's estimates.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
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
#include <zerospan/core/units.hpp>
#include <zerospan/plan/planned_span.hpp>

#include "cluster/cluster_file.hpp"
#include "cluster/cluster_plan.hpp"
#include "cluster/cluster_report.hpp"
#include "drawing/planned_step.hpp"
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
  std::optional<cluster::Question> cluster;  ///< None: this machine, or one that was measured.
  std::optional<std::uint64_t> nvme;         ///< Bytes of the disk that all ranks may take.
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
/// @return Its vocabulary, if it says that.
std::optional<std::size_t> read_model(const std::filesystem::path& path, gpt::Dimensions& model) {
  std::ifstream stream{path};
  const auto json = nlohmann::json::parse(stream, nullptr, false);
  if (!json.is_object()) zerospan::throw_configuration_error(path.string() + ": is no JSON object");
  const auto size = [&](const char* key) {
    if (!json.contains(key) || !json[key].is_number_unsigned() || json[key].get<std::size_t>() == 0) {
      zerospan::throw_configuration_error(path.string() + ": " + key + " is missing, or no positive number");
    }
    return json[key].get<std::size_t>();
  };
  model.layers = size("n_layer");
  model.heads = size("n_head");
  model.width = size("n_embd");
  model.context = size("n_positions");
  return json.contains("vocab_size") ? std::optional{size("vocab_size")} : std::nullopt;
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

/// One step of rank 0.
std::string draw(const Forecast& forecast) {
  std::vector<std::string_view> tracks{"host"};
  tracks.insert(tracks.end(), zerospan::lane_names.begin(), zerospan::lane_names.end());
  return drawing::draw_planned_step(forecast.spans, forecast.critical_path, tracks, "rank 0, as planned");
}

int plan_here(const Wishes& wishes) {
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

/// What the first rank does in a step, from now on.
void record(const std::vector<zerospan::plan::PlannedSpan>& spans, zerospan::Timeline& timeline) {
  const auto start = zerospan::Timeline::Clock::now();
  const auto at = [&](double seconds) {
    return start + std::chrono::nanoseconds{static_cast<std::int64_t>(1e9 * seconds)};
  };
  for (const auto& span : spans) {
    timeline.record(zerospan::Rank{0}, span.track, to_string(span.kind), span.name, span.bytes, at(span.begin),
                    at(span.end));
  }
}

/// On a cluster of GPUs.
int plan_there(const Wishes& wishes, const cluster::Question& question) {
  const auto progress = [](const std::string& what) { fmt::print(stderr, "simulating {}\n", what); };
  const cluster::Answer answer = cluster::answer(question, progress);
  fmt::print("{}", cluster::describe(question, answer));
  if (!wishes.json.empty()) write_text(wishes.json, cluster::to_json(question, answer).dump(1) + "\n");
  if (!answer.ways.front().choice) return 3;
  const zerospan::plan::Prediction& step = answer.prediction;
  if (!wishes.svg.empty()) {
    std::vector<std::string_view> tracks;
    for (const auto& track : step.tracks) tracks.push_back(track.track);
    write_text(wishes.svg, drawing::draw_planned_step(step.spans, step.critical_path, tracks, "a GPU, as planned"));
  }
  if (!wishes.trace.empty()) {
    zerospan::Timeline timeline{{.max_spans = step.spans.size()}};
    record(step.spans, timeline);
    zerospan::write_chrome_trace(timeline, wishes.trace.string());
  }
  return 0;
}

/// @param given Whether an option was.
cluster::Question question_of(const Wishes& w, const std::filesystem::path& file, std::size_t vocabulary,
                              const std::function<bool(const char*)>& given) {
  using zerospan::ElementType;
  using zerospan::plan::Place;
  const gpt::Options& o = w.options;
  const auto place = [](TierKind kind) {
    return kind == TierKind::device ? Place::device : kind == TierKind::host ? Place::host : Place::nvme;
  };
  cluster::Question q;
  q.cluster = cluster::read_cluster(file);
  if (given("--gpus")) q.cluster = cluster::with_gpus(std::move(q.cluster), o.ranks);
  if (given("--gpu-memory")) q.cluster.gpu_memory = static_cast<double>(o.device_budget);
  if (given("--host-memory")) {
    q.cluster.host_memory = static_cast<double>(o.host_budget) * q.cluster.topology.ranks_per_node;
  }
  if (w.nvme) q.cluster.disk_capacity = static_cast<double>(*w.nvme) / q.cluster.topology.nodes;
  q.training.model = {.layers = o.model.layers,
                      .hidden = o.model.width,
                      .vocabulary = vocabulary,
                      .sequence = o.model.context,
                      .batch = o.batch,
                      .type = ElementType::bfloat16,
                      .tiles = o.model.tiles};
  if (given("--precision")) {
    q.training.model.type = o.precision == gpt::Precision::fp32   ? ElementType::float32
                            : o.precision == gpt::Precision::fp16 ? ElementType::float16
                                                                  : ElementType::bfloat16;
  }
  q.training.heads = o.model.heads;
  q.training.micro_batches = o.micro_batches;
  if (o.micro_batch_order == gpt::MicroBatchOrder::vertical) {
    q.training.order = zerospan::plan::MicroBatches::layer_by_layer;
  }
  q.training.stage = o.stage;
  q.training.max_gradient_norm = o.clip;
  q.placing = {place(o.parameters), place(o.gradients), place(o.optimizer)};
  if (given("--prefetch-bytes")) q.prefetch = zerospan::Bytes{o.prefetch_bytes};
  if (given("--activations")) q.activations = place(o.activations);
  q.choose = w.choose;
  return q;
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
  app.add_option("--gpus", o.ranks, "Ranks: of a cluster its own number, if not given")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  gpt::detail::add_bytes(app, "--gpu-memory", o.device_budget, "Device memory of a rank");
  gpt::detail::add_bytes(app, "--host-memory", o.host_budget, "Host memory of a rank");
  gpt::detail::add_bytes(app, "--prefetch-bytes", o.prefetch_bytes, "Device memory of what is fetched ahead");
  app.add_option("--nvme", w.nvme, "Disk that all ranks together may take")->transform(CLI::AsSizeValue(false));
  CLI::Option* const rates =
      app.add_option("--rates", o.rates,
                     "What the machine does, as measure_rates has written it; measured if not given")
          ->check(CLI::ExistingFile);
  std::filesystem::path file;
  CLI::Option* const cluster =
      app.add_option("--cluster", file, "Plans on GPUs instead, as a file says: those in examples/clusters, or yours")
          ->check(CLI::ExistingFile)
          ->excludes(rates);
  std::size_t vocabulary = 50257;
  bool keeps_scores = false;
  const auto of_cluster = [&](CLI::Option* option) { option->needs(cluster); };
  of_cluster(app.add_option("--vocabulary", vocabulary, "Tokens that the model knows")
                 ->check(gpt::detail::not_negative())
                 ->capture_default_str());
  of_cluster(
      app.add_flag("--keep-scores", keeps_scores,
                   "Attention keeps its scores, as kernels that are not fused do: counted in the memory of a GPU"));
  of_cluster(app.add_option("--clip", o.clip, "Largest norm of the gradient; inf: none, and updates may come early")
                 ->check(gpt::detail::positive())
                 ->capture_default_str());
  gpt::detail::add_choice(app, "--activations", o.activations, tiers,
                          "Where a GPU's activation checkpoints rest; if not given, in its memory or the host's");
  of_cluster(app.get_option("--activations"));
  app.add_flag("--choose", w.choose, "Tries all places for states, some depths of look-ahead, and more tiles");
  app.add_option("--svg", w.svg, "File for a picture of the (fastest) step, its critical path above the lanes");
  app.add_option("--json", w.json, "File for all figures");
  app.add_option("--trace", w.trace, "File for the timeline, which ui.perfetto.dev shows");
  app.parse(argc, argv);
  if (!w.model.empty()) {
    const std::optional<std::size_t> told = read_model(w.model, o.model);
    if (told && app.count("--vocabulary") == 0) vocabulary = *told;
  }
  constexpr int most_here = 64;
  if (file.empty() && o.ranks > most_here) {
    zerospan::throw_configuration_error("more than 64 GPUs are planned with --cluster alone");
  }
  if (o.stage < 3) o.parameters = TierKind::device;
  if (o.model.width % o.model.heads != 0) zerospan::throw_configuration_error("--width is no multiple of --heads");
  o.nvme_path = {std::filesystem::temp_directory_path()};
  if (!file.empty()) {
    w.cluster = question_of(w, file, vocabulary, [&app](const char* option) { return app.count(option) > 0; });
    w.cluster->training.keeps_scores = keeps_scores;
  }
  return w;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Plans a training: what it needs, and how long a step takes."};
  try {
    const Wishes wishes = parse(app, argc, argv);
    return wishes.cluster ? plan_there(wishes, *wishes.cluster) : plan_here(wishes);
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
