/// @file
/// wrap: a libtorch module whose parameters are whole only while it computes. Needs libtorch.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <torch/autograd.h>
#include <torch/custom_class.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <zerospan/adapters/torch.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/initializer.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>

namespace zerospan::inline v0 {

namespace detail {

/// The initial values of a module's parameters until the engine takes them, in a temporary file without a name: not in
/// memory, however many modules are wrapped before the first gather.
class TorchInitialValues {
 public:
  /// @throws IoError if there is no temporary file, or no space for it.
  void append(std::span<const float> values) {
    if (!file_) file_.reset(std::tmpfile());
    if (!file_ || std::fwrite(values.data(), sizeof(float), values.size(), file_.get()) != values.size() ||
        std::fflush(file_.get()) != 0) {
      throw_io_error(errno, "write", name, count_ * sizeof(float), values.size_bytes());
    }
    count_ += values.size();
  }

  std::uint64_t count() const { return count_; }

  /// Fills `values` with those from number `first` on.
  void read(std::uint64_t first, std::span<float> values) const {
    std::uint64_t offset = first * sizeof(float);
    for (auto rest = std::as_writable_bytes(values); !rest.empty();) {
      const ::ssize_t bytes = ::pread(::fileno(file_.get()), rest.data(), rest.size(), static_cast<::off_t>(offset));
      if (bytes <= 0) throw_io_error(bytes < 0 ? errno : EIO, "read", name, offset, rest.size());
      rest = rest.subspan(static_cast<std::size_t>(bytes));
      offset += static_cast<std::uint64_t>(bytes);
    }
  }

  /// Nothing will be read again.
  void drop() { file_.reset(); }

 private:
  static constexpr const char* name = "a temporary file of initial values";
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file_;
  std::uint64_t count_ = 0;
};

/// A module's own tensor, bound to a lease's memory as long as this lives.
class BoundTorchTensor {
 public:
  BoundTorchTensor(at::Tensor tensor, ReadLease<at::Tensor> lease)
      : lease_{std::move(lease)}, tensor_{std::move(tensor)} {
    TensorTraits<at::Tensor>::bind(tensor_, TensorTraits<at::Tensor>::data(*lease_));
  }
  BoundTorchTensor(BoundTorchTensor&&) = default;
  BoundTorchTensor& operator=(BoundTorchTensor&&) = delete;
  ~BoundTorchTensor() {
    if (tensor_.defined()) TensorTraits<at::Tensor>::bind(tensor_, nullptr);
  }

 private:
  ReadLease<at::Tensor> lease_;
  at::Tensor tensor_;
};

/// The parameters of one module, its submodules' included: they are declared to an engine with their present values,
/// and hold no memory from then on, except while they are gathered. Buffers stay the module's.
class PartitionedTorchModule {
 public:
  template <ParameterHost Engine>
  PartitionedTorchModule(Engine& engine, const std::string& name, torch::nn::Module& module) {
    for (const auto& item : module.named_parameters()) {
      const std::string parameter = name + "." + item.key();
      at::Tensor tensor = item.value();
      check(parameter, tensor);
      const ElementType type = tensor.scalar_type() == at::kFloat ? ElementType::float32 : ElementType::bfloat16;
      const ParameterOptions options{.training = tensor.requires_grad() ? Training::trainable : Training::frozen};
      const std::uint64_t first = initial_->count();
      park(tensor);
      parameters_.push_back({engine, parameter, shape_of(tensor), type, initializer(first), options});
      TensorTraits<at::Tensor>::bind(tensor, nullptr);
      tensors_.push_back(std::move(tensor));
    }
  }
  PartitionedTorchModule(const PartitionedTorchModule&) = delete;
  PartitionedTorchModule& operator=(const PartitionedTorchModule&) = delete;

  const std::vector<PartitionedParameter<at::Tensor>>& parameters() const { return parameters_; }

  /// Binds the module's tensors to their values, as long as the result lives.
  std::vector<BoundTorchTensor> gather() {
    std::vector<BoundTorchTensor> bound;
    bound.reserve(tensors_.size());
    auto leases = zerospan::gather(calling_thread, parameters_);
    for (std::size_t i = 0; i < tensors_.size(); ++i) bound.emplace_back(tensors_[i], std::move(leases[i]));
    initial_->drop();  // the first gather has ended declaration: the engine has taken them
    return bound;
  }

  /// Which parameters train now.
  std::vector<std::size_t> trained() const {
    std::vector<std::size_t> indices;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (parameters_[i].trains()) indices.push_back(i);
    }
    return indices;
  }

  const at::Tensor& tensor(std::size_t i) const { return tensors_[i]; }

  /// Hands over the gradients of these parameters; one that is undefined is of a tensor that the module does not use.
  void commit(std::span<const std::size_t> indices, std::span<const at::Tensor> gradients) const {
    for (std::size_t i = 0; i < indices.size(); ++i) {
      if (!gradients[i].defined()) continue;
      auto gradient = parameters_[indices[i]].gradient(calling_thread);
      gradient->copy_(gradients[i]);
      gradient.commit();
    }
  }

 private:
  static void check(const std::string& name, const at::Tensor& tensor) {
    const bool is_owner = tensor.is_cpu() && tensor.is_contiguous() && tensor.storage().use_count() == 1 &&
                          tensor.storage().nbytes() == tensor.nbytes();
    if (!is_owner) {
      throw_configuration_error(name + " cannot be partitioned: it shares its memory, or has none any more");
    }
    if (tensor.scalar_type() != at::kFloat && tensor.scalar_type() != at::kBFloat16) {
      throw_configuration_error(name + " cannot be partitioned: its elements are " +
                                std::string{at::toString(tensor.scalar_type())});
    }
  }

  static Shape shape_of(const at::Tensor& tensor) {
    return Shape{std::vector<std::size_t>(tensor.sizes().begin(), tensor.sizes().end())};
  }

  void park(const at::Tensor& tensor) {
    const at::Tensor values = tensor.detach().to(at::kFloat);
    initial_->append({values.data_ptr<float>(), static_cast<std::size_t>(values.numel())});
  }

  /// The values from number `first` on.
  Initializer initializer(std::uint64_t first) const {
    return [values = initial_, first](const InitializerContext&, std::uint64_t element, std::span<float> target) {
      values->read(first + element, target);
    };
  }

  std::shared_ptr<TorchInitialValues> initial_ = std::make_shared<TorchInitialValues>();
  std::vector<at::Tensor> tensors_;
  std::vector<PartitionedParameter<at::Tensor>> parameters_;  // of `tensors_`
};

/// What runs a module: its parameters, and its forward.
struct TorchLayer : torch::CustomClassHolder {
  template <ParameterHost Engine>
  TorchLayer(Engine& engine, const std::string& name, torch::nn::Module& module,
             std::function<at::Tensor(at::Tensor)> forward_)
      : parameters{engine, name, module}, forward{std::move(forward_)} {}

  PartitionedTorchModule parameters;
  std::function<at::Tensor(at::Tensor)> forward;
};

/// A layer in autograd's graph. It saves its input alone: backward gathers the parameters again and computes the layer
/// once more (Chen et al., arXiv 1604.06174), so that no graph holds memory of the engine's.
class TorchLayerFunction : public torch::autograd::Function<TorchLayerFunction> {
 public:
  /// The anchor requires a gradient, and gets none: what makes autograd call backward for an input that needs none.
  static at::Tensor forward(torch::autograd::AutogradContext* context, const c10::intrusive_ptr<TorchLayer>& layer,
                            at::Tensor input, at::Tensor /*anchor*/) {
    context->save_for_backward({input});
    context->saved_data["layer"] = c10::IValue::make_capsule(layer);
    const auto gathered = layer->parameters.gather();
    return layer->forward(std::move(input));
  }

  static std::vector<at::Tensor> backward(torch::autograd::AutogradContext* context,
                                          const std::vector<at::Tensor>& output_gradients) {
    const auto layer = c10::static_intrusive_pointer_cast<TorchLayer>(context->saved_data["layer"].toCapsule());
    const at::Tensor saved = context->get_saved_variables()[0];
    const at::Tensor input = saved.detach().requires_grad_(saved.requires_grad());

    const std::vector<std::size_t> trained = layer->parameters.trained();
    std::vector<at::Tensor> inputs;
    for (const std::size_t i : trained) inputs.push_back(layer->parameters.tensor(i));
    if (input.requires_grad()) inputs.push_back(input);
    std::vector<at::Tensor> gradients;
    if (!inputs.empty()) gradients = differentiate(*layer, input, inputs, output_gradients);
    at::Tensor input_gradient;
    if (input.requires_grad()) {
      input_gradient = std::move(gradients.back());
      gradients.pop_back();
    }
    layer->parameters.commit(trained, gradients);
    return {at::Tensor{}, input_gradient, at::Tensor{}};
  }

 private:
  /// The parameters are gathered while it runs.
  static std::vector<at::Tensor> differentiate(TorchLayer& layer, const at::Tensor& input,
                                               const std::vector<at::Tensor>& inputs,
                                               const std::vector<at::Tensor>& output_gradients) {
    const at::AutoGradMode with_graph{true};
    const auto gathered = layer.parameters.gather();
    const at::Tensor output = layer.forward(input);
    return torch::autograd::grad({output}, inputs, output_gradients, /*retain_graph=*/false, /*create_graph=*/false,
                                 /*allow_unused=*/true);
  }
};

}  // namespace detail

/// A module in another's place: the same call, the same submodules, and parameters that rest in an engine.
template <class Impl>
class WrappedTorchModule : public torch::nn::Module {
 public:
  template <ParameterHost Engine>
  WrappedTorchModule(Engine& engine, const std::string& name, std::shared_ptr<Impl> module)
      : layer_{c10::make_intrusive<detail::TorchLayer>(
            engine, name, *module, [module](at::Tensor input) { return module->forward(std::move(input)); })} {
    register_module("module", std::move(module));
  }

  at::Tensor forward(at::Tensor input) { return detail::TorchLayerFunction::apply(layer_, std::move(input), anchor_); }

  /// Its parameters in the engine, in the order of the module's `named_parameters()`: to freeze them, or to write them.
  const std::vector<PartitionedParameter<at::Tensor>>& partitioned() const { return layer_->parameters.parameters(); }

 private:
  c10::intrusive_ptr<detail::TorchLayer> layer_;
  at::Tensor anchor_ = at::empty({0}).requires_grad_(true);
};

/// Hands a module's parameters over to an engine, with their present values; those that require no gradient are
/// declared frozen. The module's tensors hold no memory from then on but while it computes. `engine.step()` is the
/// optimizer: a backward pass hands every gradient over. It is a collective, as the declaration of parameters is.
/// @code
/// torch::nn::Sequential model;
/// for (int i = 0; i < layers; ++i) model->push_back(zerospan::wrap(engine, "block" + std::to_string(i),
/// Block{width})); loss(model->forward(x)).backward(); engine.step();
/// @endcode
/// For modules on the CPU, tensor in, tensor out, that give the same output for the same input: backward computes them
/// once more. No other module may use their parameters. Both passes are enqueued on the calling thread.
/// @param name Unique in the engine; its parameters are named "NAME.weight", and so on.
/// @throws ConfigurationError for a parameter that is neither float nor bfloat16, shares memory, or has been handed
/// over already; IoError if there is no temporary file for its values; whatever declaring a parameter throws.
template <ParameterHost Engine, class Impl>
std::shared_ptr<WrappedTorchModule<Impl>> wrap(Engine& engine, const std::string& name,
                                               const torch::nn::ModuleHolder<Impl>& module) {
  return std::make_shared<WrappedTorchModule<Impl>>(engine, name, module.ptr());
}

}  // namespace zerospan::inline v0
