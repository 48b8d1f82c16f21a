// Fine-tuning a model that never fits: a safetensors model of 260 MiB is imported by two ranks, whose budgets are a tenth
// of it together. All layers but the last are frozen: they have no gradients and no optimizer states, and rest in the
// file that they came from, where they are read. What was trained is exported with them, as a safetensors model again.
//
//   finetune [DIRECTORY]   makes the model there, as somebody else's program would have; without one, in /var/tmp
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include <zerospan/interchange/safetensors_export.hpp>
#include <zerospan/interchange/safetensors_import.hpp>
#include <zerospan/interchange/safetensors_model.hpp>
#include <zerospan/interchange/safetensors_writer.hpp>
#include <zerospan/zerospan.hpp>

using namespace zerospan;
using namespace zerospan::literals;

template <>
struct zerospan::TensorTraits<float*> {  // the host's tensor is a pointer
  using element_type = float;
  static float* unbound(const Shape&) { return nullptr; }
  static void bind(float*& tensor, float* data) { tensor = data; }
  static float* data(float* const& tensor) { return tensor; }
};

namespace {

constexpr int rank_count = 2;
constexpr int steps = 12;
constexpr std::size_t layers = 65;
constexpr std::size_t width = 1024;
constexpr std::size_t batch = 4;  // of a rank
constexpr Bytes layer_bytes{width * width * sizeof(float)};
constexpr Bytes model_bytes{layers * layer_bytes.count};
constexpr Bytes device_budget = 8_MiB;  // of a rank; a layer is 4 MiB
constexpr Bytes host_budget = 5_MiB;
static_assert(rank_count * (device_budget.count + host_budget.count) * 10 <= model_bytes.count);

constexpr Bytes beside_budgets = 160_MiB;  // the program, its libraries, and buffers that files pass through

std::size_t mebibytes(Bytes bytes) { return bytes.count >> 20; }

std::string name_of(std::size_t layer) { return "layers." + std::to_string(layer) + ".weight"; }

/// A model of somebody else's: random, and one layer at a time in memory.
void make_model(const std::string& path) {
  std::vector<SafetensorsTensor> tensors;
  for (std::size_t l = 0; l < layers; ++l) tensors.push_back({name_of(l), SafetensorsType::float32, {width, width}});
  SafetensorsWriter writer{path, tensors};
  std::mt19937 random{7};
  const float deviation = 1.0F / std::sqrt(static_cast<float>(width));
  std::vector<float> weight(width * width);
  for (std::size_t l = 0; l < layers; ++l) {
    for (float& value : weight) {  // uniform, of that deviation
      value = deviation * 1.7320508F * (static_cast<float>(random() >> 8U) * 0x1p-23F - 1.0F);
    }
    writer.write(name_of(l), 0, weight);
  }
  writer.finish();
}

using Rows = std::array<std::array<float, width>, batch>;

/// y = x w
Rows product(const Rows& x, const float* w) {
  Rows y{};
  for (std::size_t i = 0; i < width; ++i) {
    for (std::size_t b = 0; b < batch; ++b) {
      for (std::size_t o = 0; o < width; ++o) y[b][o] += x[b][i] * w[i * width + o];
    }
  }
  return y;
}

/// The host's model: x becomes x + tanh(x w) in each layer but the last, and then x w.
class Model {
 public:
  explicit Model(auto& engine) {
    for (std::size_t l = 0; l < layers; ++l) {
      const Training training = l + 1 < layers ? Training::frozen : Training::trainable;
      layers_.emplace_back(engine, name_of(l), Shape{width, width}, init::zeros(), ParameterOptions{.training = training});
    }
  }

  /// A step's pass: the gradient of the last layer is committed. @return The mean square of what is wrong.
  float run(Rows x, const Rows& wanted) const {
    for (std::size_t l = 0; l + 1 < layers; ++l) {
      const auto weight = layers_[l].gather(calling_thread);
      const Rows y = product(x, *weight);
      for (std::size_t b = 0; b < batch; ++b) {
        for (std::size_t o = 0; o < width; ++o) x[b][o] += std::tanh(y[b][o]);
      }
    }
    Rows errors = product(x, *layers_.back().gather(calling_thread));
    float loss = 0.0F;
    for (std::size_t b = 0; b < batch; ++b) {
      for (std::size_t o = 0; o < width; ++o) {
        errors[b][o] = (errors[b][o] - wanted[b][o]) / static_cast<float>(batch * width);
        loss += errors[b][o] * errors[b][o] * static_cast<float>(batch * width);
      }
    }
    auto gradient = layers_.back().gradient(calling_thread, GradientContent::zeros);
    for (std::size_t i = 0; i < width; ++i) {
      for (std::size_t b = 0; b < batch; ++b) {
        for (std::size_t o = 0; o < width; ++o) (*gradient)[i * width + o] += 2.0F * x[b][i] * errors[b][o];
      }
    }
    gradient.commit();
    return loss;
  }

 private:
  std::deque<PartitionedParameter<float*>> layers_;
};

/// A rank's part of the texts that the model is tuned to: the same batch in every step.
Rows random_rows(unsigned seed) {
  std::mt19937 random{seed};
  Rows rows;
  for (auto& row : rows) {
    for (float& value : row) value = static_cast<float>(random() >> 8U) * 0x1p-23F - 1.0F;
  }
  return rows;
}

/// @return Whether what is wrong has become less than half, and no frozen layer was copied.
int tune(ThreadCommunicator ranks, const std::string& directory) {
  HostDevice device{{.device_budget = device_budget, .host_budget = host_budget}};
  ThreadedIoEngine io;
  NvmeTier disk{io, {.directory = directory}};
  ZeroEngine engine{Stage3{}, ranks, device, Placement{disk, disk, disk}, AdamW{.learning_rate = 0.0005F},
                    EngineOptions{.sub_group_elements = 64 * 1024}};
  const Model model{engine};
  const ImportedSafetensors imported = import_safetensors(
      engine, directory + "/model.safetensors", {.frozen = FrozenValues::left_in_files, .buffer = 1_MiB});
  const Bytes left{rank_count * imported.left_in_files.count};  // ranks hold equal parts
  if (ranks.rank().value == 0) {
    std::printf("%zu MiB rest in the file, %zu were copied\n", mebibytes(left),
                mebibytes(Bytes{rank_count * imported.copied.count}));
  }

  const auto seed = static_cast<unsigned>(ranks.rank().value);
  const Rows inputs = random_rows(2 * seed);
  const Rows wanted = random_rows(2 * seed + 1);
  float first = 0.0F;
  float last = 0.0F;
  for (int step = 0; step < steps; ++step) {
    last = mean(ranks, {calling_thread, "loss"}, model.run(inputs, wanted));
    engine.step();
    if (step == 0) first = last;
    if (ranks.rank().value == 0) std::printf("step %2d: loss %.4f\n", step + 1, static_cast<double>(last));
  }
  export_safetensors(engine, directory + "/tuned.safetensors", {.buffer = 1_MiB});
  const bool is_in_file = left.count == (layers - 1) * layer_bytes.count;
  return imported.taken.size() == layers && is_in_file && last < first / 2 ? 1 : 0;
}

/// What was frozen is what it was; the last layer is not.
bool is_tuned(const std::string& directory) {
  const SafetensorsModel before{directory + "/model.safetensors"};
  const SafetensorsModel after{directory + "/tuned.safetensors"};
  std::vector<float> old_row(width), new_row(width);
  for (std::size_t l = 0; l < layers; ++l) {
    bool is_same = true;
    for (std::size_t row = 0; row < width; ++row) {
      before.read(name_of(l), row * width, old_row);
      after.read(name_of(l), row * width, new_row);
      is_same = is_same && old_row == new_row;
    }
    if (is_same == (l + 1 == layers)) return false;
  }
  return true;
}

/// The most memory that the process has had, as the kernel counts it.
Bytes peak_memory() {
  std::ifstream status{"/proc/self/status"};
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return Bytes{std::stoul(line.substr(6)) * 1024};
  }
  throw std::runtime_error{"/proc/self/status has no VmHWM"};
}

int run(const std::string& directory) {
  make_model(directory + "/model.safetensors");
  const Bytes budgets{rank_count * (device_budget.count + host_budget.count)};
  std::printf("a model of %zu MiB, %zu of its %zu layers frozen, in %zu MiB of budgets on %d ranks\n",
              mebibytes(model_bytes), layers - 1, layers, mebibytes(budgets), rank_count);
  const std::vector<int> is_well =
      run_ranks(rank_count, [&](ThreadCommunicator ranks) { return tune(std::move(ranks), directory); });
  const Bytes peak = peak_memory();
  std::printf("exported; the process had at most %zu MiB\n", mebibytes(peak));
  int mistakes = 0;
  const auto expect = [&](bool is_so, const char* otherwise) {
    if (is_so) return;
    std::printf("but %s\n", otherwise);
    ++mistakes;
  };
  expect(std::ranges::count(is_well, 0) == 0,
         "the loss has not become half of what it was, or frozen layers were copied");
  expect(peak.count <= budgets.count + beside_budgets.count, "that is more than was allowed");
  expect(is_tuned(directory), "what was frozen has changed, or what was trained has not");
  return mistakes == 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) try {
  if (count > 2) throw std::runtime_error{"usage: finetune [DIRECTORY]"};
  if (count == 2) return run(arguments[1]);
  std::string scratch = "/var/tmp/finetune.XXXXXX";
  if (::mkdtemp(scratch.data()) == nullptr) throw std::runtime_error{"no directory can be made in /var/tmp"};
  struct Removal {
    ~Removal() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
    const std::string& path;
  } const removal{scratch};
  return run(scratch);
} catch (const std::exception& error) {
  std::fprintf(stderr, "finetune: %s\n", error.what());
  return 1;
}
