/// @file
/// Recording: what one simulated rank has posted, in as little memory as it takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/device/operation.hpp>
#include <zerospan/sim/detail/fluid_links.hpp>

namespace zerospan::inline v0::sim::detail {

using RouteId = std::uint32_t;
using GroupId = std::uint32_t;

/// Part of an item: bytes that flow over the links of a route, and then some time. With a group, it begins when every
/// rank of the group has come to it, and the flow is over the routes of all of them.
struct Part {
  double bytes = 0;
  double seconds = 0;
  RouteId route = none;
  GroupId group = none;
};

/// Who runs an item, and who waits for it.
enum class Runner : std::uint8_t {
  host,      ///< The host's thread, which goes on when it ends.
  stream,    ///< The host's stream: the thread has gone on.
  lane,      ///< A lane's thread.
  enqueued,  ///< A lane's stream; the lane's thread goes on.
  transfer,  ///< Asynchronous: the lane's thread goes on, requests of a lane are served one after the other.
};

struct Item {
  double bytes = 0;  ///< For the reader.
  OperationKind kind = OperationKind::compute;
  Runner runner = Runner::host;
  std::uint8_t lane = 0;
  std::uint8_t lanes = 0;  ///< Which of the rank's lanes: those of one engine are one set.

  std::uint32_t name = 0;
  std::uint32_t first_after = 0;
  std::uint32_t after = 0;
  std::uint32_t first_part = 0;
  std::uint32_t parts = 0;
};

/// The names of a rank's items, each once.
class Names {
 public:
  std::uint32_t number(std::string_view name) {
    if (const auto known = numbers_.find(name); known != numbers_.end()) return known->second;
    names_.emplace_back(name);
    const auto number = static_cast<std::uint32_t>(names_.size() - 1);
    numbers_.emplace(names_.back(), number);
    return number;
  }
  std::string_view operator[](std::uint32_t number) const { return names_[number]; }

 private:
  std::deque<std::string> names_;  // do not move
  std::unordered_map<std::string_view, std::uint32_t> numbers_;
};

/// Items in the order in which they were posted. An item is found again by its completion's ticket: its number plus 1.
class Recording {
 public:
  /// @return Its ticket.
  std::uint64_t add(Item item, std::string_view name, std::span<const Completion> after, std::span<const Part> parts) {
    item.name = names_->number(name);
    item.first_after = static_cast<std::uint32_t>(after_.size());
    for (const Completion& earlier : after) {
      if (earlier.ticket() > 0) after_.push_back(static_cast<std::uint32_t>(earlier.ticket() - 1));
    }
    item.after = static_cast<std::uint32_t>(after_.size()) - item.first_after;
    item.first_part = static_cast<std::uint32_t>(parts_.size());
    item.parts = static_cast<std::uint32_t>(parts.size());
    parts_.insert(parts_.end(), parts.begin(), parts.end());
    items_.push_back(item);
    return items_.size();
  }

  std::size_t size() const noexcept { return items_.size(); }
  const Item& operator[](std::size_t number) const { return items_[number]; }
  std::span<const std::uint32_t> after(const Item& item) const {
    return std::span{after_}.subspan(item.first_after, item.after);
  }
  std::span<const Part> parts(const Item& item) const { return std::span{parts_}.subspan(item.first_part, item.parts); }
  std::string_view name(const Item& item) const { return (*names_)[item.name]; }
  const std::shared_ptr<Names>& names() const noexcept { return names_; }

  std::uint8_t lane_sets = 0;

 private:
  std::vector<Item> items_;
  std::vector<std::uint32_t> after_;
  std::vector<Part> parts_;
  std::shared_ptr<Names> names_ = std::make_shared<Names>();
};

}  // namespace zerospan::inline v0::sim::detail
