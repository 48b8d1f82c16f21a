/// @file
/// TierCopies: copies between device memory and a range of an extent, in pieces that the staging memory holds.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/kernels/stream_operations.hpp>

namespace zerospan::inline v0::detail {

template <TrainingCommunicator C, Device D>
class TierCopies {
 public:
  explicit TierCopies(EngineCore<C, D>& core) : core_{core} {}

  /// @param after What the first write to `to` waits for.
  Completion read(const std::string& name, const Operand& range, std::byte* to, const std::vector<Completion>& after) {
    return post(name, range, after,
                [to](auto& stream, std::byte* in_tier, std::size_t done, std::size_t bytes) {
                  copy_bytes(stream, to + done, in_tier, bytes);
                })
        .work;
  }

  /// @param after What has written `from`. The work ends when `from` is read; the rest when it is all on the tier.
  PostedWork write(const std::string& name, const Operand& range, const std::byte* from,
                   const std::vector<Completion>& after) {
    return post(name, range, after, [from](auto& stream, std::byte* in_tier, std::size_t done, std::size_t bytes) {
      copy_bytes(stream, in_tier, from + done, bytes);
    });
  }

 private:
  template <class Copy>
  PostedWork post(const std::string& name, const Operand& range, const std::vector<Completion>& after, Copy copy) {
    PostedWork all;
    const std::size_t piece = core_.staging.piece_bytes(range.tier);
    for (std::size_t done = 0; done < range.bytes;) {
      Operand part = range;
      part.offset += done;
      part.bytes = std::min(piece, range.bytes - done);
      PostedWork posted =
          core_.staging.run(Lane::copy, {OperationKind::copy, name, part.bytes}, {&part, 1}, after,
                            [copy, done, bytes = part.bytes](auto& stream, std::span<std::byte* const> pointers) {
                              copy(stream, pointers[0], done, bytes);
                            });
      all.work = std::move(posted.work);  // the lane's work ends in order
      all.ends.insert(all.ends.end(), posted.ends.begin(), posted.ends.end());
      done += part.bytes;
    }
    return all;
  }

  EngineCore<C, D>& core_;
};

}  // namespace zerospan::inline v0::detail
