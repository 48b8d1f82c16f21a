/// @file
/// CheckpointLeases: which checkpoints are leased, and where they are.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include <zerospan/activation/detail/checkpoint.hpp>
#include <zerospan/activation/detail/checkpoint_store.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/pipeline/detail/address_ranges.hpp>

namespace zerospan::inline v0::detail {

struct HeldCheckpoint {
  enum class Kind : std::uint8_t { pushed, popped };

  Checkpoint checkpoint;
  StreamRef stream;
  Kind kind;
};

class CheckpointLeases {
 public:
  CheckpointId add(HeldCheckpoint held) {
    const CheckpointId id{next_++};
    ranges_.insert(held.checkpoint.offset, held.checkpoint.device_bytes());
    held_.emplace(id, std::move(held));
    return id;
  }

  /// @return What was held; nothing if the lease has ended before.
  std::optional<HeldCheckpoint> end(CheckpointId id) {
    const auto node = held_.extract(id);
    if (node.empty()) return std::nullopt;
    ranges_.erase(node.mapped().checkpoint.offset);
    return std::move(node.mapped());
  }

  /// nullptr if the lease has ended.
  const HeldCheckpoint* find(CheckpointId id) const {
    const auto found = held_.find(id);
    return found != held_.end() ? &found->second : nullptr;
  }

  bool empty() const noexcept { return held_.empty(); }

  /// Of device memory.
  const AddressRanges& ranges() const noexcept { return ranges_; }

  /// "a checkpoint of float32 [8] being written, a checkpoint of float32 [4] being read", or nothing.
  std::string describe() const {
    std::string text;
    for (const auto& [id, held] : held_) {
      text += text.empty() ? "" : ", ";
      text += detail::describe(held.checkpoint);
      text += held.kind == HeldCheckpoint::Kind::pushed ? " being written" : " being read";
    }
    return text;
  }

 private:
  std::map<CheckpointId, HeldCheckpoint> held_;
  AddressRanges ranges_;
  std::uint64_t next_ = 0;
};

}  // namespace zerospan::inline v0::detail
