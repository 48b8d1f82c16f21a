/// @file
/// What training takes from the heap once it is under way: every allocation is counted.
#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/comm/self_communicator.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/engine/options.hpp>
#include <zerospan/engine/stage.hpp>
#include <zerospan/engine/zero_engine.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>
#include <zerospan/tier/host_tier.hpp>

#include "support/replaced_heap.hpp"
#include "support/toy_model.hpp"

namespace {

/// Allocations of this thread.
thread_local std::size_t allocations = 0;

}  // namespace

void zerospan_test::before_allocation() { ++allocations; }

namespace {

using namespace zerospan::literals;
using zerospan::calling_thread;
using Parameter = zerospan::PartitionedParameter<zerospan_test::Array<float>>;

/// How many allocations of this thread `act` takes.
template <class Act>
std::size_t allocations_of(Act act) {
  const std::size_t before = allocations;
  act();
  return allocations - before;
}

/// A rank alone, whose parameters are all of one size. What its calls take is counted from the third step on.
class Training {
 public:
  static constexpr std::size_t elements = 1024;

  explicit Training(zerospan::Bytes persistence_threshold)
      : engine_{zerospan::Stage3{},
                self_,
                device_,
                zerospan::Placement{host_, host_, host_},
                zerospan::AdamW{},
                zerospan::EngineOptions{.persistence_threshold = persistence_threshold, .prefetch = 64_KiB}} {
    for (int l = 0; l < 8; ++l) {
      parameters_.emplace_back(engine_, std::to_string(l), zerospan::Shape{elements}, zerospan::init::ones());
    }
    for (int step = 0; step < 2; ++step) make_step();
    gather = commit = 0;
    for (int step = 0; step < 4; ++step) make_step();
  }

  std::size_t gather = 0;  ///< The most that one gather took, with its release.
  std::size_t commit = 0;  ///< The most that the lease of one gradient took, with its commit.

 private:
  void make_step() {
    const auto read = [&](const Parameter& parameter) {
      gather = std::max(gather, allocations_of([&] { static_cast<void>(parameter.gather(calling_thread)); }));
    };
    for (const Parameter& parameter : parameters_) read(parameter);
    for (auto parameter = parameters_.rbegin(); parameter != parameters_.rend(); ++parameter) {
      read(*parameter);
      commit = std::max(commit, allocations_of([&] {
                          auto gradient = parameter->gradient(calling_thread);
                          std::fill_n(gradient->data, elements, 1.0F);
                          gradient.commit();
                        }));
    }
    engine_.step();
  }

  zerospan::SelfCommunicator self_;
  zerospan::HostDevice device_{{.device_budget = 8_MiB, .host_budget = 8_MiB}};
  zerospan::HostTier host_{device_};
  zerospan::ZeroEngine<zerospan::Stage3, zerospan::SelfCommunicator, zerospan::HostDevice, zerospan::AdamW> engine_;
  std::vector<Parameter> parameters_;
};

TEST_CASE("a gather of a parameter that stays whole takes nothing from the heap, nor does its release") {
  CHECK(allocations_of([] { ::operator delete(::operator new(1)); }) == 1);
  CHECK(Training{1_MiB}.gather == 0);
}

// What is posted on lanes has a completion, names and operands of its own, which other threads let go.
TEST_CASE("other gathers and commits take little from the heap, and say how much") {
  const Training training{zerospan::Bytes{0}};
  MESSAGE("allocations of the host's thread, at most: " << training.gather << " a gather and its release, "
                                                        << training.commit << " a gradient and its commit");
  CHECK(training.gather <= 24);
  CHECK(training.commit <= 48);
}

}  // namespace
