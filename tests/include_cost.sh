#!/usr/bin/env bash
# Prints what including the facade costs a compiler over an empty file, and beside it what the standard headers that it
# needs cost alone. Fails if it has more than <most lines> preprocessed lines beside theirs: times are the machine's, and
# the standard headers the compiler's.
# Usage: include_cost.sh <compiler> <include directory> <most lines>
set -euo pipefail
compiler="$1" include="$2" most="$3"

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
echo '#include <zerospan/zerospan.hpp>' >"$scratch/facade.cpp"
: >"$scratch/empty.cpp"
# The compiler's own account of what was read tells which standard headers the library names itself.
"$compiler" -std=c++20 -fsyntax-only -H -I"$include" "$scratch/facade.cpp" 2>&1 | grep -o "$include/zerospan/[^ ]*" |
  sort -u | xargs grep -h '^#include <[a-z_]*>$' | sort -u >"$scratch/standard.cpp"

lines() { "$compiler" -std=c++20 -E -P -I"$include" "$1" | wc -l; }

# The least processor time of two compilations, in milliseconds: whatever else the machine does only adds to it.
milliseconds() {
  local TIMEFORMAT='%3U %3S' least=1000000 user system spent
  for _ in 1 2; do
    read -r user system < <({ time "$compiler" -std=c++20 -fsyntax-only -I"$include" "$1" 2>/dev/null; } 2>&1)
    spent=$((10#${user/./} + 10#${system/./}))
    ((spent < least)) && least="$spent"
  done
  echo "$least"
}

empty="$(milliseconds "$scratch/empty.cpp")"
facade="$(lines "$scratch/facade.cpp")"
echo "zerospan.hpp: $facade lines, $(($(milliseconds "$scratch/facade.cpp") - empty)) ms over an empty file"
standard="$(lines "$scratch/standard.cpp")"
echo "its standard headers alone: $standard lines, $(($(milliseconds "$scratch/standard.cpp") - empty)) ms"
if ((facade - standard > most)); then
  echo "more than $most lines of its own" >&2
  exit 1
fi
