#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iomanip>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/dawdle.hpp"
#include "support/faulty_io_engine.hpp"
#include "support/sample.hpp"
#include "support/three_weights.hpp"
#include "support/training_run.hpp"

namespace {

using namespace std::chrono_literals;
using namespace zerospan::literals;
using zerospan::IoDirection;
using zerospan::ThreadedIoEngine;
using zerospan_test::Configuration;
using zerospan_test::Dawdle;
using zerospan_test::DawdlingIoEngine;
using zerospan_test::Disk;
using zerospan_test::DiskStack;
using zerospan_test::Fault;
using zerospan_test::FaultKind;
using zerospan_test::FaultyIoEngine;
using zerospan_test::Memory;
using zerospan_test::Place;
using zerospan_test::TrainingResult;

using FaultyEngine = FaultyIoEngine<ThreadedIoEngine>;

/// How a run ended.
enum class Outcome : std::uint8_t { exact, io_error, integrity_error, timeout, peer_error, wrong_bits, untyped_error };

constexpr std::string_view to_string(Outcome outcome) {
  constexpr std::array<std::string_view, 7> names{"exact",      "IoError",    "IntegrityError",  "TimeoutError",
                                                  "peer error", "wrong bits", "an untyped error"};
  return names[static_cast<std::size_t>(outcome)];
}

/// What the error of a run that has ended is, by its type. Nobody else refers to it any more.
Outcome classify(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const zerospan::IoError&) {
    return Outcome::io_error;
  } catch (const zerospan::IntegrityError&) {
    return Outcome::integrity_error;
  } catch (const zerospan::TimeoutError&) {
    return Outcome::timeout;
  } catch (const zerospan::CommunicationError&) {
    return Outcome::peer_error;
  } catch (...) {
    return Outcome::untyped_error;
  }
}

std::string text_of(const std::exception_ptr& error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "not a std::exception";
  }
  return "";
}

// The sweep: one fault, at each request in turn.

/// With everything on disk.
std::uint64_t train_on_disk(FaultyEngine& io, Disk kind, std::chrono::milliseconds timeout) {
  Memory<FaultyEngine> memory{io, 512_KiB, 256_KiB};
  const DiskStack<FaultyEngine> disk{io, memory, kind};
  zerospan::SelfCommunicator self;
  return zerospan_test::train_three_weights(zerospan::Stage3{}, self, memory.device,
                                            {disk.tier(), disk.tier(), disk.tier()}, {.timeout = timeout});
}

struct Run {
  Outcome outcome = Outcome::exact;
  std::uint64_t injected = 0;
  std::string text;
};

/// One run, whose `fault.request` is set.
Run run_with(const Fault& fault, Disk disk, std::chrono::milliseconds timeout, std::uint64_t expected) {
  ThreadedIoEngine threads;
  FaultyEngine io{threads};
  io.inject({fault});
  Run run;
  std::exception_ptr error;
  try {
    if (train_on_disk(io, disk, timeout) != expected) run.outcome = Outcome::wrong_bits;
  } catch (...) {
    error = std::current_exception();
  }
  io.wait_idle();
  if (fault.request % 2 == 0) io.drop_lost();
  io.deliver_lost();
  if (error) run.outcome = classify(error);
  run.text = text_of(error);
  run.injected = io.injected();
  return run;
}

struct Sweep {
  std::string_view name;
  Fault fault;
  Disk disk;
  std::vector<Outcome> allowed;                                    ///< Where it was injected.
  std::uint64_t bits = std::numeric_limits<std::uint64_t>::max();  ///< Of a request, the first so many are flipped.
};

/// Fails request N for N = 0, 1, ... until a training is over before it; several at once.
std::vector<Run> fail_each(const Sweep& sweep, std::uint64_t expected) {
  const bool waits = sweep.fault.kind == FaultKind::lost;
  std::vector<Run> runs;
  std::mutex mutex;
  std::atomic<std::uint64_t> next = 0;
  std::atomic<bool> is_over = false;
  std::vector<std::jthread> workers;
  for (int worker = 0; worker < (waits ? 16 : 2); ++worker) {
    workers.emplace_back([&] {
      while (!is_over) {
        Fault fault = sweep.fault;
        fault.request = next.fetch_add(zerospan_test::is_sanitized ? 8 : 1);
        fault.bit = (fault.request * 7919 + 13) % sweep.bits;
        Run run = run_with(fault, sweep.disk, waits ? 1s : 30s, expected);
        if (run.injected == 0) is_over = true;
        const std::scoped_lock lock{mutex};
        runs.push_back(std::move(run));
      }
    });
  }
  workers.clear();
  return runs;
}

std::string row_of(const Sweep& sweep, const std::vector<Run>& runs) {
  const auto tried = std::ranges::count_if(runs, [](const Run& run) { return run.injected > 0; });
  const auto exact =
      std::ranges::count_if(runs, [](const Run& run) { return run.injected > 0 && run.outcome == Outcome::exact; });
  std::ostringstream row;
  row << std::left << std::setw(34) << sweep.name << " | " << std::right << std::setw(7) << tried << " | "
      << std::setw(19) << exact << " | " << std::setw(11) << tried - exact << "\n";
  return row.str();
}

TEST_CASE("whichever request fails, and however: the bits of the oracle, or an error that says so") {
  using enum Outcome;
  constexpr auto read = IoDirection::read;
  constexpr auto write = IoDirection::write;
  constexpr std::uint64_t page = 4096 * 8;  // a request begins with what was written; it may have gaps between shards
  const std::vector<Sweep> sweeps{
      {"EIO on a read", {.kind = FaultKind::error, .only = read}, Disk::plain, {io_error}},
      {"EIO on a write", {.kind = FaultKind::error, .only = write}, Disk::plain, {io_error}},
      {"EIO, checked", {.kind = FaultKind::error}, Disk::checked, {io_error}},
      {"ENOSPC on a write", {.error_number = ENOSPC, .only = write}, Disk::plain, {io_error}},
      {"short read", {.kind = FaultKind::short_transfer, .only = read}, Disk::plain, {exact}},
      {"short write", {.kind = FaultKind::short_transfer, .only = write}, Disk::plain, {exact}},
      {"short transfer, checked", {.kind = FaultKind::short_transfer}, Disk::checked, {exact}},
      {"EINTR", {.error_number = EINTR}, Disk::plain, {exact}},
      {"EINTR, checked", {.error_number = EINTR}, Disk::checked, {exact}},
      {"torn read (4 KiB), checked", {.kind = FaultKind::torn, .only = read}, Disk::checked, {exact, integrity_error}},
      {"torn write (4 KiB), checked",
       {.kind = FaultKind::torn, .only = write},
       Disk::checked,
       {exact, integrity_error}},
      {"bit flipped on a read, checked",
       {.kind = FaultKind::flip, .only = read},
       Disk::checked,
       {integrity_error},
       page},
      {"anywhere, gaps included, checked",
       {.kind = FaultKind::flip, .only = read},
       Disk::checked,
       {exact, integrity_error}},
      {"bit flipped on the disk, checked",
       {.kind = FaultKind::flip, .only = write},
       Disk::checked,
       {exact, integrity_error}},
      {"lost completion", {.kind = FaultKind::lost}, Disk::plain, {timeout}},
      {"lost completion, checked", {.kind = FaultKind::lost}, Disk::checked, {timeout}}};
  const std::uint64_t expected = zerospan_test::train_three_weights_in_memory();
  std::string table = "fault                              | N tried | recovered bit-exact | clean error\n";
  for (const Sweep& sweep : sweeps) {
    CAPTURE(sweep.name);
    const std::vector<Run> runs = fail_each(sweep, expected);
    for (const Run& run : runs) {
      CAPTURE(run.text);
      CAPTURE(to_string(run.outcome));
      if (run.injected == 0) {
        CHECK(run.outcome == exact);
      } else {
        CHECK(std::ranges::count(sweep.allowed, run.outcome) == 1);
      }
    }
    CHECK(runs.size() > (zerospan_test::is_sanitized ? 2 : 20));
    table += row_of(sweep, runs);
  }
  MESSAGE("\n", table);
}

// The stress: random faults and random delays in random configurations.

constexpr std::uint64_t first_seed = 20250713;

/// To run one configuration alone, set this to the seed that its failure names.
constexpr std::optional<std::uint64_t> replayed_seed{};

using DawdlingEngine = DawdlingIoEngine<ThreadedIoEngine>;
using StressedEngine = FaultyIoEngine<DawdlingEngine>;

struct Scenario {
  std::uint64_t seed;
  Configuration configuration{};
  std::vector<std::vector<Fault>> faults{};  ///< Of each rank.
  std::uint64_t most_yields = 0;             ///< Of a delay of a request, of its end, or of a rank.

  Dawdle dawdle(std::size_t rank, std::uint64_t of_what) const { return {seed * 64 + rank * 8 + of_what, most_yields}; }

  /// True if whatever is planned can be recovered from.
  bool is_harmless() const {
    return std::ranges::all_of(faults, [](const auto& of_rank) { return std::ranges::all_of(of_rank, recovers); });
  }

  static bool recovers(const Fault& fault) {
    const bool is_interruption = fault.kind == FaultKind::error && fault.error_number == EINTR;
    return is_interruption || fault.kind == FaultKind::short_transfer || fault.kind == FaultKind::ragged;
  }

  std::string describe() const {
    constexpr std::array names{"error", "short", "ragged", "zero", "lost", "flip", "torn"};
    std::string text = configuration.describe() + ", delays up to " + std::to_string(most_yields);
    for (std::size_t rank = 0; rank < faults.size(); ++rank) {
      for (const Fault& fault : faults[rank]) {
        text.append("; rank ").append(std::to_string(rank)).append(": ");
        text.append(names[static_cast<std::size_t>(fault.kind)]);
        if (fault.kind == FaultKind::error) text.append(" ").append(std::to_string(fault.error_number));
        text.append(" at ").append(std::to_string(fault.request)).append(" every ");
        text.append(std::to_string(fault.every));
      }
    }
    return text;
  }
};

/// Draws from 64 random bits, the same on every machine.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_{seed} {}

  std::uint64_t below(std::uint64_t n) { return random_() % n; }

  template <class T, class... More>
  T pick(T first, More... more) {
    const std::array values{first, static_cast<T>(more)...};
    return values[below(values.size())];
  }

 private:
  std::mt19937_64 random_;
};

Configuration draw_configuration(Draw& draw) {
  while (true) {
    Configuration c;
    c.steps = 2;
    c.stage = draw.pick(3, 3, 3, 2, 1, 0);
    c.parameters = draw.pick(Place::nvme, Place::nvme, Place::host, Place::device);
    c.gradients = draw.pick(Place::nvme, Place::nvme, Place::host, Place::device);
    c.optimizer = draw.pick(Place::nvme, Place::nvme, Place::nvme, Place::host);
    c.type = draw.pick(zerospan::ElementType::float32, zerospan::ElementType::bfloat16, zerospan::ElementType::float16);
    c.prefetch = draw.pick(zerospan_test::Prefetch::on, zerospan_test::Prefetch::off);
    c.budget = draw.pick(zerospan_test::Budget::tight, zerospan_test::Budget::roomy);
    c.disk = draw.pick(Disk::checked, Disk::checked, Disk::plain, Disk::striped, Disk::cached);
    c.training.ranks = draw.pick(1, 2, 3, 4);
    c.training.micro_batches = draw.pick(std::size_t{1}, std::size_t{2});
    c.training.max_gradient_norm = draw.pick(std::numeric_limits<float>::infinity(), 1.0F);
    c.persistence_threshold = draw.pick(0_KiB, zerospan::EngineOptions{}.persistence_threshold);
    c.partition = draw.pick<zerospan::AnyPartitioner>(zerospan::Slices{}, zerospan::Owners{});
    if (c.is_possible()) return c;
  }
}

/// Faults that change bits in silence occur on checked disks alone: nothing else can find them.
Fault draw_fault(Draw& draw, Disk disk) {
  const bool is_checked = disk == Disk::checked;
  Fault fault;
  fault.kind = draw.pick(FaultKind::error, FaultKind::error, FaultKind::short_transfer, FaultKind::short_transfer,
                         FaultKind::ragged, FaultKind::zero, is_checked ? FaultKind::flip : FaultKind::error,
                         is_checked ? FaultKind::torn : FaultKind::ragged, FaultKind::lost);
  fault.error_number = draw.pick(EINTR, EINTR, EIO, ENOSPC);
  fault.request = draw.below(draw.pick(20U, 200U, 600U));
  if (Scenario::recovers(fault)) fault.every = draw.pick(0U, 2U, 7U, 31U);
  fault.bit = draw.below(std::uint64_t{1} << 40);
  return fault;
}

Scenario draw_scenario(std::uint64_t seed) {
  Draw draw{seed};
  Scenario scenario{.seed = seed};
  Configuration& c = scenario.configuration = draw_configuration(draw);
  scenario.faults.resize(static_cast<std::size_t>(c.training.ranks));
  bool loses = false;
  for (auto& of_rank : scenario.faults) {
    for (std::uint64_t n = draw.below(3); n > 0; --n) {
      of_rank.push_back(draw_fault(draw, c.disk));
      loses = loses || of_rank.back().kind == FaultKind::lost;
    }
  }
  scenario.most_yields = draw.pick(0U, 3U, 30U, 100U);
  if (loses) {  // a delay is no loss, even where other programs take their time
    c.timeout = 2s;
    scenario.most_yields = std::min<std::uint64_t>(scenario.most_yields, 3);
  }
  return scenario;
}

struct StressCounts {
  std::size_t exact_without = 0;
  std::size_t exact_despite = 0;
  std::map<Outcome, std::size_t> errors;
};

/// Trains, and says how that ended. @param injected Is set to the number of faults that occurred.
Outcome train(const Scenario& scenario, const TrainingResult& expected, std::uint64_t& injected, std::string& text) {
  const Configuration& c = scenario.configuration;
  std::exception_ptr error;
  Outcome outcome = Outcome::exact;
  std::vector<std::optional<ThreadedIoEngine>> threads(scenario.faults.size());
  std::vector<std::optional<DawdlingEngine>> late(scenario.faults.size());
  std::vector<std::optional<StressedEngine>> engines(scenario.faults.size());
  for (std::size_t rank = 0; rank < engines.size(); ++rank) {
    late[rank].emplace(threads[rank].emplace(), scenario.dawdle(rank, 0));
    engines[rank].emplace(*late[rank]).inject(scenario.faults[rank]);
  }
  try {
    const auto results = zerospan::run_ranks(
        c.training.ranks,
        [&](zerospan::ThreadCommunicator communicator) {
          const auto rank = static_cast<std::size_t>(communicator.rank().value);
          StressedEngine& io = *engines[rank];
          const zerospan_test::Needs needs{c, communicator.rank()};
          const bool is_tight = c.budget == zerospan_test::Budget::tight;
          Memory<StressedEngine> memory{io, is_tight ? needs.device() : 64_MiB, is_tight ? needs.host() : 64_MiB};
          return zerospan_test::train_on(io, memory, communicator, c,
                                         zerospan_test::DawdlingCompute{scenario.dawdle(rank, 1)});
        },
        {.timeout = 30s});
    if (zerospan_test::join_results(results) != expected) outcome = Outcome::wrong_bits;
  } catch (...) {
    error = std::current_exception();
  }
  injected = 0;
  for (auto& io : engines) {
    io->wait_idle();
    io->deliver_lost();
    injected += io->injected();
  }
  text = text_of(error);
  return error ? classify(error) : outcome;
}

void stress(std::uint64_t seed, StressCounts& counts) {
  const Scenario scenario = draw_scenario(seed);
  const Configuration& c = scenario.configuration;
  CAPTURE(seed);
  CAPTURE(scenario.describe());
  const TrainingResult expected = zerospan_test::train_replicated(c.training, c.type, c.steps);
  std::uint64_t injected = 0;
  std::string text;
  const Outcome outcome = train(scenario, expected, injected, text);
  CAPTURE(to_string(outcome));
  CAPTURE(text);
  CAPTURE(injected);
  CHECK(outcome != Outcome::wrong_bits);
  CHECK(outcome != Outcome::untyped_error);
  if (scenario.is_harmless() || injected == 0) CHECK(outcome == Outcome::exact);
  if (outcome != Outcome::exact) {
    ++counts.errors[outcome];
  } else {
    ++(injected > 0 ? counts.exact_despite : counts.exact_without);
  }
}

void stress(std::size_t configurations) {
  if (replayed_seed) configurations = 1;
  StressCounts counts;
  const std::uint64_t begin = replayed_seed.value_or(first_seed);
  for (std::uint64_t seed = begin; seed < begin + configurations; ++seed) stress(seed, counts);
  MESSAGE("seeds from ", begin, " on: of ", configurations, " configurations ", counts.exact_without, " met no fault, ",
          counts.exact_despite, " gave the oracle's bits despite faults, ", counts.errors[Outcome::io_error],
          " ended in IoErrors, ", counts.errors[Outcome::integrity_error], " in IntegrityErrors, ",
          counts.errors[Outcome::timeout], " in TimeoutErrors, ", counts.errors[Outcome::peer_error],
          " in CommunicationErrors");
}

TEST_CASE("random faults and delays in random configurations: the bits of the oracle, or an error that says so") {
  stress(zerospan_test::is_sanitized ? 8 : 50);
}

TEST_CASE("many more of them" * doctest::skip()) { stress(500); }

}  // namespace
