/// @file
/// Ranks that are threads, each with a communicator of a fake NCCL.
#pragma once

#include <doctest/doctest.h>

#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <type_traits>
#include <utility>

#include <zerospan/comm/detail/nccl/basic_nccl_communicator.hpp>
#include <zerospan/comm/run_ranks.hpp>
#include <zerospan/comm/thread_exchange.hpp>

#include "fake_nccl.hpp"
#include "fake_place.hpp"

namespace zerospan_test {

inline constexpr zerospan::NcclOptions hasty{.timeout = std::chrono::milliseconds{500},
                                             .poll = std::chrono::milliseconds{1}};

/// Runs ranks that are threads, each with a communicator over `Exchange`, and checks that nothing is left behind.
/// @param f Called as `f(communicator, place)`, or as `f(communicator, place, world)`.
template <class Api = fake::Api, class Exchange = zerospan::ThreadExchange, class F>
auto run_on_fake_nccl(int size, const zerospan::NcclOptions& options, F f) {
  const auto world = std::make_shared<fake::World>();
  const auto body = [&](zerospan::ThreadCommunicator threads) {
    StreamPlace place;
    FakeNccl<Api> communicator{Exchange{std::move(threads)}, options, Api{world, place.gpu_}};
    if constexpr (std::is_invocable_v<F&, FakeNccl<Api>&, StreamPlace&>) {
      return f(communicator, place);
    } else {
      return f(communicator, place, *world);
    }
  };
  struct Check {
    ~Check() {
      CHECK(world->device_allocations == 0);
      CHECK(world->pinned_allocations == 0);
      CHECK(world->events == 0);
      CHECK(world->communicators == 0);
      CHECK(world->registrations == 0);
    }
    fake::World* world;
  } const check{world.get()};
  return zerospan::run_ranks(size, body);
}

/// Waits for what `on_failure` tells.
class Told {
 public:
  template <class C>
  explicit Told(C& communicator) {
    communicator.on_failure([this](std::exception_ptr error) { error_.set_value(std::move(error)); });
  }
  std::exception_ptr wait() { return error_.get_future().get(); }

 private:
  std::promise<std::exception_ptr> error_;
};

}  // namespace zerospan_test
