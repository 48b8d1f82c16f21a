/// @file
/// AddressRanges: disjoint ranges in use, and the gaps between them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// A search tree of ranges, ordered by offset, in which each node knows the largest gap beneath it: every call takes
/// time logarithmic in the number of ranges. It is balanced by priorities that are a hash of the offsets (a treap:
/// Seidel and Aragon, "Randomized search trees", 1996), so that nothing depends on chance.
class AddressRanges {
 public:
  struct Range {
    std::size_t begin;
    std::size_t end;
    std::size_t label;  ///< Whatever the owner has given to it.
  };

  /// Adds a range, which is free and not empty.
  void insert(std::size_t offset, std::size_t bytes, std::size_t label = 0) {
    const Index node = make_node({offset, offset + bytes, label});
    root_ = insert_below(root_, node);
  }

  /// Removes the range that begins at `offset`, which is there. @return Its bytes.
  std::size_t erase(std::size_t offset) {
    std::size_t bytes = 0;
    root_ = erase_below(root_, offset, bytes);
    return bytes;
  }

  bool empty() const noexcept { return root_ == none; }

  /// The range that begins at `offset`.
  std::optional<Range> find(std::size_t offset) const {
    const std::optional<Range> found = first_overlap(offset, 1);
    return found && found->begin == offset ? found : std::nullopt;
  }

  /// The lowest range that overlaps [offset, offset + bytes).
  std::optional<Range> first_overlap(std::size_t offset, std::size_t bytes) const {
    Index found = none;
    for (Index at = root_; at != none;) {
      if (nodes_[at].range.end > offset) {
        found = at;
        at = nodes_[at].left;
      } else {
        at = nodes_[at].right;
      }
    }
    if (found == none || nodes_[found].range.begin >= offset + bytes) return std::nullopt;
    return nodes_[found].range;
  }

  /// Whether no range overlaps [offset, offset + bytes).
  bool is_free(std::size_t offset, std::size_t bytes) const { return !first_overlap(offset, bytes); }

  /// The lowest offset that `bytes` fit at, without any bound.
  std::size_t lowest(std::size_t bytes) const {
    if (root_ == none || nodes_[root_].first >= bytes) return 0;
    if (nodes_[root_].gap < bytes) return nodes_[root_].last;
    for (Index at = root_;;) {
      const Node& node = nodes_[at];
      if (node.left != none && nodes_[node.left].gap >= bytes) {
        at = node.left;
      } else if (gap_before(node) >= bytes) {
        return nodes_[node.left].last;
      } else if (gap_after(node) >= bytes) {
        return node.range.end;
      } else {
        at = node.right;
      }
    }
  }

  /// The highest offset that `bytes` fit at below `capacity`.
  std::optional<std::size_t> highest(std::size_t bytes, std::size_t capacity) const {
    if (top() <= capacity && capacity - top() >= bytes) return capacity - bytes;
    if (root_ == none) return std::nullopt;
    if (nodes_[root_].gap < bytes) {
      return nodes_[root_].first >= bytes ? std::optional{nodes_[root_].first - bytes} : std::nullopt;
    }
    for (Index at = root_;;) {
      const Node& node = nodes_[at];
      if (node.right != none && nodes_[node.right].gap >= bytes) {
        at = node.right;
      } else if (gap_after(node) >= bytes) {
        return nodes_[node.right].first - bytes;
      } else if (gap_before(node) >= bytes) {
        return node.range.begin - bytes;
      } else {
        at = node.left;
      }
    }
  }

  /// The end of the highest range.
  std::size_t top() const noexcept { return root_ == none ? 0 : nodes_[root_].last; }

  /// Bytes of the largest gap below `capacity`.
  std::size_t largest_gap(std::size_t capacity) const {
    const std::size_t above = capacity - std::min(capacity, top());
    return root_ == none ? above : std::max({above, nodes_[root_].first, nodes_[root_].gap});
  }

  /// Nodes that insertions and removals have visited so far: their cost in steps.
  std::size_t steps() const noexcept { return steps_; }

 private:
  using Index = std::uint32_t;
  static constexpr Index none = std::numeric_limits<Index>::max();

  struct Node {
    Range range;
    std::size_t first, last;  ///< Of the subtree: where its lowest range begins, and its highest ends.
    std::size_t gap;          ///< The largest gap between two neighbours of the subtree, or 0.
    Index left, right;
    Index priority;  ///< No less than those of the nodes beneath.
  };

  static Index hash(std::size_t offset) {
    std::uint64_t x = std::uint64_t{offset} + 0x9e3779b97f4a7c15U;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return static_cast<Index>(x >> 32);
  }

  Index make_node(Range range) {
    const Node node{range, range.begin, range.end, 0, none, none, hash(range.begin)};
    if (free_.empty()) {
      nodes_.push_back(node);
      return static_cast<Index>(nodes_.size() - 1);
    }
    const Index index = free_.back();
    free_.pop_back();
    nodes_[index] = node;
    return index;
  }

  /// 0 if nothing lies before it in its subtree.
  std::size_t gap_before(const Node& node) const {
    return node.left == none ? 0 : node.range.begin - nodes_[node.left].last;
  }
  std::size_t gap_after(const Node& node) const {
    return node.right == none ? 0 : nodes_[node.right].first - node.range.end;
  }

  void update(Index index) {
    ++steps_;
    Node& node = nodes_[index];
    node.first = node.left == none ? node.range.begin : nodes_[node.left].first;
    node.last = node.right == none ? node.range.end : nodes_[node.right].last;
    node.gap = std::max(gap_before(node), gap_after(node));
    if (node.left != none) node.gap = std::max(node.gap, nodes_[node.left].gap);
    if (node.right != none) node.gap = std::max(node.gap, nodes_[node.right].gap);
  }

  /// @return The root of the subtree at `at` with `added` in it.
  Index insert_below(Index at, Index added) {
    if (at == none) return added;
    if (nodes_[added].priority > nodes_[at].priority) {
      split(at, nodes_[added].range.begin, nodes_[added].left, nodes_[added].right);
      update(added);
      return added;
    }
    Index& child = nodes_[added].range.begin < nodes_[at].range.begin ? nodes_[at].left : nodes_[at].right;
    child = insert_below(child, added);
    update(at);
    return at;
  }

  Index erase_below(Index at, std::size_t offset, std::size_t& bytes) {
    Node& node = nodes_[at];
    if (node.range.begin == offset) {
      bytes = node.range.end - node.range.begin;
      free_.push_back(at);
      return merge(node.left, node.right);
    }
    Index& child = offset < node.range.begin ? node.left : node.right;
    child = erase_below(child, offset, bytes);
    update(at);
    return at;
  }

  /// Parts a subtree into what begins below `offset` and the rest.
  void split(Index at, std::size_t offset, Index& below, Index& rest) {
    if (at == none) {
      below = rest = none;
      return;
    }
    if (nodes_[at].range.begin < offset) {
      below = at;
      split(nodes_[at].right, offset, nodes_[at].right, rest);
    } else {
      rest = at;
      split(nodes_[at].left, offset, below, nodes_[at].left);
    }
    update(at);
  }

  /// @return The root of both subtrees together; everything in `low` lies below `high`.
  Index merge(Index low, Index high) {
    if (low == none) return high;
    if (high == none) return low;
    if (nodes_[low].priority >= nodes_[high].priority) {
      nodes_[low].right = merge(nodes_[low].right, high);
      update(low);
      return low;
    }
    nodes_[high].left = merge(low, nodes_[high].left);
    update(high);
    return high;
  }

  std::vector<Node> nodes_;
  std::vector<Index> free_;  ///< Nodes that are not used.
  Index root_ = none;
  std::size_t steps_ = 0;
};

}  // namespace zerospan::inline v0::detail
