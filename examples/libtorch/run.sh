#!/usr/bin/env bash
# Installs what train_torch needs (Debian, Ubuntu) and builds it in build/libtorch. With arguments it runs it with them;
# without, it trains the same GPT with and without zerospan, and compares losses and memory.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
source "$root/cmake/packages.sh"
{
  install_packages cmake ninja-build g++ libtorch-dev libcli11-dev
  cd "$root"
  cmake --preset libtorch --log-level=WARNING >/dev/null
  cmake --build --preset libtorch --target train_torch
  cd "$OLDPWD"
} >&2
train_torch="$root/build/libtorch/examples/libtorch/train_torch"
if (($#)); then exec "$train_torch" "$@"; fi

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

echo "== Losses: wrapped, plain with zerospan's AdamW, plain with torch's"
"$train_torch" --wrapped >"$scratch/wrapped"
"$train_torch" --plain --update zerospan >"$scratch/zerospan"
"$train_torch" --plain >"$scratch/torch"
paste "$scratch/wrapped" "$scratch/zerospan" "$scratch/torch" | awk '
  $1 == "step" {
    printf "%s %s  %s  %s\n", $2, $4, $8, $12
    if ($4 != $8) ++different
    distance = $4 > $12 ? $4 - $12 : $12 - $4
    if (distance > largest) largest = distance
    ++steps
  }
  END {
    printf "%d steps: the wrapping changes the bits of %d losses; torch'\''s AdamW is at most %.1e away\n",
      steps, different, largest
    exit steps == 0 || different > 0 || largest >= 1e-4
  }'

model=(--layers 8 --width 512 --heads 8 --batch 1 --steps 2 --memory-cap 288MiB)
echo
echo "== 25 million parameters under a cap of 288 MiB: their states alone are 385 MiB"
echo "plain:"
if "$train_torch" "${model[@]}" --plain 2>&1; then
  echo "It was to run out of memory." >&2
  exit 1
fi
echo "wrapped:"
"$train_torch" "${model[@]}" --wrapped
