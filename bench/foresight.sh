#!/usr/bin/env bash
# First foretells what ZeRO-Infinity (arXiv 2104.07857) has measured on up to 512 GPUs, by the library's engine in
# virtual time: throughput by size and by nodes, what tiers cost, the largest models, tiling. Beside each row stand the
# paper's figure and two null models (the time of computing by itself; everything one after the other). Speeds of links
# are the paper's; compute has one curve, whose sources foresight/paper_v100.hpp names; nothing is fitted. That takes
# half a minute on any machine.
# Then foretells how long a step of train_gpt takes in some thirty settings of stages, tiers, batches, look-ahead and ranks,
# writes that down, trains for a few steps in each, and compares: a table with the error of each setting, and what two
# null models say (the time of computing by itself; everything one after the other). What is foretold is made of the
# rates that the machine has by itself, which are measured first, in less than a minute; nothing is fitted to a training.
# Takes five minutes on two cores, and needs a quiet machine. The results are in build/bench/results:
# foresight.rates.json, foresight.predictions.json (written before anything is trained), foresight.json, foresight.txt,
# foresight.paper.txt, foresight.paper.json.
# The last line is a JSON object.
# Usage: bench/foresight.sh [--rates FILE] [--directory DIRECTORY] [--only TEXT] [--steps N]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/cmake/packages.sh"

{
  install_packages g++ cmake ninja-build libaio-dev libopenblas-dev libcli11-dev nlohmann-json3-dev libxxhash-dev \
    libfmt-dev openmpi-bin libopenmpi-dev
  cd "$root"
  cmake --preset bench --log-level=WARNING >/dev/null
  cmake --build --preset bench --target foresight foresight_paper train_gpt
  mkdir -p build/bench/results
  cd "$OLDPWD"
} >&2
"$root/build/bench/bench/foresight_paper" --results "$root/build/bench/results"
exec "$root/build/bench/bench/foresight/foresight" --results "$root/build/bench/results" \
  --directory "$root/build/bench/results" "$@"
