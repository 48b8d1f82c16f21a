/// @file
/// The training loop of one rank.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/comm/any_communicator.hpp>
#include <zerospan/engine/outcome.hpp>

#include "activations.hpp"
#include "batch.hpp"
#include "data.hpp"
#include "engine.hpp"
#include "exchange.hpp"
#include "figures.hpp"
#include "hash.hpp"
#include "math.hpp"
#include "micro_batch.hpp"
#include "model.hpp"
#include "options.hpp"
#include "reports.hpp"
#include "sample.hpp"
#include "saves.hpp"
#include "text.hpp"

namespace gpt {

/// One rank's model, data and engine. Every rank calls the same members in the same order.
template <class Parameter, Math M>
class Trainer {
 public:
  /// Declares the model.
  /// @param communicator Exchanges figures, in ordinary memory.
  /// @param reports Where to report, on rank 0; nullptr on the others.
  /// @param saves Where checkpoints are.
  Trainer(Engine& engine, M& math, zerospan::AnyCommunicator& communicator, const Options& options, const Text& text,
          Reports* reports, Saves& saves)
      : engine_{engine},
        math_{math},
        communicator_{communicator},
        options_{options},
        reports_{reports},
        saves_{saves},
        rank_{static_cast<std::size_t>(communicator.rank().value)},
        ranks_{static_cast<std::size_t>(communicator.size())},
        model_{engine, math, options.model,
               [this](std::size_t declared) { report("initializing block", declared, options_.model.layers); }},
        memory_{math.allocate(
            std::max(Activations<M>::bytes(options.model, options.batch, options.segment()),
                     Activations<M>::bytes(options.model, options.evaluation_batch(), evaluation_segment)))},
        evaluation_{options.model, options.evaluation_batch(), evaluation_segment, memory_},
        sampler_{text.train(), options.model.context, options.seed, rank_, ranks_},
        windows_{text.validation(), options.model.context, evaluation_.capacity()} {
    activations_.emplace_back(options.model, options.batch, options.segment(), memory_);
    gradients_.emplace_back(math, options.model, options.batch);
    while (activations_.size() < options.micro_batches_at_once()) {
      activations_.emplace_back(math, options.model, options.batch, options.segment());
      gradients_.emplace_back(math, options.model, options.batch);
    }
  }

  /// Trains from where a checkpoint was saved, or from the beginning, to the end; or as far as this run is to go.
  void train() {
    begin();
    report(training_phase, steps_, options_.schedule.steps);
    const std::size_t first = steps_;
    const auto is_over = [&] {
      return steps_ >= options_.schedule.steps || steps_ - first == options_.stop_after || is_interrupted_;
    };
    while (!is_over()) {
      StepMetrics metrics = make_step(steps_, !is_followed_by_step(first));
      ++steps_;
      skipped_steps_ += metrics.skipped ? 1 : 0;
      if (options_.eval_every > 0 && metrics.step % options_.eval_every == 0) {
        metrics.validation_loss = validate(rounds_of(estimate_tokens), "estimating the validation loss");
        before_ = figures();  // the estimate's transfers are no step's
      }
      if (saver_) {
        const auto begin = Clock::now();
        const bool is_due = options_.save_every > 0 && steps_ % options_.save_every == 0;
        is_due || is_over() ? save() : note(saver_->poll());
        metrics.seconds += seconds_since(begin);
        metrics.tokens_per_second = static_cast<double>(options_.tokens_a_step()) / metrics.seconds;
      }
      if (reports_) reports_->step(metrics);
    }
    if (saver_) note(saver_->wait());
    steps_here_ = steps_ - first;
  }

  /// Saves the model for others, if the options say where.
  void export_model() {
    if (saves_.export_model(engine_.store(), rank_ == 0) && reports_) {
      reports_->note("the model is exported to " + options_.export_to.string());
    }
  }

  /// Steps made so far, and by this run.
  std::size_t steps() const { return steps_; }
  std::size_t steps_here() const { return steps_here_; }

  /// When a step began, and when it ended.
  struct MadeStep {
    std::chrono::steady_clock::time_point begin;
    std::chrono::steady_clock::time_point end;
  };

  /// The steps of this run. What comes between them, saves and estimates, is in none.
  const std::vector<MadeStep>& made() const { return made_; }

  /// Whether a rank's process was asked to end.
  bool is_interrupted() const { return is_interrupted_; }

  /// Steps without effect: a gradient was infinite or NaN.
  std::size_t skipped_steps() const { return skipped_steps_; }

  /// The mean loss over as much of the validation split as the options say.
  double validate() { return validate(rounds_of(options_.tokens_to_validate()), "validating"); }

  /// The same text on every rank.
  std::string write_text() {
    return sample<typename M::Logit>(options_.sample, options_.model.context, options_.seed,
                                     [this, written = std::size_t{0}](std::span<const std::uint8_t> bytes) mutable {
                                       report("writing", written++, options_.sample);
                                       engine_.begin(zerospan::Pass::evaluation);
                                       return model_.predict(bytes, evaluation_);
                                     });
  }

  /// Over all fp32 master weights, in declaration order: equal for equal models, however they were trained.
  std::uint64_t parameter_hash() {
    Hash hash;
    engine_.for_each_master(
        [&hash](std::string_view, std::uint64_t, std::span<const float> values) { hash.update(values); });
    return hash.digest();
  }

  /// Every rank's figures so far.
  std::vector<Figures> figures() { return exchange(communicator_, "figures", own_figures()); }

 private:
  using Clock = std::chrono::steady_clock;

  static double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  /// What the loss is estimated on while training goes on.
  static constexpr std::size_t estimate_tokens = 16384;

  /// Blocks whose activations an evaluation keeps.
  static constexpr std::size_t evaluation_segment = 1;

  struct StepReport {
    double loss;
    double interrupted;  ///< 1 or 0.
    Figures figures;
  };

  /// Begins where a checkpoint was saved, or else with a model of others, or else with that of the seed.
  void begin() {
    if (!resume() && saves_.import_model(engine_.store()) && reports_) {
      reports_->note("begins with the model of " + options_.init.string());
    }
    engine_.begin(zerospan::Pass::training);  // where parameters have no values yet, they get them: it is no step's
    before_ = figures();
  }

  /// @return Whether there is a checkpoint to go on from.
  bool resume() {
    if (!saves_.is_on()) return false;
    const std::optional<Position> position = saves_.resume(engine_.store());
    if (position) {
      steps_ = static_cast<std::size_t>(position->step);
      skipped_steps_ = static_cast<std::size_t>(position->skipped_steps);
      sampler_.go_on_after(position->sequences);
    }
    if (!reports_ || !options_.resume) return position.has_value();
    const std::string directory = options_.checkpoint.string();
    reports_->note(position ? "resumes after step " + std::to_string(steps_) + ", from " + directory
                            : "begins at step 0: there is no checkpoint in " + directory);
    return position.has_value();
  }

  void save() { note(saver_->start({steps_, sampler_.drawn(), skipped_steps_})); }

  void note(const std::vector<Saved>& all) {
    if (!reports_) return;
    for (const Saved& saved : all) reports_->note("step " + std::to_string(saved.step) + " is saved in " + saved.path);
  }

  /// Whether nothing but a further step comes after the next one. @param first Of this run.
  bool is_followed_by_step(std::size_t first) const {
    const std::size_t made = steps_ + 1;
    const auto is_due = [made](std::size_t every) { return every > 0 && made % every == 0; };
    const bool is_last = made >= options_.schedule.steps || made - first == options_.stop_after;
    return !is_last && !is_due(options_.eval_every);
  }

  /// @param is_alone Its updates hide behind no further step: they are waited for, and their transfers are its own.
  StepMetrics make_step(std::size_t step, bool is_alone) {
    const auto begin = Clock::now();
    const double learning_rate = options_.schedule.learning_rate(step);
    engine_.set_learning_rate(static_cast<float>(learning_rate));
    for (std::size_t i = 0; i < options_.micro_batches; i += options_.micro_batches_at_once()) {
      engine_.begin(zerospan::Pass::training);
      train_on(sampler_.next(options_.batch * options_.micro_batches_at_once()));
    }
    const zerospan::StepOutcome outcome = engine_.step();
    if (is_alone) engine_.synchronize();
    made_.push_back({begin, Clock::now()});
    const StepReport report{model_.take_loss(), saves_.is_interrupted() ? 1.0 : 0.0, own_figures()};
    const auto ranks = exchange(communicator_, "step report", report);
    is_interrupted_ = saves_.is_on() && total(ranks, &StepReport::interrupted) > 0;
    return summarize(step, ranks, outcome, learning_rate, seconds_since(begin));
  }

  /// @param drawn The micro-batches that go through the model together, one behind the other.
  void train_on(const Batch& drawn) {
    const Batch staged = math_.stage(drawn);
    const std::size_t tokens = staged.tokens.size() / activations_.size();
    std::vector<MicroBatch<M>> all;
    for (std::size_t i = 0; i < activations_.size(); ++i) {
      const Batch part{staged.tokens.subspan(i * tokens, tokens), staged.targets.subspan(i * tokens, tokens),
                       staged.length};
      all.push_back({part, &activations_[i], &gradients_[i]});
    }
    model_.train(all, engine_.loss_scale(), engine_.checkpoints());
  }

  StepMetrics summarize(std::size_t step, const std::vector<StepReport>& reports, const zerospan::StepOutcome& outcome,
                        double learning_rate, double seconds) {
    std::vector<Figures> now;
    for (const StepReport& report : reports) now.push_back(report.figures);
    const auto change = [&](double Figures::*member) { return total(now, member) - total(before_, member); };
    const double passes = static_cast<double>(ranks_ * options_.micro_batches);
    const StepMetrics metrics{
        .step = step + 1,
        .loss = total(reports, &StepReport::loss) / passes,
        .validation_loss = std::nullopt,
        .learning_rate = learning_rate,
        .gradient_norm = outcome.gradient_norm,
        .skipped = outcome.skipped,
        .loss_scale = double{outcome.loss_scale},
        .seconds = seconds,
        .tokens_per_second = static_cast<double>(options_.tokens_a_step()) / seconds,
        .bytes_read = change(&Figures::bytes_read),
        .bytes_written = change(&Figures::bytes_written),
        .hidden_transfer_share = hidden_share(change(&Figures::transfer_seconds), change(&Figures::exposed_seconds)),
        .peak_device_bytes = largest(now, &Figures::peak_device_bytes),
        .peak_host_bytes = largest(now, &Figures::peak_host_bytes)};
    before_ = std::move(now);
    return metrics;
  }

  Figures own_figures() {
    Figures figures = engine_.figures();
    figures.activation_bytes = static_cast<double>(math_.allocated());
    return figures;
  }

  void report(std::string_view what, std::size_t done, std::size_t of) {
    if (reports_) reports_->progress(what, done, of);
  }

  /// Rounds that evaluate about as many tokens, but one at least, and not more than there are.
  std::size_t rounds_of(std::size_t tokens) const {
    const std::size_t a_round = ranks_ * evaluation_.capacity() * options_.model.context;
    return std::clamp<std::size_t>(tokens / a_round, 1, windows_.rounds(ranks_));
  }

  /// The mean loss over `rounds` rounds of windows, spread evenly over the validation split.
  double validate(std::size_t rounds, std::string_view what) {
    struct Sum {
      double loss = 0;
      double tokens = 0;
    } mine;
    for (std::size_t i = 0; i < rounds; ++i) {
      report(what, i, rounds);
      const Windows::Chunk chunk = windows_.chunk(i * windows_.rounds(ranks_) / rounds, rank_, ranks_);
      engine_.begin(zerospan::Pass::evaluation);
      const double loss = model_.loss(chunk.batch, evaluation_);
      if (chunk.spare) continue;
      mine.loss += loss;
      mine.tokens += static_cast<double>(chunk.batch.tokens.size());
    }
    const auto sums = exchange(communicator_, "validation loss", mine);
    return total(sums, &Sum::loss) / total(sums, &Sum::tokens);
  }

  Engine& engine_;
  M& math_;
  zerospan::AnyCommunicator& communicator_;
  const Options& options_;
  Reports* reports_;
  Saves& saves_;
  std::unique_ptr<Saver> saver_ = saves_.saver(engine_.store());
  std::size_t rank_;
  std::size_t ranks_;
  Model<Parameter, M> model_;
  std::shared_ptr<std::byte> memory_;  // of a micro-batch's activations, and of an evaluation in between
  std::vector<Activations<M>> activations_;        // of each micro-batch that goes through the model with others
  std::vector<ActivationGradients<M>> gradients_;  // likewise
  Activations<M> evaluation_;
  BatchSampler sampler_;
  Windows windows_;
  std::vector<Figures> before_;
  std::vector<MadeStep> made_;
  std::size_t steps_ = 0;
  std::size_t steps_here_ = 0;
  std::size_t skipped_steps_ = 0;
  bool is_interrupted_ = false;
};

}  // namespace gpt
