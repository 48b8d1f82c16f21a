/// @file
/// Trains a GPT of ordinary libtorch modules over the bytes of a text: as libtorch does, or with the layers' parameters
/// in a zerospan engine.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn.h>
#include <torch/optim/adamw.h>
#include <torch/utils.h>
#include <CLI/CLI.hpp>

#include <zerospan/adapters/torch_module.hpp>
#include <zerospan/zerospan.hpp>

#include "../gpt/data.hpp"
#include "../gpt/text.hpp"
#include "gpt.hpp"
#include "memory.hpp"
#include "options.hpp"
#include "plain_adamw.hpp"

namespace {

/// Bytes as the integers that libtorch's embeddings and losses take. [batch x length]
torch::Tensor to_tensor(std::span<const std::uint8_t> bytes, std::int64_t length) {
  const auto count = static_cast<std::int64_t>(bytes.size());
  torch::Tensor tensor = torch::empty({count / length, length}, torch::kLong);
  std::copy(bytes.begin(), bytes.end(), tensor.data_ptr<std::int64_t>());
  return tensor;
}

/// The loop that every libtorch program has; all that differs is who steps.
/// @param step Updates the parameters.
template <class Step>
void train(torch::nn::Sequential& model, const Options& options, const gpt::Text& text, zerospan::Rank rank,
           Step step) {
  const auto length = options.model.context;
  gpt::BatchSampler sampler{text.train(), static_cast<std::size_t>(length), options.seed,
                            static_cast<std::size_t>(rank.value), static_cast<std::size_t>(options.ranks)};
  for (std::size_t i = 0; i < options.steps; ++i) {
    const gpt::Batch batch = sampler.next(static_cast<std::size_t>(options.batch));
    const torch::Tensor logits = model->forward(to_tensor(batch.tokens, length));
    const torch::Tensor loss =
        torch::nn::functional::cross_entropy(logits.flatten(0, 1), to_tensor(batch.targets, length).flatten());
    loss.backward();
    step();
    if (rank == zerospan::Rank{0}) {
      std::printf("step %zu: loss %.9g\n", i + 1, static_cast<double>(loss.item<float>()));
      std::fflush(stdout);
    }
  }
}

void train_plain(const Options& options, const gpt::Text& text, const zerospan::AdamW& adamw) {
  torch::manual_seed(options.seed);
  torch::nn::Sequential model = gpt::make_gpt(options.model, [](const auto&, auto layer) { return layer; });
  if (options.update == Update::zerospan) {
    PlainAdamW optimizer{model->parameters(), adamw};
    return train(model, options, text, {}, [&] { optimizer.step(); });
  }
  torch::optim::AdamW optimizer{model->parameters(), torch::optim::AdamWOptions{adamw.learning_rate}
                                                         .betas({adamw.beta1, adamw.beta2})
                                                         .eps(adamw.epsilon)
                                                         .weight_decay(adamw.weight_decay)};
  train(model, options, text, {}, [&] {
    optimizer.step();
    optimizer.zero_grad();
  });
}

void train_wrapped(const Options& options, const gpt::Text& text, const zerospan::AdamW& adamw) {
  std::mutex building;  // torch's random numbers are the process's: ranks draw theirs one after the other
  zerospan::run_ranks(options.ranks, [&](zerospan::ThreadCommunicator communicator) {
    torch::set_num_threads(options.threads);
    RankMemory memory{options};
    zerospan::ZeroEngine engine{zerospan::Stage3{},
                                communicator,
                                memory.device(),
                                memory.placement(options),
                                adamw,
                                zerospan::EngineOptions{.prefetch = zerospan::Bytes{options.prefetch_bytes}}};
    torch::nn::Sequential model{nullptr};
    {
      const std::scoped_lock lock{building};
      torch::manual_seed(options.seed);
      model = gpt::make_gpt(options.model,
                            [&](const std::string& name, auto layer) { return zerospan::wrap(engine, name, layer); });
    }
    train(model, options, text, communicator.rank(), [&] { engine.step(); });
  });
}

void run(const Options& options) {
  const gpt::Text text = gpt::Text::read(options.text);
  const auto context = static_cast<std::size_t>(options.model.context);
  if (options.model.width % options.model.heads != 0) {
    zerospan::throw_configuration_error("--width is not a multiple of --heads");
  }
  if (text.train().size() <= context) zerospan::throw_configuration_error("the text is too short for --context");
  const zerospan::AdamW adamw{.learning_rate = options.learning_rate};

  torch::set_num_threads(options.threads);
  cap_memory(options.memory_cap);
  const auto begin = std::chrono::steady_clock::now();
  options.plain ? train_plain(options, text, adamw) : train_wrapped(options, text, adamw);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  ::rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  std::printf("%.2f s a step, peak of the process %ld MiB\n", seconds / static_cast<double>(options.steps),
              usage.ru_maxrss / 1024);
}

int fail(int code, const std::string& message) {
  std::fprintf(stderr, "train_torch: %s\n", message.c_str());
  return code;
}

}  // namespace

/// @return 0, or 2 if it was asked for something that cannot be, or 1 if something failed.
int main(int argc, char** argv) {
  constexpr int failure = 1;
  constexpr int misuse = 2;
  CLI::App app{"Trains a GPT of ordinary libtorch modules, with or without zerospan."};
  try {
    Options options = parse(app, argc, argv);
    if (options.text.empty()) options.text = gpt::source_files(ZEROSPAN_SOURCE_DIR);
    run(options);
    return 0;
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return fail(misuse, std::string{error.what()} + " (--help lists the flags)");
  } catch (const zerospan::ConfigurationError& error) {
    return fail(misuse, error.what());
  } catch (const zerospan::BudgetError& error) {
    return fail(misuse, error.what());
  } catch (const std::bad_alloc&) {
    return fail(failure, "out of memory");
  } catch (const c10::Error& error) {
    return fail(failure, error.what_without_backtrace());
  } catch (const std::exception& error) {
    return fail(failure, error.what());
  }
}
