#!/usr/bin/env bash
# Trains a GPT of four billion parameters on this project's own text, three steps of 64 tokens, in less than 2 GiB of
# memory: bf16 parameters and gradients, the lower halves of fp32 master weights (parameters are the upper ones) and two
# fp32 moments, all on disk, 14 bytes a parameter.
# Before, it measures disk and processor by themselves and predicts how long a step takes. Each part of a step takes as
# long as the slower of its lanes, of P parameters and n tokens; one begins when the other has ended:
#   forward   max(12 P / mixed + 2 P / read, 2 n P / products + 2 P / copies + P / updates)
#             behind it the optimizer reads states and gradients while it writes states and parameters
#   backward  max(2 P / mixed,  4 n P / products + 2 P / copies + P / sums)
#             reads parameters while it writes gradients
# `read` and `mixed` are bytes a second of an nvme tier with a quarter of the states, `mixed` each way while both
# go on; `products` is operations a second of one tile's matrix products on all cores, in bf16 where the processor has
# them, else with bf16 weights widened before and gradients rounded after; one thread copies `copies` bytes, writes `sums`
# gradients with their norm, and updates `updates` parameters by AdamW. seconds_per_step is the mean of all steps but the
# first and the last.
#
# 4 GB of the disk stay free. Where there is too little room for the rest, the model has fewer layers: it prints SCALED,
# and the exit code is 3. Files of states have no name: they are gone when the program is, however it ends. The last line
# is a JSON object; metrics and timeline are in build/bench/results, where the states rest too by default.
# Usage: bench/large.sh [--parameters 50e6] [--directory DIRECTORY] [--disk BYTES] [--steps N]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/cmake/packages.sh"

{
  install_packages g++ cmake ninja-build libaio-dev liburing-dev libopenblas-dev libdnnl-dev libcli11-dev \
    nlohmann-json3-dev libxxhash-dev libfmt-dev openmpi-bin libopenmpi-dev
  cd "$root"
  cmake --preset bench --log-level=WARNING >/dev/null
  cmake --build --preset bench --target large train_gpt
  mkdir -p build/bench/results
  cd "$OLDPWD"
} >&2
exec "$root/build/bench/bench/large/large" --results "$root/build/bench/results" --directory "$root/build/bench/results" \
  "$@"
