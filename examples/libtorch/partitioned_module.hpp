/// @file
/// The parameters of one libtorch module, partitioned: gathered into the module's own tensors, and emptied again.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

#include <zerospan/adapters/torch.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>

#include "initial_values.hpp"

namespace zerospan_torch {

using TensorTraits = zerospan::TensorTraits<at::Tensor>;

/// A module's own tensor, bound to a lease's memory as long as this lives.
class BoundTensor {
 public:
  BoundTensor(at::Tensor tensor, zerospan::ReadLease<at::Tensor> lease)
      : lease_{std::move(lease)}, tensor_{std::move(tensor)} {
    TensorTraits::bind(tensor_, TensorTraits::data(*lease_));
  }
  BoundTensor(BoundTensor&&) = default;
  BoundTensor& operator=(BoundTensor&&) = delete;
  ~BoundTensor() {
    if (tensor_.defined()) TensorTraits::bind(tensor_, nullptr);
  }

 private:
  zerospan::ReadLease<at::Tensor> lease_;
  at::Tensor tensor_;
};

/// Takes over the parameters of a module, its submodules' included: they are declared to an engine with their present
/// values, and hold no memory from then on, except while they are gathered. Buffers stay the module's.
class PartitionedModule {
 public:
  /// @throws zerospan::ConfigurationError for a parameter that is neither float nor bfloat16, shares memory, or has
  /// been taken over already; what declaring one throws.
  template <zerospan::ParameterHost Engine>
  PartitionedModule(Engine& engine, const std::string& name, torch::nn::Module& module) {
    for (const auto& item : module.named_parameters()) {
      const std::string parameter = name + "." + item.key();
      at::Tensor tensor = item.value();
      check(parameter, tensor);
      const zerospan::ElementType type =
          tensor.scalar_type() == at::kFloat ? zerospan::ElementType::float32 : zerospan::ElementType::bfloat16;
      const zerospan::ParameterOptions options{
          .group = {}, .training = tensor.requires_grad() ? zerospan::Training::trainable : zerospan::Training::frozen};
      const std::uint64_t first = initial_->count();
      park(tensor);
      parameters_.push_back({engine, parameter, shape_of(tensor), type, initializer(initial_, first), options});
      TensorTraits::bind(tensor, nullptr);
      if (tensor.requires_grad()) trained_.push_back(tensors_.size());
      tensors_.push_back(std::move(tensor));
    }
  }
  PartitionedModule(const PartitionedModule&) = delete;
  PartitionedModule& operator=(const PartitionedModule&) = delete;

  /// Binds the module's tensors to their values, as long as the result lives.
  std::vector<BoundTensor> gather() {
    std::vector<BoundTensor> bound;
    bound.reserve(tensors_.size());
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      bound.emplace_back(tensors_[i], parameters_[i].gather(zerospan::calling_thread));
    }
    initial_->drop();  // the first gather has ended declaration: the engine has taken them
    return bound;
  }

  /// The tensors that are trained.
  std::vector<at::Tensor> trained() const {
    std::vector<at::Tensor> tensors;
    for (const std::size_t i : trained_) tensors.push_back(tensors_[i]);
    return tensors;
  }

  /// Hands over the gradients of `trained()`; one that is undefined is of a tensor that the module does not use.
  void commit(std::span<const at::Tensor> gradients) const {
    for (std::size_t i = 0; i < trained_.size(); ++i) {
      if (!gradients[i].defined()) continue;
      auto gradient = parameters_[trained_[i]].gradient(zerospan::calling_thread);
      gradient->copy_(gradients[i]);
      gradient.commit();
    }
  }

 private:
  static void check(const std::string& name, const at::Tensor& tensor) {
    const bool is_owner = tensor.is_cpu() && tensor.is_contiguous() && tensor.storage().use_count() == 1 &&
                          tensor.storage().nbytes() == tensor.nbytes();
    if (!is_owner) {
      zerospan::throw_configuration_error(name + " cannot be partitioned: it shares its memory, or has none any more");
    }
    if (tensor.scalar_type() != at::kFloat && tensor.scalar_type() != at::kBFloat16) {
      zerospan::throw_configuration_error(name + " cannot be partitioned: its elements are " +
                                          std::string{at::toString(tensor.scalar_type())});
    }
  }

  static zerospan::Shape shape_of(const at::Tensor& tensor) {
    return zerospan::Shape{std::vector<std::size_t>(tensor.sizes().begin(), tensor.sizes().end())};
  }

  void park(const at::Tensor& tensor) {
    const at::Tensor values = tensor.detach().to(at::kFloat);
    initial_->append({values.data_ptr<float>(), static_cast<std::size_t>(values.numel())});
  }

  std::shared_ptr<InitialValues> initial_ = std::make_shared<InitialValues>();
  std::vector<at::Tensor> tensors_;
  std::vector<zerospan::PartitionedParameter<at::Tensor>> parameters_;  // of `tensors_`
  std::vector<std::size_t> trained_;                                    // indices of those that are trained
};

}  // namespace zerospan_torch
