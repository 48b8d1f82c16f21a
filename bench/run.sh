#!/usr/bin/env bash
# Measures zerospan beside raw baselines on this machine: prints a table of ratios beside their goals (bench/goals.json)
# and the table before, writes it to build/bench/results/ratios.json, and draws ratios.svg, timeline.svg and losses.svg
# beside it.
# Usage: bench/run.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source cmake/packages.sh

install_packages g++ cmake ninja-build libaio-dev liburing-dev libopenblas-dev libdnnl-dev libcli11-dev \
  nlohmann-json3-dev libxxhash-dev libfmt-dev libbenchmark-dev openmpi-bin libopenmpi-dev

cmake --preset bench --log-level=WARNING >/dev/null
cmake --build --preset bench --target benchmarks mpi_bench train_gpt

binaries=build/bench results=build/bench/results
mkdir -p "$results"

# The table before stays to be compared with; where a run was broken off, that is the one before it. Tables of versions
# without goals were no lists.
if [[ -e "$results/ratios.json" && "$(head -c 1 "$results/ratios.json")" == "[" ]]; then
  mv "$results/ratios.json" "$results/previous.json"
fi
find "$results" -mindepth 1 ! -path "$results/previous.json" -delete
wanted=(--goals bench/goals.json)
if [[ -e "$results/previous.json" ]]; then wanted+=(--previous "$results/previous.json"); fi
"$binaries/bench/ratios" "${wanted[@]}"  # what is wrong with these files is told before anything is measured

reports=()
for source in bench/*_bench.cpp; do
  benchmark="$binaries/bench/$(basename "$source" .cpp)"
  if [[ ! -x "$benchmark" ]]; then continue; fi  # what it needs is not here
  report="$results/$(basename "$benchmark").json"
  # Disks vary by a tenth from one repetition to the next, and cores by less.
  repetitions=5
  if [[ "$source" =~ (tier|checked)_bench ]]; then repetitions=25; fi
  "$benchmark" --benchmark_repetitions="$repetitions" --benchmark_enable_random_interleaving=true \
    --benchmark_out="$report" --benchmark_out_format=json --benchmark_display_aggregates_only=true
  reports+=("$report")
done

# Processes beside raw MPI.
mpirun="mpirun --oversubscribe --bind-to none"
if [[ "$(id -u)" == 0 ]]; then mpirun+=" --allow-run-as-root"; fi
$mpirun -n 2 "$binaries/bench/mpi/mpi_bench" "$results/mpi.json"

# train <name> <argument of train_gpt>...: appends the metrics of a short run to <name>.jsonl.
train() {
  local name="$1"
  shift
  echo "train_gpt, $name"
  "$binaries/examples/train_gpt" --eval-every 0 --sample 0 --metrics "$results/run.jsonl" \
    --trace "$results/$name.trace.json" --nvme-path "$results" "$@" >/dev/null
  cat "$results/run.jsonl" >>"$results/$name.jsonl"
  rm "$results/run.jsonl"
}

# The same model with parameters and optimizer states on disk, without checkpoints and with one after each step, and with
# everything in memory, in turns.
model=(--layers 4 --heads 6 --width 384 --context 128 --batch 4 --steps 12)
on_disk=("${model[@]}" --stage 3 --parameters nvme --gradients host --optimizer nvme --device-budget 256MiB
  --host-budget 256MiB)
for _ in 1 2 3; do
  train stage3_nvme "${on_disk[@]}"
  rm -rf "$results/checkpoints"
  train saving "${on_disk[@]}" --checkpoint "$results/checkpoints" --save-every 1 --keep 1
  train stage0 "${model[@]}" --stage 0 --parameters device --gradients device --optimizer device --device-budget 4GiB
done

# A model of 85 million parameters, two sequences of 256 tokens a rank: in a sixth of the memory of its states, and in
# memory.
large=(--layers 12 --heads 12 --width 768 --context 256 --batch 2 --steps 8 --skip-validation --clip inf)
for _ in 1 2 3; do
  for precision in bf16 fp32; do
    train "85M_nvme_$precision" "${large[@]}" --precision "$precision" --stage 3 --parameters nvme --gradients nvme \
      --optimizer nvme --update during-backward --device-budget 80MiB --host-budget 26MiB --prefetch-bytes 32MiB
    train "85M_stage0_$precision" "${large[@]}" --precision "$precision" --stage 0 --parameters device \
      --gradients device --optimizer device --device-budget 4GiB
  done
done

# A small model that is trained at each stage, with ever more on disk: its losses are equal.
small=(--layers 2 --heads 4 --width 64 --context 64 --batch 8 --steps 100)
train losses0 "${small[@]}" --stage 0 --gradients device --optimizer device
train losses1 "${small[@]}" --stage 1 --gradients host --optimizer nvme
train losses2 "${small[@]}" --stage 2 --gradients nvme --optimizer nvme
train losses3 "${small[@]}" --stage 3 --gradients nvme --optimizer nvme --parameters nvme

echo
is_complete=yes
"$binaries/bench/ratios" "${reports[@]}" "${wanted[@]}" \
  --measurements "$results/mpi.json" \
  --training train_gpt/stage3_nvme "$results/stage3_nvme.jsonl" "$results/stage0.jsonl" \
  --training train_gpt/85M/bf16 "$results/85M_nvme_bf16.jsonl" "$results/85M_stage0_bf16.jsonl" \
  --training train_gpt/85M/fp32 "$results/85M_nvme_fp32.jsonl" "$results/85M_stage0_fp32.jsonl" \
  --training train_gpt/saving "$results/saving.jsonl" "$results/stage3_nvme.jsonl" \
  --output "$results/ratios.json" || is_complete=no

"$binaries/bench/pictures" ratios "$results/ratios.json" --output "$results/ratios.svg"
"$binaries/bench/pictures" timeline "$results/stage3_nvme.trace.json" --output "$results/timeline.svg"
"$binaries/bench/pictures" losses \
  --training "stage 0, in memory" "$results/losses0.jsonl" \
  --training "stage 1, optimizer on disk" "$results/losses1.jsonl" \
  --training "stage 2, gradients too" "$results/losses2.jsonl" \
  --training "stage 3, parameters too" "$results/losses3.jsonl" --output "$results/losses.svg"
echo "$results has the table, ratios.json, and pictures: ratios.svg, timeline.svg, losses.svg"
[[ "$is_complete" == yes ]]
