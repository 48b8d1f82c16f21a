#!/usr/bin/env bash
# Checks that a compiler, or what it is told, is refused in one line with the words expected (a regular expression): the
# compiler stops after it. The exit code is 77 where there is no such compiler.
# Usage: tests/refused.sh <include directory> <words> <compiler> [<argument of the compiler>...]
set -euo pipefail
include="$1" expected="$2"
shift 2
if ! command -v "$1" >/dev/null; then
  echo "There is no $1"
  exit 77
fi

# It is said to whoever includes the facade, and to whoever includes one header.
for header in zerospan.hpp tier/host_tier.hpp; do
  if said="$(LC_ALL=C "$@" -fsyntax-only "-I$include" -include "zerospan/$header" -x c++ /dev/null 2>&1)"; then
    echo "It compiles zerospan/$header" && exit 1
  fi
  errors="$(grep -E '(^|[ :])(fatal )?error: ' <<<"$said")"
  first="$(head -n 1 <<<"$errors")"
  if ! grep -qE -- "$expected" <<<"$first" || [[ "$(wc -l <<<"$errors")" != 2 ]] ||
    ! grep -q 'fatal error: .*zerospan stops here' <<<"$errors"; then
    echo "Expected: $expected, and nothing else" && echo "$said" && exit 1
  fi
done
