// A whole training loop, to be copied: ZeRO-3 on two ranks with all states on disk; a learning rate that changes,
// gradients accumulated and clipped, a batch given up, evaluation, losses over all ranks; a checkpoint after each
// epoch, from which the training goes on when it is run again; and in the end the weights alone.
//
//   training_loop DIRECTORY   goes on from the checkpoints there, and leaves its own there
//   training_loop             stops halfway and goes on, in a directory of its own
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <unistd.h>

#include <zerospan/checkpoint/checkpoint.hpp>
#include <zerospan/zerospan.hpp>

using namespace zerospan;

template <>
struct zerospan::TensorTraits<float*> {  // the host's tensor is a pointer
  using element_type = float;
  static float* unbound(const Shape&) { return nullptr; }
  static void bind(float*& tensor, float* data) { tensor = data; }
  static float* data(float* const& tensor) { return tensor; }
};

namespace {

constexpr int epochs = 12;
constexpr int batches = 11;       // of each rank, in an epoch
constexpr int micro_batches = 4;  // to a step; the last step of an epoch has three
constexpr int steps = epochs * ((batches + micro_batches - 1) / micro_batches);
constexpr std::size_t width = 64;

using Batch = std::array<std::pair<float, float>, 16>;  // x, and y = sin(3 x)

Batch read_batch(int epoch, int number, int rank) {
  if (epoch == 2 && number == 5 && rank == 1) throw std::runtime_error{"no such batch"};
  Batch batch;
  float angle = static_cast<float>(epoch * 977 + number * 61 + rank * 31);
  for (auto& [x, y] : batch) {
    x = std::sin(angle++);
    y = std::sin(3.0F * x);
  }
  return batch;
}

/// The host's model: y = sum over j of output[j] tanh(input[j] x + bias[j]).
struct Model {
  explicit Model(auto& engine)
      : input{engine, "input", {width}, init::normal(3.0F)},
        bias{engine, "bias", {width}, init::normal(1.0F), {.group = {.weight_decay_factor = 0.0F}}},
        output{engine, "output", {width}, init::normal(0.1F)} {}

  /// The mean loss of a batch; in training its gradients are committed.
  float run(Pass pass, const Batch& batch) const {
    const auto [a, b, c] = gather(calling_thread, input, bias, output);  // read leases: whole until they end
    std::array<float, std::tuple_size_v<Batch>> errors;
    float loss = 0.0F;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      errors[i] = -batch[i].second;
      for (std::size_t j = 0; j < width; ++j) errors[i] += (*c)[j] * std::tanh((*a)[j] * batch[i].first + (*b)[j]);
      loss += 0.5F * errors[i] * errors[i] / static_cast<float>(errors.size());
    }
    if (pass == Pass::evaluation) return loss;

    auto [da, db, dc] = gradients(calling_thread, GradientContent::zeros, input, bias, output);
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const float error = errors[i] / static_cast<float>(errors.size());
      for (std::size_t j = 0; j < width; ++j) {
        const float h = std::tanh((*a)[j] * batch[i].first + (*b)[j]);
        const float slope = error * (*c)[j] * (1.0F - h * h);
        (*da)[j] += slope * batch[i].first;
        (*db)[j] += slope;
        (*dc)[j] += error * h;
      }
    }
    da.commit();  // handed over: reduced over ranks, accumulated, offloaded
    db.commit();
    dc.commit();
    return loss;
  }

  PartitionedParameter<float*> input, bias, output;
};

/// A warm-up, then a cosine to nothing.
float learning_rate(int step) {
  constexpr int warm_up = 4;
  if (step < warm_up) return 0.03F * static_cast<float>(step + 1) / warm_up;
  return 0.015F * (1.0F + std::cos(3.14159265F * static_cast<float>(step - warm_up) / (steps - warm_up)));
}

struct FailedBatch : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A batch on every rank, or an exception on every rank: all of them give up the same batch.
Batch read_together(ThreadCommunicator& ranks, int epoch, int number) {
  Batch batch{};
  float failed = 0.0F;
  try {
    batch = read_batch(epoch, number, ranks.rank().value);
  } catch (const std::exception&) {
    failed = 1.0F;
  }
  failed = mean(ranks, {calling_thread, "failed batches"}, failed);
  if (failed > 0.0F) throw FailedBatch{"a rank could not read its batch"};
  return batch;
}

/// Where the loop is: the host's own part of a checkpoint.
struct Position {
  int epoch = 0;
  int step = 0;
};

/// Saves the fp32 weights, parameter after parameter: every rank takes part, rank 0 writes. The optimizer's states are
/// not in the file.
void save(auto& engine, int rank, const std::filesystem::path& path) {
  std::ofstream file;
  file.exceptions(std::ios::badbit | std::ios::failbit);
  if (rank == 0) file.open(path, std::ios::binary);
  engine.for_each_master([&](std::string_view, std::uint64_t, std::span<const float> values) {
    if (rank == 0) file.write(reinterpret_cast<const char*>(values.data()), std::streamsize(values.size_bytes()));
  });
  if (rank == 0) file.close();
}

/// Trains up to an epoch. @return Whether the validation loss has fallen to less than half.
bool train(ThreadCommunicator ranks, const std::string& checkpoints, int last_epoch) {
  const int rank = ranks.rank().value;
  const std::filesystem::path directory = std::filesystem::temp_directory_path();
  HostDevice device{{.device_budget = 8_MiB, .host_budget = 8_MiB}};
  ThreadedIoEngine io;
  NvmeTier nvme{io, {.directory = directory.string()}};
  ZeroEngine engine{Stage3{},
                    ranks,
                    device,
                    Placement{.parameters = nvme, .gradients = nvme, .optimizer = nvme},
                    AdamW{.weight_decay = 0.01F},
                    EngineOptions{.micro_batches = micro_batches,
                                  .max_gradient_norm = 1.0F,
                                  .persistence_threshold = 0_KiB}};  // even so small a model rests on disk
  const Model model{engine};

  const auto evaluate = [&] {  // on every rank: a gather is a collective
    engine.begin(Pass::evaluation);
    const float loss = model.run(Pass::evaluation, read_batch(epochs, 0, rank));
    engine.begin(Pass::training);
    return mean(ranks, {calling_thread, "validation loss"}, loss);
  };

  const float untrained = evaluate();
  Position at;
  if (find_checkpoint(engine, checkpoints)) {
    const LoadedCheckpoint loaded = load_checkpoint(engine, checkpoints);
    std::memcpy(&at, loaded.host_bytes.front().data(), sizeof at);
    if (rank == 0) std::printf("goes on from %s\n", loaded.path.c_str());
  }
  float validation = evaluate();
  CheckpointSaver saver{engine, checkpoints};
  while (at.epoch < last_epoch) {
    float loss = 0.0F;
    for (int first = 0; first < batches; first += micro_batches, ++at.step) {
      const int last = std::min(first + micro_batches, batches);
      engine.optimizer().learning_rate = learning_rate(at.step);
      try {
        for (int i = first; i < last; ++i) {
          loss += model.run(Pass::training, read_together(ranks, at.epoch, i)) / batches;
        }
        engine.step({.micro_batches = static_cast<std::size_t>(last - first)});
      } catch (const FailedBatch& error) {
        if (rank == 0) std::printf("step %d is given up: %s\n", at.step, error.what());
        engine.abandon();  // what was committed of it, on every rank
      }
    }
    loss = mean(ranks, {calling_thread, "training loss"}, loss);
    validation = evaluate();
    if (rank == 0) std::printf("epoch %2d: loss %.4f, validation %.4f\n", at.epoch, double{loss}, double{validation});
    ++at.epoch;
    saver.start({.keep = 2, .host_bytes = std::as_bytes(std::span{&at, 1})});  // training goes on meanwhile
  }
  saver.wait();

  save(engine, rank, directory / "training_loop.f32");
  const Statistics total = engine.statistics();
  if (rank == 0) {
    std::printf("%zu parameters; rank 0 read %.1f MB and wrote %.1f MB\n", total.parameters,
                static_cast<double>(total.bytes_read) / 1e6, static_cast<double>(total.bytes_written) / 1e6);
  }
  return validation < untrained / 2;
}

}  // namespace

int main(int count, char** arguments) {
  const auto run = [](const std::string& checkpoints, int last_epoch) -> bool {
    const auto have_learned = run_ranks(
        2, [&](ThreadCommunicator ranks) -> int { return train(std::move(ranks), checkpoints, last_epoch); });
    return have_learned[0] != 0;
  };
  if (count > 1) return run(arguments[1], epochs) ? 0 : 1;
  const std::string checkpoints =
      std::filesystem::temp_directory_path() / ("training_loop.checkpoints." + std::to_string(getpid()));
  std::filesystem::remove_all(checkpoints);
  run(checkpoints, epochs / 2);
  const bool has_learned = run(checkpoints, epochs);  // engines of its own, as after a failure
  std::filesystem::remove_all(checkpoints);
  return has_learned ? 0 : 1;
}
