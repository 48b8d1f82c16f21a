/// @file
/// The checkpoints of train_gpt, and the signals that ask for a last one; the models that it begins and ends with.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <zerospan/partition/parameter_store.hpp>

#include "options.hpp"
#include "saves.hpp"

namespace gpt {

/// Checkpoints in the directory that the options name. One at a time: while it is there, the first SIGINT or SIGTERM
/// asks for an end, and the second one ends the process at once.
class Checkpoints final : public Saves {
 public:
  /// @param options Outlive it.
  explicit Checkpoints(const Options& options);
  ~Checkpoints() override;

  bool is_on() const override { return !options_.checkpoint.empty(); }
  std::unique_ptr<Saver> saver(std::shared_ptr<zerospan::ParameterStore> store) override;
  std::optional<Position> resume(std::shared_ptr<zerospan::ParameterStore> store) override;
  bool import_model(std::shared_ptr<zerospan::ParameterStore> store) override;
  bool export_model(std::shared_ptr<zerospan::ParameterStore> store, bool is_first) override;
  bool is_interrupted() const override;

 private:
  const Options& options_;
};

}  // namespace gpt
