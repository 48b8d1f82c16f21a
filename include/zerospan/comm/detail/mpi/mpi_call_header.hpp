/// @file
/// A collective call as the other ranks get to see it: some bytes at the head of a message.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/detail/protocol/collective_call.hpp>
#include <zerospan/core/config.hpp>

namespace zerospan::inline v0::detail {

/// 64 bits of everything by which calls differ.
class Fingerprint {
 public:
  void add(std::uint64_t word) noexcept {
    bits_ += word + 0x9e3779b97f4a7c15U;
    bits_ = (bits_ ^ (bits_ >> 30)) * 0xbf58476d1ce4e5b9U;
    bits_ = (bits_ ^ (bits_ >> 27)) * 0x94d049bb133111ebU;
    bits_ ^= bits_ >> 31;
  }
  void add(std::string_view text) noexcept {
    add(text.size());
    for (std::size_t i = 0; i < text.size(); i += sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(&word, text.data() + i, std::min(sizeof word, text.size() - i));
      add(word);
    }
  }
  std::uint64_t bits() const noexcept { return bits_; }

 private:
  std::uint64_t bits_ = 0;
};

inline std::uint64_t fingerprint(const CollectiveCall& call) noexcept {
  Fingerprint print;
  print.add(static_cast<std::uint64_t>(call.kind));
  print.add(call.name);
  print.add(static_cast<std::uint64_t>(call.reduction.input_type));
  print.add(static_cast<std::uint64_t>(call.reduction.output_type));
  print.add(call.reduction.elements);
  print.add(call.integers.size());
  print.add(call.bytes.size());
  print.add(static_cast<std::uint64_t>(call.root.value));
  print.add(call.exchange.bytes);
  for (const GatherPart& part : call.parts) print.add(part.shard_bytes);
  return print.bits();
}

/// What a rank sends at the beginning of a collective. Ranks are processes of one program, on machines of one byte
/// order.
struct MpiCallHeader {
  enum class News : std::uint64_t { call, goodbye };

  std::uint64_t fingerprint = 0;
  std::uint64_t offer = 0;  ///< Of a duplicate: the channel that this rank would choose.
  News news = News::call;
};
static_assert(std::has_unique_object_representations_v<MpiCallHeader>);

}  // namespace zerospan::inline v0::detail
