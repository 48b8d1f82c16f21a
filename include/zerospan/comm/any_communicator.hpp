/// @file
/// AnyCommunicator: a communicator that is chosen at run time.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0 {

/// Holds any communicator: an engine on it is compiled once for threads, processes and GPUs, with or without groups.
/// One virtual call a collective. What an ability means where the communicator lacks it: it is one group of all ranks,
/// and one replica; it throws its failures, and does not report them; it takes no notice of registered memory, and sees
/// at each call whether ranks diverge.
/// @code
/// zerospan::AnyCommunicator ranks{zerospan::MpiCommunicator{MPI_COMM_WORLD}};
/// @endcode
class AnyCommunicator {
 public:
  template <class C>
    requires(!std::same_as<C, AnyCommunicator>) && TrainingCommunicator<C>
  explicit AnyCommunicator(C communicator) : model_{std::make_unique<Model<C>>(std::move(communicator))} {}

  Rank rank() const { return model_->rank(); }
  int size() const { return model_->size(); }
  AnyCommunicator duplicate() { return AnyCommunicator{model_->duplicate()}; }

  /// Whether each duplicate takes device memory of its own.
  bool duplicates_take_memory() const { return model_->duplicates_take_memory(); }

  void abort(const std::string& reason) noexcept { model_->abort(reason); }

  void all_gather(Collective what, std::span<const GatherPart> parts) { model_->all_gather(what, parts); }
  void reduce_scatter(Collective what, const Reduction& reduction) { model_->reduce_scatter(what, reduction); }
  void reduce(Collective what, const Reduction& reduction, Rank root) { model_->reduce(what, reduction, root); }
  void all_reduce(Collective what, const Reduction& reduction) { model_->all_reduce(what, reduction); }
  void all_reduce(Collective what, std::span<std::int64_t> integers) { model_->all_reduce(what, integers); }
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root) { model_->broadcast(what, bytes, root); }
  void barrier(Collective what) { model_->barrier(what); }

  int groups() const { return model_->groups(); }
  void gather_across(Collective what, std::span<const GatherPart> parts) { model_->gather_across(what, parts); }
  void gather_within(Collective what, std::span<const GatherPart> parts) { model_->gather_within(what, parts); }
  int replicas() const { return model_->replicas(); }
  int replica() const { return model_->replica(); }

  void on_failure(std::function<void(std::exception_ptr)> told) { model_->on_failure(std::move(told)); }
  void register_memory(std::byte* data, Bytes bytes) { model_->register_memory(data, bytes); }
  void verify() { model_->verify(); }

  /// Whether `verify` does anything.
  bool verifies_calls() const { return model_->verifies_calls(); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual Rank rank() const = 0;
    virtual int size() const = 0;
    virtual std::unique_ptr<Interface> duplicate() = 0;
    virtual bool duplicates_take_memory() const = 0;
    virtual void abort(const std::string& reason) noexcept = 0;
    virtual void all_gather(Collective what, std::span<const GatherPart> parts) = 0;
    virtual void reduce_scatter(Collective what, const Reduction& reduction) = 0;
    virtual void reduce(Collective what, const Reduction& reduction, Rank root) = 0;
    virtual void all_reduce(Collective what, const Reduction& reduction) = 0;
    virtual void all_reduce(Collective what, std::span<std::int64_t> integers) = 0;
    virtual void broadcast(Collective what, std::span<std::byte> bytes, Rank root) = 0;
    virtual void barrier(Collective what) = 0;
    virtual int groups() const = 0;
    virtual void gather_across(Collective what, std::span<const GatherPart> parts) = 0;
    virtual void gather_within(Collective what, std::span<const GatherPart> parts) = 0;
    virtual int replicas() const = 0;
    virtual int replica() const = 0;
    virtual void on_failure(std::function<void(std::exception_ptr)> told) = 0;
    virtual void register_memory(std::byte* data, Bytes bytes) = 0;
    virtual void verify() = 0;
    virtual bool verifies_calls() const = 0;
  };

  template <class C>
  struct Model;

  explicit AnyCommunicator(std::unique_ptr<Interface> model) noexcept : model_{std::move(model)} {}

  std::unique_ptr<Interface> model_;
};

template <class C>
struct AnyCommunicator::Model final : Interface {
  explicit Model(C c) : held{std::move(c)} {}

  Rank rank() const override { return held.rank(); }
  int size() const override { return held.size(); }
  std::unique_ptr<Interface> duplicate() override { return std::make_unique<Model>(held.duplicate()); }
  bool duplicates_take_memory() const override { return DuplicatesTakeMemory<C>; }
  void abort(const std::string& reason) noexcept override { held.abort(reason); }

  void all_gather(Collective what, std::span<const GatherPart> parts) override { held.all_gather(what, parts); }
  void reduce_scatter(Collective what, const Reduction& reduction) override { held.reduce_scatter(what, reduction); }
  void reduce(Collective what, const Reduction& reduction, Rank root) override { held.reduce(what, reduction, root); }
  void all_reduce(Collective what, const Reduction& reduction) override { held.all_reduce(what, reduction); }
  void all_reduce(Collective what, std::span<std::int64_t> integers) override { held.all_reduce(what, integers); }
  void broadcast(Collective what, std::span<std::byte> bytes, Rank root) override { held.broadcast(what, bytes, root); }
  void barrier(Collective what) override { held.barrier(what); }

  int groups() const override {
    if constexpr (Grouped<C>) return held.groups();
    return 1;
  }
  void gather_across(Collective what, std::span<const GatherPart> parts) override {
    if constexpr (Grouped<C>) held.gather_across(what, parts);
  }
  void gather_within(Collective what, std::span<const GatherPart> parts) override {
    if constexpr (Grouped<C>) {
      held.gather_within(what, parts);
    } else {
      held.all_gather(what, parts);
    }
  }
  int replicas() const override {
    if constexpr (Replicates<C>) return held.replicas();
    return 1;
  }
  int replica() const override {
    if constexpr (Replicates<C>) return held.replica();
    return 0;
  }

  void on_failure(std::function<void(std::exception_ptr)> told) override {
    if constexpr (ReportsFailures<C>) held.on_failure(std::move(told));
  }
  void register_memory(std::byte* data, Bytes bytes) override {
    if constexpr (RegistersMemory<C>) held.register_memory(data, bytes);
  }
  void verify() override {
    if constexpr (VerifiesCalls<C>) held.verify();
  }
  bool verifies_calls() const override { return VerifiesCalls<C>; }

  C held;
};

static_assert(TrainingCommunicator<AnyCommunicator> && Grouped<AnyCommunicator> && Replicates<AnyCommunicator> &&
              ReportsFailures<AnyCommunicator> && RegistersMemory<AnyCommunicator> && VerifiesCalls<AnyCommunicator>);

}  // namespace zerospan::inline v0
