/// @file
/// What a system may lack: its tests are skipped, and say so.
#pragma once

#include <doctest/doctest.h>

namespace zerospan_test {

/// Whether the system has what a rig is made of. One that it may lack has a function `available`.
template <class Rig>
bool is_offered() {
  if constexpr (requires { Rig::available(); }) {
    if (!Rig::available()) {
      MESSAGE("skipped: this kernel, or this sandbox, does not offer what it needs");
      return false;
    }
  }
  return true;
}

}  // namespace zerospan_test
