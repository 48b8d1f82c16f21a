// Recipes: each function below is one, and all of them are run on two ranks with everything on disk.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <zerospan/zerospan.hpp>

using namespace zerospan;

template <>
struct zerospan::TensorTraits<float*> {  // the host's tensor is a pointer
  using element_type = float;
  static float* unbound(const Shape&) { return nullptr; }
  static void bind(float*& tensor, float* data) { tensor = data; }
  static float* data(float* const& tensor) { return tensor; }
  static const float* constant(float* const& tensor) { return tensor; }  // read leases lend constant elements
};

namespace {

using Parameter = PartitionedParameter<float*>;

const std::filesystem::path directory = std::filesystem::temp_directory_path();

/// What a rank has of its own.
struct Machine {
  HostDevice device{{.device_budget = 4_MiB, .host_budget = 4_MiB}};
  ThreadedIoEngine io;
  NvmeTier<ThreadedIoEngine> nvme{io, {.directory = directory.string()}};
  Placement on_disk{nvme, nvme, nvme};
};

const EngineOptions nothing_stays{.persistence_threshold = 0_KiB};  // small parameters are partitioned, too

void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error{what};
}

void commit(const Parameter& parameter, float value) {
  auto gradient = parameter.gradient(calling_thread);
  std::fill_n(*gradient, parameter.shape().elements(), value);
  gradient.commit();
}

float first_element(const Parameter& parameter) { return **parameter.gather(calling_thread); }

// Loading weights. An initializer is asked for the ranges that its rank owns: it reads them from the file, and nobody
// holds the whole model.

class WeightFile {
 public:
  explicit WeightFile(const std::filesystem::path& path) : file_{::open(path.c_str(), O_RDONLY | O_CLOEXEC)} {
    if (file_ < 0) throw std::system_error{errno, std::generic_category(), path.string()};
  }
  WeightFile(const WeightFile&) = delete;
  WeightFile& operator=(const WeightFile&) = delete;
  ~WeightFile() { ::close(file_); }

  void read(std::uint64_t first, std::span<float> values) const {
    std::span<std::byte> bytes = std::as_writable_bytes(values);
    for (std::uint64_t offset = first * sizeof(float); !bytes.empty();) {
      const ::ssize_t count = ::pread(file_, bytes.data(), bytes.size(), static_cast<::off_t>(offset));
      if (count < 0) throw std::system_error{errno, std::generic_category(), "reading weights"};
      if (count == 0) throw std::runtime_error{"the file of weights is too short"};
      bytes = bytes.subspan(static_cast<std::size_t>(count));
      offset += static_cast<std::uint64_t>(count);
    }
  }

 private:
  int file_;
};

/// The elements that begin at `first_in_file`. It is called later, by a thread of the library: it owns the file.
Initializer from_file(std::shared_ptr<const WeightFile> file, std::uint64_t first_in_file) {
  return [file, first_in_file](const InitializerContext&, std::uint64_t first, std::span<float> values) {
    file->read(first_in_file + first, values);
  };
}

void loading_weights(ThreadCommunicator ranks) {
  const std::filesystem::path path = directory / ("weights_of_rank_" + std::to_string(ranks.rank().value));
  std::vector<float> weights(7000);
  std::iota(weights.begin(), weights.end(), 0.0F);
  std::ofstream{path, std::ios::binary}.write(reinterpret_cast<const char*>(weights.data()),
                                              static_cast<std::streamsize>(weights.size() * sizeof(float)));
  Machine machine;
  ZeroEngine engine{Stage3{}, ranks, machine.device, machine.on_disk, AdamW{}, nothing_stays};
  const auto file = std::make_shared<const WeightFile>(path);
  const Parameter a{engine, "a", {2000}, from_file(file, 0)};
  const Parameter b{engine, "b", {50, 100}, from_file(file, 2000)};
  const auto [whole_a, whole_b] = gather(calling_thread, a, b);
  require((*whole_a)[1999] == 1999.0F && (*whole_b)[4999] == 6999.0F, "weights are those of the file");
  std::filesystem::remove(path);
}

// Tied parameters: one tensor at two places of the model, with a gradient at each.

void tied_parameters(ThreadCommunicator ranks) {
  Machine machine;
  ZeroEngine engine{Stage3{}, ranks, machine.device, machine.on_disk, Sgd{.learning_rate = 1.0F}, nothing_stays};
  const Parameter embedding{engine, "embedding", {3000}, init::ones()};
  const Parameter head = embedding.tie("head");
  commit(head, 2.0F);
  commit(embedding, 1.0F);
  engine.step();
  require(first_element(embedding) == -2.0F && first_element(head) == -2.0F, "both gradients are added");
}

// Frozen parameters: for good, without optimizer states; or for a while.

void frozen_parameters(ThreadCommunicator ranks) {
  Machine machine;
  ZeroEngine engine{Stage3{}, ranks, machine.device, machine.on_disk, Sgd{.learning_rate = 1.0F}, nothing_stays};
  const Parameter base{engine, "base", {3000}, init::ones(), {.training = Training::frozen}};
  const Parameter adapter{engine, "adapter", {3000}, init::ones()};
  const auto backward = [&] {
    for (const Parameter* parameter : {&adapter, &base}) {
      if (parameter->trains()) commit(*parameter, 1.0F);
    }
    engine.step();
  };
  backward();
  adapter.freeze();  // between steps, on every rank
  backward();
  adapter.unfreeze();
  backward();
  require(first_element(adapter) == -1.0F && first_element(base) == 1.0F, "the adapter was updated twice");
}

// Parameters that some rank does not use in a batch: an expert without tokens, say. Where no rank uses one, nothing is
// to be said; where others do, the rank takes part in its place with nothing.

void unused_parameters(ThreadCommunicator ranks) {
  Machine machine;
  ZeroEngine engine{Stage3{}, ranks, machine.device, machine.on_disk, Sgd{.learning_rate = 1.0F}, nothing_stays};
  const Parameter expert{engine, "expert", {3000}, init::ones()};
  const Parameter idle{engine, "idle", {3000}, init::ones()};
  if (ranks.rank().value == 0) {
    commit(expert, 1.0F);
  } else {
    expert.skip();
  }
  engine.step();
  require(first_element(expert) == 0.5F && first_element(idle) == 1.0F, "the mean is over all ranks");
}

// Flat buffers: trainers in C have one array per kind of tensor, over all layers. Each layer's slice of it is a
// parameter; a layer's slices are leased together, and kernels that add to gradients get zeros to add to.

void flat_buffers(ThreadCommunicator ranks) {
  constexpr std::size_t layers = 3;
  constexpr std::array<std::size_t, 2> sizes{3000, 100};  // of a layer's slice of each kind: weights, biases
  Machine machine;
  ZeroEngine engine{Stage3{}, ranks, machine.device, machine.on_disk, Sgd{.learning_rate = 1.0F}, nothing_stays};
  std::vector<Parameter> slices;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    for (std::size_t kind = 0; kind < sizes.size(); ++kind) {
      const std::string name = (kind == 0 ? "weight." : "bias.") + std::to_string(layer);
      slices.emplace_back(engine, name, Shape{sizes[kind]}, init::constant(2.0F));  // or from_file(file, first)
    }
  }
  for (std::size_t layer = layers; layer-- > 0;) {
    const std::span of_layer = std::span{slices}.subspan(layer * sizes.size(), sizes.size());
    const auto whole = gather(calling_thread, of_layer);
    auto gradient = gradients(calling_thread, GradientContent::zeros, of_layer);
    for (std::size_t kind = 0; kind < sizes.size(); ++kind) {
      for (std::size_t i = 0; i < sizes[kind]; ++i) (*gradient[kind])[i] += (*whole[kind])[i];
      gradient[kind].commit();
    }
  }
  engine.step();
  for (const Parameter& slice : slices) require(first_element(slice) == 0.0F, "every slice is updated");
}

// Evaluation and sampling. Every rank runs the same passes, also where one alone prints what comes of it: a gather is
// a collective. `begin` keeps the order of uses in evaluation apart from that in training, and both are prefetched.

void evaluation_and_sampling(ThreadCommunicator ranks) {
  Machine machine;
  ZeroEngine engine{Stage3{}, ranks, machine.device, machine.on_disk, Sgd{.learning_rate = 0.5F}, nothing_stays};
  const Parameter a{engine, "a", {3000}, init::ones()};
  const Parameter b{engine, "b", {3000}, init::ones()};
  for (int step = 0; step < 3; ++step) {
    for (const Parameter* parameter : {&b, &a}) commit(*parameter, first_element(*parameter));
    engine.step();
    engine.begin(Pass::evaluation);
    const float sample = first_element(a) + first_element(b);  // on all ranks
    if (ranks.rank().value == 0) std::printf("  after step %d: %g\n", step, static_cast<double>(sample));
    engine.begin(Pass::training);
  }
  const PipelineCounters gathers = engine.statistics().prefetch;
  require(gathers.hits + gathers.kept > 0, "passes of both kinds are prefetched");
}

// Budgets: an engine tells what its model needs at the least; an error says what is held and how much is missing.

void budgets(ThreadCommunicator ranks) {
  Bytes enough{};
  Bytes host_budget{};
  const auto backward_fits = [&](Bytes on_device, Bytes on_host) {
    HostDevice device{{.device_budget = on_device, .host_budget = on_host}};
    ThreadedIoEngine io;
    NvmeTier nvme{io, {.directory = directory.string()}};
    ZeroEngine engine{Stage3{}, ranks, device, Placement{nvme, nvme, nvme}, AdamW{}, nothing_stays};
    const Parameter large{engine, "large", {100'000}, init::ones()};
    const Requirements least = engine.requirements();  // before anything is gathered
    enough = least.device_backward;
    host_budget = least.host;
    const auto whole = large.gather(calling_thread);
    try {
      auto gradient = large.gradient(calling_thread);
      std::copy_n(*whole, large.shape().elements(), *gradient);
      gradient.commit();
    } catch (const BudgetError& error) {
      if (ranks.rank().value == 0) std::printf("  %s\n", error.what());
      return false;
    }
    return true;
  };
  require(backward_fits(4_MiB, 4_MiB), "plenty is enough");
  require(backward_fits(enough, host_budget), "what is required is enough");
  require(!backward_fits(Bytes{enough.count - 4096}, host_budget), "less is not");
}

// Autograd hosts run backward on a thread of their own. An engine serves any thread, one at a time.

void backward_on_another_thread(ThreadCommunicator ranks) {
  Machine machine;
  ZeroEngine engine{Stage3{}, ranks, machine.device, machine.on_disk, Sgd{.learning_rate = 1.0F}, nothing_stays};
  const Parameter weight{engine, "weight", {3000}, init::ones()};
  const float loss = first_element(weight);
  std::async(std::launch::async, [&] { commit(weight, loss); }).get();  // the engine is not called meanwhile
  engine.step();
  require(first_element(weight) == 0.0F, "the gradient came from the other thread");
}

// A gradient that is leased and then not wanted is discarded, on every rank; one that is simply dropped was forgotten,
// and the step refuses.

void discarding(ThreadCommunicator ranks) {
  Machine machine;
  ZeroEngine engine{Stage3{}, ranks, machine.device, machine.on_disk, Sgd{.learning_rate = 1.0F}, nothing_stays};
  const Parameter weight{engine, "weight", {3000}, init::ones()};
  weight.gradient(calling_thread).discard();
  engine.step();
  require(first_element(weight) == 1.0F, "nothing was committed, and nothing is updated");
  static_cast<void>(weight.gradient(calling_thread));
  bool is_refused = false;
  try {
    engine.step();
  } catch (const LeaseError&) {
    is_refused = true;
    engine.abandon();  // the batch
  }
  require(is_refused, "a forgotten gradient is an error");
}

// Which rank holds what is a policy. One of your own: user_partitioner.cpp.

void another_partitioner(ThreadCommunicator ranks) {
  Machine machine;
  const EngineOptions options{.partition = Owners{}, .persistence_threshold = 0_KiB};
  ZeroEngine engine{Stage3{}, ranks, machine.device, machine.on_disk, Sgd{.learning_rate = 1.0F}, options};
  const Parameter weight{engine, "weight", {3000}, init::ones()};
  commit(weight, 1.0F);
  engine.step();
  require(first_element(weight) == 0.0F, "all partitioners give the same values");
}

}  // namespace

int main() {
  struct Recipe {
    const char* name;
    void (*run)(ThreadCommunicator);
  };
  for (const auto& [name, run] : {Recipe{"loading weights", loading_weights},
                                  {"tied parameters", tied_parameters},
                                  {"frozen parameters", frozen_parameters},
                                  {"unused parameters", unused_parameters},
                                  {"flat buffers", flat_buffers},
                                  {"evaluation and sampling", evaluation_and_sampling},
                                  {"budgets", budgets},
                                  {"backward on another thread", backward_on_another_thread},
                                  {"discarding", discarding},
                                  {"another partitioner", another_partitioner}}) {
    std::printf("%s\n", name);
    run_ranks(2, run);
  }
}
