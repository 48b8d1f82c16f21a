/// @file
/// Reductions between processes, of few operands or of many.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <zerospan/comm/detail/mpi/mpi_channel.hpp>
#include <zerospan/comm/detail/mpi/mpi_moves.hpp>
#include <zerospan/comm/detail/mpi/mpi_scratch.hpp>
#include <zerospan/comm/detail/mpi/mpi_slice_sum.hpp>
#include <zerospan/comm/detail/mpi/mpi_sum_task.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// A reduction whose operands travel with the call: whoever gets sums makes them all.
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
