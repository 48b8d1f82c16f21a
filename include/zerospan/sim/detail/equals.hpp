/// @file
/// Equals: which ranks of a cluster do the same at the same time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/sim/topology.hpp>

namespace zerospan::inline v0::sim::detail {

/// Sets of ranks that have something in common: `of[rank]` is the number of its set.
struct RankSets {
  std::vector<int> of;
  std::vector<std::vector<int>> members;

  template <class SetOf>
  static RankSets make(int ranks, SetOf set_of) {
    RankSets sets;
    for (int r = 0; r < ranks; ++r) {
      const int set = set_of(r);
      if (static_cast<std::size_t>(set) >= sets.members.size()) sets.members.resize(static_cast<std::size_t>(set) + 1);
      sets.of.push_back(set);
      sets.members[static_cast<std::size_t>(set)].push_back(r);
    }
    return sets;
  }

  const std::vector<int>& around(int rank) const {
    return members[static_cast<std::size_t>(of[static_cast<std::size_t>(rank)])];
  }
};

/// Classes of ranks. Those of a class are in sets of the same composition: each meets, and shares its links with, as
/// many ranks of each class as any other of its own (an equitable partition, by color refinement). So what one of them
/// sees is what all of them see.
class Equals {
 public:
  /// @param kinds Ranks of different numbers are in different classes.
  Equals(std::vector<int> kinds, const std::vector<RankSets>& sets) : class_of_{std::move(kinds)} {
    std::size_t classes = renumber();
    for (;;) {
      std::vector<std::vector<int>> colors(class_of_.size());
      for (std::size_t r = 0; r < class_of_.size(); ++r) colors[r].push_back(class_of_[r]);
      for (const RankSets& of : sets) add_colors(of, colors);
      std::map<std::vector<int>, int> numbers;
      for (std::size_t r = 0; r < colors.size(); ++r) {
        class_of_[r] = numbers.emplace(colors[r], static_cast<int>(numbers.size())).first->second;
      }
      if (numbers.size() == classes) break;
      classes = numbers.size();
    }
    firsts_.assign(classes, -1);
    for (int r = 0; r < static_cast<int>(class_of_.size()); ++r) {
      int& first = firsts_[static_cast<std::size_t>(class_of(r))];
      if (first < 0) first = r;
    }
  }

  int class_of(int rank) const { return class_of_[static_cast<std::size_t>(rank)]; }

  /// The rank that stands for its equals: the first of them, and so all that share a node share it still.
  int representative(int rank) const { return firsts_[static_cast<std::size_t>(class_of(rank))]; }
  const std::vector<int>& representatives() const noexcept { return firsts_; }

  /// How many equals of `rank` are among `ranks`.
  int count(int rank, const std::vector<int>& ranks) const {
    return static_cast<int>(std::ranges::count_if(ranks, [&](int other) { return class_of(other) == class_of(rank); }));
  }

  /// The classes of `ranks`, sorted.
  std::vector<int> composition(const std::vector<int>& ranks) const {
    std::vector<int> classes;
    classes.reserve(ranks.size());
    for (const int rank : ranks) classes.push_back(class_of(rank));
    std::ranges::sort(classes);
    return classes;
  }

 private:
  std::size_t renumber() {
    std::map<int, int> numbers;
    for (int& kind : class_of_) kind = numbers.emplace(kind, static_cast<int>(numbers.size())).first->second;
    return numbers.size();
  }

  void add_colors(const RankSets& sets, std::vector<std::vector<int>>& colors) const {
    std::map<std::vector<int>, int> compositions;
    for (const std::vector<int>& members : sets.members) {
      const int color = compositions.emplace(composition(members), static_cast<int>(compositions.size())).first->second;
      for (const int rank : members) colors[static_cast<std::size_t>(rank)].push_back(color);
    }
  }

  std::vector<int> class_of_;
  std::vector<int> firsts_;
};

}  // namespace zerospan::inline v0::sim::detail
