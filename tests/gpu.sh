#!/usr/bin/env bash
# Builds, tests and measures what needs a GPU, in one call of less than nine minutes on a machine with 16 cores that has
# CUDA, CMake and ninja, and may lack everything else, a network too.
# Usage: tests/gpu.sh [--text FILE]   everything; FILE is what train_gpt learns, where not the repository's own text
#        tests/gpu.sh --build-only    builds for Hopper, and runs nothing
#        tests/gpu.sh --pack [DIR]    on a Debian machine with a network: packs into DIR (.gpu) what a bare machine lacks
# It goes on after failures; a line names each in the end. The exit code is 0 if there was none, and 77 without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/gpu/pack.sh
source tests/gpu/report.sh
source tests/gpu/measure.sh

mode=run text=() pack_directory=.gpu
while (($#)); do
  case "$1" in
    --pack) mode=pack && if (($# > 1)); then pack_directory="$2" && shift; fi ;;
    --build-only) mode=build ;;
    --text) text=(--text "$(realpath "$2")") && shift ;;
    *) echo "Usage: tests/gpu.sh [--text FILE | --build-only | --pack [DIR]]" >&2 && exit 2 ;;
  esac
  shift
done

if [[ "$mode" == pack ]]; then
  pack "$pack_directory"
  exit
fi
if [[ "$mode" == run ]] && ! nvidia-smi --list-gpus 2>/dev/null | grep -q '^GPU'; then
  echo "There is no GPU: nothing was built or run."
  exit 77
fi

build="$PWD/build/gpu" results="$PWD/build/gpu/results" jobs="$(nproc)"
deadline=$((SECONDS + 525))
rm -rf "$results"
mkdir -p "$results"

# CPU tests that say most about another processor's arithmetic, and about the disk.
cpu_tests=(adamw_test element_test exact_sum_test gradient_kernels_test io_engine_test law1_oracle_test)

configure() {
  local architectures=native options=()
  if [[ "$mode" == build ]]; then architectures=90-real; fi
  if unpack "$pack_directory" "$build/packages"; then
    options+=(-DCMAKE_PREFIX_PATH="$build/packages/usr" -DCMAKE_LIBRARY_ARCHITECTURE=x86_64-linux-gnu)
    # OpenBLAS's own dependencies, for the linker and for whoever starts the programs.
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$build/packages/usr/lib/x86_64-linux-gnu"
  fi
  if ! has_header doctest/doctest.h; then
    missing "doctest: there are no tests"
    options+=(-DZEROSPAN_BUILD_TESTS=OFF)
  fi
  has_header libaio.h || missing "libaio: other engines serve"
  has_header liburing.h || missing "liburing: other engines serve"
  part configure 90 cmake --fresh -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release --compile-no-warning-as-error \
    -DZEROSPAN_WITH_CUDA=ON -DZEROSPAN_WITH_TORCH=OFF -DCMAKE_CUDA_ARCHITECTURES="$architectures" "${options[@]}"
  grep -E '^-- .* (is|are) left out' "$results/configure.log" || true
}

build_all() {
  local target targets=() known
  known="$(ninja -C "$build" -t targets all 2>/dev/null || true)"
  for target in cuda_tests cuda_benchmarks train_gpt quickstart_cuda "${cpu_tests[@]}"; do
    if grep -q "^$target: " <<<"$known"; then
      targets+=("$target")
    else
      missing "$target is not built"
    fi
  done
  if ((${#targets[@]})); then
    part build 270 cmake --build "$build" -j "$jobs" --target "${targets[@]}" -- -k 0
  fi
}

run_tests() {
  local pattern
  pattern="$(IFS='|' && echo "${cpu_tests[*]}")"
  part gpu_tests 90 ctest --test-dir "$build/tests/cuda" -LE '^long$' -E 'compile_alone|compile_fail|link_twice' -j 4 \
    --output-on-failure
  grep -E '\*\*\*Skipped' "$results/gpu_tests.log" || true
  if ! grep -qE ' Passed ' "$results/gpu_tests.log"; then failed "gpu_tests: none passed"; fi
  part quickstart_cuda 30 "$build/examples/quickstart_cuda"
  part cpu_tests 60 ctest --test-dir "$build" -R "^($pattern)\$" -j "$jobs" --output-on-failure
}

# Memory errors and races (in shared memory) of the tests but those that train through many choices, several at a time. A
# test that takes longer than its time has no error so far.
sanitize() {
  local sanitizer tool
  if ! sanitizer="$(find_sanitizer)"; then
    missing "compute-sanitizer: nothing was sanitized"
    return
  fi
  for tool in memcheck racecheck; do
    part "$tool" 60 bash -c 'find "$1/tests/cuda" -name "*_test" -type f -executable ! -name "law1_*" -print0 |
      xargs -0 -P 4 -I {} bash -c "timeout 50 \"$2\" --tool \"$3\" --error-exitcode 9 {}
        code=\$?; echo \"== {}: exit code \$code\"; [[ \$code == 0 || \$code == 77 || \$code == 124 ]]"' \
      sanitize "$build" "$sanitizer" "$tool"
    grep -E '^== ' "$results/$tool.log" | sed "s,^== .*/,        ," || true
  done
}

find_sanitizer() {
  command -v compute-sanitizer || compgen -G '/usr/local/cuda*/compute-sanitizer/compute-sanitizer' | head -n 1 | grep .
}

run_benchmarks() {
  local benchmark name
  for benchmark in "$build"/bench/cuda/*_bench; do
    if [[ ! -x "$benchmark" ]]; then continue; fi
    name="$(basename "$benchmark")"
    part "$name" 60 "$benchmark"
    add_rows "$results/$name.log"
  done
}

configure
build_all
if [[ "$mode" == run ]]; then
  run_tests
  run_benchmarks
  if [[ -x "$build/examples/train_gpt" ]]; then compare_training; fi
  sanitize
fi
report
