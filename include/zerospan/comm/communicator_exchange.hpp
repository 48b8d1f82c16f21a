/// @file
/// CommunicatorExchange: a ByteExchange made of a communicator.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <zerospan/comm/byte_exchange.hpp>
#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// Exchanges bytes by the all-gathers of a communicator that gathers host memory on the calling thread, and is done
/// when it returns. What goes wrong is what the communicator throws.
template <AllGathers C>
class CommunicatorExchange {
 public:
  explicit CommunicatorExchange(C communicator) noexcept(std::is_nothrow_move_constructible_v<C>)
      : communicator_{std::move(communicator)} {}

  Rank rank() const { return communicator_.rank(); }
  int size() const { return communicator_.size(); }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) {
    const GatherPart part{all.data(), mine.size()};
    std::ranges::copy(mine, all.data() + static_cast<std::size_t>(rank().value) * mine.size());
    communicator_.all_gather(Collective{calling_thread, "the exchange of bytes"}, std::span{&part, 1});
  }

  CommunicatorExchange duplicate() { return CommunicatorExchange{communicator_.duplicate()}; }
  CommunicatorExchange split(SplitPlace place)
    requires Splits<C>
  {
    return CommunicatorExchange{communicator_.split(place)};
  }
  void abort(const std::string& reason) noexcept { communicator_.abort(reason); }

  C& communicator() noexcept { return communicator_; }

 private:
  C communicator_;
};

}  // namespace zerospan::inline v0
