/// @file
/// FakeNccl: an NcclLayer for tests. Ranks are threads, streams are threads of their own, and messages go through
/// queues; like the real one, what is enqueued is not done, what has no partner hangs until it is aborted, and no rank
/// learns of another one's end.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "support/fake_clique.hpp"
#include "support/fake_operations.hpp"
#include "support/fake_stream.hpp"

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/nccl_layer.hpp>
#include <zerospan/comm/rank_order_sum.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

namespace fake {

using zerospan::element_bytes;
using zerospan::ElementType;
using zerospan::Reduction;

/// Splitting and not: what older versions of NCCL lack.
template <bool Splits>
class BasicApi {
 public:
  using Communicator = fake::Communicator*;
  using Event = fake::Event*;
  struct UniqueId {
    std::uint64_t number;
  };
  static constexpr bool splits = Splits;
  static constexpr bool registers = Splits;

  explicit BasicApi(std::shared_ptr<World> world) : world_{std::move(world)} {}

  NcclResult make_unique_id(UniqueId& id) {
    const std::scoped_lock lock{world_->mutex};
    id.number = ++world_->ids;
    return NcclResult::success;
  }

  NcclResult create(Communicator& communicator, int size, const UniqueId& id, Rank rank) {
    const std::scoped_lock lock{world_->mutex};
    auto& clique = world_->cliques[id.number];
    if (!clique) clique = std::make_shared<Clique>(size);
    communicator = join(clique, rank);
    return begin(communicator);
  }

  NcclResult split(Communicator parent, Rank rank, Communicator& child) {
    const std::scoped_lock lock{world_->mutex};
    auto& clique = world_->splits[{parent->clique.get(), world_->split_counts[parent]++}];
    if (!clique) clique = std::make_shared<Clique>(parent->clique->size);
    child = join(clique, rank);
    begin(child);
    return begin(parent);
  }

  NcclResult place(Communicator communicator, Rank& rank, int& size) {
    rank = communicator->rank;
    size = communicator->clique->size;
    return NcclResult::success;
  }

  NcclResult state_of(Communicator communicator, NcclResult& state) {
    std::vector<std::function<void()>> launches;
    {
      const std::scoped_lock lock{communicator->clique->mutex};
      state = communicator->error;
      if (communicator->polls > 0 && --communicator->polls > 0) {
        state = NcclResult::in_progress;
        return NcclResult::success;
      }
      launches.swap(communicator->launches);
    }
    for (const auto& launch : launches) launch();
    return NcclResult::success;
  }

  NcclResult finalize(Communicator communicator) { return begin(communicator); }
  NcclResult destroy(Communicator communicator) { return end(communicator); }
  NcclResult abort(Communicator communicator) {
    ++world_->aborts;
    return end(communicator);
  }

  NcclResult register_memory(Communicator communicator, std::byte* data, std::size_t bytes, void*& handle) {
    const std::scoped_lock lock{communicator->clique->mutex};
    ++world_->registrations;
    communicator->registered[handle = data] = bytes;
    return NcclResult::success;
  }
  NcclResult deregister_memory(Communicator communicator, void* handle) {
    const std::scoped_lock lock{communicator->clique->mutex};
    world_->registrations -= static_cast<int>(communicator->registered.erase(handle));
    return NcclResult::success;
  }

  std::string describe(NcclResult, Communicator) { return "a fake error"; }

  NcclResult begin_group() {
    group().clear();
    return NcclResult::success;
  }

  NcclResult end_group() {
    if (world_->groups++ == world_->failing_group) return NcclResult::system_error;
    if (group().empty()) return NcclResult::success;
    auto calls = std::move(group());
    const Communicator communicator = calls.front().communicator;
    const StreamRef stream = calls.front().stream;
    auto work = [communicator, stream, operations = std::make_shared<std::vector<Call>>(std::move(calls))] {
      Stream::of(stream).enqueue([communicator, operations] { execute(*communicator, *operations); });
    };
    const std::scoped_lock lock{communicator->clique->mutex};
    if (world_->polls == 0) {
      work();
      return NcclResult::success;
    }
    communicator->launches.push_back(std::move(work));
    communicator->polls = world_->polls;
    return NcclResult::in_progress;
  }

  NcclResult all_gather(Communicator c, std::byte* buffer, std::size_t shard, Rank, StreamRef stream) {
    return add(c, stream, gather(*c, buffer, shard));
  }
  NcclResult reduce_scatter(Communicator c, const Reduction& r, StreamRef stream) {
    const std::size_t bytes = r.elements * element_bytes(r.input_type);
    const auto shard = [bytes](int rank) { return static_cast<std::size_t>(rank) * bytes; };
    return add(c, stream, sum(*c, r, shard, [](int) { return true; }));
  }
  NcclResult reduce(Communicator c, const Reduction& r, Rank root, StreamRef stream) {
    return add(c, stream, sum(*c, r, all_from_the_start, [root](int rank) { return rank == root.value; }));
  }
  NcclResult all_reduce(Communicator c, const Reduction& r, StreamRef stream) {
    return add(c, stream, sum(*c, r, all_from_the_start, [](int) { return true; }));
  }
  NcclResult all_reduce(Communicator c, std::int64_t* integers, std::size_t count, StreamRef stream) {
    return add(c, stream, sum_integers(*c, integers, count));
  }
  NcclResult broadcast(Communicator c, std::byte* data, std::size_t bytes, Rank root, StreamRef stream) {
    return add(c, stream, spread(*c, data, bytes, root));
  }
  NcclResult send(Communicator c, const std::byte* data, std::size_t bytes, Rank to, StreamRef stream) {
    Operation operation;
    operation.sends.push_back({to.value, const_cast<std::byte*>(data), bytes});
    return add(c, stream, std::move(operation));
  }
  NcclResult receive(Communicator c, std::byte* data, std::size_t bytes, Rank from, StreamRef stream) {
    Operation operation;
    operation.receives.push_back({from.value, data, bytes});
    return add(c, stream, std::move(operation));
  }

  int device() { return current_device(); }
  void use_device(int ordinal) { current_device() = ordinal; }

  Event make_event() {
    ++world_->events;
    return new fake::Event;
  }
  void destroy_event(Event event) noexcept {
    --world_->events;
    delete event;
  }
  void record(Event event, StreamRef stream) {
    const int time = ++event->times->recorded;
    streams_->at(stream).enqueue([times = event->times, time] {
      times->reached = time;
      times->reached.notify_all();
    });
  }
  bool is_done(Event event) { return event->times->reached == event->times->recorded; }
  void wait(StreamRef stream, Event event) {
    streams_->at(stream).enqueue([times = event->times, time = event->times->recorded.load()] {
      for (int reached = times->reached; reached < time; reached = times->reached) times->reached.wait(reached);
    });
  }

  std::byte* allocate_device(std::size_t bytes) {
    ++world_->device_allocations;
    return static_cast<std::byte*>(std::malloc(bytes));
  }
  void free_device(std::byte* data) noexcept {
    streams_->synchronize();
    --world_->device_allocations;
    std::free(data);
  }
  std::byte* allocate_pinned(std::size_t bytes) {
    ++world_->pinned_allocations;
    return static_cast<std::byte*>(std::malloc(bytes));
  }
  void free_pinned(std::byte* data) noexcept {
    streams_->synchronize();
    --world_->pinned_allocations;
    std::free(data);
  }

  void copy(StreamRef stream, std::byte* target, const std::byte* source, std::size_t bytes) {
    streams_->at(stream).enqueue([target, source, bytes] { std::memcpy(target, source, bytes); });
  }
  void sum_in_rank_order(StreamRef stream, std::span<const std::byte* const> inputs, ElementType input_type,
                         std::byte* output, ElementType output_type, std::size_t elements) {
    streams_->at(stream).enqueue([=, copies = std::vector<const std::byte*>(inputs.begin(), inputs.end())] {
      zerospan::rank_order_sum(copies, input_type, output, output_type, elements);
    });
  }

 private:
  static int& current_device() {
    thread_local int ordinal = 0;
    return ordinal;
  }
  static std::vector<Call>& group() {
    thread_local std::vector<Call> calls;
    return calls;
  }

  NcclResult add(Communicator communicator, StreamRef stream, Operation operation) {
    group().push_back({communicator, stream, std::move(operation)});
    return NcclResult::success;
  }

  /// The caller holds the world's mutex.
  Communicator join(const std::shared_ptr<Clique>& clique, Rank rank) {
    ++world_->communicators;
    auto& made = world_->all.emplace_back(std::make_unique<fake::Communicator>());
    made->clique = clique;
    made->rank = rank;
    return made.get();
  }

  NcclResult begin(Communicator communicator) {
    const std::scoped_lock lock{communicator->clique->mutex};
    communicator->polls = world_->polls;
    return world_->polls == 0 ? NcclResult::success : NcclResult::in_progress;
  }

  NcclResult end(Communicator communicator) {
    --world_->communicators;
    const std::scoped_lock lock{communicator->clique->mutex};
    communicator->aborted = true;
    communicator->clique->changed.notify_all();
    return NcclResult::success;
  }

  std::shared_ptr<World> world_;
  std::shared_ptr<Streams> streams_ = std::make_shared<Streams>();  // of one rank
};

using Api = BasicApi<true>;
using ApiWithoutSplits = BasicApi<false>;

static_assert(zerospan::NcclLayer<Api> && zerospan::NcclLayer<ApiWithoutSplits>);

}  // namespace fake
