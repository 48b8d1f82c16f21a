/// @file
/// EngineCore: what the parts of an engine share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/completion.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/detail/mirrored_memory.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/engine/detail/model_states.hpp>
#include <zerospan/engine/detail/states_being_read.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/engine/stage.hpp>
#include <zerospan/pipeline/detail/staging.hpp>
#include <zerospan/tier/device_tier.hpp>
#include <zerospan/tier/offload_tier.hpp>

namespace zerospan::inline v0::detail {

/// The communicator, lanes, staging memory, placement and model states of one engine. What it does (gathers, gradients,
/// steps) is posted on it.
template <Device D>
struct EngineCore {
  using lanes_type = typename D::lanes_type;
  using stream_type = typename lanes_type::stream_type;
  using staging_type = Staging<lanes_type>;

  /// Elements that go between host and device at once, outside of a step.
  static constexpr std::size_t exchange_elements = 4096;

  AnyCommunicator communicator;
  std::optional<AnyCommunicator> aside;  ///< @see sum_aside
  Placement placement;
  EngineOptions options;
  StageRules stage;
  DeviceTier replicas;  ///< Where what is replicated rests.
  ModelStates states;
  MirroredMemory<D> exchange;              ///< Of `exchange_elements` floats.
  std::optional<MirroredMemory<D>> norms;  ///< The digits of each use's squared norm; from the end of declaration on.
  lanes_type lanes;
  staging_type staging;
  std::vector<std::shared_ptr<StatesBeingRead>> readers;  ///< Of states, while training goes on.

  EngineCore(AnyCommunicator duplicated, D& device, const Placement& where, const EngineOptions& how, StageRules rules)
      : communicator{std::move(duplicated)},
        placement{where},
        options{how},
        stage{rules},
        replicas{device},
        exchange{device, Bytes{exchange_elements * sizeof(float)}, "the memory for exports"},
        lanes{device, LaneOptions{Rank{static_cast<int>(place())}, how.timeout, how.timeline,
                                  [this](const std::string& reason) { communicator.abort(reason); }}},
        staging{lanes, device.host_memory().allocate(staging_bytes(device, where, how), "the staging memory")} {
    communicator.register_memory(device.memory().data(), device.memory().capacity());
    // Last: what throws after it would leave a listener without lanes.
    communicator.on_failure([this](const std::exception_ptr& error) { lanes.fail(error); });
  }

  EngineCore(const EngineCore&) = delete;
  EngineCore& operator=(const EngineCore&) = delete;
  ~EngineCore() { communicator.on_failure({}); }

  std::size_t rank() const { return static_cast<std::size_t>(communicator.rank().value); }
  std::size_t ranks() const { return static_cast<std::size_t>(communicator.size()); }

  /// Which replica of the shards this rank belongs to; 0 where there is one alone.
  std::size_t replica() const { return static_cast<std::size_t>(communicator.replica()); }

  /// Ranks whose gradients are summed: of all replicas.
  std::size_t contributors() const { return ranks() * static_cast<std::size_t>(communicator.replicas()); }

  /// Groups of near ranks; 1 where there are none.
  std::size_t groups() const { return static_cast<std::size_t>(communicator.groups()); }

  /// This rank's among the contributors.
  std::size_t place() const { return replica() * ranks() + rank(); }

  /// The type in which gradients of `type` accumulate.
  ElementType accumulator_type(ElementType type) const {
    return options.micro_batches > 1 ? ElementType::float32 : type;
  }

  /// Whether gradients are summed over ranks in fp32 beside their buffers: where sums accumulate over micro-batches.
  bool has_sum_buffer() const { return options.micro_batches > 1 && contributors() > 1; }

  /// Working memory of one gradient: the whole gradient, and its sum over ranks where it has a buffer of its own.
  std::size_t gradient_buffer_bytes(const ParameterUse& use, const ParameterRecord& parameter) const {
    return parameter.gathered_bytes() + (has_sum_buffer() ? use.gradient.elements * sizeof(float) : 0);
  }

  /// Whether this rank holds a shard of `parameter`.
  bool holds(const ParameterRecord& parameter) const {
    return !parameter.partition.owner || *parameter.partition.owner == communicator.rank();
  }

  /// The shard of `parameter` that this rank holds, if it holds one.
  std::size_t shard_of(const ParameterRecord& parameter) const { return parameter.partition.shards > 1 ? rank() : 0; }

  /// All of a replicated parameter.
  std::byte* replica_of(const ParameterRecord& parameter) { return replicas.view(states.replicas) + parameter.replica; }

  /// Where this rank's shard is in the gathered buffer `data` of `parameter`.
  std::byte* shard_in(const ParameterRecord& parameter, std::byte* data) const {
    return data + shard_of(parameter) * parameter.shard_bytes();
  }

  /// Where this rank's shard of a partitioned parameter rests; to be read.
  Operand parameter_shard(const ParameterRecord& parameter) const {
    return {placement.parameters,
            states.spaces[parameter.space].parameters,
            parameter.linear * element_bytes(parameter.type),
            parameter.shard_bytes(),
            Operand::Access::read,
            parameter.ready};
  }

  /// Posts a collective: `call(stream, communicator, collective)` on the communication lane.
  template <class Call>
  Completion communicate(OperationKind kind, std::string_view name, std::size_t bytes, std::vector<Completion> after,
                         Call call) {
    return lanes.post(Lane::communicate, std::move(after), {kind, name, bytes},
                      [this, name, call = std::move(call)](stream_type& stream) -> Completion {
                        call(stream, communicator, Collective{StreamRef{stream}, name});
                        return {};
                      });
  }

  /// Has the ranks compare their calls so far, where the communicator does not do so at each; waits for it.
  void verify_calls() {
    if (!communicator.verifies_calls()) return;
    const Operation operation{OperationKind::barrier, "the calls of all ranks"};
    const Completion done = lanes.post_host(Lane::communicate, {}, operation, [this]() -> Completion {
      communicator.verify();
      return {};
    });
    lanes.wait(calling_thread, done, operation);
  }

  /// From now on somebody reads states.
  void add_reader(std::shared_ptr<StatesBeingRead> reader) {
    std::erase_if(readers, [](const auto& each) { return each->is_over(); });
    readers.push_back(std::move(reader));
  }

  /// Lets whoever waits for an update of a sub-group read it when these have ended.
  void let_read(const SubGroup& group, std::span<const Completion> ends) {
    for (const auto& reader : readers) reader->let(&group, ends);
  }

  /// Waits for whoever still reads states of a sub-group, which are about to change.
  void await_readers(const SubGroup& group) {
    for (const auto& reader : readers) reader->await(&group);
  }

  /// Likewise of all of them.
  void await_readers() {
    for (const auto& reader : readers) reader->await_all();
    readers.clear();
  }

  /// Sums integers over ranks, exactly, and waits for it. A wait that ends in an error may leave the collective under
  /// way: it has integers of its own.
  void sum_over_ranks(std::span<std::int64_t> integers, std::string_view name) {
    if (contributors() == 1) return;
    const auto sums = std::make_shared<std::vector<std::int64_t>>(integers.begin(), integers.end());
    const Completion done =
        communicate(OperationKind::all_reduce, name, integers.size_bytes(), {},
                    [sums](auto&, AnyCommunicator& c, Collective what) { c.all_reduce(what, *sums); });
    lanes.wait(calling_thread, done, {OperationKind::all_reduce, name});
    std::ranges::copy(*sums, integers.begin());
  }

  /// Makes a communicator for `sum_aside` (a collective), where one costs nothing and collectives are done by the host.
  void prepare_aside() {
    if (contributors() == 1 || !lanes_type::is_unified || communicator.duplicates_take_memory()) return;
    const Operation operation{OperationKind::barrier, "a further communicator"};
    const Completion made = lanes.post_host(Lane::communicate, {}, operation, [this]() -> Completion {
      aside.emplace(communicator.duplicate());
      return {};
    });
    lanes.wait(calling_thread, made, operation);
  }

  /// Sums integers over ranks that agree on something beside the training: with a communicator of its own it does not
  /// queue behind collectives that wait for updates. On a device two communicators at once may block each other.
  void sum_aside(std::span<std::int64_t> integers, std::string_view name) {
    if (!aside) return sum_over_ranks(integers, name);
    try {
      aside->all_reduce({calling_thread, name}, integers);
    } catch (...) {
      lanes.fail(std::current_exception());
      throw;
    }
  }

  /// Every rank's value; 0 where a rank has told none.
  std::vector<std::int64_t> values_of_ranks(std::size_t value, std::string_view name) {
    std::vector<std::int64_t> values(contributors());
    values[place()] = static_cast<std::int64_t>(value);
    sum_over_ranks(values, name);
    return values;
  }

  /// The least of the ranks' values: what depends on it is decided alike everywhere.
  std::size_t least_over_ranks(std::size_t value, std::string_view name) {
    std::size_t least = value;
    for (const std::int64_t other : values_of_ranks(value, name)) {
      if (other > 0) least = std::min(least, static_cast<std::size_t>(other));
    }
    return least;
  }

  /// Gathers every shard of each part from the rank that holds it.
  Completion all_gather(std::vector<GatherPart> parts, std::string_view name, std::vector<Completion> after) {
    return gather(&AnyCommunicator::all_gather, std::move(parts), ranks() - 1, name, std::move(after));
  }

  /// The halves of an all-gather. @see Grouped
  Completion gather_across(std::vector<GatherPart> parts, std::string_view name, std::vector<Completion> after) {
    return gather(&AnyCommunicator::gather_across, std::move(parts), groups() - 1, name, std::move(after));
  }
  Completion gather_within(std::vector<GatherPart> parts, std::string_view name, std::vector<Completion> after) {
    return gather(&AnyCommunicator::gather_within, std::move(parts), ranks() - groups(), name, std::move(after));
  }

  /// What one rank has, to be sent to all others.
  struct BroadcastPart {
    std::span<std::byte> bytes;
    Rank root;
  };

  /// Gives every rank the bytes of each part.
  Completion broadcast(std::vector<BroadcastPart> parts, std::string_view name, std::vector<Completion> after) {
    std::size_t bytes = 0;
    for (const BroadcastPart& part : parts) bytes += part.bytes.size();
    return communicate(OperationKind::broadcast, name, bytes, std::move(after),
                       [parts = std::move(parts)](auto&, AnyCommunicator& c, Collective what) {
                         for (const BroadcastPart& part : parts) c.broadcast(what, part.bytes, part.root);
                       });
  }

  /// Gives every rank what the owners of replicated parameters have of them. Neighbours of one owner are one broadcast.
  Completion broadcast_replicas(std::span<const ParameterRecord* const> owned, std::string_view name,
                                std::vector<Completion> after) {
    std::vector<const ParameterRecord*> order{owned.begin(), owned.end()};
    std::ranges::sort(order, {}, &ParameterRecord::replica);
    std::vector<BroadcastPart> parts;
    for (const ParameterRecord* parameter : order) {
      std::byte* const data = replica_of(*parameter);
      const Rank root = *parameter->partition.owner;
      if (!parts.empty() && parts.back().root == root &&
          parts.back().bytes.data() + parts.back().bytes.size() == data) {
        parts.back().bytes = {parts.back().bytes.data(), parts.back().bytes.size() + parameter->gathered_bytes()};
      } else {
        parts.push_back({{data, parameter->gathered_bytes()}, root});
      }
    }
    return broadcast(std::move(parts), name, std::move(after));
  }

  /// Has every rank's replicas hold what each rank has in its part of them.
  /// @return The ends of what was posted.
  std::vector<Completion> publish_replicas(std::string_view name, const std::vector<Completion>& after) {
    std::vector<GatherPart> slices;
    std::vector<const ParameterRecord*> owned;
    for (const ParameterRecord& parameter : states.parameters) {
      if (parameter.residence != Residence::replicated) continue;
      if (parameter.partition.owner) owned.push_back(&parameter);
      if (parameter.partition.shards > 1) slices.push_back({replica_of(parameter), parameter.shard_bytes()});
    }
    std::vector<Completion> ends;
    if (!slices.empty()) ends.push_back(all_gather(std::move(slices), name, after));
    if (!owned.empty()) ends.push_back(broadcast_replicas(owned, name, after));
    return ends;
  }

  /// The least host budget for `resting` bytes on tiers in host memory, and updates of sub-groups that pass `staged`
  /// bytes through staging memory: what `staging_bytes` leaves must do.
  Bytes least_host_bytes(std::size_t resting, std::size_t staged) const {
    const std::size_t least = std::max(least_staging.count, round_up(staged, Arena::alignment));
    if (!placement.uses(Addressable::nowhere) && lanes_type::is_unified) return Bytes{resting + least_staging.count};
    if (!placement.uses(Addressable::on_host)) {
      return Bytes{lanes_type::is_unified ? least : resting + round_up(least * 4 / 3 + 1, Arena::alignment)};
    }
    const std::size_t most_staging = options.staging.value_or(usual_staging).count;
    const std::size_t beside_staging = std::min(resting * 4 / 3 + 1, resting + most_staging);
    const std::size_t for_staging = least > least_staging.count ? 4 * least : 0;
    return Bytes{round_up(std::max({resting + least, beside_staging, for_staging}), 4 * Arena::alignment)};
  }

  /// Where nobody has said how much memory staging takes, and nothing rests beside it: lets it have as much as is
  /// wanted, if that is more; half of what there is at most. Before the first transfer.
  void grow_staging(Arena& host_memory, std::size_t wanted) {
    if (options.staging || placement.uses(Addressable::on_host)) return;
    const std::size_t half = (host_memory.largest_free() + staging.capacity()) / 2;
    const std::size_t bytes = std::min(wanted, half) / Arena::alignment * Arena::alignment;
    if (bytes <= staging.capacity()) return;
    staging.take({});  // first: the new range may begin where the old one does
    staging.take(host_memory.allocate(Bytes{bytes}, "the staging memory"));
  }

 private:
  /// Posts a gather that brings this rank so many `shards` of each part.
  Completion gather(void (AnyCommunicator::*call)(Collective, std::span<const GatherPart>),
                    std::vector<GatherPart> parts, std::size_t shards, std::string_view name,
                    std::vector<Completion> after) {
    std::size_t bytes = 0;
    for (const GatherPart& part : parts) bytes += part.shard_bytes * shards;
    return communicate(
        OperationKind::all_gather, name, bytes, std::move(after),
        [call, parts = std::move(parts)](auto&, AnyCommunicator& c, Collective what) { (c.*call)(what, parts); });
  }

  /// Exports and broadcasts need a little staging memory wherever states rest.
  static constexpr Bytes least_staging = 64_KiB;
  static constexpr Bytes usual_staging = 64_MiB;

  static Bytes staging_bytes(D& device, const Placement& where, const EngineOptions& how) {
    if (!where.uses(Addressable::nowhere) && lanes_type::is_unified) return least_staging;
    const std::size_t left = device.host_memory().largest_free();
    const std::size_t most = where.uses(Addressable::on_host) ? left / 4 : lanes_type::is_unified ? left : left / 4 * 3;
    const std::size_t wanted = how.staging.value_or(usual_staging).count;
    return Bytes{std::max(least_staging.count, std::min(wanted, most) / Arena::alignment * Arena::alignment)};
  }
};

}  // namespace zerospan::inline v0::detail
