#!/usr/bin/env bash
# Builds and tests zerospan on a Debian machine, which may lack everything needed:
#   release  g++       tests, examples, benchmarks; installation and consumers; with --long, each header alone
#   asan     clang     tests and examples under the address and undefined-behaviour sanitizers, but train_gpt and plan
#   tsan     clang     tests of whatever has threads, under the thread sanitizer
# Usage: tests/run.sh [--long]    --long: the long tests too, in release, fuzzing for longer, train_gpt and plan in
# asan, and kernels for one more architecture.
# The last lines say how long each configuration took, and count each test once a configuration; a configuration that
# does not build counts as a failed test more.
set -euo pipefail
cd "$(dirname "$0")/.."
source cmake/packages.sh

long=no
for argument in "$@"; do
  case "$argument" in
    --long) long=yes ;;
    *) echo "Usage: tests/run.sh [--long]" >&2 && exit 2 ;;
  esac
done

choose_clang
install_packages g++ "clang-$clang_version" "libclang-rt-$clang_version-dev" "llvm-$clang_version" cmake ninja-build \
  doctest-dev libaio-dev liburing-dev libopenblas-dev libdnnl-dev libcli11-dev nlohmann-json3-dev libxxhash-dev \
  libfmt-dev libbenchmark-dev libeigen3-dev libdlpack-dev libtorch-dev openmpi-bin libopenmpi-dev iproute2 doxygen \
  python3-venv

# Debian's clang looks for a symbolizer without a version in its name.
export ASAN_SYMBOLIZER_PATH="/usr/lib/llvm-$clang_version/bin/llvm-symbolizer"

# prepare_python: makes a Python with the packages that tests compare with, and names it by ZEROSPAN_PYTHON, unless that
# names one already. Where there is none to be had, it says so in one line, and these tests are skipped.
prepare_python() {
  [[ -z "${ZEROSPAN_PYTHON:-}" ]] || return 0
  local directory="$PWD/build/python" options=() packages=(numpy "safetensors>=0.8")
  local modules="import numpy; from safetensors import TensorSpec"
  if [[ "$long" == yes ]]; then  # Debian's torch is the CPU's; beside it its numpy, and a transformers that takes it
    install_packages python3-torch || return 0
    directory+=_long
    options=(--system-site-packages)
    packages=("safetensors>=0.8" "transformers<4.48")
    modules+="; import torch, transformers"
  fi
  if ! "$directory/bin/python" -c "$modules" 2>/dev/null; then
    if ! /usr/bin/python3 -m venv "${options[@]}" "$directory" >/dev/null ||
      ! timeout 300 "$directory/bin/pip" install --quiet --disable-pip-version-check --no-input --only-binary :all: \
        --timeout 10 --retries 1 "${packages[@]}" >"$directory/pip.log" 2>&1; then
      echo "PyPI cannot be reached, or lacks ${packages[*]}: what compares with Python packages is skipped"
      return 0
    fi
  fi
  export ZEROSPAN_PYTHON="$directory/bin/python"
}
mkdir -p build
prepare_python

# CUDA where there is nvcc: what it compiles is compiled; what needs a GPU is skipped without one, and then kernels alone
# are compiled for one.
cuda=(-DZEROSPAN_WITH_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=90-real)
if ! nvidia-smi --list-gpus 2>/dev/null | grep -q '^GPU'; then
  cuda=(-DZEROSPAN_WITH_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=90-virtual -DCMAKE_CUDA_FLAGS=-Xcicc=-O0
    -DZEROSPAN_KERNEL_ARCHITECTURES=90-real)
fi
if [[ "$long" == yes ]]; then cuda+=("-DZEROSPAN_KERNEL_ARCHITECTURES=80-real;90-real"); fi
if ! command -v nvcc >/dev/null && [[ ! -x /usr/local/cuda/bin/nvcc ]]; then
  echo "There is no nvcc, neither on the PATH nor in /usr/local/cuda/bin: what needs CUDA is not built."
  cuda=(-DZEROSPAN_WITH_CUDA=OFF)
fi

jobs="$(nproc)"
passed=0 failed=0 skipped=0 times=""

# test_configuration <preset> <compiler> [<argument of ctest>...]
test_configuration() {
  local preset="$1" compiler="$2" report="$PWD/build/$1/tests.xml" options=(-DZEROSPAN_WITH_LIBAIO=ON -DZEROSPAN_JOIN_TESTS=ON)
  local all run not_applicable begun="$SECONDS" built
  shift 2
  if [[ "$preset" == release ]]; then options+=("${cuda[@]}" -DZEROSPAN_PROGRAM_OPTIMIZATION=-O1); fi
  if [[ "$preset-$long" == asan-yes ]]; then options+=(-DZEROSPAN_SANITIZE_ALL=ON); fi
  echo "== $preset, $compiler"
  rm -f "$report"
  if ! cmake --fresh --preset "$preset" -DCMAKE_CXX_COMPILER="$compiler" "${options[@]}" >"build/$preset.log"; then
    cat "build/$preset.log"
    failed=$((failed + 1))
    return
  fi
  cmake --build --preset "$preset" -j "$jobs" -- -k 0 || failed=$((failed + 1))
  built="$SECONDS"
  ctest --test-dir "build/$preset" -j "$jobs" --output-on-failure --output-junit "$report" "$@" || true
  times+="$(printf '%-8s built in %4d s, tested in %4d s' "$preset" $((built - begun)) $((SECONDS - built)))"$'\n'
  if [[ ! -e "$report" ]]; then
    failed=$((failed + 1))
    return
  fi

  all="$(grep -c '^\s<testcase ' "$report" || true)"
  run="$(grep -c '^\s<testcase .* status="run">' "$report" || true)"
  not_applicable="$(grep -c '^\s*<skipped message="SKIP_' "$report" || true)"
  passed=$((passed + run))
  skipped=$((skipped + not_applicable))
  failed=$((failed + all - run - not_applicable))
}

fast=(-LE '^long')
if [[ "$long" == yes ]]; then
  test_configuration release g++
  test_configuration asan "clang++-$clang_version" -LE '^long$'
else
  test_configuration release g++ "${fast[@]}"
  test_configuration asan "clang++-$clang_version" "${fast[@]}"
fi
test_configuration tsan "clang++-$clang_version" "${fast[@]}"

echo
printf '%s%-8s %d s, on %d cores\n' "$times" "in all" "$SECONDS" "$jobs"
if ((skipped)); then
  echo "$passed passed, $failed failed, $skipped skipped"
else
  echo "$passed passed, $failed failed"
fi
((failed == 0 && passed > 0))
