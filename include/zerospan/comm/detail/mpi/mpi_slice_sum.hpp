/// @file
/// Reductions between processes: every rank sums a slice of all operands, in rank order.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/mpi/mpi_channel.hpp>
#include <zerospan/comm/detail/mpi/mpi_messages.hpp>
#include <zerospan/comm/detail/mpi/mpi_scratch.hpp>
#include <zerospan/comm/detail/mpi/mpi_sum_task.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// One reduction, in rounds: while the operands of one round are summed, those of the next are under way, and the
/// sums of those before go to who gets them.
///
/// @tparam Sum `sum(inputs, output, elements)` sums operands in rank order; the output may be one of them.
template <class Sum>
class MpiSliceSum {
 public:
  /// Takes what memory it needs; nothing moves yet.
  MpiSliceSum(MpiChannel& channel, MpiScratch& scratch, const MpiSumTask& task, Sum sum)
      : channel_{channel},
        scratch_{scratch},
        task_{task},
        sum_{std::move(sum)},
        me_{static_cast<std::size_t>(channel.rank().value)},
        longest_{std::ranges::max(task.slices, {}, &MpiSlice::elements).elements},
        chunk_{chunk_elements()},
        memory_{scratch.at_least(rounds_at_once * chunk_ * bytes_an_element())},
        inputs_(task.slices.size()),
        operands_{MpiMessages{channel.group()}, MpiMessages{channel.group()}},
        results_{MpiMessages{channel.group()}, MpiMessages{channel.group()}} {}

  /// Within a collective that has begun.
  void run() {
    try {
      exchange(0);
      for (std::size_t round = 0; round * chunk_ < longest_; ++round) {
        exchange(round + 1);
        channel_.finish(operands_[round % rounds_at_once]);
        channel_.finish(results_[round % rounds_at_once]);
        add_up(round);
        distribute(round);
      }
      for (MpiMessages& results : results_) channel_.finish(results);
    } catch (...) {
      scratch_.abandon();
      throw;
    }
  }

 private:
  static constexpr std::size_t rounds_at_once = 2;

  std::size_t bytes_an_element() const noexcept {
    return (task_.slices.size() - 1) * task_.input_width + task_.output_width;
  }

  /// A multiple of what a summation takes at once, if there are not very many ranks.
  std::size_t chunk_elements() const {
    constexpr std::size_t fewest = 256;
    const std::size_t fitting = channel_.link().options().scratch.count / (rounds_at_once * bytes_an_element());
    const std::size_t even = fitting / 1024 * 1024;
    return std::max(fewest, std::min(even > 0 ? even : fitting, longest_));
  }

  /// The elements of a rank's slice that are summed in a round.
  MpiSlice piece(std::size_t rank, std::size_t round) const noexcept {
    const MpiSlice& slice = task_.slices[rank];
    const std::size_t before = std::min(round * chunk_, slice.elements);
    return {slice.first + before, std::min(chunk_, slice.elements - before)};
  }
  MpiSlice piece(int rank, std::size_t round) const noexcept { return piece(static_cast<std::size_t>(rank), round); }

  /// Where the operand of a peer comes to lie; of this rank itself, the sums that it only passes on.
  std::byte* place(std::size_t rank, std::size_t round) const noexcept {
    std::byte* const memory = memory_ + round % rounds_at_once * chunk_ * bytes_an_element();
    const std::size_t peer = (rank + task_.slices.size() - me_ - 1) % task_.slices.size();  // this rank is the last
    return memory + peer * chunk_ * task_.input_width;
  }
  std::byte* sums(std::size_t round) const noexcept {
    std::byte* const own = task_.own_output(channel_.rank().value);
    return own == nullptr ? place(me_, round) : own + round * chunk_ * task_.output_width;
  }

  void exchange(std::size_t round) {
    MpiMessages& messages = operands_[round % rounds_at_once];
    channel_.group()->exchange(
        [&](int to) {
          const auto [first, elements] = piece(to, round);
          messages.send(to, channel_.tags().operands, task_.input + first * task_.input_width,
                        elements * task_.input_width);
        },
        [&](int from) {
          messages.receive(from, channel_.tags().operands, place(static_cast<std::size_t>(from), round),
                           piece(me_, round).elements * task_.input_width);
        });
  }

  void add_up(std::size_t round) noexcept {
    const auto [first, elements] = piece(me_, round);
    for (std::size_t rank = 0; rank < inputs_.size(); ++rank) {
      inputs_[rank] = rank == me_ ? task_.input + first * task_.input_width : place(rank, round);
    }
    if (elements > 0) sum_(std::span<const std::byte* const>{inputs_}, sums(round), elements);
  }

  /// The places of the others' sums in the output, which may be the input, have been sent by now.
  void distribute(std::size_t round) {
    MpiMessages& messages = results_[round % rounds_at_once];
    channel_.group()->exchange(
        [&](int to) {
          if (!task_.gets_all(to)) return;
          messages.send(to, channel_.tags().results, sums(round), piece(me_, round).elements * task_.output_width);
        },
        [&](int from) {
          if (!task_.gets_all(channel_.rank().value)) return;
          const auto [first, elements] = piece(from, round);
          messages.receive(from, channel_.tags().results, task_.output + first * task_.output_width,
                           elements * task_.output_width);
        });
  }

  MpiChannel& channel_;
  MpiScratch& scratch_;
  const MpiSumTask& task_;
  Sum sum_;
  std::size_t me_;
  std::size_t longest_;  // slice
  std::size_t chunk_;    // elements of a slice in a round
  std::byte* memory_;
  std::vector<const std::byte*> inputs_;
  std::array<MpiMessages, rounds_at_once> operands_;
  std::array<MpiMessages, rounds_at_once> results_;
};

}  // namespace zerospan::inline v0::detail
