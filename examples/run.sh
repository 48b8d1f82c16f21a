#!/usr/bin/env bash
# Installs what train_gpt needs (Debian, Ubuntu), builds it in build/examples, and runs it with the arguments given.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/cmake/packages.sh"

# What runs on GPUs takes minutes to compile: it is built where there is one.
cuda=OFF
if command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -q '^GPU'; then cuda=AUTO; fi
{
  install_packages cmake ninja-build g++ libopenblas-dev libdnnl-dev libcli11-dev nlohmann-json3-dev libxxhash-dev \
    libaio-dev liburing-dev libfmt-dev
  cd "$root"
  cmake --preset examples --log-level=WARNING -DZEROSPAN_WITH_CUDA="$cuda" >/dev/null
  cmake --build --preset examples --target train_gpt
  cd "$OLDPWD"
} >&2
exec "$root/build/examples/examples/train_gpt" "$@"
