/// @file
/// StatesLinker: has the files linked that states rest in.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/checkpoint/checkpoint_files.hpp>
#include <zerospan/checkpoint/detail/checkpoint_directory.hpp>
#include <zerospan/checkpoint/detail/manifest.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/engine/detail/engine_description.hpp>
#include <zerospan/tier/linkable_extents.hpp>

namespace zerospan::inline v0::detail {

/// The names of one rank's linked files in a checkpoint.
class LinkedNames final : public FileNaming {
 public:
  /// @param paths Those that it has already; new ones are added.
  LinkedNames(CheckpointFiles& files, const CheckpointDirectory& directory, const CheckpointName& checkpoint,
              std::size_t rank, std::vector<std::string>& paths)
      : files_{files}, directory_{directory}, checkpoint_{checkpoint}, rank_{rank}, paths_{paths} {}

  bool can_name(int descriptor) override { return files_.can_link(descriptor, directory_.path_of(checkpoint_)); }

  bool name(int descriptor) override {
    std::string path = directory_.linked_of(checkpoint_, rank_, paths_.size() + 1);
    if (!files_.link(descriptor, path)) return false;
    paths_.push_back(std::move(path));
    return true;
  }

 private:
  CheckpointFiles& files_;
  const CheckpointDirectory& directory_;
  CheckpointName checkpoint_;
  std::size_t rank_;
  std::vector<std::string>& paths_;
};

/// Has the files of tiers linked that states rest in, and lists in a part what is where.
class StatesLinker {
 public:
  StatesLinker(const EngineDescription& model, Part& part) : model_{model}, part_{part} {}

  /// Whether its files could be the checkpoint's: what trains is written elsewhere by the next step in any case. A file
  /// with something that is frozen would be kept for as long as there are checkpoints, with all else that was in it.
  static bool can_link(const EngineDescription& model, const StatesPlace& place) {
    const auto is_in_file = [](const StatesPlace::Component& each) { return each.tier.linkable() != nullptr; };
    return std::ranges::all_of(place.components, is_in_file) &&
           model.parameters[place.parameter].training == Training::trainable;
  }

  /// @return Of each place, whether all of it is in files that have been linked. @throws IoError
  std::vector<bool> link(std::span<const StatesPlace> places, FileNaming& names) {
    std::vector<LinkableExtents*> tiers;  // of all places, in their order
    std::map<LinkableExtents*, std::map<std::uint64_t, std::size_t>> sizes;  // of extents, by their offsets
    for (const StatesPlace& place : places) {
      if (!can_link(model_, place)) continue;
      for (const auto& [tier, extent, offset, width, on_host] : place.components) {
        LinkableExtents* const files = tier.linkable();
        if (std::ranges::find(tiers, files) == tiers.end()) tiers.push_back(files);
        sizes[files].emplace(extent.offset, extent.bytes);  // some are of several places
      }
    }
    std::map<LinkableExtents*, LinkedOfTier> linked;
    for (LinkableExtents* const tier : tiers) {
      std::vector<Extent> extents;
      for (const auto& [offset, bytes] : sizes[tier]) extents.push_back({offset, bytes});
      LinkedExtents of_tier = tier->link(extents, &checksum_of_bytes, names);
      linked[tier] = {std::move(of_tier.ranges), part_.files.size() + 1};
      for (LinkedFile& file : of_tier.files) part_.files.push_back(std::move(file));
    }
    std::vector<bool> are_linked;
    for (const StatesPlace& place : places) are_linked.push_back(can_link(model_, place) && list(place, linked));
    return are_linked;
  }

  /// Of all that has been linked.
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  struct LinkedOfTier {
    std::vector<LinkedRange> ranges;
    std::size_t first_file;  ///< The number of the first of them, among the rank's.
  };

  static std::uint64_t checksum_of_bytes(std::span<const std::byte> bytes) noexcept { return checksum(bytes); }

  /// Lists a place, if all of it was linked.
  bool list(const StatesPlace& place, const std::map<LinkableExtents*, LinkedOfTier>& tiers) {
    std::vector<std::vector<StoredExtent>> components(place.components.size());
    std::size_t bytes = 0;
    for (std::size_t c = 0; c < components.size(); ++c) {
      const auto& [tier, extent, offset_in_extent, width, on_host] = place.components[c];
      const LinkedOfTier& linked = tiers.at(tier.linkable());
      const std::uint64_t begin = extent.offset + offset_in_extent;
      const std::uint64_t end = begin + width.of(place.range.elements);
      const auto offset = [](const LinkedRange& range) { return range.range.offset; };
      auto next = std::ranges::upper_bound(linked.ranges, begin, {}, offset);
      if (next == linked.ranges.begin()) return false;
      std::uint64_t done = begin;
      for (--next; next != linked.ranges.end() && next->range.offset <= done && done < end; ++next) {
        const std::uint64_t until = std::min(end, next->range.offset + next->range.bytes);
        if (until <= done) return false;
        const std::uint64_t first = width.elements_in(done - begin);
        const std::uint64_t elements = until == end ? place.range.elements - first : width.elements_in(until - done);
        components[c].push_back({place.range.first + first, elements, done, 0, linked.first_file + next->file});
        done = until;
      }
      if (done < end) return false;
      bytes += static_cast<std::size_t>(end - begin);
    }
    part_.pieces.push_back({model_.parameters[place.parameter].name, std::move(components)});
    bytes_ += bytes;
    return true;
  }

  const EngineDescription& model_;
  Part& part_;
  std::size_t bytes_ = 0;
};

}  // namespace zerospan::inline v0::detail
