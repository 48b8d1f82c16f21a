/// The suite of all communicators, but for what its ranks could only see as threads of one process.

#include <doctest/doctest.h>

#include <array>

#include "support/communicator_conformance.hpp"
#include "support/mpi_world.hpp"
#include "support/split_conformance.hpp"

using namespace zerospan_test;

namespace {

struct Worlds {
  static std::array<MpiWorld, 4> all() {
    return {MpiWorld{3}, MpiWorld{3, in_pieces}, MpiWorld{4}, MpiWorld{4, in_pieces}};
  }
};

struct WorldsOf4 {
  static std::array<MpiWorld, 2> all() { return {MpiWorld{4}, MpiWorld{4, in_pieces}}; }
};

}  // namespace

TEST_CASE_TEMPLATE_INVOKE(places, Worlds);
TEST_CASE_TEMPLATE_INVOKE(gathers, Worlds);
TEST_CASE_TEMPLATE_INVOKE(scatters, Worlds);
TEST_CASE_TEMPLATE_INVOKE(scatters_in_place, Worlds);
TEST_CASE_TEMPLATE_INVOKE(reduces_to_root, Worlds);
TEST_CASE_TEMPLATE_INVOKE(reduces_to_root_in_place, Worlds);
TEST_CASE_TEMPLATE_INVOKE(reduces, Worlds);
TEST_CASE_TEMPLATE_INVOKE(reduces_in_place, Worlds);
TEST_CASE_TEMPLATE_INVOKE(reduces_integers, Worlds);
TEST_CASE_TEMPLATE_INVOKE(broadcasts, Worlds);
TEST_CASE_TEMPLATE_INVOKE(duplicates, Worlds);
TEST_CASE_TEMPLATE_INVOKE(outlives, Worlds);
TEST_CASE_TEMPLATE_INVOKE(validates, Worlds);

TEST_CASE_TEMPLATE_INVOKE(exchanges, Worlds);
TEST_CASE_TEMPLATE_INVOKE(refuses_overlap, Worlds);

TEST_CASE_TEMPLATE_INVOKE(splits_places, WorldsOf4);
TEST_CASE_TEMPLATE_INVOKE(splits_collect, WorldsOf4);
TEST_CASE_TEMPLATE_INVOKE(splits_cross, WorldsOf4);
TEST_CASE_TEMPLATE_INVOKE(splits_duplicate, WorldsOf4);
TEST_CASE_TEMPLATE_INVOKE(splits_outlive, WorldsOf4);
TEST_CASE_TEMPLATE_INVOKE(splits_refuse, WorldsOf4);
TEST_CASE_TEMPLATE_INVOKE(splits_abort, WorldsOf4);
TEST_CASE_TEMPLATE_INVOKE(splits_diverge, WorldsOf4);
TEST_CASE_TEMPLATE_INVOKE(splits_end, WorldsOf4);
