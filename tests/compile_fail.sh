#!/usr/bin/env bash
# Checks that a compiler refuses a mistake in the words that the file's first line expects (a regular expression), and
# compiles <mended> with the mistake mended, which is the same file, or "no" where that is checked for many at once.
# Usage: tests/compile_fail.sh <file> <mended> <compiler> [<argument of the compiler>...]
set -euo pipefail
file="$1" mended="$2"
compile=("${@:3}")

expected="$(sed -n '1s,^// Expected: ,,p' "$file")"
[[ -n "$expected" ]] || { echo "The first line of $file is not // Expected: <words>" && exit 1; }

if said="$(LC_ALL=C "${compile[@]}" "$file" 2>&1)"; then
  echo "$file compiles, its mistake included" && exit 1
fi
if ! grep -qE -- "$expected" <<<"$said"; then
  echo "Expected: $expected" && echo "$said" && exit 1
fi
if [[ "$mended" != no ]]; then "${compile[@]}" -DFIXED "$mended"; fi
