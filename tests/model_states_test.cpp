#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/core/config.hpp>
#include <zerospan/core/element.hpp>
#include <zerospan/core/units.hpp>
#include <zerospan/engine/detail/model_states.hpp>
#include <zerospan/partition/partitioner.hpp>

namespace {

using zerospan::block_elements;
using zerospan::ElementType;
using zerospan::ParameterId;
using zerospan::Training;
using zerospan::detail::ModelStates;
using zerospan::detail::ParameterRecord;
using zerospan::detail::Residence;
using zerospan::detail::ShardRun;
using zerospan::detail::SubGroup;

struct Kind {
  ElementType type = ElementType::float32;
  Residence residence = Residence::partitioned;
  Training training = Training::trainable;
};

void add(ModelStates& states, std::size_t elements, Kind kind = {}, std::size_t shards = 2) {
  ParameterRecord parameter{};
  parameter.name = std::string{"p"}.append(std::to_string(states.parameters.size()));
  parameter.type = kind.type;
  parameter.options.training = kind.training;
  parameter.partition = zerospan::Partition::sliced(elements, shards);
  parameter.residence = kind.residence;
  parameter.uses = {states.uses.size()};
  states.uses.push_back({parameter.name, states.parameters.size(), {}, false});
  states.parameters.push_back(std::move(parameter));
}

void place(ModelStates& states, std::size_t alignment, std::size_t limit) {
  for (ParameterRecord& parameter : states.parameters) states.append_to_space(parameter, alignment);
  states.form_groups(limit);
}

TEST_CASE("a record counts the bytes of the gathered parameter and of a shard, padding included") {
  ModelStates states;
  add(states, 3000, {.type = ElementType::bfloat16}, 2);
  const ParameterRecord& parameter = states.parameters[0];
  CHECK(parameter.gathered_bytes() == 2 * 4096);
  CHECK(parameter.shard_bytes() == 4096);
  CHECK(parameter.has_states());
}

TEST_CASE("a use leads to its parameter, a tied one to the same") {
  ModelStates states;
  add(states, 10);
  add(states, 10);
  states.uses.push_back({"tied", 0, {}, false});
  states.parameters[0].uses.push_back(2);
  CHECK(&states.parameter_of(ParameterId{1}) == &states.parameters[1]);
  CHECK(&states.parameter_of(ParameterId{2}) == &states.parameters[0]);
  CHECK(states.use(ParameterId{2}).name == "tied");
}

TEST_CASE("parameters of one kind share a space, in declaration order") {
  ModelStates states;
  add(states, 2048);  // two shards of a block
  add(states, 10, {.type = ElementType::bfloat16});
  add(states, 5000);  // two shards of three blocks
  add(states, 10, {.residence = Residence::replicated});
  add(states, 10, {.training = Training::frozen});
  add(states, 1);
  place(states, block_elements, 8 * block_elements);
  REQUIRE(states.spaces.size() == 4);
  const auto at = [&](std::size_t p) { return std::pair{states.parameters[p].space, states.parameters[p].linear}; };
  using Place = std::pair<std::size_t, std::size_t>;
  CHECK(at(0) == Place{0, 0});
  CHECK(at(1) == Place{1, 0});
  CHECK(at(2) == Place{0, 1024});
  CHECK(at(3) == Place{2, 0});
  CHECK(at(4) == Place{3, 0});
  CHECK(at(5) == Place{0, 4096});
  CHECK(states.spaces[0].elements == 5 * 1024);
  CHECK(states.spaces[1].type == ElementType::bfloat16);
  CHECK(states.spaces[2].residence == Residence::replicated);
  CHECK(states.spaces[3].training == Training::frozen);
}

TEST_CASE("sub-groups that were worked out by hand") {
  ModelStates states;
  add(states, 3 * 1024, {}, 1);
  add(states, 2 * 1024, {}, 1);
  add(states, 1024, {.type = ElementType::bfloat16}, 1);
  place(states, 1024, 4096);  // 3 | 2 blocks in groups of 4: 3 + 1, 1
  REQUIRE(states.groups.size() == 3);
  const auto runs = [&](std::size_t group) {
    std::vector<std::tuple<std::size_t, std::size_t, std::size_t, std::size_t>> result;
    for (const ShardRun& r : states.groups[group].runs) {
      result.emplace_back(r.parameter, r.first_in_group, r.first_in_shard, r.elements);
    }
    return result;
  };
  using Runs = decltype(runs(0));
  CHECK(runs(0) == Runs{{0, 0, 0, 3072}, {1, 3072, 0, 1024}});
  CHECK(runs(1) == Runs{{1, 0, 1024, 1024}});
  CHECK(runs(2) == Runs{{2, 0, 0, 1024}});
  CHECK(states.groups[0].name == "sub-group 0");
  CHECK(states.groups[2].name == "sub-group 2");
  CHECK(states.groups[0].elements == 4096);
  CHECK(states.groups[1].elements == 1024);
  CHECK(states.groups[1].first == 4096);
  CHECK(states.groups[2].space == 1);
  CHECK(states.groups[2].first == 0);
}

TEST_CASE("a model without parameters has no groups") {
  ModelStates states;
  place(states, 1024, 4096);
  CHECK(states.spaces.empty());
  CHECK(states.groups.empty());
}

/// Which element of which parameter's shard lies where in the spaces, as the groups tell it.
void check_groups(const ModelStates& states, std::size_t alignment, std::size_t limit) {
  std::vector<std::size_t> covered(states.parameters.size());
  std::vector<std::size_t> next_in_space(states.spaces.size());
  for (const SubGroup& group : states.groups) {
    REQUIRE(group.first == next_in_space[group.space]);  // windows follow one another
    next_in_space[group.space] += group.elements;
    REQUIRE(group.elements > 0);
    REQUIRE(group.elements <= limit);
    REQUIRE(group.elements % alignment == 0);
    REQUIRE(group.first % alignment == 0);
    REQUIRE_FALSE(group.runs.empty());
    std::size_t end_of_last = 0;
    for (const ShardRun& run : group.runs) {
      const ParameterRecord& parameter = states.parameters[run.parameter];
      REQUIRE(parameter.space == group.space);
      REQUIRE(run.elements > 0);
      const bool is_last = run.first_in_shard + run.elements == parameter.shard_elements();
      REQUIRE((is_last || run.elements % block_elements == 0));
      REQUIRE(run.first_in_group >= end_of_last);
      end_of_last = run.first_in_group + run.elements;
      REQUIRE(end_of_last <= group.elements);
      REQUIRE(run.first_in_shard == covered[run.parameter]);  // runs of a shard follow one another, without a gap
      REQUIRE(group.first + run.first_in_group == parameter.linear + run.first_in_shard);
      covered[run.parameter] += run.elements;
    }
  }
  for (std::size_t s = 0; s < states.spaces.size(); ++s) REQUIRE(next_in_space[s] == states.spaces[s].elements);
  for (std::size_t p = 0; p < covered.size(); ++p) {
    REQUIRE(covered[p] == states.parameters[p].shard_elements());
    REQUIRE(states.parameters[p].linear % alignment == 0);
  }
}

TEST_CASE("at random: groups cover every shard exactly once, in order, at aligned places") {
  for (std::uint32_t seed = 0; seed < 100; ++seed) {
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::size_t alignment = block_elements * (1 + random() % 4);
    const std::size_t limit = alignment * (1 + random() % 8);
    const std::size_t shards = 1 + random() % 5;
    ModelStates states;
    for (std::size_t p = 1 + random() % 30; p > 0; --p) {
      add(states, 1 + random() % (std::size_t{1} << (1 + random() % 17)),
          {random() % 2 == 0 ? ElementType::float32 : ElementType::bfloat16,
           random() % 2 == 0 ? Residence::partitioned : Residence::replicated,
           random() % 4 == 0 ? Training::frozen : Training::trainable},
          shards);
    }
    place(states, alignment, limit);
    check_groups(states, alignment, limit);
  }
}

}  // namespace
