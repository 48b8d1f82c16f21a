/// @file
/// The command line of train_gpt.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <vector>

#include <unistd.h>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <zerospan/core/error.hpp>
#include <zerospan/engine/options.hpp>

#include "options.hpp"
#include "states.hpp"
#include "text.hpp"

namespace gpt {

namespace detail {

/// Accepts numbers for which `accepts(number)`. @param what Says what they are ("a positive number").
template <class Accepts>
CLI::Validator number(const std::string& what, Accepts accepts) {
  const auto complaint = [what, accepts](const std::string& text) -> std::string {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool is_number = error == std::errc{} && end == text.data() + text.size();
    return is_number && accepts(value) ? "" : fmt::format("{} is not {}", text, what);
  };
  return {complaint, ""};
}

inline CLI::Validator positive() {
  return number("a positive number", [](double value) { return value > 0; });
}

inline CLI::Validator not_negative() {
  return number("a non-negative number", [](double value) { return value >= 0; });
}

template <class Choice>
void add_choice(CLI::App& app, const std::string& name, Choice& target, const std::map<std::string, Choice>& choices,
                const std::string& description) {
  std::vector<std::string> names;
  std::string chosen;
  for (const auto& [text, choice] : choices) {
    names.push_back(text);
    if (choice == target) chosen = text;
  }
  app.add_option_function<std::string>(
         name, [&target, choices](const std::string& text) { target = choices.at(text); }, description)
      ->check(CLI::IsMember(names))
      ->default_str(chosen);
}

/// @param shown What `--help` says of its default.
template <class Target>
void add_bytes(CLI::App& app, const std::string& name, Target& target, const std::string& description,
               const std::string& shown) {
  app.add_option(name, target, description)
      ->transform(CLI::AsSizeValue(false))
      ->check(number("a possible size of memory", [](double bytes) { return bytes >= 0 && bytes < 0x1p47; }))
      ->default_str(shown);
}

inline void add_bytes(CLI::App& app, const std::string& name, std::uint64_t& target, const std::string& description) {
  add_bytes(app, name, target, description, fmt::format("{}MiB", target >> 20));
}

inline void add_placement(CLI::App& app, Options& o) {
  const std::map<std::string, TierKind> tiers{
      {"device", TierKind::device}, {"host", TierKind::host}, {"nvme", TierKind::nvme}};
  const CLI::Range stages{0, 3};
  app.add_option("--stage", o.stage, "Stage of ZeRO: 3 partitions parameters too")
      ->check(stages)
      ->capture_default_str();
  add_choice(app, "--parameters", o.parameters, tiers,
             "Where the shards of parameters rest; below stage 3 on the device");
  add_choice(app, "--gradients", o.gradients, tiers, "Where accumulated gradients rest");
  add_choice(app, "--optimizer", o.optimizer, tiers, "Where master weights and moments rest");
  add_choice(app, "--activations", o.activations, tiers, "Where activation checkpoints rest");
  app.add_option(
         "--checkpoint-every", o.checkpoint_every,
         "Layers from one activation checkpoint to the next, recomputed in between; 0: all activations are kept, "
         "unless --activations is given")
      ->check(not_negative())
      ->capture_default_str();
  app.add_option("--nvme-path", o.nvme_path,
                 "Directories, on disks of their own, that each rank's nvme tier is striped over, by their bandwidths, "
                 "which are measured first")
      ->delimiter(',')
      ->check(CLI::ExistingDirectory);
  add_choice<Checksums>(app, "--checksums", o.checksums, {{"off", Checksums::off}, {"on", Checksums::on}},
                        "Whether what is read from disks is checked to be what was written");
  add_bytes(
      app, "--device-budget", o.device_budget, "Device memory of a rank",
      fmt::format("{}MiB; with all states on nvme, together with the host's a tenth of them", o.device_budget >> 20));
  add_bytes(
      app, "--host-budget", o.host_budget, "Host memory of a rank, staging included",
      fmt::format("{}MiB; with all states on nvme, together with the device's a tenth of them", o.host_budget >> 20));
  add_bytes(app, "--staging-bytes", o.staging_bytes,
            "Host memory, within its budget, that transfers to and from disks may take: the more, the larger they are",
            "64MiB; what the largest parameter needs, if that is more and nothing rests in that memory");
  add_bytes(app, "--prefetch-bytes", o.prefetch_bytes, "Device memory that prefetched parameters may take; 0: none");
}

inline void add_groups(CLI::App& app, Options& o) {
  app.add_option("--ranks-per-group", o.ranks_per_group,
                 "Consecutive ranks that are near each other, such as those of a machine: collectives take two hops, "
                 "within groups and across them; 0: no groups")
      ->check(not_negative())
      ->capture_default_str();
  add_choice<Sharding>(app, "--sharding", o.sharding, {{"world", Sharding::world}, {"group", Sharding::group}},
                       "Over which ranks states are partitioned; a group's are replicated in every group");
  add_choice<std::optional<TierKind>>(
      app, "--group-copies", o.group_copies,
      {{"none", std::nullopt}, {"device", TierKind::device}, {"host", TierKind::host}, {"nvme", TierKind::nvme}},
      "Where each group keeps the parameters that it has gathered, until they change");
  add_choice<Quantization>(app, "--quantize", o.quantization,
                           {{"none", Quantization::none},
                            {"gather", Quantization::gather},
                            {"reduce", Quantization::reduce},
                            {"both", Quantization::both}},
                           "What goes across groups in codes: gathered parameters, of 8 bits; gradients, of 4");
}

inline void add_model(CLI::App& app, Options& o) {
  const auto add = [&app](const std::string& name, std::size_t& target, const std::string& description) {
    app.add_option(name, target, description)->check(positive())->capture_default_str();
  };
  add("--layers", o.model.layers, "Blocks of the model");
  add("--heads", o.model.heads, "Attention heads of a block");
  add("--width", o.model.width, "Width of the model, a multiple of the heads");
  add("--context", o.model.context, "Length of a sequence in bytes");
  add("--tiles", o.model.tiles, "Tiles of each linear layer's weight, gathered one after the other");
  add("--batch", o.batch, "Sequences of a rank in a micro-batch");
  add("--micro-batches", o.micro_batches, "Micro-batches in a step");
  add_choice<MicroBatchOrder>(
      app, "--schedule", o.micro_batch_order,
      {{"horizontal", MicroBatchOrder::horizontal}, {"vertical", MicroBatchOrder::vertical}},
      "How the micro-batches of a step go through the model: horizontal, one after the other; vertical, together, "
      "layer by layer: weights are read once forward and once backward in a step, and the activations of all are kept");
  add_choice<Precision>(app, "--precision", o.precision,
                        {{"fp32", Precision::fp32}, {"bf16", Precision::bf16}, {"fp16", Precision::fp16}},
                        "Storage of weights and gradients; fp16 scales the loss");
  add_choice<Products>(
      app, "--products", o.products,
      {{"fastest", Products::fastest}, {"bf16", Products::bf16}, {"fp32", Products::fp32}},
      "In what the CPU multiplies weights in bf16, with sums in fp32: bf16, which rounds activations and takes a "
      "processor with instructions for it; fp32, once they are widened; fastest, as a trial says, alike on all ranks");
}

inline void add_training(CLI::App& app, Options& o) {
  app.add_option("--steps", o.schedule.steps, "Steps to train")->check(positive())->capture_default_str();
  app.add_option("--learning-rate", o.schedule.maximum, "Learning rate after the warm-up")
      ->check(not_negative())
      ->capture_default_str();
  app.add_option("--min-learning-rate", o.schedule.minimum, "Learning rate at the end of the cosine")
      ->check(not_negative())
      ->capture_default_str();
  app.add_option("--warmup", o.schedule.warmup, "Steps of linear warm-up")
      ->check(not_negative())
      ->capture_default_str();
  app.add_option("--weight-decay", o.weight_decay, "Decay of matrices; vectors do not decay")
      ->check(not_negative())
      ->capture_default_str();
  app.add_option("--beta1", o.beta1, "AdamW's first decay rate")->capture_default_str();
  app.add_option("--beta2", o.beta2, "AdamW's second decay rate")->capture_default_str();
  app.add_option("--clip", o.clip, "Largest norm of the gradient; inf for any")
      ->check(positive())
      ->capture_default_str();
  add_choice<zerospan::UpdateTime>(app, "--update", o.updates,
                                   {{"after-step", zerospan::UpdateTime::after_step},
                                    {"during-backward", zerospan::UpdateTime::during_backward}},
                                   "When weights are updated: after-step, behind the next forward pass; "
                                   "during-backward, as gradients come, which takes --clip inf");
  app.add_option("--early-share", o.early_share,
                 "Which share of the weights --update during-backward means; the others are updated after the step")
      ->check(number("above 0 and at most 1", [](double share) { return share > 0 && share <= 1; }))
      ->capture_default_str();
  add_choice<zerospan::MasterWeights>(app, "--master-weights", o.master_weights,
                                      {{"whole", zerospan::MasterWeights::whole},
                                       {"split", zerospan::MasterWeights::split}},
                                      "How fp32 master weights of bf16 are kept: whole, or split, where the parameter "
                                      "is their upper half, in 2 bytes less");
  add_choice<Moments>(app, "--moments", o.moments, {{"fp32", Moments::fp32}, {"8bit", Moments::eight_bits}},
                      "In what AdamW keeps its moments: fp32, 8 bytes a parameter, or 8bit, 2 bytes");
  app.add_option("--seed", o.seed, "Seed of initialization, batches and sample")
      ->check(not_negative())
      ->capture_default_str();
}

inline void add_checkpoints(CLI::App& app, Options& o) {
  app.add_option("--checkpoint", o.checkpoint,
                 "Directory for checkpoints, which all ranks see; one is saved when training ends, by SIGINT or "
                 "SIGTERM too");
  app.add_option("--save-every", o.save_every, "Steps from one checkpoint to the next; 0: one in the end alone")
      ->check(not_negative())
      ->capture_default_str();
  app.add_option("--keep", o.keep, "Checkpoints that stay in the directory; 0: all")
      ->check(not_negative())
      ->capture_default_str();
  app.add_flag("--resume", o.resume,
               "Goes on from the latest checkpoint, on any number of ranks; from the beginning, if there is none");
  app.add_option("--stop-after", o.stop_after, "Steps after which this run ends, as if --steps were yet to come")
      ->check(positive());
}

inline void add_exchange(CLI::App& app, Options& o) {
  app.add_option("--init", o.init,
                 "Model to begin with, of GPT-2's layout as Hugging Face has it: a .safetensors file, its index, or a "
                 "directory with one, whose config.json is looked at; the vocabulary is 256 bytes, the sizes are those "
                 "of --layers, --heads, --width and --context")
      ->check(CLI::ExistingPath);
  app.add_option("--export", o.export_to,
                 "Where the trained model is written in that layout, in fp32: a .safetensors file, or a directory, "
                 "which gets a model.safetensors and a config.json");
}

inline void add_run(CLI::App& app, Options& o) {
  app.add_option("--text", o.text,
                 "Files to learn, joined; the project's own headers, tests and README where none is given")
      ->check(CLI::ExistingFile);
  app.add_option("--ranks", o.ranks, "Ranks, each a thread; with --comm mpi, those that mpirun starts")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "Threads of the matrix products")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  add_choice<DeviceKind>(app, "--device", o.device, {{"cpu", DeviceKind::cpu}, {"cuda", DeviceKind::cuda}},
                         "What computes, and has the device memory");
  add_choice<CommunicatorKind>(
      app, "--comm", o.communicator,
      {{"thread", CommunicatorKind::thread}, {"nccl", CommunicatorKind::nccl}, {"mpi", CommunicatorKind::mpi}},
      "How ranks communicate; nccl takes a GPU for each, mpi processes that mpirun starts");
  app.add_option("--timeout", o.timeout, "Seconds that anything may take before it is an error")
      ->check(number("a positive number below 1e9", [](double value) { return value > 0 && value < 1e9; }))
      ->capture_default_str();
  app.add_option("--eval-every", o.eval_every, "Steps between estimates of the validation loss; 0: none")
      ->check(not_negative())
      ->capture_default_str();
  app.add_option("--validation-tokens", o.validation_tokens,
                 "Tokens that the final validation is made on, spread evenly over the validation split; 0: all")
      ->check(not_negative())
      ->default_str("65536, or a tenth of those trained on if that is less");
  app.add_flag("--skip-validation", o.skip_validation,
               "Ends without the final validation, and without the hash over all parameters: both read all of them");
  app.add_option("--sample", o.sample, "Bytes of text to generate in the end; 0: none")
      ->check(not_negative())
      ->capture_default_str();
  app.add_flag("--plan", o.plan,
               "Says before it trains what a step will move and how long it will take, and in the end how long it took; "
               "without --rates it measures this machine first");
  app.add_option("--rates", o.rates, "What this machine does by itself, as measure_rates has written it; implies --plan")
      ->check(CLI::ExistingFile);
  app.add_option("--trace", o.trace, "File for the timeline, Chrome trace JSON");
  app.add_option("--metrics", o.metrics, "File for the metrics, JSON lines");
}

}  // namespace detail

/// What the flags mean together. @throws zerospan::ConfigurationError for combinations without sense.
inline void validate(const Options& o, const Text& text) {
  const auto require = [](bool sound, const std::string& message) {
    if (!sound) zerospan::throw_configuration_error(message);
  };
  require(o.model.width % o.model.heads == 0,
          fmt::format("--width {} is not a multiple of --heads {}: choose {} or {}", o.model.width, o.model.heads,
                      std::max(o.model.width / o.model.heads, std::size_t{1}) * o.model.heads,
                      (o.model.width / o.model.heads + 1) * o.model.heads));
  require(o.model.tiles <= o.model.width,
          fmt::format("--tiles {} are more than --width {} has rows", o.model.tiles, o.model.width));
  require(o.communicator != CommunicatorKind::nccl || o.device == DeviceKind::cuda,
          "--comm nccl connects GPUs: it takes --device cuda");
  require(o.communicator != CommunicatorKind::mpi || o.device == DeviceKind::cpu,
          "--comm mpi connects processes that compute on CPUs: it takes --device cpu");
  require(o.ranks_per_group == 0 || o.ranks % o.ranks_per_group == 0,
          fmt::format("{} ranks are no groups of --ranks-per-group {}", o.ranks, o.ranks_per_group));
  const bool is_special = o.group_copies || o.quantization != Quantization::none;
  require(o.ranks_per_group > 0 || (o.sharding == Sharding::world && !is_special),
          "--sharding group, --group-copies and --quantize take --ranks-per-group");
  require(o.sharding == Sharding::world || !is_special,
          "with --sharding group, gathers stay in the group anyway: --group-copies and --quantize are for --sharding "
          "world");
  require(o.checksums == Checksums::off || has_checksums,
          "this train_gpt was built without xxHash: --checksums off is what it has; configure with "
          "-DZEROSPAN_WITH_XXHASH=ON for --checksums on");
  require(o.checkpoint.empty() || can_save,
          "this train_gpt was built without xxHash: there are no checkpoints; configure with -DZEROSPAN_WITH_XXHASH=ON "
          "for --checkpoint");
  require((o.init.empty() && o.export_to.empty()) || can_exchange,
          "this train_gpt was built without nlohmann-json for safetensors: configure with "
          "-DZEROSPAN_WITH_SAFETENSORS=ON for --init and --export");
  require(!o.checkpoint.empty() || (o.save_every == 0 && !o.resume),
          "--save-every and --resume take --checkpoint, the directory");
  require(o.updates == zerospan::UpdateTime::after_step || (std::isinf(o.clip) && o.precision != Precision::fp16),
          "--update during-backward comes before the norm of the gradient is known: it takes --clip inf, and not "
          "--precision fp16, which scales the loss");
  require(o.master_weights == zerospan::MasterWeights::whole || o.precision == Precision::bf16,
          "--master-weights split takes --precision bf16");
  require(o.products == Products::fastest || (o.precision == Precision::bf16 && o.device == DeviceKind::cpu),
          "--products takes --precision bf16 and --device cpu");
  require(o.schedule.minimum <= o.schedule.maximum,
          fmt::format("--min-learning-rate {} is above --learning-rate {}", o.schedule.minimum, o.schedule.maximum));
  const std::size_t shorter = std::min(text.train().size(), text.validation().size());
  require(shorter > o.model.context,
          fmt::format("the text is too short for --context {}: its shorter split has {} bytes and needs {}",
                      o.model.context, shorter, o.model.context + 1));
}

namespace detail {

/// Whether nothing rests in memory: no states, no sums of gradients, no copies and no checkpoints.
inline bool all_on_disk(const Options& o) {
  return o.device == DeviceKind::cpu && o.stage == 3 && o.micro_batches == 1 && o.ranks_per_group == 0 &&
         o.checkpoint_every == 0 && o.model.tiles == 1 && o.parameters == TierKind::nvme &&
         o.gradients == TierKind::nvme && o.optimizer == TierKind::nvme;
}

}  // namespace detail

/// Gives a rank all of whose states are on disk small budgets, unless the command line has them. With MPI, once the
/// number of ranks is known.
inline void choose_budgets(const CLI::App& app, Options& options) {
  if (!detail::all_on_disk(options)) return;
  const Budgets budgets = small_budgets(options);
  if (app.count("--device-budget") == 0) options.device_budget = budgets.device;
  if (app.count("--host-budget") == 0) options.host_budget = budgets.host;
}

/// Parses the command line. The CLI::App throws CLI::ParseError, for --help as well.
inline Options parse(CLI::App& app, int argc, const char* const* argv) {
  Options options;
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::Throw);
  detail::add_run(app, options);
  detail::add_placement(app, options);
  detail::add_groups(app, options);
  detail::add_model(app, options);
  detail::add_training(app, options);
  detail::add_checkpoints(app, options);
  detail::add_exchange(app, options);
  app.parse(argc, argv);
  if (options.communicator == CommunicatorKind::mpi && app.count("--ranks") > 0) {
    zerospan::throw_configuration_error(
        "with --comm mpi the ranks are the processes that mpirun -n starts, not --ranks");
  }
  if (options.stage < 3 && app.count("--parameters") == 0) options.parameters = TierKind::device;
  if (app.count("--activations") > 0 && options.checkpoint_every == 0) options.checkpoint_every = 1;
  options.plan = options.plan || !options.rates.empty();
  choose_budgets(app, options);
  const auto temporary = std::filesystem::temp_directory_path();
  if (options.nvme_path.empty()) options.nvme_path = {temporary};
  if (options.trace.empty()) options.trace = temporary / fmt::format("train_gpt.{}.trace.json", ::getpid());
  return options;
}

}  // namespace gpt
