/// @file
/// AdamW with moments of 8 bits: a quarter of its states, in one pass over memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/kernels/convert.hpp>
#include <zerospan/kernels/cpu.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/optimizer/detail/adamw8bit_kernel.hpp>
#include <zerospan/optimizer/detail/optimizer_settings.hpp>
#include <zerospan/optimizer/detail/parameter_copy.hpp>
#include <zerospan/optimizer/optimizer.hpp>
#include <zerospan/optimizer/setting.hpp>
#include <zerospan/optimizer/state_array.hpp>

namespace zerospan::inline v0 {

/// AdamW whose moments rest in 8 bits an element (Dettmers et al., 8-bit Optimizers via Block-wise Quantization, arXiv
/// 2110.02861; `AdamW8bit` of bitsandbytes). An update decodes a block of `scaled_elements` elements in the first-level
/// cache, computes in fp32 what AdamW does, and encodes what it has: one pass over memory. States: m, then v, a byte
/// an element each, then the scales of their blocks, fp32: 2.03 bytes an element, where AdamW has 8. With 16-bit
/// gradients and parameters an update moves 16 bytes an element, where AdamW's moves 28.
///
/// A code is a share of its block's scale, which is the largest |m|, or v, of the block: a float of three bits after
/// the first one. It is an eighth to a sixteenth larger than the one below it, wherever it is, so that what is small
/// beside its block is known as well as what is large: m down to 2^-15.75 of the largest, and v down to 2^-31.75.
/// Linear codes of v would be zeros where v is small, and leave epsilon alone in its root's place; here its code is 1
/// at least, unless it is zero, and a step too short rather than too long. A moment between two codes becomes one of
/// them, so that both moments are on the average what they were (`detail::Dither`). Rounded to the nearest one, v would
/// hardly move: it changes by a thousandth of itself in an update.
///
/// A moment is off by an eighth at most. Where gradients are random and their sizes differ by 128 within a block, the
/// mean error of m is 1.2 % of sqrt(v), and that of sqrt(v) 6 % of itself (`adamw8bit_test`).
///
/// It gives the same bits on every processor, however parameters are cut. A gradient that is not finite, which no
/// engine shows it, makes its block NaN.
struct AdamW8bit {
  float learning_rate = 1e-3F;
  float beta1 = 0.9F;
  float beta2 = 0.999F;
  float epsilon = 1e-8F;
  float weight_decay = 0.01F;

  static constexpr std::string_view name = "AdamW8bit";

  /// States in memory of a device are brought to the host for each update.
  static constexpr bool updates_on_host = true;

  std::array<NamedSetting, 5> settings() const noexcept { return in_full().settings(); }

  /// @throws ConfigurationError that names the first setting outside its range.
  void validate() const { detail::require_in_range(name, settings()); }

  /// Bytes of both moments for `elements` elements, a multiple of `scaled_elements`.
  std::size_t state_bytes(std::size_t elements) const noexcept {
    return 2 * elements + 2 * sizeof(float) * (elements / scaled_elements);
  }

  std::span<const StateArray> state_arrays() const noexcept { return own_arrays; }

  /// One update of a run. @throws ConfigurationError if `shard.step` is not positive.
  void update(const ShardUpdate& shard) const { update(shard, best_instruction_set()); }

  /// The same bits, by a body of the caller's choice. @param set One that this processor has.
  void update(const ShardUpdate& shard, InstructionSet set) const {
    detail::require_step(name, shard.step);
    detail::with_parameter_copy(shard, [&, numbers = in_full().rule(shard)](const ShardUpdate& piece) {
      auto* const codes = reinterpret_cast<std::uint8_t*>(piece.states);
      auto* const scales = reinterpret_cast<float*>(piece.states + 2 * piece.capacity);
      const std::size_t first_block = piece.first / scaled_elements;
      const detail::AdamW8bitRun arrays{.master = piece.master,
                                        .first_codes = codes + piece.first,
                                        .second_codes = codes + piece.capacity + piece.first,
                                        .first_scales = scales + first_block,
                                        .second_scales = scales + piece.capacity / scaled_elements + first_block,
                                        .gradient = piece.gradient,
                                        .parameter = piece.parameter,
                                        .gradient_scale = piece.gradient_scale,
                                        .update = static_cast<std::uint32_t>(piece.step)};
      detail::dispatch_element_type(piece.gradient_type, [&](auto gradient) {
        detail::dispatch_element_type(piece.parameter_type, [&](auto parameter) {
          detail::adamw8bit<gradient.value, parameter.value>(numbers, arrays, piece.elements, set);
        });
      });
    });
  }

 private:
  static constexpr std::array own_arrays{StateArray{"exp_avg", ElementType::float32, StateForm::codes},
                                         StateArray{"exp_avg_sq", ElementType::float32, StateForm::codes},
                                         StateArray{"exp_avg_scale", ElementType::float32, StateForm::scales},
                                         StateArray{"exp_avg_sq_scale", ElementType::float32, StateForm::scales}};

  AdamW in_full() const noexcept { return {learning_rate, beta1, beta2, epsilon, weight_decay}; }
};

static_assert(Optimizer<AdamW8bit> && NamesStates<AdamW8bit> && UpdatesOnHost<AdamW8bit>);

}  // namespace zerospan::inline v0
