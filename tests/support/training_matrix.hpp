/// @file
/// The matrix of all ways to train the toy model, and what each must give.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "training_run.hpp"

namespace zerospan_test {

/// The dimensions of the matrix: how many values each has, and what they mean.
inline constexpr std::array<std::size_t, 14> dimensions{4, 3, 3, 3, 3, 2, 2, 2, 2, 4, 2, 2, 4, 2};
inline constexpr std::size_t disk_dimension = 12;
inline constexpr std::size_t typing_dimension = 13;
using Choice = std::array<std::size_t, dimensions.size()>;

Configuration configuration_of(const Choice& choice);

/// Every choice that is possible, of the first `count` dimensions.
std::vector<Choice> full_matrix(std::size_t count);

/// Choices, taken greedily from a part of the matrix in which every possible pair of values occurs.
std::vector<Choice> pairwise_matrix(std::uint64_t seed);

/// Trains by each choice, and compares with what it must give: by an engine that partitions nothing, once for all
/// configurations that agree on it.
void compare_all(const std::vector<Choice>& choices, const std::function<TrainingResult(const Configuration&)>& train);

}  // namespace zerospan_test
