#include "sample.hpp"
#include "training_matrix.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include <zerospan/zerospan.hpp>

#include "training_run.hpp"

namespace zerospan_test {

namespace {

using Pair = std::array<std::size_t, 4>;  // two dimensions, and a value of each

std::set<Pair> pairs_of(const Choice& choice) {
  std::set<Pair> pairs;
  for (std::size_t a = 0; a < choice.size(); ++a) {
    for (std::size_t b = a + 1; b < choice.size(); ++b) pairs.insert({a, choice[a], b, choice[b]});
  }
  return pairs;
}

/// What a configuration must give: by an engine that partitions nothing, once for all configurations that agree on it.
class Oracle {
 public:
  const TrainingResult& operator()(const Configuration& c) {
    const Key key{c.type, c.training.ranks, c.training.micro_batches, c.training.max_gradient_norm};
    const auto found = results_.find(key);
    if (found != results_.end()) return found->second;
    Configuration plain;
    plain.training = c.training;
    plain.type = c.type;
    plain.stage = 0;
    plain.prefetch = Prefetch::off;
    const TrainingResult result = train(plain);
    CHECK(result == train_replicated(c.training, c.type, c.steps));
    return results_.emplace(key, result).first->second;
  }

  std::size_t groups() const { return results_.size(); }

 private:
  using Key = std::tuple<zerospan::ElementType, int, std::size_t, float>;
  std::map<Key, TrainingResult> results_;
};

}  // namespace

Configuration configuration_of(const Choice& choice) {
  constexpr std::array types{zerospan::ElementType::float32, zerospan::ElementType::bfloat16,
                             zerospan::ElementType::float16};
  constexpr std::array places{Place::device, Place::host, Place::nvme};
  Configuration c;
  c.stage = static_cast<int>(choice[0]);
  c.parameters = places[choice[1]];
  c.gradients = places[choice[2]];
  c.optimizer = places[choice[3]];
  c.type = types[choice[4]];
  c.prefetch = choice[5] == 0 ? Prefetch::off : Prefetch::on;
  c.budget = choice[6] == 0 ? Budget::roomy : Budget::tight;
  c.training.micro_batches = choice[7] == 0 ? 1 : 3;
  c.training.max_gradient_norm = choice[8] == 0 ? std::numeric_limits<float>::infinity() : 1.0F;
  c.training.ranks = static_cast<int>(choice[9]) + 1;
  c.persistence_threshold = choice[10] == 0 ? zerospan::Bytes{0} : zerospan::EngineOptions{}.persistence_threshold;
  c.partition = choice[11] == 0 ? zerospan::AnyPartitioner{zerospan::Slices{}} : zerospan::Owners{};
  c.disk = std::array{Disk::plain, Disk::striped, Disk::cached, Disk::checked}[choice[disk_dimension]];
  c.typing = choice[typing_dimension] == 0 ? Typing::compile_time : Typing::run_time;
  return c;
}

std::vector<Choice> full_matrix(std::size_t count) {
  std::vector<Choice> choices;
  Choice choice{};
  while (true) {
    if (configuration_of(choice).is_possible()) choices.push_back(choice);
    std::size_t d = 0;
    while (d < count && ++choice[d] == dimensions[d]) choice[d++] = 0;
    if (d == count) return choices;
  }
}

std::vector<Choice> pairwise_matrix(std::uint64_t seed) {
  std::vector<Choice> all = full_matrix(dimensions.size());
  std::mt19937_64 random{seed};
  std::ranges::shuffle(all, random);
  all.resize(10'000);
  std::set<Pair> open;
  for (const Choice& choice : all) open.merge(pairs_of(choice));
  std::vector<Choice> chosen;
  while (!open.empty()) {
    constexpr std::size_t candidates = 400;
    const Choice* best = nullptr;
    std::size_t most = 0;
    for (std::size_t i = 0; i < all.size() && (i < candidates || most == 0); ++i) {
      const Choice& choice = all[random() % all.size()];
      const auto pairs = pairs_of(choice);
      const auto gain =
          static_cast<std::size_t>(std::ranges::count_if(pairs, [&](const Pair& pair) { return open.contains(pair); }));
      if (gain > most) {
        most = gain;
        best = &choice;
      }
    }
    if (!best) continue;
    chosen.push_back(*best);
    for (const Pair& pair : pairs_of(*best)) open.erase(pair);
  }
  return chosen;
}

void compare_all(const std::vector<Choice>& choices, const std::function<TrainingResult(const Configuration&)>& train) {
  Oracle oracle;
  std::size_t compared = 0;
  Sample sample{7};
  for (const Choice& choice : choices) {
    if (!sample.takes()) continue;
    const Configuration c = configuration_of(choice);
    CAPTURE(c.describe());
    const TrainingResult& expected = oracle(c);
    TrainingResult actual;
    REQUIRE_NOTHROW(actual = train(c));
    CHECK(actual.hash == expected.hash);
    CHECK(actual.norms == expected.norms);
    CHECK(actual.losses == expected.losses);
    ++compared;
  }
  MESSAGE(compared, " combinations compared with ", oracle.groups(), " oracles");
}

}  // namespace zerospan_test
