/// @file
/// OptimizerInterface: what an engine sees of an optimizer, whatever its type; OptimizerModel has one behind it.
#pragma once

#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/optimizer/detail/optimizer_settings.hpp>
#include <zerospan/optimizer/optimizer.hpp>
#include <zerospan/optimizer/state_array.hpp>

namespace zerospan::inline v0::detail {

/// @tparam Stream A device's stream type; StreamRef where the host's threads are its streams.
template <class Stream>
class OptimizerInterface {
 public:
  OptimizerInterface() = default;
  OptimizerInterface(const OptimizerInterface&) = delete;
  OptimizerInterface& operator=(const OptimizerInterface&) = delete;
  virtual ~OptimizerInterface() = default;

  /// Bytes of the states of so many elements, a multiple of `block_elements`.
  virtual std::size_t state_bytes(std::size_t elements) const = 0;

  /// What the states are; nothing where the optimizer does not say.
  virtual std::optional<std::vector<StateArray>> state_arrays() const = 0;

  /// @throws ConfigurationError of settings without sense. To be called before each use of them.
  virtual void validate() const = 0;

  /// For comparison with other ranks'.
  virtual SettingsRecord settings() const = 0;

  /// With today's settings, which later changes leave alone. An update under way holds it.
  virtual std::shared_ptr<const OptimizerInterface> snapshot() const = 0;

  /// Updates runs of one sub-group on the calling thread, in memory that the host can touch.
  virtual void update(std::span<const ShardUpdate> runs) const = 0;

  /// Whether states that only the device can touch are updated by it; otherwise they are brought to the host.
  virtual bool updates_on_device() const noexcept = 0;

  /// Enqueues the updates of runs that do not overlap, in device memory or pinned memory. The span may go, the
  /// optimizer may not, before they are done.
  /// @throws ConfigurationError unless `updates_on_device()`.
  virtual void update(Stream& stream, std::span<const ShardUpdate> runs) const = 0;
};

/// The overload of the stream's type: a member of that name would hide it.
template <class Stream, Optimizer O>
void enqueue_update(Stream& stream, const O& optimizer, std::span<const ShardUpdate> runs) {
  update(stream, optimizer, runs);
}

/// Holds an optimizer. States are the device's to update unless its streams are the host's, or the optimizer is
/// `UpdatesOnHost`.
template <Optimizer O, class Stream>
class OptimizerModel final : public OptimizerInterface<Stream> {
 public:
  explicit OptimizerModel(O optimizer) : optimizer_{std::move(optimizer)} {}

  O& get() noexcept { return optimizer_; }
  const O& get() const noexcept { return optimizer_; }

  std::size_t state_bytes(std::size_t elements) const override { return optimizer_.state_bytes(elements); }
  std::optional<std::vector<StateArray>> state_arrays() const override {
    if constexpr (NamesStates<O>) {
      const auto& arrays = optimizer_.state_arrays();
      const std::span<const StateArray> span{arrays};
      return std::vector<StateArray>{span.begin(), span.end()};
    } else {
      return std::nullopt;
    }
  }
  void validate() const override { validate_settings(optimizer_); }
  SettingsRecord settings() const override { return SettingsRecord::of(optimizer_); }
  std::shared_ptr<const OptimizerInterface<Stream>> snapshot() const override {
    return std::make_shared<const OptimizerModel>(optimizer_);
  }

  void update(std::span<const ShardUpdate> runs) const override {
    for (const ShardUpdate& run : runs) optimizer_.update(run);
  }

  bool updates_on_device() const noexcept override { return is_devices; }

  void update([[maybe_unused]] Stream& stream, [[maybe_unused]] std::span<const ShardUpdate> runs) const override {
    if constexpr (is_devices) {
      enqueue_update(stream, optimizer_, runs);
    } else {
      throw_configuration_error("the optimizer " + std::string{name_of<O>()} + " is run by the host alone");
    }
  }

 private:
  static constexpr bool is_devices = !std::same_as<Stream, StreamRef> && !UpdatesOnHost<O>;

  O optimizer_;
};

}  // namespace zerospan::inline v0::detail
