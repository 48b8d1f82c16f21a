/// @file
/// fake::Api: an NcclLayer for tests. Ranks are threads, each with a FakeGpu, and messages go through queues; like the
/// real one, what is enqueued is not done, what has no partner hangs until it is aborted, and no rank learns of another
/// one's end.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "support/fake_cuda.hpp"
#include "support/fake_gpu_runtime.hpp"
#include "support/fake_nccl_clique.hpp"
#include "support/fake_nccl_operations.hpp"

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/nccl/basic_nccl_communicator.hpp>
#include <zerospan/comm/detail/nccl/nccl_layer.hpp>
#include <zerospan/comm/nccl_options.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

namespace fake {

using zerospan::element_bytes;
using zerospan::Reduction;
using zerospan::StreamRef;
using zerospan_test::FakeStream;

/// Splitting and not: what older versions of NCCL lack.
template <bool Splits>
class BasicApi {
 public:
  using Runtime = fake::Runtime;
  /// Of the fake devices of a thread, each is current.
  struct CurrentDevice {
    explicit CurrentDevice(int) {}
    ~CurrentDevice() {}
  };
  using Communicator = fake::Communicator*;
  struct UniqueId {
    std::uint64_t number;
  };
  static constexpr bool splits = Splits;
  static constexpr bool registers = Splits;

  BasicApi(std::shared_ptr<World> world, std::shared_ptr<FakeGpu> gpu) : runtime_{std::move(world), std::move(gpu)} {}

  Runtime& runtime() { return runtime_; }
  int device() const { return 0; }

  zerospan::detail::NcclResult make_unique_id(UniqueId& id) {
    const std::scoped_lock lock{world().mutex};
    id.number = ++world().ids;
    return zerospan::detail::NcclResult::success;
  }

  zerospan::detail::NcclResult create(Communicator& communicator, int size, const UniqueId& id, Rank rank) {
    const std::scoped_lock lock{world().mutex};
    auto& clique = world().cliques[id.number];
    if (!clique) clique = std::make_shared<Clique>(size);
    communicator = join(clique, rank);
    return begin(communicator);
  }

  zerospan::detail::NcclResult split(Communicator parent, int color, Rank rank, Communicator& child) {
    const std::scoped_lock lock{world().mutex};
    const int ranks = parent->clique->size;
    auto& split = world().splits[{parent->clique.get(), world().split_counts[parent]++}];
    if (!split) split = std::make_shared<Split>(ranks);
    auto& clique = split->groups[color];
    if (!clique) clique = std::make_shared<Clique>(0, ranks);
    ++clique->size;
    child = join(clique, rank);
    child->split = split;
    begin(child);
    begin(parent);
    const std::scoped_lock guard{parent->clique->mutex};
    parent->split = split;
    ++split->arrived;
    return zerospan::detail::NcclResult::in_progress;
  }

  zerospan::detail::NcclResult place(Communicator communicator, Rank& rank, int& size) {
    rank = communicator->rank;
    size = communicator->clique->size;
    return zerospan::detail::NcclResult::success;
  }

  zerospan::detail::NcclResult state_of(Communicator communicator, zerospan::detail::NcclResult& state) {
    std::vector<std::function<void()>> launches;
    {
      const std::scoped_lock lock{communicator->clique->mutex};
      state = communicator->error;
      const bool waits =
          communicator->split && !communicator->split->is_over() && state == zerospan::detail::NcclResult::success;
      if (waits || (communicator->polls > 0 && --communicator->polls > 0)) {
        state = zerospan::detail::NcclResult::in_progress;
        return zerospan::detail::NcclResult::success;
      }
      launches.swap(communicator->launches);
    }
    for (const auto& launch : launches) launch();
    return zerospan::detail::NcclResult::success;
  }

  zerospan::detail::NcclResult finalize(Communicator communicator) { return begin(communicator); }
  zerospan::detail::NcclResult destroy(Communicator communicator) { return end(communicator); }
  zerospan::detail::NcclResult abort(Communicator communicator) {
    ++world().aborts;
    {
      const std::scoped_lock lock{communicator->clique->mutex};
      world().registrations -= static_cast<int>(communicator->registered.size());
      communicator->registered.clear();
    }
    return end(communicator);
  }

  zerospan::detail::NcclResult register_memory(Communicator communicator, std::byte* data, std::size_t bytes,
                                               void*& handle) {
    const std::scoped_lock lock{communicator->clique->mutex};
    ++world().registrations;
    communicator->registered[handle = data] = bytes;
    return zerospan::detail::NcclResult::success;
  }
  zerospan::detail::NcclResult deregister_memory(Communicator communicator, void* handle) {
    const std::scoped_lock lock{communicator->clique->mutex};
    world().registrations -= static_cast<int>(communicator->registered.erase(handle));
    return zerospan::detail::NcclResult::success;
  }

  std::string describe(zerospan::detail::NcclResult, Communicator) { return "a fake error"; }

  zerospan::detail::NcclResult begin_group() {
    group().clear();
    return zerospan::detail::NcclResult::success;
  }

  zerospan::detail::NcclResult end_group() {
    if (world().groups++ == world().failing_group) return zerospan::detail::NcclResult::system_error;
    if (group().empty()) return zerospan::detail::NcclResult::success;
    auto calls = std::move(group());
    const Communicator communicator = calls.front().communicator;
    const StreamRef stream = calls.front().stream;
    auto work = [communicator, stream, operations = std::make_shared<std::vector<Call>>(std::move(calls))] {
      FakeStream{stream}.enqueue([communicator, operations] { execute(*communicator, *operations); });
    };
    const std::scoped_lock lock{communicator->clique->mutex};
    if (world().polls == 0) {
      work();
      return zerospan::detail::NcclResult::success;
    }
    communicator->launches.push_back(std::move(work));
    communicator->polls = world().polls;
    return zerospan::detail::NcclResult::in_progress;
  }

  zerospan::detail::NcclResult all_gather(Communicator c, std::byte* buffer, std::size_t shard, Rank,
                                          StreamRef stream) {
    return add(c, stream, gather(*c, at(stream, buffer), shard));
  }
  zerospan::detail::NcclResult reduce_scatter(Communicator c, const Reduction& r, StreamRef stream) {
    const std::size_t bytes = r.elements * element_bytes(r.input_type);
    const auto shard = [bytes](int rank) { return static_cast<std::size_t>(rank) * bytes; };
    return add(c, stream, sum(*c, at(stream, r), shard, [](int) { return true; }));
  }
  zerospan::detail::NcclResult reduce(Communicator c, const Reduction& r, Rank root, StreamRef stream) {
    const auto is_root = [root](int rank) { return rank == root.value; };
    return add(c, stream, sum(*c, at(stream, r), all_from_the_start, is_root));
  }
  zerospan::detail::NcclResult all_reduce(Communicator c, const Reduction& r, StreamRef stream) {
    return add(c, stream, sum(*c, at(stream, r), all_from_the_start, [](int) { return true; }));
  }
  zerospan::detail::NcclResult all_reduce(Communicator c, std::int64_t* integers, std::size_t count, StreamRef stream) {
    return add(c, stream, sum_integers(*c, at(stream, integers), count));
  }
  zerospan::detail::NcclResult broadcast(Communicator c, std::byte* data, std::size_t bytes, Rank root,
                                         StreamRef stream) {
    return add(c, stream, spread(*c, at(stream, data), bytes, root));
  }
  zerospan::detail::NcclResult send(Communicator c, const std::byte* data, std::size_t bytes, Rank to,
                                    StreamRef stream) {
    Operation operation;
    operation.sends.push_back({to.value, const_cast<std::byte*>(at(stream, data)), bytes});
    return add(c, stream, std::move(operation));
  }
  zerospan::detail::NcclResult receive(Communicator c, std::byte* data, std::size_t bytes, Rank from,
                                       StreamRef stream) {
    Operation operation;
    operation.receives.push_back({from.value, at(stream, data), bytes});
    return add(c, stream, std::move(operation));
  }

 private:
  World& world() const { return runtime_.world(); }

  static std::vector<Call>& group() {
    thread_local std::vector<Call> calls;
    return calls;
  }

  template <class T>
  static T* at(StreamRef stream, T* pointer) {
    return FakeStream{stream}.gpu().at(pointer);
  }
  static Reduction at(StreamRef stream, Reduction reduction) {
    reduction.input = at(stream, reduction.input);
    reduction.output = at(stream, reduction.output);
    return reduction;
  }

  zerospan::detail::NcclResult add(Communicator communicator, StreamRef stream, Operation operation) {
    group().push_back({communicator, stream, std::move(operation)});
    return zerospan::detail::NcclResult::success;
  }

  /// The caller holds the world's mutex.
  Communicator join(const std::shared_ptr<Clique>& clique, Rank rank) {
    ++world().communicators;
    auto& made = world().all.emplace_back(std::make_unique<fake::Communicator>());
    made->clique = clique;
    made->rank = rank;
    return made.get();
  }

  zerospan::detail::NcclResult begin(Communicator communicator) {
    const std::scoped_lock lock{communicator->clique->mutex};
    communicator->polls = world().polls;
    return world().polls == 0 ? zerospan::detail::NcclResult::success : zerospan::detail::NcclResult::in_progress;
  }

  zerospan::detail::NcclResult end(Communicator communicator) {
    --world().communicators;
    const std::scoped_lock lock{communicator->clique->mutex};
    communicator->aborted = true;
    communicator->clique->changed.notify_all();
    return zerospan::detail::NcclResult::success;
  }

  Runtime runtime_;
};

using Api = BasicApi<true>;
using ApiWithoutSplits = BasicApi<false>;

static_assert(zerospan::detail::NcclLayer<Api> && zerospan::detail::NcclLayer<ApiWithoutSplits>);

}  // namespace fake

namespace zerospan_test {

template <class Api = fake::Api>
using FakeNccl = zerospan::detail::BasicNcclCommunicator<Api>;

/// What nobody should have to wait for.
inline constexpr zerospan::NcclOptions patient{.timeout = std::chrono::minutes{10},
                                               .poll = std::chrono::milliseconds{1}};

}  // namespace zerospan_test
