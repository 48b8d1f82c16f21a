#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

#include <zerospan/zerospan.hpp>

#if defined(ZEROSPAN_HAS_URING)
#include <zerospan/io/uring_engine.hpp>
#endif

#include "support/training_matrix.hpp"
#include "support/training_run.hpp"

namespace {

using namespace zerospan::literals;
using zerospan::ElementType;
using zerospan_test::Budget;
using zerospan_test::Choice;
using zerospan_test::compare_all;
using zerospan_test::Configuration;
using zerospan_test::configuration_of;
using zerospan_test::dimensions;
using zerospan_test::disk_dimension;
using zerospan_test::full_matrix;
using zerospan_test::pairwise_matrix;
using zerospan_test::Place;
using zerospan_test::TrainingResult;
using zerospan_test::Typing;
using zerospan_test::typing_dimension;

TEST_CASE("every pair of choices trains to the bits of the oracle") {
  compare_all(pairwise_matrix(20240607), [](const Configuration& c) { return zerospan_test::train(c); });
}

TEST_CASE("every combination of choices trains to the bits of the oracle" * doctest::skip()) {
  std::vector<Choice> choices = full_matrix(disk_dimension);
  for (std::size_t i = 0; i < choices.size(); ++i) {  // the last two dimensions in turn
    Choice varied = choices[i];
    varied[disk_dimension] = i % dimensions[disk_dimension];
    varied[typing_dimension] = i / dimensions[disk_dimension] % 2;
    if (configuration_of(varied).is_possible()) choices[i] = varied;
  }
  compare_all(choices, [](const Configuration& c) { return zerospan_test::train(c); });
}

Configuration everything_on_nvme() {
  Configuration c;
  c.parameters = c.gradients = c.optimizer = Place::nvme;
  c.persistence_threshold = 0_KiB;
  return c;
}

TEST_CASE("a world of one is the same by itself and on a thread") {
  for (const int stage : {0, 3}) {
    for (const ElementType type : {ElementType::float32, ElementType::bfloat16}) {
      Configuration c = everything_on_nvme();
      c.stage = stage;
      c.type = type;
      if (stage == 0) c.parameters = c.gradients = c.optimizer = Place::host;
      if (stage == 0) c.parameters = Place::device;
      zerospan::SelfCommunicator self;
      CHECK(zerospan_test::train_on(self, c) == zerospan_test::train(c));
    }
  }
}

TEST_CASE("another seed, precision, world size, clipping or number of micro-batches gives other bits") {
  std::set<std::uint64_t> hashes;
  const auto differs = [&](auto change) {
    Configuration c = everything_on_nvme();
    c.training.ranks = 2;
    change(c);
    CHECK(hashes.insert(zerospan_test::train(c).hash).second);
  };
  differs([](Configuration&) {});
  differs([](Configuration& c) { c.training.seed = 4; });
  differs([](Configuration& c) { c.type = ElementType::bfloat16; });
  differs([](Configuration& c) { c.type = ElementType::float16; });
  differs([](Configuration& c) { c.training.ranks = 1; });
  differs([](Configuration& c) { c.training.ranks = 3; });
  differs([](Configuration& c) { c.training.micro_batches = 2; });
  differs([](Configuration& c) { c.training.max_gradient_norm = 1.0F; });
  differs([](Configuration& c) { c.steps = 2; });
}

TEST_CASE("element types known at run time give the bits of those known at compile time") {
  for (const ElementType type : {ElementType::float32, ElementType::bfloat16}) {
    Configuration c = everything_on_nvme();
    c.type = type;
    c.training.ranks = 3;
    c.training.micro_batches = 2;
    const TrainingResult typed = zerospan_test::train(c);
    c.typing = Typing::run_time;
    CHECK(zerospan_test::train(c) == typed);
  }
}

TEST_CASE("repetitions give the same bits") {
  Configuration c = everything_on_nvme();
  c.training.ranks = 3;
  c.budget = Budget::tight;
  const TrainingResult first = zerospan_test::train(c);
  for (int i = 0; i < 3; ++i) CHECK(zerospan_test::train(c) == first);
}

TEST_CASE("the I/O engine makes no difference") {
  for (const ElementType type : {ElementType::float32, ElementType::bfloat16}) {
    Configuration c = everything_on_nvme();
    c.type = type;
    c.training.ranks = 2;
    c.training.micro_batches = 3;
    c.budget = Budget::tight;
    [[maybe_unused]] const TrainingResult expected = zerospan_test::train(c);
#if defined(ZEROSPAN_HAS_LIBAIO)
    CHECK(zerospan_test::train_with_libaio(c) == expected);
#endif
#if defined(ZEROSPAN_HAS_URING)
    if (zerospan::UringEngine::available()) CHECK(zerospan_test::train_with_uring(c) == expected);
#endif
  }
}

}  // namespace
