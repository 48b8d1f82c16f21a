/// The suite of all communicators, but for what its ranks could only see as threads of one process.

#include <doctest/doctest.h>

#include "support/communicator_conformance.hpp"
#include "support/mpi_world.hpp"

using namespace zerospan_test;

#define ZEROSPAN_TEST_WORLDS MpiWorld<3, Roomy>, MpiWorld<3, Tight>, MpiWorld<4, Roomy>, MpiWorld<4, Tight>
TEST_CASE_TEMPLATE_INVOKE(places, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(gathers, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(scatters, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(scatters_in_place, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(reduces_to_root, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(reduces_to_root_in_place, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(reduces, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(reduces_in_place, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(reduces_integers, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(broadcasts, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(duplicates, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(outlives, ZEROSPAN_TEST_WORLDS);
TEST_CASE_TEMPLATE_INVOKE(validates, ZEROSPAN_TEST_WORLDS);
