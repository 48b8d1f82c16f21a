/// @file
/// CollectiveCall: what a rank calls, how ranks see whether they call the same, and what a call may not be.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/detail/fingerprint.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

enum class CollectiveKind : std::uint8_t {
  all_gather,
  reduce_scatter,
  reduce,
  all_reduce,
  all_reduce_integers,
  broadcast,
  barrier,
  all_to_all,
  duplicate,
  split
};

/// One rank's call of a collective: what it is, and where its operands lie. It views the caller's arguments, which
/// live until the collective returns. Members that the kind has no use for keep their defaults.
struct CollectiveCall {
  CollectiveKind kind{};
  std::string_view name{};
  std::span<const GatherPart> parts{};
  Reduction reduction{};
  std::span<std::int64_t> integers{};
  std::span<std::byte> bytes{};
  Rank root{};
  SliceExchange exchange{};
  SplitPlace place{};
  std::array<const void*, 2> fences{};  ///< What a user of the operands waits for, in each phase in turn.
};

/// The one list of what ranks that call the same collective say alike: calls `visit(field)` for each, which is a number
/// or the name. Addresses, places of a split and fences are each rank's own.
template <class Visit>
void for_each_shared_field(const CollectiveCall& call, Visit visit) {
  visit(static_cast<std::uint64_t>(call.kind));
  visit(call.name);
  visit(static_cast<std::uint64_t>(call.reduction.input_type));
  visit(static_cast<std::uint64_t>(call.reduction.output_type));
  visit(std::uint64_t{call.reduction.elements});
  visit(std::uint64_t{call.integers.size()});
  visit(std::uint64_t{call.bytes.size()});
  visit(static_cast<std::uint64_t>(call.root.value));
  visit(std::uint64_t{call.exchange.bytes});
  visit(std::uint64_t{call.parts.size()});
  for (const GatherPart& part : call.parts) visit(std::uint64_t{part.shard_bytes});
}

inline void add(Fingerprint& print, const CollectiveCall& call) noexcept {
  for_each_shared_field(call, [&print](const auto& field) { print.add(field); });
}

/// By which ranks see whether they call the same collective.
inline std::uint64_t fingerprint(const CollectiveCall& call) noexcept {
  Fingerprint print;
  add(print, call);
  return print.value();
}

/// "4096 + 1024 bytes a rank"; of many parts, the first eight and the total.
inline std::string describe(std::span<const GatherPart> parts) {
  constexpr std::size_t shown = 8;
  std::string sizes;
  std::size_t total = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    total += parts[i].shard_bytes;
    if (i < shown) sizes.append(i == 0 ? "" : " + ").append(std::to_string(parts[i].shard_bytes));
  }
  if (parts.size() > shown) {
    sizes += " + ... = " + std::to_string(total) + " (" + std::to_string(parts.size()) + " parts)";
  }
  return (parts.empty() ? "0" : sizes) + " bytes a rank";
}

/// "1024 bfloat16 elements", and "into float32" where the type changes.
inline std::string describe(const Reduction& reduction) {
  const bool converts = reduction.input_type != reduction.output_type;
  return std::to_string(reduction.elements) + " " + to_string(reduction.input_type) + " elements" +
         (converts ? std::string{" into "} + to_string(reduction.output_type) : std::string{});
}

/// "all-gather 'blocks.0.mlp.up' of 4096 bytes a rank (#17)".
/// @param number How many collectives the communicator has begun before this one.
inline std::string describe(const CollectiveCall& call, std::uint64_t number) {
  const std::string name = std::string{"'"}.append(call.name) + "'";
  const std::string position = std::string{" (#"} + std::to_string(number) + ")";
  switch (call.kind) {
    case CollectiveKind::all_gather:
      return "all-gather " + name + " of " + describe(call.parts) + position;
    case CollectiveKind::reduce_scatter:
      return "reduce-scatter " + name + " of " + describe(call.reduction) + " a rank" + position;
    case CollectiveKind::reduce:
      return "reduce " + name + " of " + describe(call.reduction) + " to rank " + std::to_string(call.root.value) +
             position;
    case CollectiveKind::all_reduce:
      return "all-reduce " + name + " of " + describe(call.reduction) + position;
    case CollectiveKind::all_reduce_integers:
      return "all-reduce " + name + " of " + std::to_string(call.integers.size()) + " integers" + position;
    case CollectiveKind::broadcast:
      return "broadcast " + name + " of " + std::to_string(call.bytes.size()) + " bytes from rank " +
             std::to_string(call.root.value) + position;
    case CollectiveKind::barrier:
      return "barrier " + name + position;
    case CollectiveKind::all_to_all:
      return "all-to-all " + name + " of " + std::to_string(call.exchange.bytes) + " bytes a slice" + position;
    case CollectiveKind::duplicate:
      return "duplicate" + position;
    case CollectiveKind::split:
      return "split" + position;
  }
  return name + position;
}

/// An output of nullptr plays no part.
/// @param may_reuse Where the output may lie within the input, when the types are equal.
/// @throws ConfigurationError for an output type that reductions do not have, or an output that overlaps the input
///   in any other way.
inline void require_valid(const CollectiveCall& call, std::size_t input_elements, const std::byte* may_reuse) {
  const Reduction& r = call.reduction;
  const std::string what{call.name};
  if (r.output_type != ElementType::float32 && r.output_type != r.input_type) {
    throw_configuration_error("the reduction '" + what + "' rounds to float32 or to its input's type, not from " +
                              to_string(r.input_type) + " to " + to_string(r.output_type));
  }
  if (r.elements == 0 || r.output == nullptr || (r.input_type == r.output_type && r.output == may_reuse)) return;
  const std::less<> before;
  const bool overlaps = before(r.output, r.input + input_elements * element_bytes(r.input_type)) &&
                        before(r.input, r.output + r.elements * element_bytes(r.output_type));
  if (overlaps) {
    throw_configuration_error("the output of the reduction '" + what +
                              "' overlaps its input, but is not this rank's own part of it in the same type");
  }
}

/// @throws ConfigurationError for an output that overlaps its input.
inline void require_apart(const CollectiveCall& call, int size) {
  const SliceExchange& e = call.exchange;
  const std::size_t bytes = static_cast<std::size_t>(size) * e.bytes;
  const std::less<> before;
  if (bytes == 0 || !before(e.output, e.input + bytes) || !before(e.input, e.output + bytes)) return;
  throw_configuration_error("the output of the all-to-all '" + std::string{call.name} + "' overlaps its input");
}

/// @throws ConfigurationError for a root that is not a rank of the communicator.
inline void require_valid_root(const CollectiveCall& call, int size) {
  if (call.root.value >= 0 && call.root.value < size) return;
  throw_configuration_error("the collective '" + std::string{call.name} + "' has root " +
                            std::to_string(call.root.value) + " among " + std::to_string(size) + " ranks");
}

// The calls of the collectives whose operands can be wrong. Each throws ConfigurationError if they are.

inline CollectiveCall reduce_scatter_call(Collective what, const Reduction& reduction, Rank me, int size) {
  const CollectiveCall call{.kind = CollectiveKind::reduce_scatter, .name = what.name, .reduction = reduction};
  const std::size_t first = static_cast<std::size_t>(me.value) * reduction.elements;
  require_valid(call, static_cast<std::size_t>(size) * reduction.elements,
                reduction.input + first * element_bytes(reduction.input_type));
  return call;
}

/// The output of ranks that are not the root is nullptr.
inline CollectiveCall reduce_call(Collective what, const Reduction& reduction, Rank root, Rank me, int size) {
  CollectiveCall call{.kind = CollectiveKind::reduce, .name = what.name, .reduction = reduction, .root = root};
  if (me != root) call.reduction.output = nullptr;
  require_valid_root(call, size);
  require_valid(call, reduction.elements, reduction.input);
  return call;
}

inline CollectiveCall all_reduce_call(Collective what, const Reduction& reduction) {
  const CollectiveCall call{.kind = CollectiveKind::all_reduce, .name = what.name, .reduction = reduction};
  require_valid(call, reduction.elements, reduction.input);
  return call;
}

inline CollectiveCall broadcast_call(Collective what, std::span<std::byte> bytes, Rank root, int size) {
  const CollectiveCall call{.kind = CollectiveKind::broadcast, .name = what.name, .bytes = bytes, .root = root};
  require_valid_root(call, size);
  return call;
}

inline CollectiveCall all_to_all_call(Collective what, const SliceExchange& exchange, int size) {
  const CollectiveCall call{.kind = CollectiveKind::all_to_all, .name = what.name, .exchange = exchange};
  require_apart(call, size);
  return call;
}

/// The ranks that a split puts together with `me`: those of its color, in the order of their keys.
/// @param places Of every rank of the communicator that is split.
/// @throws ConfigurationError if any two ranks have the same color and key, so that all ranks throw alike.
inline std::vector<std::size_t> ranks_beside(std::span<const SplitPlace> places, std::size_t me) {
  std::vector<std::size_t> ranks(places.size());
  std::iota(ranks.begin(), ranks.end(), std::size_t{0});
  const auto place = [&](std::size_t rank) { return std::pair{places[rank].color, places[rank].key}; };
  std::ranges::stable_sort(ranks, {}, place);
  const auto twin = std::ranges::adjacent_find(ranks, {}, place);
  if (twin != ranks.end()) {
    throw_configuration_error("a split gives two ranks key " + std::to_string(places[*twin].key) + " of color " +
                              std::to_string(places[*twin].color));
  }
  std::erase_if(ranks, [&](std::size_t rank) { return places[rank].color != places[me].color; });
  return ranks;
}

/// Consecutive elements of a reduction, or bytes of a broadcast.
struct ElementRange {
  std::size_t first;
  std::size_t elements;
};

/// The elements that a rank adds up where all ranks share the work: even slices but for the last, of which no two are
/// in one cache line.
inline ElementRange even_slice(std::size_t elements, int ranks, int rank) noexcept {
  const auto count = static_cast<std::size_t>(ranks);
  const std::size_t even = round_up((elements + count - 1) / count, 64);
  const std::size_t first = std::min(static_cast<std::size_t>(rank) * even, elements);
  return {first, std::min(even, elements - first)};
}

}  // namespace zerospan::inline v0::detail
