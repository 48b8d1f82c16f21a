#!/usr/bin/env bash
# First foretells what ZeRO-Infinity (arXiv 2104.07857) has measured on up to 512 GPUs, by the library's engine in
# virtual time: throughput by size and by nodes, what tiers cost, the largest models, tiling. Beside each row stand the
# paper's figure and two null models (the time of computing by itself; everything one after the other). Speeds of links
# are the paper's; compute has one curve, whose sources foresight/paper_v100.hpp names; nothing is fitted. That takes
# half a minute on any machine.
# Then foretells how long a step of train_gpt takes in some forty settings of stages, tiers, batches, look-ahead and
# ranks, writes that down, trains for a few steps in each, and compares: a table with the error of each setting, and what two
# null models say (the time of computing by itself; everything one after the other). What is foretold is made of the
# rates that the machine has by itself, which are measured first, in less than a minute; nothing is fitted to a training.
# Six of these settings train on several hosts by MPI: network namespaces with slow links, whose rates are measured like
# the others. Without root, or Open MPI 4, they are skipped, in words.
# Then chooses among thirty ways to train one model in the same memory the one that is foretold to be the fastest, trains
# in all of them, and says how far it is from the best.
# Takes nine minutes on two cores, and needs a quiet machine. The results are in build/bench/results:
# foresight.rates.json, foresight.rates.<hosts>.json, foresight.predictions.json (written before anything is trained),
# foresight.json, foresight.txt, foresight.choice.predictions.json (likewise), foresight.choice.json, foresight.choice.txt, foresight.paper.txt,
# foresight.paper.json; plan.svg, a step of one of these settings as it is foretold.
# The last line of each part is a JSON object.
# Usage: bench/foresight.sh [--rates FILE] [--directory DIRECTORY] [--only TEXT] [--steps N]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/cmake/packages.sh"

{
  install_packages g++ cmake ninja-build libaio-dev liburing-dev libopenblas-dev libdnnl-dev libcli11-dev \
    nlohmann-json3-dev libxxhash-dev libfmt-dev openmpi-bin libopenmpi-dev
  cd "$root"
  cmake --preset bench --log-level=WARNING >/dev/null
  cmake --build --preset bench --target foresight foresight_choice foresight_paper plan train_gpt
  mkdir -p build/bench/results
  cd "$OLDPWD"
} >&2
results="$root/build/bench/results"
rates="$results/foresight.rates.json"
"$root/build/bench/bench/foresight_paper" --results "$results"
foretell=("$root/build/bench/bench/foresight/foresight" --results "$results" --directory "$results" "$@")
status=0
"$root/bench/foresight/on_hosts.sh" mpirun "${foretell[@]}" || status=$?
if ((status == 77)); then "${foretell[@]}"; elif ((status != 0)); then exit "$status"; fi
known=()
if [ -e "$rates" ]; then known=(--rates "$rates"); fi
"$root/build/bench/bench/foresight/foresight_choice" --results "$results" --directory "$results" "${known[@]}"
"$root/build/bench/examples/plan" --gpus 2 --layers 4 --heads 8 --width 384 --context 128 --batch 1 \
  --gpu-memory 32MiB --host-memory 32MiB --parameters host --gradients device --optimizer nvme --prefetch-bytes 2MiB \
  "${known[@]}" --svg "$results/plan.svg" >/dev/null
