/// @file
/// What ranks that are threads of one process need for their collectives, and lanes for what is posted on them.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_communicator.hpp>
#include <zerospan/core/completion.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/device/lane_options.hpp>
#include <zerospan/device/operation.hpp>

#include "rates.hpp"
#include "work.hpp"

namespace machine {

namespace detail {

/// What one call takes of a rank.
struct CallTime {
  double seconds;       ///< From its begin to its end.
  double core_seconds;  ///< Of a core that it has had: it sleeps while it waits for others.
};

/// The same number of times on every rank; the best of some trials.
template <class Call>
CallTime time_of_calls(zerospan::ThreadCommunicator& communicator, std::size_t times, Call call) {
  constexpr std::size_t trials = 4;
  const auto each = static_cast<double>(times);
  CallTime best{1e30, 1e30};
  call();
  for (std::size_t trial = 0; trial < trials; ++trial) {
    communicator.barrier({zerospan::calling_thread, "the begin"});
    const double core_seconds = thread_seconds();
    const auto begin = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < times; ++i) call();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best.seconds = std::min(best.seconds, seconds.count() / each);
    best.core_seconds = std::min(best.core_seconds, (thread_seconds() - core_seconds) / each);
  }
  return best;
}

}  // namespace detail

/// "bfloat16 to float32": what is summed, and what the sums are.
inline std::string reduction_types(zerospan::ElementType from, zerospan::ElementType to) {
  return std::string{to_string(from)} + " to " + to_string(to);
}

/// Of so many ranks, the collectives that engines have, each at a few sizes: adds to `rates`.
inline void measure_collectives(int ranks, Rates& rates) {
  using zerospan::ElementType;
  constexpr std::array sizes{std::size_t{1} << 16, std::size_t{1} << 20, std::size_t{1} << 23};
  constexpr std::size_t total = std::size_t{1} << 23;  // bytes that a collective moves in a trial
  const auto world = static_cast<std::size_t>(ranks);

  using Seconds = std::map<std::string, std::vector<detail::CallTime>>;
  const auto measure = [&](zerospan::ThreadCommunicator communicator) {
    Seconds seconds;
    seconds["meet"].push_back(detail::time_of_calls(communicator, 100, [&] {
      std::array<std::int64_t, 8> integers{};
      communicator.all_reduce({zerospan::calling_thread, "meeting"}, integers);
    }));
    constexpr std::size_t buffers = 4;
    std::vector<std::byte> in(buffers * (sizes.back() + 4096 * world), std::byte{0x3c});
    std::vector<std::byte> out(2 * (sizes.back() + 4096 * world), std::byte{0x3c});
    for (const std::size_t size : sizes) {
      const std::size_t times = std::max(total / size, std::size_t{2});
      const std::size_t shard = zerospan::round_up(size / world, std::size_t{64});
      std::size_t turn = 0;
      const auto next = [&] { return turn++ % buffers * (shard * world); };
      seconds["all-gather"].push_back(detail::time_of_calls(communicator, times, [&] {
        const zerospan::GatherPart part{in.data() + next(), shard};
        communicator.all_gather({zerospan::calling_thread, "gather"}, {&part, 1});
      }));
      const auto reduce = [&](ElementType from, ElementType to) {
        const std::size_t elements = shard / zerospan::element_bytes(from);
        const std::string types = reduction_types(from, to);
        seconds["reduce-scatter " + types].push_back(detail::time_of_calls(communicator, times, [&] {
          communicator.reduce_scatter({zerospan::calling_thread, "reduction"},
                                      {from, in.data() + next(), to, out.data(), elements});
        }));
        seconds["all-reduce " + types].push_back(detail::time_of_calls(communicator, times, [&] {
          communicator.all_reduce({zerospan::calling_thread, "reduction"},
                                  {from, in.data() + next(), to, out.data(), elements * world});
        }));
      };
      for (const ElementType type : {ElementType::float32, ElementType::bfloat16, ElementType::float16}) {
        reduce(type, type);
        if (type != ElementType::float32) reduce(type, ElementType::float32);
      }
    }
    return seconds;
  };
  const std::vector<Seconds> all = zerospan::run_ranks(ranks, measure);
  const Seconds& seconds = all.front();
  const detail::CallTime meeting = seconds.at("meet").front();
  rates.rendezvous[ranks] = meeting.seconds;
  for (const auto& [name, times] : seconds) {
    if (name == "meet") continue;
    CollectiveRate rate{.ranks = ranks, .work = {}};
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const double core_seconds = std::max(times[i].core_seconds - meeting.core_seconds, times[i].core_seconds / 10);
      rate.work.points.push_back({static_cast<double>(sizes[i]), static_cast<double>(sizes[i]) / core_seconds});
    }
    rates.collectives[name].push_back(rate);
  }
}

/// What it costs to post work, and how long it takes to go on from one lane to the next: adds to `rates`. Each piece
/// of work keeps its core for a while, as work of an engine does: cores that have been idle for longer wake up later.
inline void measure_lanes(Rates& rates) {
  using Clock = std::chrono::steady_clock;
  constexpr std::size_t items = 50;
  constexpr std::chrono::duration<double> work{5e-4};
  zerospan::HostDevice device{{.device_budget = zerospan::Bytes{1 << 20}, .host_budget = zerospan::Bytes{1 << 20}}};
  zerospan::HostDevice::lanes_type lanes{device, zerospan::LaneOptions{}};
  std::array<Clock::time_point, items> begins;
  std::array<Clock::time_point, items> ends;
  const auto post = [&](std::size_t i, std::vector<zerospan::Completion> after) {
    return lanes.post_host(static_cast<zerospan::Lane>(i % zerospan::lane_count), std::move(after),
                           {zerospan::OperationKind::copy, "a moment"}, [&begins, &ends, work, i] {
                             begins[i] = Clock::now();
                             while ((ends[i] = Clock::now()) - begins[i] < work) {
                             }
                             return zerospan::Completion{};
                           });
  };
  rates.post = 1e30;
  std::vector<double> gaps;
  for (int trial = 0; trial < 4; ++trial) {
    zerospan::Completion last = post(0, {});
    const double core_seconds = thread_seconds();
    for (std::size_t i = 1; i < items; ++i) last = post(i, {last});
    rates.post = std::min(rates.post, (thread_seconds() - core_seconds) / items);
    lanes.wait(zerospan::calling_thread, last, {zerospan::OperationKind::copy, "a moment"});
    for (std::size_t i = 1; i < items; ++i) {
      gaps.push_back(std::chrono::duration<double>(begins[i] - ends[i - 1]).count());
    }
  }
  std::ranges::sort(gaps);
  rates.handoff = gaps[gaps.size() / 2];
}

}  // namespace machine
