/// @file
/// Program: what a host calls to train a declared model.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <zerospan/activation/detail/checkpoint_store.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/engine/detail/engine.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/plan/model.hpp>
#include <zerospan/plan/setting.hpp>

namespace zerospan::inline v0::plan::detail {

/// Makes the calls of a host that trains the model, in its order; what is computed is `compute(name, flops)`, on the
/// stream on which it takes its leases.
template <class Compute>
class Program {
 public:
  /// Declares the parameters. @param model, engine Outlive it. @throws as ParameterStore::declare.
  Program(const Model& model, const Setting& setting, zerospan::detail::Engine& engine, StreamRef stream,
          Compute compute)
      : model_{model},
        engine_{engine},
        stream_{stream},
        order_{setting.micro_batches},
        micro_batches_{setting.options.micro_batches},
        compute_{std::move(compute)} {
    ids_.reserve(model.parameters.size());
    for (const Parameter& p : model.parameters) {
      ids_.push_back(p.tied_to ? engine.tie(ids_[*p.tied_to], p.name)
                               : engine.declare({p.name, p.shape, p.type, init::zeros(), {.training = p.training}}));
    }
  }

  /// @param checkpoints Where activations go between forward and backward; nullptr: none do.
  /// @throws as the engine's calls.
  void step(zerospan::detail::CheckpointStore* checkpoints) {
    checkpoints_ = checkpoints;
    const std::size_t at_once = order_ == MicroBatches::layer_by_layer ? micro_batches_ : 1;
    for (std::size_t first = 0; first < micro_batches_; first += at_once) {
      if (order_ != MicroBatches::in_one_pass) engine_.begin(Pass::training);
      for (const PassStep& each : model_.forward) forward(each, at_once);
      for (const PassStep& each : model_.backward) backward(each, at_once);
    }
    engine_.step({});
  }

 private:
  /// Leases that end with the object.
  class Leases {
   public:
    Leases(zerospan::detail::Engine& engine, std::vector<LeaseId> ids) : engine_{engine}, ids_{std::move(ids)} {}
    Leases(const Leases&) = delete;
    Leases& operator=(const Leases&) = delete;
    ~Leases() {
      for (std::size_t i = committed_; i < ids_.size(); ++i) engine_.release(ids_[i]);
    }

    void commit() {
      for (; committed_ < ids_.size(); ++committed_) engine_.commit(ids_[committed_]);
    }

   private:
    zerospan::detail::Engine& engine_;
    std::vector<LeaseId> ids_;
    std::size_t committed_ = 0;
  };

  /// A checkpoint that was popped.
  class Popped {
   public:
    Popped(zerospan::detail::CheckpointStore& store, StreamRef stream)
        : store_{store}, id_{store.pop(stream, std::nullopt).id} {}
    Popped(const Popped&) = delete;
    Popped& operator=(const Popped&) = delete;
    ~Popped() { store_.release(id_); }

   private:
    zerospan::detail::CheckpointStore& store_;
    zerospan::detail::CheckpointId id_;
  };

  void forward(const PassStep& step, std::size_t micro_batches) {
    for (std::size_t i = 0; i < micro_batches && step.pushes.count > 0 && checkpoints_; ++i) {
      const Shape shape{std::max<std::size_t>(1, step.pushes.count / sizeof(bfloat16))};
      checkpoints_->commit(checkpoints_->push(stream_, shape, ElementType::bfloat16).id);
    }
    const Leases gathered{engine_, gather(step.gathers)};
    for (std::size_t i = 0; i < micro_batches; ++i) compute(step, 1);
  }

  void backward(const PassStep& step, std::size_t micro_batches) {
    const Leases gathered{engine_, gather(step.gathers)};
    for (std::size_t i = 0; i < micro_batches; ++i) {
      std::optional<Popped> popped;
      if (step.pops && checkpoints_) popped.emplace(*checkpoints_, stream_);
      const bool is_together = step.leases == GradientLeases::together;
      const std::size_t leases = step.gradients.empty() ? 0 : is_together ? 1 : step.gradients.size();
      if (leases == 0) compute(step, 1);
      for (std::size_t g = 0; g < leases; ++g) {
        const auto which = std::span{step.gradients}.subspan(g, is_together ? step.gradients.size() : 1);
        Leases gradients{engine_, lease_gradients(which)};
        compute(step, leases);
        gradients.commit();
      }
    }
  }

  void compute(const PassStep& step, std::size_t parts) {
    if (step.flops > 0) compute_(std::string_view{step.name}, step.flops / static_cast<double>(parts));
  }

  std::vector<LeaseId> gather(const std::vector<std::size_t>& parameters) {
    if (parameters.empty()) return {};
    const std::vector<ParameterId> ids = ids_of(parameters);
    std::vector<std::byte*> data(ids.size());
    std::vector<LeaseId> leases(ids.size());
    engine_.gather(stream_, ids, data, leases);
    return leases;
  }

  std::vector<LeaseId> lease_gradients(std::span<const std::size_t> parameters) {
    const std::vector<ParameterId> ids = ids_of(parameters);
    std::vector<std::byte*> data(ids.size());
    std::vector<LeaseId> leases(ids.size());
    engine_.gradients(stream_, ids, GradientContent::undefined, data, leases);
    return leases;
  }

  std::vector<ParameterId> ids_of(std::span<const std::size_t> parameters) const {
    std::vector<ParameterId> ids;
    ids.reserve(parameters.size());
    for (const std::size_t p : parameters) ids.push_back(ids_.at(p));
    return ids;
  }

  const Model& model_;
  zerospan::detail::Engine& engine_;
  StreamRef stream_;
  MicroBatches order_;
  std::size_t micro_batches_;
  Compute compute_;
  zerospan::detail::CheckpointStore* checkpoints_ = nullptr;
  std::vector<ParameterId> ids_;
};

}  // namespace zerospan::inline v0::plan::detail
