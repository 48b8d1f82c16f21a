// Updates that are made during the backward pass.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "support/any_engine.hpp"
#include "support/sample.hpp"
#include "support/toy_model.hpp"
#include "support/training_run.hpp"

namespace {

using zerospan::Bytes;
using zerospan::calling_thread;
using zerospan::ConfigurationError;
using zerospan::EngineOptions;
using zerospan::LeaseError;
using zerospan::UpdateTime;
using zerospan_test::AnyEngine;
using zerospan_test::Array;
using Parameter = zerospan::PartitionedParameter<Array<float>>;

/// How a host goes backward through a parameter.
enum class Backward : std::uint8_t {
  holding,   ///< It commits the gradient while it holds the parameter.
  gathering  ///< It commits the gradient, and gathers the parameter then: for the gradient of its input.
};

struct Setting {
  int stage;
  bool is_on_disk;
  std::size_t micro_batches;
  Backward backward;
  UpdateTime updates;
};

/// What a training has seen and come to.
using Record = std::vector<std::uint64_t>;

std::uint64_t hash_of(std::span<const std::byte> bytes) {
  return std::hash<std::string_view>{}({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

/// Parameters of several sizes, some in several sub-groups and some beside others in one; two small ones, which are
/// replicated; one that is tied; one without a gradient now and then.
class Rank {
 public:
  explicit Rank(zerospan::ThreadCommunicator& communicator, const Setting& setting, EngineOptions options = {})
      : setting_{setting}, rank_{communicator.rank().value} {
    options.micro_batches = setting.micro_batches;
    options.updates = setting.updates;
    options.persistence_threshold = Bytes{1024};
    options.prefetch = Bytes{std::size_t{128} << 10};
    options.staging = Bytes{std::size_t{512} << 10};
    options.sub_group_elements = 4096;
    const zerospan::TierRef disk = disk_;
    const zerospan::TierRef memory = memory_;
    const zerospan::TierRef tier = setting.is_on_disk ? disk : memory;
    engine_ = std::make_unique<AnyEngine>(setting.stage, communicator, device_,
                                          zerospan::Placement{setting.stage < 3 ? memory : tier,
                                                              setting.stage < 2 ? memory : tier, tier},
                                          zerospan::AdamW{}, options);
    for (const std::size_t size : {5000U, 100U, 20000U, 900U, 64U, 12000U, 300U, 3000U}) {
      parameters_.emplace_back(*engine_, "p" + std::to_string(size), zerospan::Shape{size},
                               zerospan::init::normal(1.0F));
    }
    tied_ = std::make_unique<Parameter>(parameters_[0].tie("tied"));
  }

  AnyEngine& engine() { return *engine_; }
  std::vector<Parameter>& parameters() { return parameters_; }

  void read(const Parameter& parameter) {
    const auto full = parameter.gather(calling_thread);
    record_.push_back(hash_of(std::as_bytes(std::span{full->data, full->size})));
  }

  void forward() {
    for (const Parameter& parameter : parameters_) read(parameter);
    read(*tied_);
  }

  void commit(const Parameter& parameter, bool is_infinite = false) {
    auto gradient = parameter.gradient(calling_thread);
    std::mt19937 noise{static_cast<std::uint32_t>(++commits_ * 10 + static_cast<std::uint32_t>(rank_))};
    for (std::size_t k = 0; k < gradient->size; ++k) {
      gradient->data[k] = static_cast<float>(noise()) / static_cast<float>(std::mt19937::max()) - 0.5F;
    }
    if (is_infinite) gradient->data[7] = std::numeric_limits<float>::infinity();
    gradient.commit();
  }

  void backward(const Parameter& parameter) {
    if (setting_.backward == Backward::holding) {
      const auto full = parameter.gather(calling_thread);
      record_.push_back(hash_of(std::as_bytes(std::span{full->data, full->size})));
      commit(parameter);
    } else {
      commit(parameter);
      read(parameter);
    }
  }

  void backward(int step) {
    backward(*tied_);
    for (std::size_t p = parameters_.size(); p-- > 0;) {
      if (p == 3 && step % 3 == 2) continue;
      backward(parameters_[p]);
    }
  }

  Record train(int steps) {
    for (int step = 0; step < steps; ++step) {
      for (std::size_t i = 0; i < setting_.micro_batches; ++i) {
        forward();
        backward(step);
      }
      record_.push_back(std::bit_cast<std::uint64_t>(engine_->step().gradient_norm));
      if (step % 4 == 3) {
        engine_->for_each_state([this](const zerospan::StatesPiece& piece) {
          record_.push_back(hash_of(std::as_bytes(piece.master)));
          for (const auto& state : piece.states) record_.push_back(hash_of(state));
        });
      }
    }
    engine_->for_each_master([this](std::string_view, std::size_t, std::span<const float> values) {
      record_.push_back(hash_of(std::as_bytes(values)));
    });
    return record_;
  }

 private:
  Setting setting_;
  int rank_;
  std::uint32_t commits_ = 0;
  Record record_;
  zerospan::HostDevice device_{{.device_budget = Bytes{2 << 20}, .host_budget = Bytes{4 << 20}}};
  zerospan::DeviceTier memory_{device_};
  zerospan::ThreadedIoEngine io_;
  zerospan::NvmeTier<zerospan::ThreadedIoEngine> disk_{io_,
                                                       {.directory = std::filesystem::temp_directory_path().string()}};
  std::unique_ptr<AnyEngine> engine_;
  std::vector<Parameter> parameters_;
  std::unique_ptr<Parameter> tied_;
};

TEST_CASE("updates during the backward pass come to what updates after the step come to") {
  zerospan_test::Sample sample{2};
  std::size_t trainings = 0;
  for (const int stage : {0, 1, 2, 3}) {
    for (const bool is_on_disk : {false, true}) {
      for (const std::size_t micro_batches : {1U, 2U}) {
        for (const Backward backward : {Backward::holding, Backward::gathering}) {
          for (const int ranks : {1, 2, 3}) {
            if (!sample.takes()) continue;
            CAPTURE(stage);
            CAPTURE(is_on_disk);
            CAPTURE(micro_batches);
            CAPTURE(static_cast<int>(backward));
            CAPTURE(ranks);
            const auto train = [&](UpdateTime updates, const EngineOptions& options = {}) {
              return zerospan::run_ranks(ranks, [&](zerospan::ThreadCommunicator communicator) {
                return Rank{communicator, {stage, is_on_disk, micro_batches, backward, updates}, options}.train(7);
              });
            };
            const double share = std::array{2.0 / 3, 1.0, 0.3}[trainings++ % 3];
            CAPTURE(share);
            CHECK((train(UpdateTime::during_backward, {.early_share = share}) == train(UpdateTime::after_step)));
          }
        }
      }
    }
  }
}

constexpr Setting in_memory{3, false, 1, Backward::holding, UpdateTime::during_backward};

template <class F>
void on_ranks(F f, const EngineOptions& options = {}) {
  zerospan::run_ranks(2, [&](zerospan::ThreadCommunicator communicator) {
    Rank rank{communicator, in_memory, options};
    f(rank);
    return 0;
  });
}

TEST_CASE("what is decided on after the backward pass is refused together with updates during it") {
  CHECK_THROWS_WITH_AS(on_ranks([](Rank&) {}, {.max_gradient_norm = 1.0F}), doctest::Contains("max_gradient_norm"),
                       ConfigurationError);
  CHECK_THROWS_WITH_AS(on_ranks([](Rank&) {}, {.loss_scale = zerospan::DynamicLossScale{}}),
                       doctest::Contains("loss_scale"), ConfigurationError);
  for (const double share : {0.0, -0.5, 1.01, std::numeric_limits<double>::quiet_NaN()}) {
    CHECK_THROWS_WITH_AS(on_ranks([](Rank&) {}, {.early_share = share}), doctest::Contains("share of early updates"),
                         ConfigurationError);
  }
}

TEST_CASE("a parameter that has been updated is not gathered again in its step") {
  on_ranks([](Rank& rank) {
    rank.train(2);
    rank.forward();
    rank.backward(0);
    CHECK_THROWS_WITH_AS(rank.read(rank.parameters()[2]), doctest::Contains("UpdateTime::during_backward"), LeaseError);
    rank.read(rank.parameters()[1]);  // it is replicated, and updated after the step
    CHECK_THROWS_WITH_AS(rank.engine().abandon(), doctest::Contains("UpdateTime::during_backward"), LeaseError);
    rank.engine().step();
    rank.read(rank.parameters()[2]);
  }, {.early_share = 1});
}

TEST_CASE("a gradient that is infinite is told, on every rank; the next step goes on") {
  on_ranks([](Rank& rank) {
    rank.train(2);
    const auto states = [&] {
      double largest = 0;
      rank.engine().for_each_master([&](std::string_view, std::size_t, std::span<const float> values) {
        for (const float value : values) largest = std::max(largest, std::abs(double{value}));
      });
      return largest;
    };
    CHECK(states() < 1e3);
    rank.forward();
    for (std::size_t p = rank.parameters().size(); p-- > 0;) {
      const auto full = rank.parameters()[p].gather(calling_thread);
      rank.commit(rank.parameters()[p], p == 2);
    }
    CHECK_THROWS_WITH_AS(rank.engine().step(), doctest::Contains("infinite or NaN"), ConfigurationError);
    rank.engine().edit_states([](const zerospan::StatesEdit& edit) {
      for (float& value : edit.master) value = 0.5F;
      for (const auto& state : edit.states) std::ranges::fill(state, std::byte{0});
      return zerospan::EditOutcome::changed;
    });
    rank.train(2);
    CHECK(states() < 1e3);
  });
}

}  // namespace
