#!/usr/bin/env bash
# Installs what train_gpt needs (Debian, Ubuntu), builds it in build/release, and runs it with the arguments given.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/cmake/packages.sh"
{
  install_packages cmake ninja-build g++ libopenblas-dev libcli11-dev nlohmann-json3-dev libxxhash-dev libaio-dev \
    libfmt-dev
  cmake -S "$root" -B "$root/build/release" -G Ninja --log-level=WARNING -DCMAKE_BUILD_TYPE=Release
  cmake --build "$root/build/release" --target train_gpt
} >&2
exec "$root/build/release/examples/train_gpt" "$@"
