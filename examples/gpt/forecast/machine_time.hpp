/// @file
/// When recorded work happens on a machine whose ranks, lanes and disk share the cores of one processor.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <deque>
#include <limits>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include <zerospan/core/error.hpp>

#include "../../machine/rates.hpp"
#include "recorder.hpp"

namespace gpt::forecast {

/// From when to when, in seconds.
struct Times {
  double begin = 0;
  double end = 0;
};

/// Bytes a second of one direction of a disk, by the bytes that are under way in it: few are slower than many. What one
/// transfer takes by itself comes out as it was measured.
class DiskSpeed {
 public:
  /// @param most With as much under way as the disk can use.
  DiskSpeed(const machine::WorkRate& alone, double latency, double most) : most_{most} {
    double bytes = 0;
    double seconds = latency;
    for (const auto& [size, per_second] : alone.points) {
      const double longer = size / per_second - seconds;
      const double rate = longer > 0 ? (size - bytes) / longer : most;
      steps_.push_back({bytes, std::min(rate, most)});
      bytes = size;
      seconds = std::max(seconds, size / per_second);
    }
    steps_.push_back({bytes, most});
  }

  double most() const { return most_; }
  double at(double under_way) const { return step(under_way).rate; }

  /// Where the speed changes, when that many become fewer.
  double next_below(double under_way) const { return step(under_way).above; }

 private:
  struct Step {
    double above;  ///< Bytes under way.
    double rate;
  };

  const Step& step(double under_way) const {
    auto found = steps_.begin();
    while (found + 1 != steps_.end() && (found + 1)->above < under_way) ++found;
    return *found;
  }

  double most_;
  std::vector<Step> steps_;
};

/// Plays the recordings of all ranks. Each rank's host goes through its program; each lane takes its items in order,
/// waits for what an item comes after, and goes on when its work is done, or, of transfers from and to disk, when it is
/// begun. A collective begins when all ranks have come to it.
///
/// What is under way shares the machine evenly: work on cores the cores, of which transfers have taken theirs before;
/// transfers the bytes a second that the disk has in their direction, which depend on how much is under way in it and
/// on how busy the cores are. Busy both ways, the disk has time for a direction in proportion to its transfers. The end
/// of a transfer comes later while cores compute. Collectives between hosts share their rank's link, are slower while
/// cores compute, and take their part of the cores. Who sleeps until others come to a collective goes on a little
/// later. Work goes slower beside other work, by the rates of both kinds. Between two events all rates are constant.
class MachineTime {
 public:
  MachineTime(const machine::Rates& rates, const machine::DiskRates& disk, std::span<const Recorder> ranks)
      : rates_{rates},
        disk_{disk},
        reading_{disk.read_alone, disk.read_latency, disk.read},
        writing_{disk.write_alone, disk.write_latency, disk.written} {
    for (const Recorder& recorder : ranks) {
      Rank rank{.items = &recorder.items(), .tracks = std::vector<Track>(recorder.tracks())};
      rank.times.resize(recorder.items().size());
      rank.is_done.resize(recorder.items().size());
      ranks_.push_back(std::move(rank));
    }
  }

  /// @throws std::logic_error if ranks wait for each other for ever.
  void run() {
    for (;;) {
      while (begin_what_can()) {
      }
      if (running_.empty()) break;
      advance();
    }
    for (const Rank& rank : ranks_) {
      if (rank.next < rank.items->size()) throw std::logic_error{"the recorded ranks wait for each other for ever"};
    }
  }

  /// Of each item of a rank.
  const std::vector<Times>& times(std::size_t rank) const { return ranks_[rank].times; }

 private:
  struct Track {
    std::deque<std::size_t> queue;
    bool is_taken = false;  // by the first of the queue
    double free_since = 0;  // or when it was posted the last time on an empty queue
  };

  struct Rank {
    const std::deque<Item>* items;
    std::vector<Track> tracks;
    std::size_t next = 0;  // of the host's program
    bool host_is_taken = false;
    std::vector<Times> times{};
    std::vector<bool> is_done{};
  };

  struct Running {
    std::size_t rank;
    std::size_t item;
    double latency;
    double core_seconds;
    double bytes;
    double link;
    double rate = 0;  // of what is left of the current one, a second

    /// One after the other; the last is work on a core.
    double Running::*current() const {
      return latency > 0 ? &Running::latency
             : bytes > 0 ? &Running::bytes
             : link > 0  ? &Running::link
                         : &Running::core_seconds;
    }
    double part() const { return this->*current(); }
    bool computes() const { return latency == 0 && bytes == 0 && link == 0; }
    bool is_on_link() const { return latency == 0 && bytes == 0 && link > 0; }
  };

  /// A collective that ranks have come to.
  struct Meeting {
    std::vector<std::size_t> items;
    std::vector<std::size_t> ranks;
    std::vector<double> arrivals;
  };

  const Item& item(std::size_t rank, std::size_t number) const { return (*ranks_[rank].items)[number]; }

  bool is_ready(const Rank& rank, const Item& what) const {
    return std::ranges::all_of(what.after, [&](std::size_t number) { return rank.is_done[number]; });
  }

  double ready_time(const Rank& rank, const Item& what) const {
    double time = 0;
    for (const std::size_t number : what.after) time = std::max(time, rank.times[number].end);
    return time;
  }

  bool begin_what_can() {
    bool has_begun = false;
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      while (step_host(r)) has_begun = true;
      for (std::size_t t = 1; t < ranks_[r].tracks.size(); ++t) {
        while (step_lane(r, t)) has_begun = true;
      }
    }
    return has_begun;
  }

  bool step_host(std::size_t r) {
    Rank& rank = ranks_[r];
    if (rank.host_is_taken || rank.next == rank.items->size()) return false;
    const std::size_t number = rank.next;
    const Item& what = item(r, number);
    if (what.track != Item::host) {
      Track& track = rank.tracks[what.track];
      if (track.queue.empty() && !track.is_taken) track.free_since = now_;
      track.queue.push_back(number);
      ++rank.next;
      return true;
    }
    if (what.kind == zerospan::OperationKind::wait) {
      if (rank.times[number].begin == 0) rank.times[number].begin = now_;
      if (!is_ready(rank, what)) return false;
      const bool has_slept = rank.times[number].begin < now_;
      ++rank.next;
      rank.host_is_taken = true;
      start(r, number, {.latency = has_slept ? rates_.handoff : 0}, rank.times[number].begin);
      return true;
    }
    ++rank.next;
    rank.host_is_taken = true;
    begin(r, number, what.cost);
    return true;
  }

  bool step_lane(std::size_t r, std::size_t t) {
    Rank& rank = ranks_[r];
    Track& track = rank.tracks[t];
    if (track.is_taken || track.queue.empty()) return false;
    const std::size_t number = track.queue.front();
    const Item& what = item(r, number);
    if (!is_ready(rank, what)) return false;
    track.queue.pop_front();
    track.is_taken = true;
    Cost cost = what.cost;
    const bool has_slept = track.free_since == now_ || ready_time(rank, what) == now_;
    if (has_slept) cost.latency += rates_.handoff;
    begin(r, number, cost);
    return true;
  }

  void begin(std::size_t r, std::size_t number, const Cost& cost) {
    if (!cost.meets || ranks_.size() == 1) return start(r, number, cost, now_);
    // Ranks have the same collectives in the same order on each track.
    const std::size_t track = item(r, number).track;
    auto meeting = std::ranges::find_if(meetings_, [&](const Meeting& m) {
      return item(m.ranks.front(), m.items.front()).track == track && std::ranges::find(m.ranks, r) == m.ranks.end();
    });
    if (meeting == meetings_.end()) meeting = meetings_.insert(meetings_.end(), Meeting{});
    meeting->ranks.push_back(r);
    meeting->items.push_back(number);
    meeting->arrivals.push_back(now_);
    if (meeting->ranks.size() < ranks_.size()) return;
    const Meeting all = *meeting;
    meetings_.erase(meeting);
    for (std::size_t i = 0; i < all.ranks.size(); ++i) {
      Cost own = item(all.ranks[i], all.items[i]).cost;
      if (now_ - all.arrivals[i] > own.latency + rates_.handoff) own.latency += rates_.handoff;
      start(all.ranks[i], all.items[i], own, now_);
    }
  }

  void start(std::size_t r, std::size_t number, const Cost& cost, double begin) {
    ranks_[r].times[number].begin = begin;
    double latency = cost.latency + busy() * cost.busy_latency;
    if (cost.read > 0) latency += busy() * std::max(0.0, disk_.busy_read_latency - disk_.read_latency);
    if (cost.written > 0) latency += busy() * std::max(0.0, disk_.busy_write_latency - disk_.write_latency);
    running_.push_back({r, number, latency, cost.core_seconds, cost.read + cost.written, cost.link});
    const Item& what = item(r, number);
    if (what.track != Item::host && cost.read + cost.written > 0) {
      ranks_[r].tracks[what.track].is_taken = false;  // asynchronous: the lane goes on
    }
  }

  void end(const Running& what) {
    Rank& rank = ranks_[what.rank];
    rank.times[what.item].end = now_;
    rank.is_done[what.item] = true;
    const Item& ended = item(what.rank, what.item);
    if (ended.track == Item::host) {
      rank.host_is_taken = false;
    } else if (ended.cost.read + ended.cost.written == 0) {
      Track& track = rank.tracks[ended.track];
      track.is_taken = false;
      if (track.queue.empty()) track.free_since = std::numeric_limits<double>::infinity();
    }
  }

  /// Goes on to the next moment at which something ends.
  void advance() {
    set_rates();
    double until = std::numeric_limits<double>::infinity();
    for (const Running& each : running_) until = std::min(until, each.part() / each.rate);
    until = std::min({until, until_slower_read_, until_slower_write_});
    now_ += until;
    std::vector<Running> ended;
    for (Running& each : running_) {
      double& part = each.*each.current();
      part -= until * each.rate;
      if (part < 1e-12 * (1 + until * each.rate)) part = 0;
    }
    std::erase_if(running_, [&](const Running& each) {
      if (each.part() > 0) return false;
      ended.push_back(each);
      return true;
    });
    for (const Running& each : ended) end(each);
  }

  /// What is under way in one direction of the disk.
  struct Direction {
    double transfers = 0;
    double bytes = 0;
  };

  /// Seconds until so much of it is done that the rest is slower.
  static double time_to_next(const Direction& direction, const DiskSpeed& speed, double rate) {
    const double below = speed.next_below(direction.bytes);
    if (direction.transfers == 0 || below <= 0) return std::numeric_limits<double>::infinity();
    return (direction.bytes - below) / rate + 1e-12;
  }

  bool reads(const Running& each) const { return item(each.rank, each.item).cost.read > 0; }

  /// How much of the processor computes.
  double busy() const {
    return std::min(1.0, static_cast<double>(std::ranges::count_if(running_, &Running::computes)) / rates_.cores);
  }

  /// Seconds of the link in a second, of a collective that shares it with its rank's others.
  double link_rate(const Running& each, double part_busy) const {
    const Cost& cost = item(each.rank, each.item).cost;
    const auto shares = [&](const Running& other) { return other.is_on_link() && other.rank == each.rank; };
    const double slower = cost.busy_link > 0 ? std::min(1.0, cost.link / cost.busy_link) : 1;
    return (1 + part_busy * (slower - 1)) / static_cast<double>(std::ranges::count_if(running_, shares));
  }

  /// Both directions share the disk's time. The measured rates say how much of it there is: 1 where it does one thing
  /// at a time, 2 where directions do not disturb each other.
  /// @param read_rate,write_rate What each would have alone; becomes what it has.
  void share_disk(const Direction& reads_now, const Direction& writes_now, double& read_rate,
                  double& write_rate) const {
    if (reads_now.transfers == 0 || writes_now.transfers == 0) return;
    const double read_alone = std::exchange(read_rate, reads_now.transfers * std::min(disk_.mixed_read, read_rate));
    const double write_alone =
        std::exchange(write_rate, writes_now.transfers * std::min(disk_.mixed_written, write_rate));
    const double time =
        std::min(1.0, disk_.mixed_read / reading_.most()) + std::min(1.0, disk_.mixed_written / writing_.most());
    const double wanted = read_rate / read_alone + write_rate / write_alone;
    read_rate *= time / wanted;
    write_rate *= time / wanted;
    if (read_rate > read_alone) {
      read_rate = read_alone;
      write_rate = std::min(1.0, time - 1) * write_alone;
    } else if (write_rate > write_alone) {
      write_rate = write_alone;
      read_rate = std::min(1.0, time - 1) * read_alone;
    }
  }

  void set_rates() {
    const auto cores = static_cast<double>(rates_.cores);
    double working = 0;
    Direction reads_now;
    Direction writes_now;
    for (const Running& each : running_) {
      if (each.latency > 0) continue;
      if (each.bytes > 0) {
        Direction& direction = reads(each) ? reads_now : writes_now;
        direction.transfers += 1;
        direction.bytes += each.bytes;
      } else if (each.computes()) {
        working += 1;
      }
    }
    // Disk and links are slower while all cores compute, and in proportion where some do.
    const double part_busy = busy();
    const auto rate_of = [part_busy](const Direction& d, const DiskSpeed& speed, double all_busy) {
      if (d.transfers == 0) return 0.0;
      return speed.at(d.bytes) * (1 + part_busy * (std::min(1.0, all_busy / speed.most()) - 1));
    };
    double read_rate = rate_of(reads_now, reading_, disk_.busy_read);
    double write_rate = rate_of(writes_now, writing_, disk_.busy_written);
    share_disk(reads_now, writes_now, read_rate, write_rate);
    until_slower_read_ = time_to_next(reads_now, reading_, read_rate);
    until_slower_write_ = time_to_next(writes_now, writing_, write_rate);
    const double reading = reads_now.transfers;
    const double writing = writes_now.transfers;
    double taken = 0;
    if (reading > 0) taken += read_rate * disk_.read_core_time;
    if (writing > 0) taken += write_rate * disk_.write_core_time;
    for (Running& each : running_) {
      if (!each.is_on_link()) continue;
      const Cost& cost = item(each.rank, each.item).cost;
      each.rate = link_rate(each, part_busy);
      taken += each.rate * cost.link_core_seconds / cost.link;
    }
    const double share = working > 0 ? std::min(1.0, std::max(cores - taken, 0.05 * cores) / working) : 1;

    std::array<double, machine::work_kinds.size()> others{};  // cores that do each kind
    for (const Running& each : running_) {
      if (each.computes()) others[kind_of(each)] += share;
    }
    for (Running& each : running_) {
      if (each.latency > 0) {
        each.rate = 1;
      } else if (each.bytes > 0) {
        each.rate = reads(each) ? read_rate / reading : write_rate / writing;
      } else if (each.computes()) {
        each.rate = share / slowdown(kind_of(each), others, share);
      }
    }
  }

  std::size_t kind_of(const Running& each) const {
    return static_cast<std::size_t>(item(each.rank, each.item).cost.kind);
  }

  /// While it has a core, what the other cores do holds it up, as far as they are busy.
  double slowdown(std::size_t kind, const std::array<double, machine::work_kinds.size()>& busy, double share) const {
    if (rates_.cores < 2) return 1;
    double all = -share;
    for (const double each : busy) all += each;
    const double at_most = static_cast<double>(rates_.cores - 1);
    const double scale = all > at_most ? at_most / all : 1;
    double factor = 1;
    for (std::size_t other = 0; other < busy.size(); ++other) {
      const double cores = (busy[other] - (other == kind ? share : 0)) * scale;
      factor += std::max(cores, 0.0) / at_most * (rates_.slowdown[kind][other] - 1);
    }
    return std::max(factor, 0.1);
  }

  const machine::Rates& rates_;
  machine::DiskRates disk_;
  DiskSpeed reading_;
  DiskSpeed writing_;
  double until_slower_read_ = 0;
  double until_slower_write_ = 0;
  std::vector<Rank> ranks_;
  std::vector<Running> running_;
  std::vector<Meeting> meetings_;
  double now_ = 0;
};

}  // namespace gpt::forecast
