/// @file
/// ReadAccess: which parameters are whole now, and for how many readers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/engine/detail/engine_core.hpp>
#include <zerospan/engine/detail/gather_path.hpp>
#include <zerospan/engine/detail/lease_table.hpp>
#include <zerospan/pipeline/detail/overlap_pipeline.hpp>

namespace zerospan::inline v0::detail {

/// Counts the readers of each parameter. The first of them brings it (with what is gathered beside it, as one buffer);
/// the buffer goes when all of its readers have.
template <TrainingCommunicator C, Device D>
class ReadAccess {
 public:
  ReadAccess(EngineCore<C, D>& core, GatherPath<C, D>& gathers, const LeaseTable& leases)
      : core_{core}, gathers_{gathers}, leases_{leases} {}

  /// Adds a reader to each of `parameters`. @throws BudgetError, before anything has changed.
  void acquire(OverlapPipeline& pipeline, StreamRef stream, std::span<const std::size_t> parameters) {
    readers_.resize(core_.states.parameters.size());
    std::vector<std::size_t> missing;
    for (const std::size_t p : parameters) {
      const bool is_whole = core_.states.parameters[p].residence == Residence::replicated || readers_[p].data;
      if (!is_whole && std::ranges::find(missing, p) == missing.end()) missing.push_back(p);
    }
    if (!missing.empty()) bring(pipeline, stream, std::move(missing));
    for (const std::size_t p : parameters) {
      ++readers_[p].count;
      if (readers_[p].data) ++buffers_.at(readers_[p].offset).readers;
    }
  }

  /// Where a parameter that has readers is.
  std::byte* data(std::size_t parameter) {
    const Readers& readers = readers_[parameter];
    return readers.data ? readers.data : core_.replica_of(core_.states.parameters[parameter]);
  }

  /// Whether the parameter has readers, or its values are kept because what it was gathered with has.
  bool is_gathered(std::size_t parameter) const {
    return parameter < readers_.size() && (readers_[parameter].count > 0 || readers_[parameter].data);
  }

  /// Takes a reader away; `last_use` is the end of what it has enqueued.
  void release(OverlapPipeline& pipeline, std::size_t parameter, Completion last_use) {
    Readers& readers = readers_[parameter];
    --readers.count;
    if (!readers.data) return;
    const auto buffer = buffers_.find(readers.offset);
    buffer->second.last_uses.push_back(std::move(last_use));
    if (--buffer->second.readers > 0) return;
    for (const std::size_t p : buffer->second.parameters) readers_[p].data = nullptr;
    const Buffer ended = std::move(buffer->second);
    buffers_.erase(buffer);
    pipeline.release(readers.offset, ended.last_uses);
  }

 private:
  struct Readers {
    std::size_t count = 0;
    std::byte* data = nullptr;  ///< nullptr: not gathered.
    std::size_t offset = 0;     ///< Of the buffer, in working memory.
  };

  struct Buffer {
    std::vector<std::size_t> parameters;
    std::size_t readers = 0;
    std::vector<Completion> last_uses;
  };

  void bring(OverlapPipeline& pipeline, StreamRef stream, std::vector<std::size_t> parameters) {
    const UseKey key = gathers_.key_of(parameters);
    const auto buffer = pipeline.acquire(key, gathers_.bytes(key));
    if (!buffer) leases_.refuse("the gather of " + gathers_.name(key), gathers_.bytes(key), pipeline);
    for (const Completion& ready : buffer->ready) {
      core_.lanes.wait(stream, ready, {OperationKind::all_gather, gathers_.name(key)});
    }
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      readers_[parameters[i]].data = buffer->data + gathers_.offsets(key)[i];
      readers_[parameters[i]].offset = buffer->offset;
    }
    buffers_.emplace(buffer->offset, Buffer{std::move(parameters), 0, {}});
  }

  EngineCore<C, D>& core_;
  GatherPath<C, D>& gathers_;
  const LeaseTable& leases_;
  std::vector<Readers> readers_;
  std::map<std::size_t, Buffer> buffers_;
};

}  // namespace zerospan::inline v0::detail
