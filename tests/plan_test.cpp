#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <zerospan/activation/activation_checkpoints.hpp>
#include <zerospan/plan/footprint.hpp>
#include <zerospan/sim/detail/make_engine.hpp>
#include <zerospan/zerospan.hpp>

#if defined(ZEROSPAN_HAS_CHECKPOINT)
#include <zerospan/checkpoint/checkpoint.hpp>
#endif

#include "support/any_engine.hpp"
#include "support/fake_gpu_run.hpp"
#include "support/footprint.hpp"
#include "support/sample.hpp"
#include "support/scratch.hpp"
#include "support/toy_model.hpp"

namespace {

namespace plan = zerospan::plan;
using namespace zerospan::literals;
using zerospan::Addressable;
using zerospan::Bytes;
using zerospan::calling_thread;
using zerospan::ElementType;
using zerospan::MemoryPurpose;
using zerospan::Shape;
using zerospan_test::AnyEngine;
using zerospan_test::RuntimeArray;

using Parameter = zerospan::PartitionedParameter<RuntimeArray>;

constexpr std::size_t steps = 3;

/// Draws by one seed.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_{seed} {}

  /// In [first, last].
  std::size_t operator()(std::size_t first, std::size_t last) { return first + random_() % (last - first + 1); }
  bool one_in(std::size_t n) { return (*this)(1, n) == 1; }

  template <class T>
  T among(std::initializer_list<T> values) {
    return values.begin()[(*this)(0, values.size() - 1)];
  }

 private:
  std::mt19937_64 random_;
};

Shape draw_shape(Draw& draw) {
  switch (draw(0, 3)) {
    case 0:
      return {draw(1, 40)};
    case 1:
      return {draw(1, 5000)};
    case 2:
      return {draw(1, 70), draw(1, 90)};
    default:
      return {draw(1, 9), draw(1, 31), draw(1, 50)};
  }
}

/// Odd shapes and mixed types; tied, frozen and idle parameters; groups; gradients beside their parameters, and before.
plan::Model draw_model(Draw& draw, bool has_checkpoints) {
  plan::Model model;
  const auto type = draw.among({ElementType::float32, ElementType::bfloat16, ElementType::float16});
  const std::size_t count = draw(1, 12);
  for (std::size_t p = 0; p < count; ++p) {
    plan::Parameter parameter{.name = "p" + std::to_string(p), .shape = draw_shape(draw), .type = type};
    if (draw.one_in(6)) parameter.type = draw.among({ElementType::float32, ElementType::bfloat16});
    if (draw.one_in(6)) parameter.training = zerospan::Training::frozen;
    if (p > 0 && draw.one_in(6)) {
      const std::size_t first = draw(0, p - 1);
      if (!model.parameters[first].tied_to) parameter.tied_to = first;
    }
    model.declare(std::move(parameter));
  }
  for (std::size_t p = 0; p < count;) {
    plan::Layer layer{.name = "layer " + std::to_string(p),
                      .leases = draw.among({plan::GradientLeases::together, plan::GradientLeases::one_by_one})};
    const std::size_t end = std::min(count, p + draw(1, 3));
    for (; p < end; ++p) layer.parameters.push_back("p" + std::to_string(p));
    if (has_checkpoints) layer.checkpoint = Bytes{2 * draw(1, 3000)};
    if (draw.one_in(8) && layer.checkpoint.count == 0) continue;  // idle
    model.append(layer);
    if (draw.one_in(3)) {  // gradients first, without the parameters
      plan::PassStep later = model.backward.front();
      later.gradients.clear();
      later.pops = false;
      model.backward.front().gathers.clear();
      model.backward.insert(model.backward.begin() + 1, later);
    }
  }
  return model;
}

plan::Setting draw_setting(Draw& draw, std::size_t alignment) {
  using plan::Place;
  plan::Setting s;
  s.stage = static_cast<int>(draw(0, 3));
  s.ranks = static_cast<int>(draw(1, 4));
  if (draw.one_in(3)) {
    const std::size_t in_group = draw(1, static_cast<std::size_t>(s.ranks));
    s.groups = plan::GroupSetting{s.ranks % static_cast<int>(in_group) == 0 ? static_cast<int>(in_group) : 1};
  }
  if (draw.one_in(3)) s.processor = plan::Processor::gpu;
  const auto any = [&] { return draw.among({Place::device, Place::host, Place::nvme}); };
  s.placing.optimizer = any();
  s.placing.gradients = s.stage >= 2 ? any() : draw.among({Place::device, Place::host});
  s.placing.parameters = s.stage == 3 ? any() : Place::device;
  if (s.groups && s.stage == 3 && !draw.one_in(4)) s.groups->copies = any();
  if (draw.one_in(4)) s.optimizer_share = plan::PlacedShare{any(), draw.among({0.25, 0.5, 0.9})};
  s.disk.alignment = alignment;
  s.optimizer = draw.among<plan::AnyOptimizerSetting>(
      {zerospan::AdamW{}, zerospan::Sgd{}, zerospan::Sgd{.momentum = 0.9F}, zerospan::Lion{}});
  s.micro_batches =
      draw.among({plan::MicroBatches::in_passes, plan::MicroBatches::in_one_pass, plan::MicroBatches::layer_by_layer});
  s.options.micro_batches = draw(1, 3);
  s.options.master_weights = draw.among({zerospan::MasterWeights::whole, zerospan::MasterWeights::split});
  s.options.updates = draw.among({zerospan::UpdateTime::after_step, zerospan::UpdateTime::during_backward});
  s.options.persistence_threshold = draw.among({0_KiB, 1_KiB, 32_KiB, 1_MiB});
  s.options.early_share = draw.among({0.3, 2.0 / 3, 1.0});
  s.options.prefetch = draw.among<std::optional<Bytes>>({std::nullopt, 0_KiB, 16_KiB, 100_KiB});
  s.options.staging = draw.among<std::optional<Bytes>>({std::nullopt, 64_KiB, 200_KiB, 4_MiB});
  s.options.sub_group_elements = draw.among<std::size_t>({1024, 3000, 8192, std::size_t{8} << 20});
  s.options.timeout = std::chrono::seconds{60};
  if (draw.one_in(3)) {
    const Bytes line = draw.among({4_KiB, 12_KiB, 64_KiB});
    s.disk_cache = zerospan::CachedTierOptions{.bytes = Bytes{draw(1, 40) * line.count + draw(0, 100)}, .line = line};
  }
  if (draw.one_in(3)) {
    s.activations = plan::ActivationSetting{
        any(), {.bytes = Bytes{draw(64, 400) * 1024}, .device_bytes = Bytes{draw(6, 64) * 1024}, .staging = 64_KiB}};
  }
#if defined(ZEROSPAN_HAS_CHECKPOINT)
  using By = plan::SaveSetting::By;
  if (draw.one_in(2)) s.saves = plan::SaveSetting{draw(1, 3), draw.among({By::linking, By::copying})};
#endif
  return s;
}

/// Budgets about what the model needs: it fits well, just so, or not.
void draw_budgets(Draw& draw, const plan::Model& model, plan::Setting& s) {
  const plan::Footprint needs = plan::needs_of(model, s, {}, steps);
  const auto around = [&](std::size_t least, std::size_t most) {
    most = std::max(least, most);
    const std::size_t bytes = draw.among<std::size_t>({most, most + 4096 * draw(0, 30), least, draw(least, most),
                                                       draw(least / 2, most), least - std::min(least, draw(1, 9000))});
    return Bytes{std::max<std::size_t>(bytes, 4096)};
  };
  std::size_t device = needs.least.device_backward.count;
  std::size_t host = needs.least.host.count;
  for (const zerospan::MemoryLine& line : needs.account.lines) {
    if (line.purpose != MemoryPurpose::activations && line.purpose != MemoryPurpose::disk_cache) continue;
    if (line.addressable == Addressable::on_device) device += line.used.count;
    if (line.addressable == Addressable::on_host) host += line.used.count;
  }
  s.device_budget = around(device, needs.device.peak.count);
  s.host_budget = around(host, needs.host.peak.count);
  if (draw.one_in(2)) s.disk.capacity = around(needs.disk.used.count, needs.disk.used.count);
}

/// A refusal, in full.
struct Refusal {
  std::string message;
  Bytes requested;
  Bytes available;
};

/// What became of a training on one rank. Nothing: a peer was refused first.
using Outcome = std::variant<std::monostate, plan::Footprint, Refusal>;

/// The name of the tier that is a disk is its own.
std::string without_name(std::string text, std::string_view name) {
  if (const std::size_t at = text.find(name); at != text.npos) text.replace(at, name.size(), "the NVMe tier");
  return text;
}

Refusal refusal_of(const zerospan::BudgetError& error, std::string_view disk) {
  return {without_name(error.what(), disk), error.requested(), error.available()};
}

Outcome planned(const plan::Model& model, const plan::Setting& s, zerospan::Rank rank) {
  try {
    return plan::bytes_of(model, s, rank, steps);
  } catch (const zerospan::BudgetError& error) {
    return refusal_of(error, "the NVMe tier");
  }
}

/// Passes everything on to a tier, and adds up what is reserved, by the words in which it is, and placed.
class Ledger {
 public:
  explicit Ledger(zerospan::TierRef inner) : inner_{inner} {}

  std::string_view name() const { return inner_.name(); }
  std::size_t alignment() const { return inner_.alignment(); }
  Addressable addressable() const { return inner_.addressable(); }
  void reserve(Bytes bytes, std::string_view what) {
    inner_.reserve(bytes, what);
    for (const std::string_view begin :
         {"parameter ", "the group's copy of ", "the gradient of ", "the optimizer states of "}) {
      if (what.starts_with(begin)) reserved_[begin] += bytes.count;
    }
  }
  void cancel(Bytes bytes) noexcept { inner_.cancel(bytes); }
  zerospan::Extent place(std::size_t bytes) {
    const zerospan::Extent extent = inner_.place(bytes);
    placed_ += extent.bytes;
    return extent;
  }
  void remove(const zerospan::Extent& extent) noexcept { inner_.remove(extent); }
  std::byte* view(const zerospan::Extent& extent) { return inner_.view(extent); }
  zerospan::Completion read(const zerospan::Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes) {
    return inner_.read(extent, offset, data, bytes);
  }
  zerospan::Completion write(const zerospan::Extent& extent, std::size_t offset, const std::byte* data,
                             std::size_t bytes) {
    return inner_.write(extent, offset, data, bytes);
  }
  zerospan::TierCounters counters() const { return inner_.counters(); }
  const zerospan::Arena* arena() const { return inner_.arena(); }
  zerospan::FileBackedExtents* file_backed() { return inner_.file_backed(); }
  zerospan::LinkableExtents* linkable() { return inner_.linkable(); }

  std::size_t reserved(std::string_view begin) const {
    const auto found = reserved_.find(begin);
    return found == reserved_.end() ? 0 : found->second;
  }
  std::size_t placed() const { return placed_; }

 private:
  zerospan::TierRef inner_;
  std::map<std::string_view, std::size_t> reserved_;
  std::size_t placed_ = 0;
};

static_assert(zerospan::OffloadTier<Ledger>);

/// A save of what is in a GPU's memory posts copies, which are no part of a plan's steps.
bool counts_operations(const plan::Setting& s) { return s.processor == plan::Processor::cpu || !s.saves; }

/// A CPU, and what computes there.
class RealCpu {
 public:
  using Device = zerospan::HostDevice;

  /// What the ranks of a training have in common.
  struct Shared {};

  explicit RealCpu(const Shared&) {}

  Device make(const plan::Setting& s) const {
    return Device{{.device_budget = s.device_budget, .host_budget = s.host_budget}};
  }
  static zerospan::ThreadCommunicator communicator(zerospan::ThreadCommunicator threads, Device&) { return threads; }
  static zerospan::StreamRef stream() { return calling_thread; }
  static void set(std::byte* data, int value, std::size_t bytes) { std::memset(data, value, bytes); }
};

/// A fake GPU, with memory of its own; the ranks share it, for each reads what others have in its memory.
class FakeGpuSite {
 public:
  using Device = zerospan_test::FakeDevice;

  struct Shared {
    std::shared_ptr<zerospan_test::FakeGpu> gpu = std::make_shared<zerospan_test::FakeGpu>();
  };

  explicit FakeGpuSite(const Shared& shared) : gpu_{shared.gpu}, compute_{gpu_} {}

  Device make(const plan::Setting& s) const {
    return Device{zerospan_test::FakeRuntime{gpu_}, {.device_budget = s.device_budget, .host_budget = s.host_budget}};
  }
  static zerospan_test::FakeCommunicator communicator(zerospan::ThreadCommunicator threads, Device& device) {
    return {std::move(threads), device};
  }
  zerospan::StreamRef stream() const { return compute_.stream(); }
  void set(std::byte* data, int value, std::size_t bytes) const {
    compute_.run([at = gpu_->at(data), value, bytes] { std::memset(at, value, bytes); });
  }

 private:
  std::shared_ptr<zerospan_test::FakeGpu> gpu_;
  zerospan_test::FakeCompute compute_;
};

/// The host's program, as its author writes it: by parameters and leases.
template <class Site>
class Training {
 public:
  Training(const plan::Model& model, const plan::Setting& s, AnyEngine& engine, const Site& site)
      : model_{model}, s_{s}, engine_{engine}, site_{site} {
    for (const plan::Parameter& p : model.parameters) {
      if (p.tied_to) {
        parameters_.push_back(parameters_[*p.tied_to].tie(p.name));
      } else {
        parameters_.emplace_back(engine, p.name, p.shape, p.type, zerospan::init::zeros(),
                                 zerospan::ParameterOptions{.group = {}, .training = p.training});
      }
    }
  }

  void step(zerospan::ActivationCheckpoints* checkpoints) {
    const std::size_t all = s_.options.micro_batches;
    if (s_.micro_batches == plan::MicroBatches::layer_by_layer) {
      engine_.begin(zerospan::Pass::training);
      pass(all, checkpoints);
    } else {
      for (std::size_t i = 0; i < all; ++i) {
        if (s_.micro_batches == plan::MicroBatches::in_passes) engine_.begin(zerospan::Pass::training);
        pass(1, checkpoints);
      }
    }
    engine_.step();
  }

 private:
  void pass(std::size_t micro_batches, zerospan::ActivationCheckpoints* checkpoints) {
    for (const plan::PassStep& step : model_.forward) {
      for (std::size_t i = 0; i < micro_batches; ++i) {
        if (!checkpoints || step.pushes.count == 0) continue;
        auto saved = checkpoints->push<RuntimeArray>(site_.stream(), {step.pushes.count / 2}, ElementType::bfloat16);
        site_.set(saved->data, 1, step.pushes.count);
        saved.commit();
      }
      const auto leases = gather(step.gathers);
    }
    for (const plan::PassStep& step : model_.backward) {
      const auto leases = gather(step.gathers);
      for (std::size_t i = 0; i < micro_batches; ++i) {
        std::optional<zerospan::PopLease<RuntimeArray>> popped;
        if (checkpoints && step.pops) popped.emplace(checkpoints->pop<RuntimeArray>(site_.stream()));
        commit(step);
      }
    }
  }

  void commit(const plan::PassStep& step) {
    const auto clear = [this](RuntimeArray& array) {
      site_.set(array.data, 0, array.size * zerospan::element_bytes(array.type));
    };
    if (step.leases == plan::GradientLeases::one_by_one) {
      for (const std::size_t p : step.gradients) {
        auto gradient = parameters_[p].gradient(site_.stream());
        clear(*gradient);
        gradient.commit();
      }
    } else {
      std::vector<std::reference_wrapper<const Parameter>> all;
      for (const std::size_t p : step.gradients) all.emplace_back(parameters_[p]);
      auto gradients = zerospan::gradients(site_.stream(), all);
      for (auto& gradient : gradients) clear(*gradient);
      for (auto& gradient : gradients) gradient.commit();
    }
  }

  std::vector<zerospan::ReadLease<RuntimeArray>> gather(const std::vector<std::size_t>& indices) const {
    std::vector<std::reference_wrapper<const Parameter>> all;
    for (const std::size_t p : indices) all.emplace_back(parameters_[p]);
    return zerospan::gather(site_.stream(), all);
  }

  const plan::Model& model_;
  const plan::Setting& s_;
  AnyEngine& engine_;
  const Site& site_;
  std::vector<Parameter> parameters_;
};

/// A rank on real memory and a real file.
template <class Site>
class RealRank {
 public:
  RealRank(const plan::Model& model, const plan::Setting& s, const std::string& directory, zerospan::Rank rank,
           const typename Site::Shared& shared)
      : model_{model},
        s_{s},
        rank_{rank},
        checkpoints_{directory + "/checkpoints"},
        site_{shared},
        device_{site_.make(s)},
        on_device_{device_},
        on_host_{device_},
        disk_{io_, {.directory = directory, .capacity = s.disk.capacity}},
        ledgers_{Ledger{on_device_}, Ledger{on_host_}, Ledger{disk_}} {}

  Outcome train(zerospan::ThreadCommunicator threads) {
    auto communicator = Site::communicator(std::move(threads), device_);
    try {
      if (s_.disk_cache) {
        cache_.emplace(disk_, device_.host_memory(), *s_.disk_cache);
        ledgers_[2] = Ledger{*cache_};
      }
      if (!s_.groups) return train_refusably(communicator);
      zerospan::GroupedCommunicator groups{zerospan::split_into_groups(communicator, s_.groups->ranks)};
      rank_ = groups.rank();
      return train_refusably(groups);
    } catch (const zerospan::BudgetError& error) {
      return refusal_of(error, disk_.name());
    }
  }

  /// What the words of reservations say is what the account says.
  void check_ledgers(const plan::Footprint& seen) const {
    for (std::size_t place = 0; place < plan::places; ++place) {
      const Ledger& ledger = ledgers_[place];
      const auto reserved = [&](MemoryPurpose purpose) {
        return seen.of(purpose, ledger.addressable()).reserved.count;
      };
      CHECK(ledger.reserved("parameter ") == reserved(MemoryPurpose::parameters));
      CHECK(ledger.reserved("the group's copy of ") == reserved(MemoryPurpose::group_copies));
      CHECK(ledger.reserved("the gradient of ") == reserved(MemoryPurpose::gradients));
      CHECK(ledger.reserved("the optimizer states of ") ==
            reserved(MemoryPurpose::master_weights) + reserved(MemoryPurpose::optimizer_states));
      std::size_t used = 0;
      for (const MemoryPurpose purpose :
           {MemoryPurpose::parameters, MemoryPurpose::group_copies, MemoryPurpose::gradients,
            MemoryPurpose::master_weights, MemoryPurpose::optimizer_states}) {
        used += seen.of(purpose, ledger.addressable()).used.count;
      }
      CHECK(ledger.placed() == used);
    }
  }

 private:
  zerospan::TierRef tier(plan::Place place) {
    if (place == plan::Place::device) return ledgers_[0];
    return ledgers_[place == plan::Place::host ? 1 : 2];
  }

  zerospan::TierRef bare_tier(plan::Place place) {
    if (place == plan::Place::device) return on_device_;
    if (place == plan::Place::host) return on_host_;
    return cache_ ? zerospan::TierRef{*cache_} : zerospan::TierRef{disk_};
  }

  /// The engine ends before an error goes on: it is no failure of the rank, and its peers have the same.
  template <class Communicator>
  Outcome train_refusably(Communicator& communicator) {
    zerospan::Placement placement{tier(s_.placing.parameters), tier(s_.placing.gradients), tier(s_.placing.optimizer)};
    if (s_.optimizer_share) placement.optimizer_share = {tier(s_.optimizer_share->place), s_.optimizer_share->fraction};
    if (s_.groups && s_.groups->copies) placement.group_copies = tier(*s_.groups->copies);
    zerospan::EngineOptions options = s_.options;
    zerospan::Timeline timeline;
    options.timeline = &timeline;
    plan::Footprint seen{};
    {
      std::optional<AnyEngine> engine;
      std::visit(
          [&](const auto& optimizer) {
            engine.emplace(s_.stage, communicator, device_, placement, optimizer, options);
          },
          s_.optimizer);
      try {
        make_steps(*engine, seen);
      } catch (const zerospan::BudgetError& error) {
        return refusal_of(error, disk_.name());
      } catch (const zerospan::RankFailedError&) {
        return {};
      }
    }
    if (counts_operations(s_)) seen.all_steps = zerospan_test::operations_of(timeline);
    return seen;
  }

  void make_steps(AnyEngine& engine, plan::Footprint& seen) {
    Training training{model_, s_, engine, site_};
    std::optional<zerospan::ActivationCheckpoints> checkpoints;
    if (s_.activations) checkpoints.emplace(device_, bare_tier(s_.activations->place), s_.activations->options);
    engine.begin(zerospan::Pass::training);
    for (std::size_t step = 0; step < steps; ++step) training.step(checkpoints ? &*checkpoints : nullptr);
    engine.synchronize();
    seen = zerospan_test::footprint_of(engine, device_, disk_.counters());
    if (cache_) seen.cache = cache_->cache_counters();
    if (checkpoints) seen.activations = checkpoints->counters();
    if (s_.saves) save(engine, seen);
  }

  /// What was written is in a file of this rank.
  void save([[maybe_unused]] AnyEngine& engine, [[maybe_unused]] plan::Footprint& seen) {
#if defined(ZEROSPAN_HAS_CHECKPOINT)
    const bool links = s_.saves->by == plan::SaveSetting::By::linking;
    const zerospan::SavedCheckpoint saved = zerospan::save_checkpoint(
        engine, checkpoints_,
        {.keep = s_.saves->keep, .by = links ? zerospan::SaveBy::linking : zerospan::SaveBy::copying});
    seen.saves.emplace();
    seen.saves->linked = saved.linked;
    const auto data = std::filesystem::path{saved.path} / ("rank-" + std::to_string(rank_.value) + ".data");
    seen.saves->written = Bytes{std::filesystem::file_size(data)};
    seen.saves->kept = Bytes{s_.saves->keep * (seen.saves->linked.count + seen.saves->written.count)};
#endif
  }

  const plan::Model& model_;
  const plan::Setting& s_;
  zerospan::Rank rank_;  ///< As its engine has it.
  std::string checkpoints_;
  zerospan::ThreadedIoEngine io_;
  Site site_;
  typename Site::Device device_;
  zerospan::DeviceTier on_device_;
  zerospan::HostTier on_host_;
  zerospan::NvmeTier<zerospan::ThreadedIoEngine> disk_;
  std::optional<zerospan::CachedTier> cache_;  ///< In front of the disk.
  std::array<Ledger, plan::places> ledgers_;
};

std::string in_words(const Outcome& outcome) {
  if (std::holds_alternative<std::monostate>(outcome)) return "a peer was refused";
  if (const auto* footprint = std::get_if<plan::Footprint>(&outcome)) return zerospan_test::in_words(*footprint);
  const auto& refusal = std::get<Refusal>(outcome);
  return "refused: " + refusal.message + " " + std::to_string(refusal.requested.count) + " " +
         std::to_string(refusal.available.count);
}

std::string directory_in_memory() {
  const std::filesystem::path shared = "/dev/shm";
  return (std::filesystem::is_directory(shared) ? shared : std::filesystem::temp_directory_path()).string();
}

struct Tally {
  std::size_t fit = 0;
  std::size_t refused = 0;
  std::size_t copies = 0;  ///< That fit, with copies in groups.
  std::size_t linked = 0;  ///< Whose checkpoints were linked.
  std::size_t cached = 0;  ///< That fit, and have read from a cache.
};

/// What becomes of a training on each rank.
template <class Site>
std::vector<Outcome> train(const plan::Model& model, const plan::Setting& s, const std::string& directory) {
  std::mutex mutex;  // of what checks
  const typename Site::Shared shared;
  return zerospan::run_ranks(s.ranks,
                             [&](zerospan::ThreadCommunicator communicator) {
                               const zerospan::Rank number = communicator.rank();
                               RealRank<Site> rank{model, s, directory, number, shared};
                               Outcome outcome = rank.train(std::move(communicator));
                               const std::scoped_lock lock{mutex};
                               if (const auto* footprint = std::get_if<plan::Footprint>(&outcome))
                                 rank.check_ledgers(*footprint);
                               return outcome;
                             },
                             {.timeout = std::chrono::seconds{60}});
}

void compare(std::uint64_t seed, const std::string& directory, std::size_t alignment, Tally& tally) {
  CAPTURE(seed);
  Draw draw{seed};
  plan::Setting s = draw_setting(draw, alignment);
  const plan::Model model = draw_model(draw, s.activations.has_value());
  draw_budgets(draw, model, s);
  const std::vector<Outcome> seen = s.processor == plan::Processor::cpu ? train<RealCpu>(model, s, directory)
                                                                        : train<FakeGpuSite>(model, s, directory);
  bool is_refused = false;
  for (int r = 0; r < s.ranks; ++r) {
    CAPTURE(r);
    Outcome expected = planned(model, s, zerospan::Rank{r});
    auto* const footprint = std::get_if<plan::Footprint>(&expected);
    if (footprint && !counts_operations(s)) footprint->all_steps = {};
    const Outcome& real = seen[static_cast<std::size_t>(r)];
    const auto* const taken = std::get_if<plan::Footprint>(&real);
    is_refused = is_refused || std::holds_alternative<Refusal>(real);
    if (std::holds_alternative<std::monostate>(real)) {
      CHECK(std::holds_alternative<Refusal>(expected));
    } else if (footprint && taken) {
      zerospan_test::check_same_footprint(*footprint, *taken);
    } else {
      CHECK(in_words(expected) == in_words(real));
    }
  }
  const bool all_fit =
      std::ranges::all_of(seen, [](const Outcome& each) { return std::holds_alternative<plan::Footprint>(each); });
  CHECK(all_fit == !is_refused);
  ++(all_fit ? tally.fit : tally.refused);
  if (all_fit && s.groups && s.groups->copies) ++tally.copies;
  const auto* first = std::get_if<plan::Footprint>(&seen.front());
  if (first && first->saves && first->saves->linked.count > 0) ++tally.linked;
  if (all_fit && first->cache && first->cache->hits.count > 0) ++tally.cached;
  std::filesystem::remove_all(directory + "/checkpoints");
}

TEST_CASE("what a plan says a real engine takes, to the byte, by purpose; what it refuses that one refuses") {
  const zerospan_test::ScratchDirectory scratch{directory_in_memory()};
  std::size_t alignment = 0;
  {
    zerospan::ThreadedIoEngine io;
    alignment = zerospan::NvmeTier<zerospan::ThreadedIoEngine>{io, {.directory = scratch.path()}}.alignment();
  }
  Tally tally;
  constexpr std::uint64_t settings = zerospan_test::is_sanitized ? 200 : 500;
  for (std::uint64_t seed = 1; seed <= settings; ++seed) compare(seed, scratch.path(), alignment, tally);
  MESSAGE(tally.fit << " trainings fit, " << tally.refused << " were refused; " << tally.cached
                    << " have read from a cache");
  CHECK(tally.fit > settings / 5);
  CHECK(tally.refused > settings / 5);
  CHECK(tally.copies > settings / 50);
  CHECK(tally.cached > settings / 20);
#if defined(ZEROSPAN_HAS_CHECKPOINT)
  MESSAGE(tally.linked << " had checkpoints that were linked");
#endif
}

}  // namespace
