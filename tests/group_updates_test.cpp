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
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/zerospan.hpp>

#include "support/any_engine.hpp"
#include "support/sample.hpp"
#include "support/toy_model.hpp"
#include "support/training_run.hpp"

namespace {

using zerospan::Bytes;
using zerospan::calling_thread;
using zerospan_test::AnyEngine;
using zerospan_test::Array;

/// Where everything rests, and how much of it fits.
struct Setting {
  int stage;
  bool parameters_on_disk;
  bool gradients_on_disk;
  bool states_on_disk;
  Bytes staging;
  Bytes prefetch;
};

/// What a program has seen and come to: checksums of everything that it has read.
using Record = std::vector<std::uint64_t>;

std::uint64_t hash_of(std::span<const std::byte> bytes) {
  return std::hash<std::string_view>{}({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

/// A program that does whatever a host may do around steps, drawn at random, on every rank the same.
class RandomProgram {
 public:
  /// @param waits For the updates of a step, before anything else is done.
  RandomProgram(zerospan::ThreadCommunicator& communicator, const Setting& setting, std::uint32_t seed, bool waits)
      : setting_{setting}, rank_{communicator.rank().value}, draw_{seed}, waits_{waits} {
    const auto tier = [&](bool is_on_disk, bool is_whole) -> zerospan::TierRef {
      if (is_on_disk && !is_whole) return disk_;
      return memory_;
    };
    engine_ = std::make_unique<AnyEngine>(
        setting.stage, communicator, device_,
        zerospan::Placement{tier(setting.parameters_on_disk, setting.stage < 3),
                            tier(setting.gradients_on_disk, setting.stage < 2), tier(setting.states_on_disk, false)},
        zerospan::AdamW{},
        zerospan::EngineOptions{.micro_batches = 2,
                                .persistence_threshold = Bytes{1024},
                                .prefetch = setting.prefetch,
                                .staging = setting.staging,
                                .sub_group_elements = 4096});
    const std::size_t sizes[]{5000, 100, 20000, 9000, 64, 12000, 200, 3000};
    for (const std::size_t size : sizes) {
      parameters_.emplace_back(*engine_, "p" + std::to_string(size), zerospan::Shape{size},
                               zerospan::init::normal(1.0F));
    }
  }

  Record run(int steps) {
    for (int step = 0; step < steps; ++step) {
      forward();
      if (is_drawn(4)) evaluate();
      const bool is_infinite = is_drawn(6);
      const std::size_t micro_batches = 1 + static_cast<std::size_t>(is_drawn(2));
      for (std::size_t i = 0; i < micro_batches; ++i) backward(is_infinite && i == 0);
      if (is_drawn(6)) {
        engine_->abandon();
        continue;
      }
      const zerospan::StepOutcome outcome = engine_->step({.micro_batches = micro_batches});
      record_.push_back(outcome.skipped ? 1 : std::bit_cast<std::uint64_t>(outcome.gradient_norm));
      if (waits_) engine_->synchronize();
      do_something_between();
    }
    engine_->for_each_master([this](std::string_view, std::size_t, std::span<const float> values) {
      record_.push_back(hash_of(std::as_bytes(values)));
    });
    return std::move(record_);
  }

 private:
  bool is_drawn(std::uint32_t one_of) { return draw_() % one_of == 0; }

  void read(std::size_t p) {
    const auto full = parameters_[p].gather(calling_thread);
    record_.push_back(hash_of(std::as_bytes(std::span{full->data, full->size})));
  }

  /// Some of the parameters, in the order of the declaration or in another one.
  void forward() {
    const bool is_reversed = is_drawn(4);
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (is_drawn(5)) continue;
      read(is_reversed ? parameters_.size() - 1 - i : i);
    }
  }

  void evaluate() {
    engine_->begin(zerospan::Pass::evaluation);
    for (std::size_t i = 0; i < 3; ++i) read(draw_() % parameters_.size());
    engine_->begin(zerospan::Pass::training);
  }

  void backward(bool is_infinite) {
    for (std::size_t p = parameters_.size(); p-- > 0;) {
      if (is_drawn(6)) continue;
      if (!is_drawn(3)) read(p);
      if (!parameters_[p].trains()) continue;
      auto gradient = parameters_[p].gradient(calling_thread);
      std::mt19937 noise{static_cast<std::uint32_t>(draw_()) + static_cast<std::uint32_t>(rank_)};
      for (std::size_t k = 0; k < gradient->size; ++k) {
        gradient->data[k] = static_cast<float>(noise()) / static_cast<float>(std::mt19937::max()) - 0.5F;
      }
      if (is_infinite && p == 3) gradient->data[7] = std::numeric_limits<float>::infinity();
      gradient.commit();
    }
  }

  void do_something_between() {
    switch (draw_() % 8) {
      case 0:
        engine_->for_each_state([this](const zerospan::StatesPiece& piece) {
          record_.push_back(hash_of(std::as_bytes(piece.master)));
          for (const auto& state : piece.states) record_.push_back(hash_of(state));
        });
        break;
      case 1:
        engine_->edit_states([](const zerospan::StatesEdit& edit) {
          for (float& value : edit.master) value *= 0.5F;
          return zerospan::EditOutcome::changed;
        });
        break;
      case 2: {
        auto full = parameters_[draw_() % parameters_.size()].write(calling_thread);
        for (std::size_t k = 0; k < full->size; ++k) full->data[k] += 0.25F;
        full.commit();
        break;
      }
      case 3:
        parameters_[2].trains() ? parameters_[2].freeze() : parameters_[2].unfreeze();
        break;
      default:
        break;
    }
  }

  Setting setting_;
  int rank_;
  std::mt19937 draw_;
  bool waits_;
  Record record_;
  zerospan::HostDevice device_{{.device_budget = Bytes{2 << 20}, .host_budget = Bytes{4 << 20}}};
  zerospan::DeviceTier memory_{device_};
  zerospan::ThreadedIoEngine io_;
  zerospan::NvmeTier<zerospan::ThreadedIoEngine> disk_{io_,
                                                       {.directory = std::filesystem::temp_directory_path().string()}};
  std::unique_ptr<AnyEngine> engine_;
  std::vector<zerospan::PartitionedParameter<Array<float>>> parameters_;
};

Record record_of(const Setting& setting, int ranks, std::uint32_t seed, bool waits) {
  return zerospan::run_ranks(ranks, [&](zerospan::ThreadCommunicator communicator) {
    return RandomProgram{communicator, setting, seed, waits}.run(12);
  })[0];
}

TEST_CASE("whatever a host does around a step, it sees what it would see if the step had ended before") {
  zerospan_test::Sample sample{3};
  std::uint32_t seed = 0;
  for (const int stage : {0, 1, 2, 3}) {
    for (const int where : {0, 1, 2, 3, 4, 7}) {
      for (const Bytes staging : {Bytes{std::size_t{256} << 10}, Bytes{std::size_t{2} << 20}}) {
        for (const Bytes prefetch : {Bytes{0}, Bytes{std::size_t{128} << 10}}) {
          ++seed;
          if (!sample.takes()) continue;
          const Setting setting{stage, (where & 1) != 0, (where & 2) != 0, (where & 4) != 0, staging, prefetch};
          const int ranks = 1 + static_cast<int>(seed % 2);
          CAPTURE(stage);
          CAPTURE(where);
          CAPTURE(staging.count);
          CAPTURE(prefetch.count);
          CAPTURE(ranks);
          CHECK((record_of(setting, ranks, seed, false) == record_of(setting, ranks, seed, true)));
        }
      }
    }
  }
}

/// What is read in five steps, of states that alone rest on disk.
std::size_t bytes_read(bool is_one_skipped) {
  return zerospan::run_ranks(1, [&](zerospan::ThreadCommunicator communicator) {
    zerospan::HostDevice device{{.device_budget = Bytes{2 << 20}, .host_budget = Bytes{4 << 20}}};
    zerospan::DeviceTier memory{device};
    zerospan::ThreadedIoEngine io;
    zerospan::NvmeTier<zerospan::ThreadedIoEngine> disk{
        io, {.directory = std::filesystem::temp_directory_path().string()}};
    AnyEngine engine{3,
                     communicator,
                     device,
                     zerospan::Placement{memory, memory, disk},
                     zerospan::AdamW{},
                     zerospan::EngineOptions{.persistence_threshold = Bytes{0},
                                             .staging = Bytes{std::size_t{512} << 10},
                                             .sub_group_elements = 4096}};
    std::vector<zerospan::PartitionedParameter<Array<float>>> parameters;
    for (int p = 0; p < 5; ++p) {
      parameters.emplace_back(engine, "p" + std::to_string(p), zerospan::Shape{8192}, zerospan::init::normal(1.0F));
    }
    for (int step = 0; step < 5; ++step) {
      for (const auto& parameter : parameters) {
        auto gradient = parameter.gradient(calling_thread);
        for (std::size_t k = 0; k < gradient->size; ++k) gradient->data[k] = 1.0F;
        if (is_one_skipped && step == 2) gradient->data[7] = std::numeric_limits<float>::infinity();
        gradient.commit();
      }
      CHECK(engine.step().skipped == (is_one_skipped && step == 2));
    }
    engine.synchronize();
    return disk.counters().read.count;
  })[0];
}

TEST_CASE("states that were read ahead of a step that is skipped are those of the next one, and not read again") {
  const std::size_t all = bytes_read(false);
  CHECK(all % 5 == 0);
  CHECK(all > 0);
  CHECK(bytes_read(true) == all / 5 * 4);
}

}  // namespace
