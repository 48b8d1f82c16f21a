/// @file
/// What collectives take between processes, while no core computes, and while all do.
#include <mpi.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <cblas.h>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/communicator_levels.hpp>
#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/comm/run_mpi_rank.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

#include "../links.hpp"
#include "../measure_host_links.hpp"
#include "../model_work.hpp"
#include "../work.hpp"

namespace machine {

namespace {

using zerospan::calling_thread;
using zerospan::ElementType;
using zerospan::MpiCommunicator;
using Clock = std::chrono::steady_clock;

/// Which run of which machine's kernel this is: hosts that one machine makes up have the same.
std::int64_t identity_of_machine() {
  std::ifstream file{"/proc/sys/kernel/random/boot_id"};
  std::string text;
  std::getline(file, text);
  return static_cast<std::int64_t>(std::hash<std::string>{}(text) >> 1);
}

/// What every rank has, on every rank.
std::vector<std::int64_t> values_of_ranks(MpiCommunicator& ranks, std::int64_t own) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(ranks.size()), 0);
  all[static_cast<std::size_t>(ranks.rank().value)] = own;
  ranks.all_reduce({calling_thread, "values of ranks"}, std::span{all});
  return all;
}

/// Nanoseconds, so that sums are exact.
std::int64_t ticks(double seconds) { return static_cast<std::int64_t>(seconds * 1e9); }

/// A collective of some bytes, which every rank calls at once.
using Call = std::function<void()>;

/// What calls take of all ranks.
class LinkTrial {
 public:
  /// @param ranks All of them: these begin together, whoever makes collectives with whom.
  LinkTrial(MpiCommunicator& ranks, int cores)
      : ranks_{ranks},
        cores_{static_cast<double>(cores)},
        threads_{static_cast<std::size_t>(std::max(1, cores / ranks.size()))},
        memory_(threads_) {
    undisturbed_ = pieces_a_second([] { std::this_thread::sleep_for(std::chrono::milliseconds{300}); }).pieces;
  }

  struct Time {
    double seconds;           ///< Of one call, on the slowest rank.
    double core_seconds = 0;  ///< That it takes from what each rank computes.
  };

  /// The best of some trials.
  Time alone(const Call& call, std::size_t times) {
    constexpr std::size_t trials = 2;
    call();
    double best = 1e30;
    for (std::size_t trial = 0; trial < trials; ++trial) {
      ranks_.barrier({calling_thread, "the begin"});
      best = std::min(best, of_slowest(seconds_of(call, times)));
    }
    return {best / static_cast<double>(times)};
  }

  /// While all cores compute: the mean of trials whose threads begin anew. Whether a thread that polls shares its core
  /// with one that computes, and waits for all of its slices of time, is decided when they begin.
  Time busy(const Call& call, double least_seconds = 0.03) {
    constexpr std::size_t trials = 8;
    const auto repeat = [&](std::size_t times) {
      return pieces_a_second([&] {
        for (std::size_t i = 0; i < times; ++i) call();
      });
    };
    const double pilot = of_slowest(repeat(2).seconds) / 2;
    const double times = std::clamp(std::ceil(least_seconds / std::max(pilot, 1e-6)), 2.0, 1000.0);
    double seconds = 0;
    double pieces = 0;
    for (std::size_t trial = 0; trial < trials; ++trial) {
      const Pieces made = repeat(static_cast<std::size_t>(times));
      const double taken_seconds = of_slowest(made.seconds);
      seconds += taken_seconds;
      pieces += made.pieces * taken_seconds;
    }
    const double taken =
        cores_ * std::max(0.0, 1 - pieces / seconds / undisturbed_) / static_cast<double>(ranks_.size());
    seconds /= times * trials;
    return {seconds, taken * seconds};
  }

 private:
  struct Pieces {
    double pieces;   ///< That all ranks compute in a second.
    double seconds;  ///< On this rank.
  };

  static double seconds_of(const Call& call, std::size_t times) {
    const auto begin = Clock::now();
    for (std::size_t i = 0; i < times; ++i) call();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  double of_slowest(double seconds) {
    return static_cast<double>(std::ranges::max(values_of_ranks(ranks_, ticks(seconds)))) / 1e9;
  }

  Pieces pieces_a_second(const Call& meanwhile) {
    double seconds = 0;
    double own = 0;
    {
      const Busy busy{product({ProductKind::forward, 256, 512, 512}), memory_, 0, threads_};
      ranks_.barrier({calling_thread, "all compute"});
      const std::size_t done = busy.done();
      const auto begin = Clock::now();
      meanwhile();
      seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      own = static_cast<double>(busy.done() - done) / seconds;
    }
    double all = 0;
    for (const std::int64_t each : values_of_ranks(ranks_, ticks(own))) all += static_cast<double>(each) / 1e9;
    return {all, seconds};
  }

  MpiCommunicator& ranks_;
  double cores_;
  std::size_t threads_;
  std::vector<Memory> memory_;
  double undisturbed_;
};

constexpr std::array sizes{std::size_t{1} << 12, std::size_t{1} << 17, std::size_t{1} << 21};

/// The collectives that engines have, each by the bytes of the whole tensor.
struct NamedCall {
  std::string name;
  std::function<void(std::size_t)> call;
};

std::vector<NamedCall> calls_of(MpiCommunicator& level, const LinkOptions& options, std::byte* in, std::byte* out) {
  const auto world = static_cast<std::size_t>(level.size());
  const auto shard = [world](std::size_t bytes) { return zerospan::round_up(bytes / world, std::size_t{64}); };
  std::vector<NamedCall> all;
  all.push_back({"all-gather", [&level, shard, in](std::size_t bytes) {
                   const zerospan::GatherPart part{in, shard(bytes)};
                   level.all_gather({calling_thread, "gather"}, {&part, 1});
                 }});
  all.push_back({"broadcast", [&level, in](std::size_t bytes) {
                   level.broadcast({calling_thread, "broadcast"}, {in, bytes}, zerospan::Rank{0});
                 }});
  const auto add_reductions = [&](ElementType from, ElementType to) {
    const auto elements = [shard, from](std::size_t bytes) { return shard(bytes) / zerospan::element_bytes(from); };
    const std::string types = " " + reduction_types(from, to);
    all.push_back({"reduce-scatter" + types, [=, &level](std::size_t bytes) {
                     level.reduce_scatter({calling_thread, "reduction"}, {from, in, to, out, elements(bytes)});
                   }});
    all.push_back({"all-reduce" + types, [=, &level](std::size_t bytes) {
                     level.all_reduce({calling_thread, "reduction"}, {from, in, to, out, elements(bytes) * world});
                   }});
    all.push_back(
        {"reduce" + types, [=, &level](std::size_t bytes) {
           level.reduce({calling_thread, "reduction"}, {from, in, to, out, elements(bytes) * world}, zerospan::Rank{0});
         }});
  };
  for (const ElementType type : options.types) {
    add_reductions(type, type);
    if (type != ElementType::float32) add_reductions(type, ElementType::float32);
  }
  return all;
}

/// @param collectives Whether more than the rendezvous is measured.
LinkLevel measure_level(MpiCommunicator& level, LinkTrial& trial, const LinkOptions& options, bool collectives) {
  LinkLevel result{.ranks = level.size(), .collectives = {}};
  if (level.size() < 2) return result;
  const Call meet = [&level] {
    std::array<std::int64_t, 8> integers{};
    level.all_reduce({calling_thread, "meeting"}, integers);
  };
  result.rendezvous = trial.alone(meet, 100).seconds;
  result.busy_rendezvous = std::max(trial.busy(meet, 0.1).seconds, result.rendezvous);
  if (!collectives) return result;

  const std::size_t bytes = sizes.back() + 4096 * static_cast<std::size_t>(level.size());
  std::vector<std::byte> in(bytes, std::byte{0x3c});
  std::vector<std::byte> out(2 * bytes);
  for (const NamedCall& each : calls_of(level, options, in.data(), out.data())) {
    LinkRate& rate = result.collectives[each.name];
    for (const std::size_t size : sizes) {
      constexpr std::size_t moved = std::size_t{1} << 20;
      const Call call = [&] { each.call(size); };
      const LinkTrial::Time alone = trial.alone(call, std::clamp(moved / size, std::size_t{1}, std::size_t{20}));
      const LinkTrial::Time busy = trial.busy(call);
      const auto add = [size](WorkRate& to, double seconds) {
        to.points.push_back({static_cast<double>(size), static_cast<double>(size) / seconds});
      };
      // What is left when all have met.
      const double seconds = std::max(alone.seconds - result.rendezvous, alone.seconds / 10);
      const double busy_seconds = std::max(busy.seconds - result.busy_rendezvous, seconds);
      add(rate.alone, seconds);
      add(rate.busy, busy_seconds);
      add(rate.cores, std::max(busy.core_seconds * busy_seconds / busy.seconds, 1e-3 * busy_seconds));
    }
  }
  return result;
}

HostLinks measure(MpiCommunicator ranks, const LinkOptions& options) {
  const std::vector<std::int64_t> machines = values_of_ranks(ranks, identity_of_machine());
  HostLinks links{.machines = static_cast<int>(std::set<std::int64_t>{machines.begin(), machines.end()}.size()),
                  .ranks = ranks.size(),
                  .ranks_per_group = options.ranks_per_group,
                  .levels = {}};
  LinkTrial trial{ranks, static_cast<int>(std::max(std::thread::hardware_concurrency(), 1U))};
  const bool is_in_groups = options.ranks_per_group > 0;
  links.levels["all"] = measure_level(ranks, trial, options, !is_in_groups);
  if (is_in_groups) {
    auto levels = zerospan::split_into_groups(ranks, options.ranks_per_group);
    links.levels["within"] = measure_level(levels.within, trial, options, true);
    links.levels["across"] = measure_level(levels.across, trial, options, true);
  }
  return links;
}

}  // namespace

std::optional<HostLinks> measure_host_links(int argc, char** argv, const LinkOptions& options) {
  ::openblas_set_num_threads(1);
  int provided = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  bool is_first = false;
  HostLinks links = zerospan::run_mpi_rank(MPI_COMM_WORLD, [&](MpiCommunicator ranks) {
    is_first = ranks.rank() == zerospan::Rank{0};
    return measure(std::move(ranks), options);
  });
  MPI_Finalize();
  if (!is_first) return std::nullopt;
  return links;
}

}  // namespace machine
