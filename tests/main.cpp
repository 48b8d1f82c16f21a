#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

/// The standard library counts the owners of an exception in code that the thread sanitizer does not see: the last one,
/// which may be a completion's, destroys what others have read.
extern "C" const char* __tsan_default_suppressions() {  // NOLINT(bugprone-reserved-identifier): the sanitizer's name
  return "race:zerospan::v0::Completion::State::~State\n";
}
