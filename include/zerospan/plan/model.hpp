/// @file
/// plan::Model: a model that is only declared: its parameters, and in which order a pass uses them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/partition/parameter_store.hpp>

namespace zerospan::inline v0::plan {

/// A parameter as a model declares it, or a further use of one.
struct Parameter {
  std::string name;
  Shape shape;
  ElementType type = ElementType::float32;
  Training training = Training::trainable;
  std::optional<std::size_t> tied_to = std::nullopt;  ///< The parameter, declared before, that this is a use of. Shape,
                                                      ///< type and training are that one's then.
};

/// Whether the gradients of a step of a pass are leased at once.
enum class GradientLeases : std::uint8_t {
  together,    ///< By one call; each is committed when the step has been computed.
  one_by_one,  ///< Each is committed before the next is leased.
};

/// One step of a pass: parameters are gathered, as one group; something is computed; they are released.
struct PassStep {
  std::string name;
  std::vector<std::size_t> gathers{};    ///< Parameters, by their indices in the model.
  std::vector<std::size_t> gradients{};  ///< Those whose gradients are leased beside them, in the order of the commits.
  double flops = 0;                      ///< Floating-point operations of one micro-batch.
  GradientLeases leases = GradientLeases::together;
  Bytes pushes{};     ///< What is pushed on the activation checkpoints before, for each micro-batch.
  bool pops = false;  ///< Whether the last of them is popped before, for each micro-batch, and held meanwhile.
};

/// A layer: gathered forward and backward, where all of its gradients are beside it.
struct Layer {
  std::string name;
  std::vector<std::string> parameters{};  ///< Gathered together.
  double forward_flops = 0;               ///< Of one micro-batch.
  double backward_flops = 0;              ///< Likewise; with what is computed again, if anything is.
  Bytes checkpoint{};                     ///< Of the activation that enters it and is kept, for one micro-batch.
  GradientLeases leases = GradientLeases::together;
};

/// A model's parameters in the order of their declaration, and the steps of a forward and a backward pass in the order
/// in which a host makes them. It has no values and takes no memory, whatever its size.
/// @code
/// plan::Model model;
/// model.declare({.name = "up", .shape = {4 * width, width}, .type = ElementType::bfloat16});
/// model.declare({.name = "down", .shape = {width, 4 * width}, .type = ElementType::bfloat16});
/// model.append({.name = "mlp", .parameters = {"up", "down"}, .forward_flops = f, .backward_flops = 2 * f});
/// @endcode
struct Model {
  std::vector<Parameter> parameters{};
  std::vector<PassStep> forward{};
  std::vector<PassStep> backward{};

  /// @return The parameter's index.
  std::size_t declare(Parameter parameter) {
    if (parameter.tied_to) {
      if (*parameter.tied_to >= parameters.size()) {
        throw_configuration_error(parameter.name + " is tied to a parameter that was not declared before it");
      }
      const Parameter& first = parameters[*parameter.tied_to];
      if (first.tied_to) throw_configuration_error(parameter.name + " is tied to a use of a parameter, not to it");
      parameter.shape = first.shape;
      parameter.type = first.type;
      parameter.training = first.training;
    }
    parameters.push_back(std::move(parameter));
    return parameters.size() - 1;
  }

  /// The index of the parameter of that name. @throws ConfigurationError if there is none.
  std::size_t index(std::string_view name) const {
    for (std::size_t i = parameters.size(); i-- > 0;) {  // a layer mostly names what was declared last
      if (parameters[i].name == name) return i;
    }
    throw_configuration_error("the model has no parameter named " + std::string{name});
  }

  /// Appends a layer to the forward pass, and puts it before all others into the backward pass.
  /// @throws ConfigurationError if a parameter is not there.
  void append(const Layer& layer) {
    PassStep step{.name = layer.name, .flops = layer.forward_flops, .leases = layer.leases};
    step.pushes = layer.checkpoint;
    for (const std::string& name : layer.parameters) step.gathers.push_back(index(name));
    forward.push_back(step);
    step.flops = layer.backward_flops;
    step.pushes = {};
    step.pops = layer.checkpoint.count > 0;
    for (const std::size_t p : step.gathers) {
      if (parameters[p].training == Training::trainable) step.gradients.push_back(p);
    }
    backward.insert(backward.begin(), std::move(step));
  }

  /// Elements of all parameters, tied ones once.
  std::size_t elements() const {
    std::size_t sum = 0;
    for (const Parameter& parameter : parameters) sum += parameter.tied_to ? 0 : parameter.shape.elements();
    return sum;
  }
};

}  // namespace zerospan::inline v0::plan
