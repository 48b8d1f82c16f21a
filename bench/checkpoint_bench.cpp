/// Saving and loading beside plain loops over as many bytes, and training that saves beside training that does not.
/// All files are made in the working directory.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <stdlib.h>

#include <benchmark/benchmark.h>

#include <zerospan/checkpoint/checkpoint.hpp>
#include <zerospan/zerospan.hpp>

template <>
struct zerospan::TensorTraits<float*> {  // the host's tensor is a pointer
  using element_type = float;
  static float* unbound(const Shape&) { return nullptr; }
  static void bind(float*& tensor, float* data) { tensor = data; }
  static float* data(float* const& tensor) { return tensor; }
};

namespace {

using namespace zerospan;

constexpr std::size_t width_of_states = 12;                     // of an element: its master weight, and AdamW's two
constexpr std::size_t resting_elements = std::size_t{4} << 20;  // of the model that is saved and loaded
constexpr std::size_t trained_elements = std::size_t{4} << 20;  // of the model that is trained
constexpr std::size_t layers = 8;
constexpr std::size_t block = std::size_t{4} << 20;  // of the plain loops
constexpr std::int64_t least_steps = 10;             // that are measured at once

/// A directory of its own in the working directory.
class Directory {
 public:
  Directory() {
    if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error{"no directory in the working directory"};
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_ = "checkpoint-bench-XXXXXX";
};

/// A file that is open.
class File {
 public:
  File(const std::string& path, int flags) : descriptor_{::open(path.c_str(), flags | O_CLOEXEC, 0600)} {
    if (descriptor_ == -1) throw std::runtime_error{"cannot open " + path};
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { ::close(descriptor_); }

  int descriptor() const noexcept { return descriptor_; }

 private:
  int descriptor_;
};

/// Nothing of the files in a directory is in memory any more.
void drop_from_memory(const std::string& directory) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator{directory}) {
    if (!entry.is_regular_file()) continue;
    const File file{entry.path().string(), O_RDONLY};
    ::posix_fadvise(file.descriptor(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

/// A training on one rank, whose model is layers of one kind.
class Training {
 public:
  Training(std::size_t elements, TierRef states_on, HostDevice& device)
      : engine_{Stage3{},
                ranks_,
                device,
                Placement{states_on, states_on, states_on},
                AdamW{},
                EngineOptions{.persistence_threshold = Bytes{0}}} {
    for (std::size_t i = 0; i < layers; ++i) {
      layers_.push_back(std::make_unique<PartitionedParameter<float*>>(
          engine_, "layer." + std::to_string(i), Shape{elements / layers}, init::normal(0.02F)));
    }
    step();
  }

  ZeroEngine<Stage3, SelfCommunicator, HostDevice, AdamW>& engine() { return engine_; }

  void step() {
    for (const auto& layer : layers_) {
      const auto values = layer->gather(calling_thread);
      auto gradient = layer->gradient(calling_thread);
      std::transform(*values, *values + layer->shape().elements(), *gradient, [](float value) { return 0.1F * value; });
      gradient.commit();
    }
    engine_.step();
  }

 private:
  SelfCommunicator ranks_;
  ZeroEngine<Stage3, SelfCommunicator, HostDevice, AdamW> engine_;
  std::vector<std::unique_ptr<PartitionedParameter<float*>>> layers_;
};

/// A model in memory that is saved or loaded.
struct InMemory {
  HostDevice device{{.device_budget = 64_MiB, .host_budget = 192_MiB}};
  HostTier tier{device};
  Training training{resting_elements, tier, device};
};

/// A model on disk that is trained.
struct OnDisk {
  HostDevice device{{.device_budget = 64_MiB, .host_budget = 64_MiB}};
  ThreadedIoEngine io;
  NvmeTier<ThreadedIoEngine> tier{io, {.directory = "."}};
  Training training{trained_elements, tier, device};
};

void report_bytes(benchmark::State& state) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) *
                          static_cast<std::int64_t>(width_of_states * resting_elements));
}

void checkpoint_save(benchmark::State& state) {
  const Directory directory;
  InMemory model;
  for (auto _ : state) save_checkpoint(model.training.engine(), directory.path(), {.keep = 1});
  report_bytes(state);
}

/// A file is written from its begin to its end, made durable, and the one before it is removed.
void write_raw(const std::string& path) {
  const std::vector<char> memory(block, 'x');
  {
    const File file{path + ".new", O_WRONLY | O_CREAT | O_TRUNC};
    for (std::size_t done = 0; done < width_of_states * resting_elements; done += block) {
      if (::write(file.descriptor(), memory.data(), block) != static_cast<ssize_t>(block)) {
        throw std::runtime_error{"a write fell short"};
      }
    }
    if (::fsync(file.descriptor()) != 0) throw std::runtime_error{"fsync failed"};
  }
  std::filesystem::rename(path + ".new", path);
}

void checkpoint_save_raw(benchmark::State& state) {
  const Directory directory;
  for (auto _ : state) write_raw(directory.path() + "/raw");
  report_bytes(state);
}

void load(benchmark::State& state, CheckpointCheck check) {
  const Directory directory;
  InMemory model;
  save_checkpoint(model.training.engine(), directory.path());
  for (auto _ : state) {
    state.PauseTiming();
    drop_from_memory(directory.path());
    state.ResumeTiming();
    load_checkpoint(model.training.engine(), directory.path(), {.check = check});
  }
  report_bytes(state);
}

void load_raw(benchmark::State& state) {
  const Directory directory;
  write_raw(directory.path() + "/raw");
  std::vector<char> memory(block);
  for (auto _ : state) {
    state.PauseTiming();
    drop_from_memory(directory.path());
    state.ResumeTiming();
    const File file{directory.path() + "/raw", O_RDONLY};
    while (const ssize_t moved = ::read(file.descriptor(), memory.data(), block)) {
      if (moved < 0) throw std::runtime_error{"a read failed"};
    }
  }
  report_bytes(state);
}

/// The first save, which reads back what is linked, is not measured; the end of the last one is. One of ten steps is in
/// the middle of them.
/// @param by Unless it never saves.
template <class Model>
void train(benchmark::State& state, std::optional<SaveBy> by) {
  const std::int64_t every = state.range(0);
  const std::int64_t steps = std::max(every, least_steps);
  const Directory directory;
  Model model;
  CheckpointSaver saver{model.training.engine(), directory.path()};
  const auto save = [&] { saver.start({.keep = 1, .by = *by}); };
  if (by) save();
  saver.wait();
  model.training.step();
  for (auto _ : state) {
    for (std::int64_t step = 1; step <= steps; ++step) {
      model.training.step();
      if (by && (step + every / 2) % every == 0) save();
      saver.poll();
    }
    model.training.engine().synchronize();
    saver.wait();
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * steps);
}

void train_on_disk(benchmark::State& state, std::optional<SaveBy> by) { train<OnDisk>(state, by); }

void train_in_memory(benchmark::State& state, std::optional<SaveBy> by) { train<InMemory>(state, by); }

BENCHMARK(checkpoint_save)->Iterations(2)->UseRealTime();
BENCHMARK(checkpoint_save_raw)->Iterations(2)->UseRealTime();
constexpr auto twice = CheckpointCheck::before_changes;
constexpr auto once = CheckpointCheck::while_loading;
BENCHMARK_CAPTURE(load, twice, twice)->Name("checkpoint_load")->Iterations(2)->UseRealTime();
BENCHMARK_CAPTURE(load, once, once)->Name("checkpoint_load/once")->Iterations(2)->UseRealTime();
BENCHMARK(load_raw)->Name("checkpoint_load_raw")->Iterations(2)->UseRealTime();
BENCHMARK(load_raw)->Name("checkpoint_load_raw/once")->Iterations(2)->UseRealTime();

void every_and_tenth(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("every")->Arg(1)->Arg(10)->Iterations(1)->UseRealTime();
}
BENCHMARK_CAPTURE(train_on_disk, linking, SaveBy::linking)->Name("train_saving/linking")->Apply(every_and_tenth);
BENCHMARK_CAPTURE(train_on_disk, no_links, std::nullopt)->Name("train_saving_raw/linking")->Apply(every_and_tenth);
BENCHMARK_CAPTURE(train_on_disk, copying, SaveBy::copying)->Name("train_saving/copying")->Apply(every_and_tenth);
BENCHMARK_CAPTURE(train_on_disk, no_copies, std::nullopt)->Name("train_saving_raw/copying")->Apply(every_and_tenth);
BENCHMARK_CAPTURE(train_in_memory, memory, SaveBy::copying)->Name("train_saving/memory")->Apply(every_and_tenth);
BENCHMARK_CAPTURE(train_in_memory, no_memory, std::nullopt)->Name("train_saving_raw/memory")->Apply(every_and_tenth);

}  // namespace
