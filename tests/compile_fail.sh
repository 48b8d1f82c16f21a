#!/usr/bin/env bash
# Checks that a compiler refuses a mistake in the words that the file's first line expects (a regular expression), and
# compiles the same file once the mistake is mended.
# Usage: tests/compile_fail.sh <file> <compiler> [<argument of the compiler>...]
set -euo pipefail
file="$1"
compile=("${@:2}" -fsyntax-only)

expected="$(sed -n '1s,^// Expected: ,,p' "$file")"
[[ -n "$expected" ]] || { echo "The first line of $file is not // Expected: <words>" && exit 1; }

if said="$(LC_ALL=C "${compile[@]}" "$file" 2>&1)"; then
  echo "$file compiles, its mistake included" && exit 1
fi
if ! grep -qE -- "$expected" <<<"$said"; then
  echo "Expected: $expected" && echo "$said" && exit 1
fi
"${compile[@]}" -DFIXED "$file"
