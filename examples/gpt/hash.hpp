/// @file
/// The hash by which two runs are compared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>

#include <xxhash.h>

namespace gpt {

/// XXH3, 64 bits, over any number of pieces.
class Hash {
 public:
  Hash() : state_{XXH3_createState()} {
    if (!state_ || XXH3_64bits_reset(state_.get()) == XXH_ERROR) throw std::runtime_error{"xxHash cannot be set up"};
  }

  void update(std::span<const float> values) { update(std::as_bytes(values)); }
  void update(std::span<const std::byte> bytes) {
    if (XXH3_64bits_update(state_.get(), bytes.data(), bytes.size()) == XXH_ERROR) {
      throw std::runtime_error{"xxHash failed"};
    }
  }

  std::uint64_t digest() const { return XXH3_64bits_digest(state_.get()); }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

}  // namespace gpt
