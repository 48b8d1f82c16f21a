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
#include <zerospan/core/stream.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// How the optimizer treats a parameter; the factors multiply the optimizer's own settings.
struct ParameterGroup {
  float learning_rate_factor = 1.0F;
  float weight_decay_factor = 1.0F;
};

/// Whether a parameter is updated. A frozen one has no gradient and no optimizer states.
enum class Training : std::uint8_t { trainable, frozen };

struct ParameterOptions {
  ParameterGroup group;
  Training training = Training::trainable;
};

/// A parameter as it is declared to a store.
struct ParameterDeclaration {
  std::string name;
  std::size_t elements;
  ElementType type;
  Initializer initializer;
  ParameterOptions options;
};

/// One use of a parameter in a store: a parameter itself, or a further use tied to it.
enum class ParameterId : std::uint32_t {};

/// What a lease holds: a slot of the store.
enum class LeaseId : std::uint32_t {};

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

  /// Leases a gathered parameter for writing, alone.
  virtual LeaseId gather_for_write(StreamRef stream, ParameterId parameter, std::byte*& data) = 0;

  /// Publishes what `source` wrote: every rank takes its shard from there.
  virtual void publish(LeaseId lease, Rank source) = 0;

  /// Leases memory for the whole gradient of one micro-batch. Its content is undefined.
  virtual LeaseId gradient(StreamRef stream, ParameterId parameter, std::byte*& data) = 0;

  /// Hands the gradient over: reduced over ranks, accumulated, offloaded; asynchronously.
  virtual void commit(LeaseId lease) = 0;

  /// Ends a lease of any kind. What is enqueued on the lease's stream may still use the memory.
  virtual void release(LeaseId lease) noexcept = 0;

  /// Joins the gradient reduction of a parameter that other ranks use in this micro-batch, with zeros.
  virtual void skip(ParameterId parameter) = 0;
};

}  // namespace zerospan::inline v0
