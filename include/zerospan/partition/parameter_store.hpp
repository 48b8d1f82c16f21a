/// @file
/// ParameterStore: the one abstract class that model code sees of an engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// How the optimizer treats a parameter; the factors multiply the optimizer's own settings.
struct ParameterGroup {
  float learning_rate_factor = 1.0F;
  float weight_decay_factor = 1.0F;
};

/// Whether a parameter is updated. A frozen one has no gradient; one that is declared frozen has no optimizer states
/// either, and stays frozen.
enum class Training : std::uint8_t { trainable, frozen };

struct ParameterOptions {
  ParameterGroup group{};
  Training training = Training::trainable;
};

/// A parameter as it is declared to a store.
struct ParameterDeclaration {
  std::string name;
  Shape shape;
  ElementType type;
  Initializer initializer;
  ParameterOptions options;
};

/// One use of a parameter in a store: a parameter itself, or a further use tied to it.
enum class ParameterId : std::uint32_t {};

/// What a lease holds: a slot of the store.
enum class LeaseId : std::uint32_t {};

/// What a gradient lease's memory holds at first.
enum class GradientContent : std::uint8_t {
  undefined,  ///< Whatever was there: the host writes every element.
  zeros,      ///< Zeros, written on the lease's stream: for kernels that add to what is there.
};

/// What a write lease's memory holds at first.
enum class WriteContent : std::uint8_t {
  current,    ///< The parameter as it is, gathered.
  undefined,  ///< Whatever was there: nothing is read, for a host that writes every element.
};

/// What the handles and leases of model code call; implemented by the engine. One thread at a time, whichever.
class ParameterStore {
 public:
  ParameterStore() = default;
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;
  virtual ~ParameterStore() = default;

  virtual ParameterId declare(ParameterDeclaration declaration) = 0;

  /// A further use of a parameter, with a gradient of its own that is added at the step.
  virtual ParameterId tie(ParameterId parameter, std::string name) = 0;

  /// Leases the gathered parameters, as one group. `data[i]` is where parameter i is, `leases[i]` its lease.
  /// @throws BudgetError if they do not fit beside the leases held; LeaseError if a write lease is in the way.
  virtual void gather(StreamRef stream, std::span<const ParameterId> parameters, std::span<std::byte*> data,
                      std::span<LeaseId> leases) = 0;

  /// Leases a parameter for writing, alone.
  virtual LeaseId gather_for_write(StreamRef stream, ParameterId parameter, WriteContent content, std::byte*& data) = 0;

  /// Publishes what `source` wrote, and ends the lease: every rank takes its shard from there.
  virtual void publish(LeaseId lease, Rank source) = 0;

  /// Leases memory for the whole gradients of one micro-batch. `data[i]` is where that of parameter i is, `leases[i]`
  /// its lease. @throws BudgetError if they do not fit beside the leases held; LeaseError if one of them is frozen,
  /// leased already, or was committed in this micro-batch. Nothing is leased then.
  virtual void gradients(StreamRef stream, std::span<const ParameterId> parameters, GradientContent content,
                         std::span<std::byte*> data, std::span<LeaseId> leases) = 0;

  /// Hands a gradient over, and ends its lease: reduced over ranks, accumulated, offloaded; asynchronously.
  virtual void commit(LeaseId lease) = 0;

  /// Ends a gradient lease whose gradient is not wanted.
  virtual void discard(LeaseId lease) = 0;

  /// Ends a lease of any kind. What is enqueued on the lease's stream may still use the memory. A gradient lease that
  /// ends so was forgotten: the next step refuses.
  virtual void release(LeaseId lease) noexcept = 0;

  /// Joins the gradient reduction of a parameter that other ranks use in this micro-batch, with zeros.
  virtual void skip(ParameterId parameter) = 0;

  /// Freezes or unfreezes a parameter between steps, on every rank alike. @throws LeaseError while leases are held or
  /// gradients of this step were committed.
  virtual void set_training(ParameterId parameter, Training training) = 0;

  /// Whether a parameter is updated.
  virtual Training training(ParameterId parameter) const = 0;
};

}  // namespace zerospan::inline v0
