/// @file
/// What training asks of its checkpoints, and of the models that it begins and ends with.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <zerospan/partition/parameter_store.hpp>

namespace gpt {

/// Where training is, besides the engine's states.
struct Position {
  std::uint64_t step = 0;           ///< Steps made.
  std::uint64_t sequences = 0;      ///< Drawn from the text, by all ranks.
  std::uint64_t skipped_steps = 0;  ///< Of those made.
};

struct Saved {
  std::int64_t step;
  std::string path;
};

/// Saves checkpoints of one rank's engine while it trains. Every rank calls the same members in the same order; each
/// tells which checkpoints have become complete.
class Saver {
 public:
  Saver() = default;
  Saver(const Saver&) = delete;
  Saver& operator=(const Saver&) = delete;
  virtual ~Saver() = default;

  virtual std::vector<Saved> start(const Position& position) = 0;
  virtual std::vector<Saved> poll() = 0;
  virtual std::vector<Saved> wait() = 0;
};

/// Saves and loads checkpoints and models. Every rank calls the same members in the same order; ranks that are threads
/// share it.
class Saves {
 public:
  Saves() = default;
  Saves(const Saves&) = delete;
  Saves& operator=(const Saves&) = delete;
  virtual ~Saves() = default;

  /// Whether checkpoints are wanted at all.
  virtual bool is_on() const = 0;

  /// @param store The engine's. @return nullptr where checkpoints are not wanted.
  virtual std::unique_ptr<Saver> saver(std::shared_ptr<zerospan::ParameterStore> store) = 0;

  /// Loads the latest checkpoint into the engine, if training is to go on from it. @return Nothing if there is none.
  /// @throws zerospan::ConfigurationError if there is one and nobody wants it, or if it is of another training.
  virtual std::optional<Position> resume(std::shared_ptr<zerospan::ParameterStore> store) = 0;

  /// Whether this process was asked to end.
  virtual bool is_interrupted() const = 0;

  /// Loads the model that training is to begin with, if it is told of one, into the engine. @return Whether it is.
  virtual bool import_model(std::shared_ptr<zerospan::ParameterStore> store) = 0;

  /// Saves the model for others, if it is told where. @param is_first Of one rank alone. @return Whether it is.
  virtual bool export_model(std::shared_ptr<zerospan::ParameterStore> store, bool is_first) = 0;
};

}  // namespace gpt
