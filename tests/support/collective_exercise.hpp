/// @file
/// One run of every collective, whose results two communicators are compared by.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/philox.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/kernels/convert.hpp>

namespace exercise {

using Buffer = std::vector<std::byte>;

struct Types {
  zerospan::ElementType input;
  zerospan::ElementType output;
};

inline constexpr std::array<Types, 5> reduction_types{
    {{zerospan::ElementType::float32, zerospan::ElementType::float32},
     {zerospan::ElementType::bfloat16, zerospan::ElementType::bfloat16},
     {zerospan::ElementType::bfloat16, zerospan::ElementType::float32},
     {zerospan::ElementType::float16, zerospan::ElementType::float16},
     {zerospan::ElementType::float16, zerospan::ElementType::float32}}};

inline constexpr std::array<std::size_t, 6> element_counts{1, 7, 64, 1000, 4099, 0};

/// A rank's operand: values of either sign over `octaves`, so that the order of additions shows in the bits.
inline Buffer operand(int rank, std::size_t elements, zerospan::ElementType type, std::uint32_t octaves = 24) {
  std::vector<float> values(elements);
  for (std::size_t i = 0; i < elements; ++i) {
    const auto words = zerospan::philox(7, static_cast<std::uint64_t>(rank), i);
    const std::uint32_t exponent = 127 - octaves / 2 + words[0] % octaves;
    values[i] = std::bit_cast<float>((words[1] & 0x807fffffU) | (exponent << 23));
  }
  Buffer buffer(elements * element_bytes(type));
  zerospan::from_float(values.data(), type, buffer.data(), elements);
  return buffer;
}

/// What one rank sees after a run. `results[i]` has elements of `types[i]`.
struct Outcome {
  std::vector<Buffer> results;
  std::vector<zerospan::ElementType> types;
  std::vector<std::int64_t> integers;

  void add(Buffer buffer, zerospan::ElementType type) {
    results.push_back(std::move(buffer));
    types.push_back(type);
  }
};

/// Runs collectives on memory of a place: `place.stream()`, `place.memory(bytes)` with those bytes (`data()`), and
/// `place.read(memory)` after everything on the stream.
template <class C, class Place>
class Exercise {
 public:
  Exercise(C& communicator, Place& place, std::uint32_t octaves = 24)
      : c_{communicator},
        place_{place},
        octaves_{octaves},
        rank_{communicator.rank().value},
        ranks_{static_cast<std::size_t>(communicator.size())} {}

  Outcome run() {
    gather();
    for (const std::size_t elements : element_counts) {
      for (const Types types : reduction_types) {
        scatter(elements, types);
        for (int root = 0; root < c_.size(); ++root) reduce(elements, types, root);
        all_reduce(elements, types);
      }
      spread(elements);
      count(elements);
    }
    c_.barrier({place_.stream(), "barrier"});
    return std::move(outcome_);
  }

 private:
  zerospan::Collective named(const char* name) { return {place_.stream(), name}; }

  void gather() {
    std::vector<typename Place::Memory> memories;
    std::vector<zerospan::GatherPart> parts;
    for (const std::size_t bytes : element_counts) {
      Buffer buffer(bytes * ranks_ + 16, std::byte{0xee});  // 16 bytes that nobody may touch
      for (std::size_t i = 0; i < bytes; ++i) {
        const auto value = zerospan::philox(bytes, static_cast<std::uint64_t>(rank_), i)[0];
        buffer[static_cast<std::size_t>(rank_) * bytes + i] = static_cast<std::byte>(value);
      }
      memories.push_back(place_.memory(buffer));
      parts.push_back({memories.back().data(), bytes});
    }
    c_.all_gather(named("parts"), parts);
    c_.all_gather(named("nothing"), {});
    for (auto& memory : memories) keep(memory);
  }

  void scatter(std::size_t elements, Types types) {
    auto input = place_.memory(operand(rank_, ranks_ * elements, types.input, octaves_));
    auto output = place_.memory(Buffer(elements * element_bytes(types.output)));
    c_.reduce_scatter(named("scatter"), {types.input, input.data(), types.output, output.data(), elements});
    keep(output, types.output);
    keep(input, types.input);
    if (types.input != types.output) return;
    std::byte* const own = input.data() + static_cast<std::size_t>(rank_) * elements * element_bytes(types.input);
    c_.reduce_scatter(named("scatter in place"), {types.input, input.data(), types.output, own, elements});
    keep(input, types.input);
  }

  void reduce(std::size_t elements, Types types, int root) {
    auto input = place_.memory(operand(rank_, elements, types.input, octaves_));
    auto output = place_.memory(Buffer(elements * element_bytes(types.output), std::byte{0x11}));
    std::byte* const mine = rank_ == root ? output.data() : nullptr;
    c_.reduce(named("reduce"), {types.input, input.data(), types.output, mine, elements}, zerospan::Rank{root});
    keep(output, types.output);
    keep(input, types.input);
    if (types.input != types.output) return;
    c_.reduce(named("reduce in place"), {types.input, input.data(), types.output, input.data(), elements},
              zerospan::Rank{root});
    keep(input, types.input);
  }

  void all_reduce(std::size_t elements, Types types) {
    auto input = place_.memory(operand(rank_, elements, types.input, octaves_));
    auto output = place_.memory(Buffer(elements * element_bytes(types.output)));
    c_.all_reduce(named("all-reduce"), {types.input, input.data(), types.output, output.data(), elements});
    keep(output, types.output);
    keep(input, types.input);
    if (types.input != types.output) return;
    std::byte* const target = rank_ == 0 ? input.data() : output.data();  // in place on some ranks
    c_.all_reduce(named("all-reduce in place"), {types.input, input.data(), types.output, target, elements});
    keep(rank_ == 0 ? input : output, types.output);
  }

  void spread(std::size_t bytes) {
    for (int root = 0; root < c_.size(); ++root) {
      auto memory = place_.memory(Buffer(bytes, static_cast<std::byte>(rank_ + 1)));
      c_.broadcast(named("broadcast"), {memory.data(), bytes}, zerospan::Rank{root});
      keep(memory);
    }
  }

  void count(std::size_t count) {
    std::vector<std::int64_t> integers(count + 5000);  // more than go through a buffer at once
    for (std::size_t i = 0; i < integers.size(); ++i) {
      integers[i] = (std::int64_t{1} << 53) + 1 - 3 * static_cast<std::int64_t>(i) * (rank_ + 1);
    }
    c_.all_reduce(named("integers"), integers);
    outcome_.integers.insert(outcome_.integers.end(), integers.begin(), integers.end());
  }

  template <class Memory>
  void keep(Memory& memory, zerospan::ElementType type = zerospan::ElementType::bfloat16) {
    outcome_.add(place_.read(memory), type);
  }

  C& c_;
  Place& place_;
  std::uint32_t octaves_;
  int rank_;
  std::size_t ranks_;
  Outcome outcome_;
};

/// Host memory, used on the calling thread.
struct HostPlace {
  using Memory = Buffer;

  zerospan::StreamRef stream() const { return zerospan::calling_thread; }
  Memory memory(const Buffer& bytes) const { return bytes; }
  Buffer read(const Memory& memory) const { return memory; }
};

}  // namespace exercise
