#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <zerospan/comm/detail/protocol/call_sequence.hpp>
#include <zerospan/core/philox.hpp>

namespace {

using zerospan::Rank;
using zerospan::detail::CallSequence;
using zerospan::detail::CollectiveKind;
using zerospan::detail::Failure;
using zerospan::detail::RankState;
using zerospan::detail::SequenceRecord;

void call(CallSequence& sequence, const char* name) { sequence.add({.kind = CollectiveKind::barrier, .name = name}); }

}  // namespace

TEST_CASE("sequences differ where the calls do, and are found to as far as both have come and remember") {
  CallSequence a{1};
  CallSequence b{1};
  CHECK(may_agree(a.record(), b.record()));
  call(a, "x");
  CHECK(may_agree(a.record(), b.record()));
  CHECK(!agree_so_far(a.record(), b.record()));
  call(b, "x");
  CHECK(agree_so_far(a.record(), b.record()));
  call(a, "y");
  call(b, "z");
  for (std::size_t i = 2; i < SequenceRecord::history; ++i) call(a, "x");
  CHECK(first_difference(a.record(), b.record()) == std::uint64_t{1});
  call(a, "x");
  call(a, "x");
  CHECK(may_agree(a.record(), b.record()));  // forgotten
  for (std::size_t i = 0; i < SequenceRecord::history; ++i) call(b, "x");
  CHECK(!agree_so_far(a.record(), b.record()));  // what came before is in every later hash
}

TEST_CASE("the rank that differs from the majority is at fault, once all have told") {
  CallSequence sequences[]{CallSequence{1}, CallSequence{1}, CallSequence{1}};
  const std::array<const SequenceRecord*, 3> ranks{&sequences[0].record(), &sequences[1].record(),
                                                   &sequences[2].record()};
  const std::array names{Rank{0}, Rank{4}, Rank{2}};
  call(sequences[1], "x");
  call(sequences[2], "y");
  CHECK(!find_divergence(ranks, names, zerospan::detail::may_agree));  // rank 0 may go either way
  const std::array<const SequenceRecord*, 3> some{nullptr, ranks[1], ranks[2]};
  const auto early = find_divergence(some, names, zerospan::detail::may_agree);
  REQUIRE(early);
  CHECK(!all_have_told(some, names, early->culprit));
  call(sequences[0], "y");
  const auto divergence = find_divergence(ranks, names, zerospan::detail::may_agree);
  REQUIRE(divergence);
  CHECK(divergence->culprit == Rank{4});
  CHECK(all_have_told(ranks, names, divergence->culprit));
  CHECK(divergence->text ==
        "ranks diverge: rank 0: barrier 'y' (#0); rank 4: barrier 'x' (#0); rank 2: barrier 'y' (#0)");
}

TEST_CASE("a rank's state goes through bytes; a long text is cut") {
  CallSequence sequence{7};
  sequence.add({.kind = CollectiveKind::barrier, .name = std::string(1000, 'n')});
  sequence.close();
  RankState state{.failure = Failure{Failure::Kind::timeout, Rank{3}, std::string(5000, 't')},
                  .sequences = {sequence.record()}};
  const RankState read = zerospan::detail::to_rank_state(zerospan::detail::to_bytes(state));
  REQUIRE(read.failure);
  CHECK(read.failure->kind == Failure::Kind::timeout);
  CHECK(read.failure->culprit == Rank{3});
  CHECK(read.failure->text == std::string(2048, 't'));
  REQUIRE(read.find(7) != nullptr);
  CHECK(read.find(7)->closed == 1);
  CHECK(std::string{read.find(7)->last.data()}.size() == 207);
  CHECK(read.find(8) == nullptr);
  CHECK(!zerospan::detail::to_rank_state({}).failure);
}

TEST_CASE(
    "what a rank tells of a closed communicator is forgotten when no other needs it, in whatever order they look") {
  using zerospan::detail::ClosedSequence;
  constexpr std::size_t ranks = 3;
  for (std::uint64_t order = 0; order < 500; ++order) {
    std::vector<CallSequence> sequences(ranks, CallSequence{1});
    std::vector<bool> told(ranks, false);  // shown to the others
    std::vector<bool> forgotten(ranks, false);
    for (std::uint64_t step = 0; step < 60; ++step) {
      const std::size_t me = step < 40 ? zerospan::philox(order, 0, step)[0] % ranks : step % ranks;
      if (forgotten[me]) continue;
      told[me] = true;
      if (sequences[me].record().closed == 0) {
        sequences[me].close();
        continue;
      }
      std::vector<const SequenceRecord*> others;
      bool all_closed = true;
      for (std::size_t other = 0; other < ranks; ++other) {
        if (other == me) continue;
        others.push_back(told[other] && !forgotten[other] ? &sequences[other].record() : nullptr);
        all_closed = all_closed && sequences[other].record().closed != 0;
      }
      const ClosedSequence next = next_of_closed(sequences[me].record(), others);
      if (next != ClosedSequence::keep) CHECK(all_closed);
      if (next == ClosedSequence::all_have_closed) sequences[me].all_have_closed();
      if (next == ClosedSequence::forget) forgotten[me] = true;
    }
    CHECK(forgotten == std::vector<bool>(ranks, true));
  }
}
