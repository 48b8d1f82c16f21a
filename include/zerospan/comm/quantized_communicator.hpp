/// @file
/// QuantizedCommunicator: collectives that send codes of 8 or 4 bits in place of elements.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/comm/detail/protocol/forwarding_communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/device.hpp>
#include <zerospan/kernels/block_quantization.hpp>

namespace zerospan::inline v0 {

/// What is quantized, and to what; the same on every rank.
struct QuantizationOptions {
  std::optional<QuantizedType> gather{};        ///< All-gathers of parameters (qwZ).
  std::optional<QuantizedType> reduce{};        ///< Reduce-scatters of gradients (qgZ).
  Bytes scratch = Bytes{std::size_t{8} << 20};  ///< Device memory of the communicator, and of each of its duplicates.
};

/// Has another communicator send encoded blocks (ZeRO++, arXiv 2306.10209): half the bytes of bfloat16 parameters in
/// int8, a quarter of those of bfloat16 gradients in int4, and the scales.
/// @see encode_blocks for the error.
///
/// - `all_gather` of a part whose elements are `approximable`, as the engine says of the parameters that it gathers to
///   be read (stage 3): every rank decodes every shard, its own as well, so that all ranks hold the same bits. Other
///   parts arrive to the bit.
/// - `reduce_scatter`: each slice is encoded once, goes to its rank by all-to-all, and is decoded and summed there, in
///   fp32, in rank order, and rounded once. An infinity or a NaN in a block makes that block of the sum NaN.
/// - Everything else, and everything in a world of one, is left to the other communicator.
///
/// Repeated runs give the same bits, and neither the size of the scratch memory nor how parameters are grouped plays a
/// part in them; what is quantized does, and so do the stage, the partition and the persistence threshold, on which it
/// depends what is gathered and scattered at all.
///
/// Operands go through the scratch memory piece by piece. It is taken at construction, and used again as soon as the
/// stream comes to it: all collectives of one communicator are enqueued on one stream. It returns to the device when
/// the communicator dies, which is after everything enqueued is done.
/// @code
/// zerospan::QuantizedCommunicator communicator{std::move(plain), device, {.gather = zerospan::QuantizedType::int8}};
/// @endcode
template <class C, Device D>
requires TrainingCommunicator<C> && ExchangesSlices<C>
class QuantizedCommunicator : public detail::ForwardingCommunicator<C> {
  using Base = detail::ForwardingCommunicator<C>;

 public:
  static constexpr bool duplicates_take_memory = true;

  /// @param device This rank's own; outlives the communicator. On a GPU, `cuda_block_quantization.hpp` has the codec.
  /// @throws BudgetError if the scratch memory does not fit its memory; ConfigurationError if it is too small.
  QuantizedCommunicator(C communicator, D& device, const QuantizationOptions& options)
      : Base{std::move(communicator)}, device_{&device}, options_{options} {
    if (ranks() == 1 || (!options.gather && !options.reduce)) return;
    scratch_ = detail::QuantizationScratch{
        device.memory().allocate(options.scratch, "the scratch memory of quantized collectives")};
    if (options.gather) gathered_elements_ = scratch_.elements_of(ranks(), *options.gather);
    if (options.reduce) scattered_elements_ = scratch_.elements_of(2 * ranks(), *options.reduce);
    codes_.resize(ranks());
  }

  /// Has scratch memory of its own.
  QuantizedCommunicator duplicate() { return {this->communicator_.duplicate(), *device_, options_}; }
  QuantizedCommunicator split(SplitPlace place) requires Splits<C> {
    return {this->communicator_.split(place), *device_, options_};
  }

  /// @throws ConfigurationError for an approximable part whose shards are not whole elements.
  void all_gather(Collective what, std::span<const GatherPart> parts);
  void reduce_scatter(Collective what, const Reduction& reduction);

 private:
  using Stream = typename D::lanes_type::stream_type;

  /// Elements of a part, of each of its shards.
  struct Run {
    GatherPart part;
    std::size_t first;
    std::size_t elements;

    std::byte* of(std::size_t rank) const {
      return part.buffer + rank * part.shard_bytes + first * element_bytes(*part.approximable);
    }
  };

  std::size_t ranks() const { return static_cast<std::size_t>(this->size()); }
  std::size_t own() const { return static_cast<std::size_t>(this->rank().value); }

  static bool is_quantized(const GatherPart& part) { return part.approximable && part.shard_bytes > 0; }

  /// @throws ConfigurationError
  static void require_whole_elements(Collective what, std::span<const GatherPart> parts);

  void gather_piece(Collective what, std::span<const Run> runs);
  void scatter_piece(Collective what, const Reduction& reduction, std::size_t first, std::size_t elements);

  D* device_;
  QuantizationOptions options_;
  detail::QuantizationScratch scratch_;
  std::size_t gathered_elements_ = 0;   // of one rank, in one piece
  std::size_t scattered_elements_ = 0;  // of one slice, in one piece
  std::vector<const std::byte*> codes_;
};

template <class C, Device D>
requires TrainingCommunicator<C> && ExchangesSlices<C>
void QuantizedCommunicator<C, D>::require_whole_elements(Collective what, std::span<const GatherPart> parts) {
  for (const GatherPart& part : parts) {
    if (!is_quantized(part) || part.shard_bytes % element_bytes(*part.approximable) == 0) continue;
    throw_configuration_error("a part of the all-gather '" + std::string{what.name} + "' has shards of " +
                              std::to_string(part.shard_bytes) + " bytes, which are not whole elements of " +
                              to_string(*part.approximable));
  }
}

template <class C, Device D>
requires TrainingCommunicator<C> && ExchangesSlices<C>
void QuantizedCommunicator<C, D>::all_gather(Collective what, std::span<const GatherPart> parts) {
  if (!options_.gather || ranks() == 1 || std::ranges::none_of(parts, is_quantized)) {
    return Base::all_gather(what, parts);
  }
  require_whole_elements(what, parts);
  std::vector<GatherPart> exact;
  std::ranges::remove_copy_if(parts, std::back_inserter(exact), is_quantized);
  if (!exact.empty()) Base::all_gather(what, exact);

  const std::string name =
      std::string{what.name} + " (" + to_string(*options_.gather) + " for " + detail::describe(parts) + ")";
  std::vector<Run> piece;
  std::size_t left = gathered_elements_;
  for (const GatherPart& part : parts) {
    if (!is_quantized(part)) continue;
    const std::size_t elements = part.shard_bytes / element_bytes(*part.approximable);
    for (std::size_t first = 0; first < elements;) {
      piece.push_back({part, first, std::min(left, elements - first)});
      first += piece.back().elements;
      left -= quantized_blocks(piece.back().elements) * quantized_block_elements;
      if (left > 0) continue;
      gather_piece({what.stream, name}, piece);
      piece.clear();
      left = gathered_elements_;
    }
  }
  if (!piece.empty()) gather_piece({what.stream, name}, piece);
}

template <class C, Device D>
requires TrainingCommunicator<C> && ExchangesSlices<C>
void QuantizedCommunicator<C, D>::gather_piece(Collective what, std::span<const Run> runs) {
  const QuantizedType type = *options_.gather;
  std::size_t bytes = 0;
  for (const Run& run : runs) bytes += encoded_bytes(run.elements, type);
  Stream stream{what.stream};
  std::byte* to = scratch_.data() + own() * bytes;
  for (const Run& run : runs) {
    encode_blocks(stream, *run.part.approximable, run.of(own()), type, to, run.elements);
    to += encoded_bytes(run.elements, type);
  }
  const GatherPart codes{scratch_.data(), bytes};
  Base::all_gather(what, {&codes, 1});
  const std::byte* from = scratch_.data();
  for (std::size_t rank = 0; rank < ranks(); ++rank) {
    for (const Run& run : runs) {
      decode_blocks(stream, from, type, *run.part.approximable, run.of(rank), run.elements);
      from += encoded_bytes(run.elements, type);
    }
  }
}

template <class C, Device D>
requires TrainingCommunicator<C> && ExchangesSlices<C>
void QuantizedCommunicator<C, D>::reduce_scatter(Collective what, const Reduction& reduction) {
  if (!options_.reduce || ranks() == 1 || reduction.elements == 0) return Base::reduce_scatter(what, reduction);
  detail::require_valid({.kind = detail::CollectiveKind::reduce_scatter, .name = what.name, .reduction = reduction},
                        ranks() * reduction.elements,
                        reduction.input + own() * reduction.elements * element_bytes(reduction.input_type));
  const std::string name =
      std::string{what.name} + " (" + to_string(*options_.reduce) + " for " + detail::describe(reduction) + ")";
  for (std::size_t first = 0; first < reduction.elements; first += scattered_elements_) {
    scatter_piece({what.stream, name}, reduction, first, std::min(scattered_elements_, reduction.elements - first));
  }
}

template <class C, Device D>
requires TrainingCommunicator<C> && ExchangesSlices<C>
void QuantizedCommunicator<C, D>::scatter_piece(Collective what, const Reduction& reduction, std::size_t first,
                                                std::size_t elements) {
  const QuantizedType type = *options_.reduce;
  const std::size_t bytes = encoded_bytes(elements, type);
  std::byte* const sent = scratch_.data();
  std::byte* const received = sent + ranks() * bytes;
  Stream stream{what.stream};
  for (std::size_t rank = 0; rank < ranks(); ++rank) {
    const std::size_t begin = rank * reduction.elements + first;
    encode_blocks(stream, reduction.input_type, reduction.input + begin * element_bytes(reduction.input_type), type,
                  sent + rank * bytes, elements);
    codes_[rank] = received + rank * bytes;
  }
  Base::all_to_all(what, {sent, received, bytes});
  sum_blocks(stream, std::span<const std::byte* const>{codes_}, type, reduction.output_type,
             reduction.output + first * element_bytes(reduction.output_type), elements);
}

}  // namespace zerospan::inline v0
