/// @file
/// AnyEngine: an engine whose stage is a value.
#pragma once

#include <memory>
#include <stdexcept>
#include <utility>

#include <zerospan/zerospan.hpp>

#include "engines.hpp"

namespace zerospan_test {

/// What a test calls of an engine.
class EngineInterface {
 public:
  EngineInterface() = default;
  EngineInterface(const EngineInterface&) = delete;
  EngineInterface& operator=(const EngineInterface&) = delete;
  virtual ~EngineInterface() = default;

  virtual zerospan::StepOutcome step(const zerospan::StepOptions& options) = 0;
  virtual void abandon() = 0;
  virtual void synchronize() = 0;
  virtual void begin(zerospan::Pass pass) = 0;
  virtual float loss_scale() const = 0;
  virtual void for_each_master(const zerospan::MasterVisitor& visitor) = 0;
  virtual void for_each_state(const zerospan::StatesVisitor& visitor, zerospan::Bytes buffer) = 0;
  virtual void edit_states(const zerospan::StatesEditor& editor, const zerospan::EditOptions& options) = 0;
  virtual zerospan::TrainingProgress progress() const = 0;
  virtual zerospan::Statistics statistics() const = 0;
  virtual std::shared_ptr<zerospan::ParameterStore> store() const = 0;
};

template <class S, class C, class D, class O>
class EngineModel final : public EngineInterface {
 public:
  EngineModel(C& communicator, D& device, const zerospan::Placement& placement, const O& optimizer,
              const zerospan::EngineOptions& options)
      : engine_{S{}, communicator, device, placement, optimizer, options} {}

  zerospan::StepOutcome step(const zerospan::StepOptions& options) override { return engine_.step(options); }
  void abandon() override { engine_.abandon(); }
  void synchronize() override { engine_.synchronize(); }
  void begin(zerospan::Pass pass) override { engine_.begin(pass); }
  float loss_scale() const override { return engine_.loss_scale(); }
  void for_each_master(const zerospan::MasterVisitor& visitor) override { engine_.for_each_master(visitor); }
  void for_each_state(const zerospan::StatesVisitor& visitor, zerospan::Bytes buffer) override {
    engine_.for_each_state(visitor, buffer);
  }
  void edit_states(const zerospan::StatesEditor& editor, const zerospan::EditOptions& options) override {
    engine_.edit_states(editor, options);
  }
  zerospan::TrainingProgress progress() const override { return engine_.progress(); }
  zerospan::Statistics statistics() const override { return engine_.statistics(); }
  std::shared_ptr<zerospan::ParameterStore> store() const override { return engine_.store(); }

 private:
  zerospan::ZeroEngine<S, C, D, O> engine_;
};

/// A ZeroEngine of the stage with that number. @throws as its constructor.
template <class C, class D, class O>
std::unique_ptr<EngineInterface> make_engine(int stage, C& communicator, D& device,
                                             const zerospan::Placement& placement, const O& optimizer,
                                             const zerospan::EngineOptions& options) {
  using namespace zerospan;
  switch (stage) {
    case 0:
      return std::make_unique<EngineModel<Stage0, C, D, O>>(communicator, device, placement, optimizer, options);
    case 1:
      return std::make_unique<EngineModel<Stage1, C, D, O>>(communicator, device, placement, optimizer, options);
    case 2:
      return std::make_unique<EngineModel<Stage2, C, D, O>>(communicator, device, placement, optimizer, options);
    case 3:
      return std::make_unique<EngineModel<Stage3, C, D, O>>(communicator, device, placement, optimizer, options);
    default:
      throw std::logic_error{"there is no such stage"};
  }
}

/// An engine whose stage is a value: what a test does with it is compiled once, and not for every stage, communicator,
/// device and optimizer.
class AnyEngine {
 public:
  /// @param stage 0 to 3. @throws as ZeroEngine's constructor.
  template <class C, class D, class O>
  AnyEngine(int stage, C& communicator, D& device, const zerospan::Placement& placement, const O& optimizer,
            const zerospan::EngineOptions& options = {})
      : engine_{make_engine(stage, communicator, device, placement, optimizer, options)} {}

  zerospan::StepOutcome step(const zerospan::StepOptions& options = {}) { return engine_->step(options); }
  void abandon() { engine_->abandon(); }
  void synchronize() { engine_->synchronize(); }
  void begin(zerospan::Pass pass) { engine_->begin(pass); }
  float loss_scale() const { return engine_->loss_scale(); }
  void for_each_master(const zerospan::MasterVisitor& visitor) { engine_->for_each_master(visitor); }
  void for_each_state(const zerospan::StatesVisitor& visitor, zerospan::Bytes buffer = zerospan::EditOptions{}.buffer) {
    engine_->for_each_state(visitor, buffer);
  }
  void edit_states(const zerospan::StatesEditor& editor, const zerospan::EditOptions& options = {}) {
    engine_->edit_states(editor, options);
  }
  zerospan::TrainingProgress progress() const { return engine_->progress(); }
  zerospan::Statistics statistics() const { return engine_->statistics(); }
  std::shared_ptr<zerospan::ParameterStore> store() const { return engine_->store(); }

 private:
  std::unique_ptr<EngineInterface> engine_;
};
static_assert(zerospan::ParameterHost<AnyEngine>);

// Most tests' engines: they are compiled once, in training_run.cpp.
extern template std::unique_ptr<EngineInterface> make_engine(int, zerospan::SelfCommunicator&, zerospan::HostDevice&,
                                                             const zerospan::Placement&, const zerospan::AdamW&,
                                                             const zerospan::EngineOptions&);
extern template std::unique_ptr<EngineInterface> make_engine(int, zerospan::ThreadCommunicator&, zerospan::HostDevice&,
                                                             const zerospan::Placement&, const zerospan::AdamW&,
                                                             const zerospan::EngineOptions&);

}  // namespace zerospan_test
