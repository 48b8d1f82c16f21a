/// @file
/// wrap: a libtorch module whose parameters are whole only while it computes.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/autograd.h>
#include <torch/custom_class.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include "partitioned_module.hpp"

namespace zerospan_torch {

/// What runs a module: its parameters, and its forward.
struct Layer : torch::CustomClassHolder {
  template <zerospan::ParameterHost Engine>
  Layer(Engine& engine, const std::string& name, torch::nn::Module& module,
        std::function<at::Tensor(at::Tensor)> forward_)
      : parameters{engine, name, module}, forward{std::move(forward_)} {}

  PartitionedModule parameters;
  std::function<at::Tensor(at::Tensor)> forward;
};

/// A layer in autograd's graph. It saves its input alone: backward gathers the parameters again and computes the layer
/// once more (Chen et al., arXiv 1604.06174), so that no graph holds memory of the engine's.
class LayerFunction : public torch::autograd::Function<LayerFunction> {
 public:
  /// @param anchor Requires a gradient, and gets none: what makes autograd call backward for an input that needs none.
  static at::Tensor forward(torch::autograd::AutogradContext* context, const c10::intrusive_ptr<Layer>& layer,
                            at::Tensor input, at::Tensor /*anchor*/) {
    context->save_for_backward({input});
    context->saved_data["layer"] = c10::IValue::make_capsule(layer);
    const auto gathered = layer->parameters.gather();
    return layer->forward(std::move(input));
  }

  static std::vector<at::Tensor> backward(torch::autograd::AutogradContext* context,
                                          const std::vector<at::Tensor>& output_gradients) {
    const auto layer = c10::static_intrusive_pointer_cast<Layer>(context->saved_data["layer"].toCapsule());
    const at::Tensor saved = context->get_saved_variables()[0];
    const at::Tensor input = saved.detach().requires_grad_(saved.requires_grad());

    std::vector<at::Tensor> inputs = layer->parameters.trained();
    if (input.requires_grad()) inputs.push_back(input);
    std::vector<at::Tensor> gradients = differentiate(*layer, input, inputs, output_gradients);
    at::Tensor input_gradient;
    if (input.requires_grad()) {
      input_gradient = std::move(gradients.back());
      gradients.pop_back();
    }
    layer->parameters.commit(gradients);
    return {at::Tensor{}, input_gradient, at::Tensor{}};
  }

 private:
  /// The parameters are gathered while it runs.
  static std::vector<at::Tensor> differentiate(Layer& layer, const at::Tensor& input,
                                               const std::vector<at::Tensor>& inputs,
                                               const std::vector<at::Tensor>& output_gradients) {
    const at::AutoGradMode with_graph{true};
    const auto gathered = layer.parameters.gather();
    const at::Tensor output = layer.forward(input);
    return torch::autograd::grad({output}, inputs, output_gradients, /*retain_graph=*/false, /*create_graph=*/false,
                                 /*allow_unused=*/true);
  }
};

/// A module in another's place: the same call, the same submodules, and parameters that rest in an engine.
template <class Impl>
class Wrapped : public torch::nn::Module {
 public:
  template <zerospan::ParameterHost Engine>
  Wrapped(Engine& engine, const std::string& name, std::shared_ptr<Impl> module)
      : layer_{c10::make_intrusive<Layer>(engine, name, *module,
                                          [module](at::Tensor input) { return module->forward(std::move(input)); })} {
    register_module("module", std::move(module));
  }

  at::Tensor forward(at::Tensor input) { return LayerFunction::apply(layer_, std::move(input), anchor_); }

 private:
  c10::intrusive_ptr<Layer> layer_;
  at::Tensor anchor_ = at::empty({0}).requires_grad_(true);
};

/// Hands a module's parameters over to an engine. `engine.step()` is the optimizer from then on: a backward pass hands
/// every gradient over. Modules that give the same output for the same input, tensor in, tensor out; no other module
/// may use its parameters.
/// @param name Unique in the engine.
template <zerospan::ParameterHost Engine, class Impl>
std::shared_ptr<Wrapped<Impl>> wrap(Engine& engine, const std::string& name,
                                    const torch::nn::ModuleHolder<Impl>& module) {
  return std::make_shared<Wrapped<Impl>>(engine, name, module.ptr());
}

}  // namespace zerospan_torch
