/// @file
/// Partitioner: which rank holds which elements of a parameter. Two models of it, and one that stands for any.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// How one parameter is cut: shard r holds the logical elements from `first(r)` on, `count(r)` of them, in
/// `shard_elements` places. All shards are of the same size, whole blocks; the places past the last element are
/// padding.
struct Partition {
  std::size_t elements;
  std::size_t shards;
  std::size_t shard_elements;   ///< A multiple of `block_elements`.
  std::optional<Rank> owner{};  ///< The one rank that holds its only shard, if not every rank holds one.

  /// A shard on every rank, no larger than needed.
  static constexpr Partition sliced(std::size_t elements, std::size_t ranks) noexcept {
    const std::size_t blocks = elements / block_elements + (elements % block_elements != 0);
    return {elements, ranks, (blocks / ranks + (blocks % ranks != 0)) * block_elements};
  }

  /// Whole, on one rank.
  static constexpr Partition owned(std::size_t elements, Rank owner) noexcept {
    Partition whole = sliced(elements, 1);
    whole.owner = owner;
    return whole;
  }

  /// Elements of the gathered buffer, padding included; its first `elements` are the tensor.
  constexpr std::size_t padded_elements() const noexcept { return shards * shard_elements; }

  constexpr std::size_t first(std::size_t shard) const noexcept { return shard * shard_elements; }

  /// Logical elements of a shard, padding not counted.
  constexpr std::size_t count(std::size_t shard) const noexcept {
    return std::min(shard_elements, elements - std::min(elements, first(shard)));
  }

  friend constexpr bool operator==(const Partition&, const Partition&) = default;
};

/// Cuts the parameters of one engine, in the order of their declaration.
///
/// @concept For a parameter's name and its number of elements (at least 1), `cutter.cut(name, elements)` is its
/// Partition.
/// 1. It is called once for each declaration of a parameter that is partitioned, in the same order on every rank; for
///    one that is then refused, too, since a rank may be alone in having no space for it.
/// 2. It answers alike on every rank: by its arguments, the policy it was made of, the number of ranks and the calls
///    before alone. What this rank is, or its clock, it does not ask.
/// 3. The answer is `Partition::sliced(elements, ranks)` or `Partition::owned(elements, rank)`, or equal to one of them
///    but for larger shards. Any other is refused.
template <class C>
concept PartitionCutter = std::movable<C> && requires(C& cutter, std::string_view name, std::size_t elements) {
  { cutter.cut(name, elements) } -> std::same_as<Partition>;
};

/// How the parameters that stage 3 partitions are divided among the ranks, their gradients and states with them: what a
/// layout is to an mdspan. A small value; it is passed as `EngineOptions::partition`.
///
/// @concept For a value `policy`:
/// 1. `policy.make(ranks)` is a PartitionCutter for that many ranks (at least 1), which has seen no parameter yet.
/// 2. `policy.name()` names it, in messages and where ranks compare what they were told.
/// 3. Where it has settings, `policy.fingerprint()` is a number that differs where they do.
/// 4. It is copyable, and a copy means the same.
template <class P>
concept Partitioner = std::copyable<P> && requires(const P& policy, std::size_t ranks) {
  { policy.make(ranks) } -> PartitionCutter;
  { policy.name() } -> std::convertible_to<std::string_view>;
};

/// Owner-and-broadcast partitioning: every parameter rests whole with one rank, that with the fewest elements so far
/// (of several, the lowest), and gathering it is a broadcast. One rank's links carry all of it while the others' idle:
/// the baseline that slices beat by the number of ranks (ZeRO-Infinity, arXiv 2104.07857, section 6.1).
struct Owners {
  struct Cutter {
    std::vector<std::size_t> elements_of;  ///< Of each rank, padding included.

    Partition cut(std::string_view, std::size_t elements) {
      const auto fewest = std::ranges::min_element(elements_of);
      const Partition whole = Partition::owned(elements, Rank{static_cast<int>(fewest - elements_of.begin())});
      *fewest += whole.padded_elements();
      return whole;
    }
  };

  static constexpr std::string_view name() noexcept { return "owners"; }
  Cutter make(std::size_t ranks) const { return {std::vector<std::size_t>(ranks)}; }
};

static_assert(Partitioner<Owners>);

/// Bandwidth-centric partitioning: every parameter is sliced over all ranks, so that each rank moves its own 1/P of it
/// through its own links, and gathering is one all-gather (ZeRO-Infinity, arXiv 2104.07857, section 6.1). What is so
/// small that its slices would be padding for the most part is whole with one rank, in turn: it costs what it is.
struct Slices {
  struct Cutter {
    std::size_t ranks;
    Owners::Cutter small;

    Partition cut(std::string_view name, std::size_t elements) {
      const Partition slices = Partition::sliced(elements, ranks);
      return ranks > 1 && slices.padded_elements() >= 2 * elements ? small.cut(name, elements) : slices;
    }
  };

  static constexpr std::string_view name() noexcept { return "slices"; }
  Cutter make(std::size_t ranks) const { return {ranks, Owners{}.make(ranks)}; }
};

static_assert(Partitioner<Slices>);

/// @param partition Of the parameter of that name and size over so many ranks, by the partitioner of that name.
/// @throws ConfigurationError if an engine cannot hold it so.
inline void check_partition(const Partition& partition, std::string_view partitioner, std::string_view parameter,
                            std::size_t elements, std::size_t ranks) {
  const auto refuse = [&](const std::string& why) {
    throw_configuration_error("the partitioner " + std::string{partitioner} + " cut parameter " +
                              std::string{parameter} + " wrongly: " + why);
  };
  const auto& [counted, shards, shard_elements, owner] = partition;
  if (counted != elements) {
    refuse("it has " + std::to_string(elements) + " elements, not " + std::to_string(counted));
  }
  if (owner && (owner->value < 0 || static_cast<std::size_t>(owner->value) >= ranks)) {
    refuse("there is no rank " + std::to_string(owner->value) + " among " + std::to_string(ranks));
  }
  if (owner && shards != 1) refuse("an owner holds one shard, not " + std::to_string(shards));
  if (!owner && shards != ranks) {
    refuse(std::to_string(ranks) + " ranks hold a shard each, there are " + std::to_string(shards) + " shards");
  }
  if (shard_elements % block_elements != 0) {
    refuse("shards are whole blocks of " + std::to_string(block_elements) + ", not " + std::to_string(shard_elements));
  }
  const std::size_t least =
      (owner ? Partition::sliced(elements, 1) : Partition::sliced(elements, ranks)).shard_elements;
  if (shard_elements < least) {
    refuse("shards of " + std::to_string(shard_elements) + " elements do not hold it, " + std::to_string(least) +
           " would");
  }
  constexpr std::size_t most = std::size_t{1} << 50;  // whose bytes are counted without overflow
  if (shard_elements > most / shards) refuse("its shards have more elements than any memory");
}

/// Any Partitioner, as an engine holds it: a copy shares the policy, which nobody changes.
class AnyPartitioner {
  struct AnyCutter {
    virtual ~AnyCutter() = default;
    virtual Partition cut(std::string_view name, std::size_t elements) = 0;
  };

 public:
  /// A cutter whose answers are checked.
  class Cutter {
   public:
    /// On one rank nothing is owned: its only shard is the parameter.
    /// @throws ConfigurationError if the policy answers with what no engine can hold.
    Partition cut(std::string_view name, std::size_t elements) {
      Partition partition = cutter_->cut(name, elements);
      check_partition(partition, policy_, name, elements, ranks_);
      if (ranks_ == 1) partition.owner.reset();
      return partition;
    }

   private:
    friend AnyPartitioner;
    Cutter(std::unique_ptr<AnyCutter> cutter, std::string_view policy, std::size_t ranks)
        : cutter_{std::move(cutter)}, policy_{policy}, ranks_{ranks} {}

    std::unique_ptr<AnyCutter> cutter_;
    std::string policy_;
    std::size_t ranks_;
  };

  template <class P>
    requires(!std::same_as<P, AnyPartitioner> && Partitioner<P>)
  AnyPartitioner(P policy) : policy_{std::make_shared<const Model<P>>(std::move(policy))} {}

  std::string_view name() const { return policy_->name(); }

  /// Alike on two ranks whose policies have the same name and settings.
  std::uint64_t fingerprint() const { return name_stream(name()) ^ policy_->settings(); }

  Cutter make(std::size_t ranks) const { return Cutter{policy_->make(ranks), name(), ranks}; }

  /// Whether it is that policy.
  template <Partitioner P>
  bool is() const noexcept {
    return dynamic_cast<const Model<P>*>(policy_.get()) != nullptr;
  }

 private:
  struct AnyPolicy {
    virtual ~AnyPolicy() = default;
    virtual std::unique_ptr<AnyCutter> make(std::size_t ranks) const = 0;
    virtual std::string_view name() const = 0;
    virtual std::uint64_t settings() const = 0;
  };

  template <PartitionCutter C>
  struct CutterModel final : AnyCutter {
    explicit CutterModel(C made) : cutter{std::move(made)} {}
    Partition cut(std::string_view name, std::size_t elements) override { return cutter.cut(name, elements); }

    C cutter;
  };

  template <Partitioner P>
  struct Model final : AnyPolicy {
    explicit Model(P given) : policy{std::move(given)} {}

    std::unique_ptr<AnyCutter> make(std::size_t ranks) const override {
      return std::make_unique<CutterModel<decltype(policy.make(ranks))>>(policy.make(ranks));
    }
    std::string_view name() const override { return policy.name(); }
    std::uint64_t settings() const override {
      if constexpr (requires { policy.fingerprint(); }) {
        return static_cast<std::uint64_t>(policy.fingerprint());
      } else {
        return 0;
      }
    }

    P policy;
  };

  std::shared_ptr<const AnyPolicy> policy_;
};

static_assert(Partitioner<AnyPartitioner>);

}  // namespace zerospan::inline v0
