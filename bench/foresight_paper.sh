#!/usr/bin/env bash
# Foretells what ZeRO-Infinity (arXiv 2104.07857) has measured on up to 512 GPUs, by the library's engine in virtual
# time: throughput by size and by nodes, what tiers cost, the largest models, tiling. Beside each row stand the paper's
# figure and two null models (the time of computing by itself; everything one after the other). Speeds of links are the
# paper's; compute has one curve; nothing is fitted. Takes half a minute on any machine. The results are in
# build/bench/results: foresight.paper.txt, foresight.paper.json. The last line is a JSON object.
# Usage: bench/foresight_paper.sh
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/cmake/packages.sh"

{
  install_packages g++ cmake ninja-build libaio-dev libopenblas-dev libcli11-dev nlohmann-json3-dev libxxhash-dev \
    libfmt-dev openmpi-bin libopenmpi-dev
  cd "$root"
  cmake --preset bench --log-level=WARNING >/dev/null
  cmake --build --preset bench --target foresight_paper
  mkdir -p build/bench/results
  cd "$OLDPWD"
} >&2
exec "$root/build/bench/bench/foresight_paper" --results "$root/build/bench/results" "$@"
