/// @file
/// Engine: what training calls of one rank's engine, memory and tiers.
#pragma once

#include <memory>
#include <vector>

#include <zerospan/activation/activation_checkpoints.hpp>
#include <zerospan/engine/outcome.hpp>
#include <zerospan/partition/parameter_store.hpp>

#include "directory_use.hpp"
#include "figures.hpp"

namespace gpt {

/// A zerospan::ZeroEngine whose stage and device are known at run time: the model and its training are compiled once,
/// and not for each of them.
class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  virtual ~Engine() = default;

  /// Of the step that begins now.
  virtual void set_learning_rate(float rate) = 0;
  virtual zerospan::StepOutcome step() = 0;
  virtual void begin(zerospan::Pass pass) = 0;
  virtual void synchronize() = 0;
  virtual float loss_scale() const = 0;
  virtual void for_each_master(const zerospan::MasterVisitor& visitor) = 0;
  virtual zerospan::Statistics statistics() const = 0;

  /// Where parameters are declared.
  virtual std::shared_ptr<zerospan::ParameterStore> store() const = 0;

  /// Where activations are checkpointed; nullptr: nowhere.
  virtual zerospan::ActivationCheckpoints* checkpoints() = 0;

  /// Where its states on disk lie; empty if none do.
  virtual std::vector<DirectoryUse> directories() const = 0;

  /// All but the activations' bytes, which the mathematics knows.
  virtual Figures figures() = 0;
};

}  // namespace gpt
