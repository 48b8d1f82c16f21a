#!/usr/bin/env bash
# Where OpenBLAS does not know the processor, processes that mpirun has started start again, with kernels that serve it.
# Without AVX2 there is nothing to choose, and the exit code is 77.
# Usage: kernels.sh <train_gpt> <old_openblas> <text> <mpirun> [<argument of mpirun>...]
#   <old_openblas>  the library that does not know it
set -euo pipefail
program="$1" old_openblas="$2" text="$3"
shift 3
unset OPENBLAS_CORETYPE  # whatever is said to the tests themselves
grep -q avx2 /proc/cpuinfo || exit 77

directory="$(mktemp -d)"
trap 'rm -rf "$directory"' EXIT
options=(--comm mpi --text "$text" --layers 1 --heads 2 --width 16 --context 8 --batch 1 --steps 2 --eval-every 0
  --sample 0 --nvme-path "$directory" --trace "$directory/trace.json" --metrics "$directory/metrics.jsonl")
timeout 120 "$@" -n 2 env LD_PRELOAD="$old_openblas" "$program" "${options[@]}" >"$directory/output"

grep 'matrix products of a rank: OpenBLAS with its kernels for \(Haswell\|SkylakeX\)' "$directory/output"
grep 'by itself it takes those for Prescott' "$directory/output"
