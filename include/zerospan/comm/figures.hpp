/// @file
/// Sums and means over ranks of the host's own figures: a loss, an accuracy, a count.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// Adds up each figure over all contributors: the ranks of a communicator, or those of all its replicas, each once.
/// Every contributor puts the bits of its figures into places of their own among integers whose exact sums are then
/// everybody's bits.
/// @param finish `finish(sum, contributors)` makes of the sum what the figure becomes, which is rounded once.
template <AllReduces C, class Finish>
void sum_figures(C& communicator, Collective what, std::span<float> figures, Finish finish) {
  std::size_t contributors = static_cast<std::size_t>(communicator.size());
  std::size_t own = static_cast<std::size_t>(communicator.rank().value);
  if constexpr (Replicates<C>) {
    own += static_cast<std::size_t>(communicator.replica()) * contributors;
    contributors *= static_cast<std::size_t>(communicator.replicas());
  }
  constexpr std::size_t most = std::numeric_limits<std::ptrdiff_t>::max() / sizeof(std::int64_t);
  if (figures.size() > most / contributors) {
    throw_configuration_error("the sums '" + std::string{what.name} + "' of " + std::to_string(figures.size()) +
                              " figures of each of " + std::to_string(contributors) +
                              " ranks are too many: they are for a few figures of the host's");
  }
  std::vector<std::int64_t> bits(contributors * figures.size(), 0);
  for (std::size_t i = 0; i < figures.size(); ++i) {
    bits[own * figures.size() + i] = std::bit_cast<std::int32_t>(figures[i]);
  }
  communicator.all_reduce(what, std::span{bits});
  const auto figure_of = [&](std::size_t contributor, std::size_t i) {
    return std::bit_cast<float>(static_cast<std::int32_t>(bits[contributor * figures.size() + i]));
  };
  for (std::size_t i = 0; i < figures.size(); ++i) {
    double sum = static_cast<double>(figure_of(0, i));
    for (std::size_t each = 1; each < contributors; ++each) sum += static_cast<double>(figure_of(each, i));
    figures[i] = static_cast<float>(finish(sum, contributors));
  }
}

}  // namespace detail

/// Each figure becomes its sum over all ranks, replicas included, on every rank with the same bits. Sums are taken in
/// fp64, in the order of ranks (of the first replica, then of the second, ...), and rounded once; a NaN or an infinity
/// of any rank is in the sum. A collective of as many figures on every rank, done when it returns.
/// @code
/// std::array<float, 2> figures{loss, correct_answers};
/// zerospan::all_reduce(ranks, {stream, "loss and accuracy"}, figures);
/// @endcode
/// @note Every rank receives the figures of all ranks, eight bytes for each: it is meant for a few.
/// @throws What the communicator's `all_reduce` of integers throws: DivergenceError where ranks pass different counts.
///   ConfigurationError for more than memory can have.
template <AllReduces C>
void all_reduce(C& communicator, Collective what, std::span<float> figures) {
  detail::sum_figures(communicator, what, figures, [](double sum, std::size_t) { return sum; });
}

/// Each figure becomes its mean over all ranks: a sum as `all_reduce` takes it, divided by their number and rounded
/// once.
/// @throws What `all_reduce` throws.
template <AllReduces C>
void mean(C& communicator, Collective what, std::span<float> figures) {
  detail::sum_figures(communicator, what, figures,
                      [](double sum, std::size_t contributors) { return sum / static_cast<double>(contributors); });
}

/// The mean over all ranks of one figure.
/// @code
/// const float loss = zerospan::mean(ranks, {stream, "loss"}, own_loss);
/// @endcode
/// @throws What `all_reduce` throws.
template <AllReduces C>
float mean(C& communicator, Collective what, float figure) {
  mean(communicator, what, std::span{&figure, 1});
  return figure;
}

}  // namespace zerospan::inline v0
