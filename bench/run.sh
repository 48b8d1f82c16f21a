#!/usr/bin/env bash
# Measures zerospan beside raw baselines on this machine: prints a table of ratios, and which kernels have computed the
# matrix products of train_gpt at which rate, and writes both to build/bench/results/ratios.json.
# Usage: bench/run.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source cmake/packages.sh

install_packages g++ cmake ninja-build libaio-dev libopenblas-dev libcli11-dev nlohmann-json3-dev libxxhash-dev \
  libfmt-dev libbenchmark-dev openmpi-bin libopenmpi-dev

cmake --preset bench --log-level=WARNING >/dev/null
cmake --build --preset bench --target benchmarks mpi_bench train_gpt

binaries=build/bench results=build/bench/results
rm -rf "$results"
mkdir -p "$results"

reports=()
for benchmark in "$binaries"/bench/*_bench; do
  report="$results/$(basename "$benchmark").json"
  "$benchmark" --benchmark_repetitions=5 --benchmark_enable_random_interleaving=true \
    --benchmark_out="$report" --benchmark_out_format=json --benchmark_display_aggregates_only=true
  reports+=("$report")
done

# Processes beside raw MPI: a table of its own.
mpirun="mpirun --oversubscribe --bind-to none"
if [[ "$(id -u)" == 0 ]]; then mpirun+=" --allow-run-as-root"; fi
$mpirun -n 2 "$binaries/bench/mpi/mpi_bench" | tee "$results/mpi.txt"

# train <name> <argument of train_gpt>...: appends the metrics of a short run to <name>.jsonl.
train() {
  local name="$1"
  shift
  echo "train_gpt, $name"
  "$binaries/examples/train_gpt" --layers 4 --heads 6 --width 384 --context 128 --batch 4 --steps 6 \
    --eval-every 0 --sample 0 --metrics "$results/run.jsonl" --trace "$results/$name.trace.json" "$@" >/dev/null
  cat "$results/run.jsonl" >>"$results/$name.jsonl"
  rm "$results/run.jsonl"
}

# The same model with parameters and optimizer states on disk, without checkpoints and with one after each step, and with
# everything in memory, in turns.
on_disk=(--stage 3 --parameters nvme --gradients host --optimizer nvme --nvme-path "$results" --device-budget 256MiB
  --host-budget 256MiB)
for _ in 1 2 3; do
  train stage3_nvme "${on_disk[@]}"
  rm -rf "$results/checkpoints"
  train saving "${on_disk[@]}" --checkpoint "$results/checkpoints" --save-every 1 --keep 1
  train stage0 --stage 0 --parameters device --gradients device --optimizer device --device-budget 4GiB
done

echo
"$binaries/bench/ratios" "${reports[@]}" \
  --training train_gpt/stage3_nvme "$results/stage3_nvme.jsonl" "$results/stage0.jsonl" \
  --training train_gpt/saving "$results/saving.jsonl" "$results/stage3_nvme.jsonl" \
  --output "$results/ratios.json"
