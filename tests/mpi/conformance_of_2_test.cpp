/// The suite of all communicators, but for what its ranks could only see as threads of one process.

#include <doctest/doctest.h>

#include <array>

#include "support/communicator_conformance.hpp"
#include "support/mpi_world.hpp"

using namespace zerospan_test;

namespace {

struct Worlds {
  static std::array<MpiWorld, 3> all() { return {MpiWorld{1}, MpiWorld{2}, MpiWorld{2, in_pieces}}; }
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
