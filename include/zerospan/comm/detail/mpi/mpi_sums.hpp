/// @file
/// Reductions over processes: operands travel with the call where they are small, and else in rounds of messages.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/comm/detail/mpi/mpi_channel.hpp>
#include <zerospan/comm/detail/mpi/mpi_messages.hpp>
#include <zerospan/comm/detail/mpi/mpi_moves.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/kernels/rank_order_sum.hpp>

namespace zerospan::inline v0::detail {

/// Sums of numbers, in rank order.
struct RankOrderSum {
  ElementType input_type;
  ElementType output_type;

  void operator()(std::span<const std::byte* const> inputs, std::byte* output, std::size_t elements) const noexcept {
    rank_order_sum(inputs, input_type, output, output_type, elements);
  }
};

/// Exact sums of 64-bit integers. No operand need be aligned.
struct IntegerSum {
  void operator()(std::span<const std::byte* const> inputs, std::byte* output, std::size_t elements) const noexcept {
    for (std::size_t i = 0; i < elements; ++i) {
      std::uint64_t sum = 0;
      for (const std::byte* const input : inputs) {
        std::uint64_t addend = 0;
        std::memcpy(&addend, input + i * sizeof addend, sizeof addend);
        sum += addend;
      }
      std::memcpy(output + i * sizeof sum, &sum, sizeof sum);
    }
  }
};

/// The slice of each rank where all share the work.
inline std::vector<ElementRange> even_slices(std::size_t elements, int ranks) {
  std::vector<ElementRange> slices;
  for (int rank = 0; rank < ranks; ++rank) slices.push_back(even_slice(elements, ranks, rank));
  return slices;
}

/// What is summed, and who gets the sums: each rank those of its slice, or the root or every rank all of them.
struct MpiSumTask {
  enum class Audience : std::uint8_t { slices, root, everybody };

  Audience audience;
  Rank root;                         ///< Of the audience `root`.
  std::vector<ElementRange> slices;  ///< Each rank's elements of the input.
  const std::byte* input;
  std::size_t input_width;  ///< Bytes of an element.
  std::byte* output;        ///< What this rank gets.
  std::size_t output_width;

  bool gets_all(int rank) const noexcept {
    return audience == Audience::everybody || (audience == Audience::root && rank == root.value);
  }

  /// Where in the output the sums go that this rank makes; nullptr if only others get them.
  std::byte* own_output(int me) const noexcept {
    if (audience == Audience::slices) return output;
    return gets_all(me) ? output + slices[static_cast<std::size_t>(me)].first * output_width : nullptr;
  }

  /// The elements of every input that a rank needs to make all that it gets.
  ElementRange summands_of(int rank) const noexcept {
    if (audience == Audience::slices) return slices[static_cast<std::size_t>(rank)];
    return {0, gets_all(rank) ? slices.back().first + slices.back().elements : 0};
  }

  /// The most bytes that a rank needs of another's input.
  std::size_t largest_operand() const noexcept {
    std::size_t most = 0;
    for (int rank = 0; rank < static_cast<int>(slices.size()); ++rank)
      most = std::max(most, summands_of(rank).elements);
    return most * input_width;
  }
};

/// One reduction, in rounds: while the operands of one round are summed, those of the next are received, and the sums
/// of the one before are sent to those that get them.
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
        longest_{std::ranges::max(task.slices, {}, &ElementRange::elements).elements},
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

  /// The elements of a slice in one round: a multiple of 1024 if so many fit.
  std::size_t chunk_elements() const {
    constexpr std::size_t fewest = 256;
    const std::size_t fitting = channel_.link().options().scratch.count / (rounds_at_once * bytes_an_element());
    const std::size_t even = fitting / 1024 * 1024;
    return std::max(fewest, std::min(even > 0 ? even : fitting, longest_));
  }

  /// The elements of a rank's slice that are summed in a round.
  ElementRange piece(std::size_t rank, std::size_t round) const noexcept {
    const ElementRange& slice = task_.slices[rank];
    const std::size_t before = std::min(round * chunk_, slice.elements);
    return {slice.first + before, std::min(chunk_, slice.elements - before)};
  }
  ElementRange piece(int rank, std::size_t round) const noexcept {
    return piece(static_cast<std::size_t>(rank), round);
  }

  /// Where the operand of a peer is received; of this rank itself, where it makes sums that only others get.
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

  /// Others' sums may overwrite the input, if that is the output too: those elements have been sent by now.
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

/// A reduction whose operands travel with the header: each rank makes all the sums that it gets.
template <class Add>
void sum_by_call(MpiChannel& channel, const CollectiveCall& call, const MpiSumTask& task, Add add) {
  const int me = channel.rank().value;
  const auto operand_for = [&](int rank) {
    const auto [first, elements] = task.summands_of(rank);
    return std::span{task.input + first * task.input_width, elements * task.input_width};
  };
  channel.begin(call, [&](int peer, std::byte* to) {
    const std::span<const std::byte> operand = operand_for(peer);
    append(to, operand.data(), operand.size());
    return operand.size();
  });
  std::vector<const std::byte*> operands;
  for (int rank = 0; rank < channel.size(); ++rank) {
    operands.push_back(rank == me ? operand_for(me).data() : channel.payload(rank));
  }
  const std::size_t elements = task.summands_of(me).elements;
  if (elements > 0) add(std::span<const std::byte* const>{operands}, task.output, elements);
}

/// @param add `add(inputs, output, elements)` sums operands in rank order; the output may be one of them.
template <class Add>
void sum(MpiChannel& channel, MpiScratch& scratch, const CollectiveCall& call, const MpiSumTask& task, Add add) {
  if (task.largest_operand() <= MpiChannel::longest_payload) return sum_by_call(channel, call, task, add);
  MpiSliceSum by_messages{channel, scratch, task, add};
  channel.begin(call, MpiChannel::nothing);
  by_messages.run();
}

}  // namespace zerospan::inline v0::detail
