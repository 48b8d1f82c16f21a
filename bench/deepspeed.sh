#!/usr/bin/env bash
# Trains one GPT by train_gpt and by DeepSpeed, in turns: the same shapes, ranks and directory, ZeRO-3 with everything
# on disk, two ranks of one thread that compute on the CPU. Prints the tokens a second of both, medians over all rounds,
# and their ratio beside its goal (bench/deepspeed/goals.json), and writes that to build/deepspeed/ratios.json. Likewise
# AdamW alone, on one thread, beside DeepSpeed's and torch's.
#
# DeepSpeed stands in build/deepspeed/venv, over Debian's torch, and compiles what it needs at its first run, which
# takes a few minutes. What it has not for CPUs, or not with that torch, is in bench/deepspeed/train.py and below. It
# leaves shares of parameters of less than 1 MiB in memory, and so a part of what is on disk for train_gpt.
# Usage: bench/deepspeed.sh [--rounds 3] [--steps 8] [--layers 12] [--precision bf16]... [--directory DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/.."
source cmake/packages.sh

version=0.15.4
requirements=(hjson py-cpuinfo "pydantic>=2" msgpack einops tqdm packaging ninja "typing-extensions>=4.12")

rounds=3 steps=8 layers=12 precisions=() directory="$PWD/build/deepspeed"
while (($#)); do
  case "$1" in
    --rounds) rounds="$2" ;;
    --steps) steps="$2" ;;
    --layers) layers="$2" ;;
    --precision) precisions+=("$2") ;;
    --directory) directory="$(realpath "$2")" ;;
    *) echo "deepspeed.sh: $1 is no option: see the head of bench/deepspeed.sh" >&2 && exit 2 ;;
  esac
  shift 2
done
((${#precisions[@]})) || precisions=(bf16 fp32)

install_packages g++ cmake ninja-build libaio-dev liburing-dev libopenblas-dev libdnnl-dev libcli11-dev \
  nlohmann-json3-dev libxxhash-dev libfmt-dev libbenchmark-dev openmpi-bin libopenmpi-dev python3-torch libtorch-dev \
  pybind11-dev python3-venv python3-dev

cmake --preset bench --log-level=WARNING >/dev/null
cmake --build --preset bench --target ratios fused_updates_bench train_gpt

own="$PWD/build/deepspeed" results="$PWD/build/deepspeed/results"
mkdir -p "$own"
if ! "$own/venv/bin/python" -c "import deepspeed.version as v; assert v.version == '$version'" 2>/dev/null; then
  rm -rf "$own/venv"
  /usr/bin/python3 -m venv --system-site-packages "$own/venv"
  "$own/venv/bin/pip" install --quiet --disable-pip-version-check "${requirements[@]}"
  # It lists torch among what it requires, and PyPI has that for GPUs alone.
  DS_ACCELERATOR=cpu "$own/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    "deepspeed==$version"
  # Who waits for transfers keeps Python from the threads that end them: as repaired in later versions. And memory that
  # begins at a block of the disk needs no copy on its way there.
  aio="$(echo "$own"/venv/lib/python3*/site-packages/deepspeed/ops/csrc/aio/py_lib)"
  sed -i '/asynchronous operations to complete");/s/);$/, py::call_guard<py::gil_scoped_release>());/' \
    "$aio/py_ds_aio.cpp"
  sed -i '/if (!buffer.is_cpu()) { return false; }/a\
    if (reinterpret_cast<std::uintptr_t>(buffer.data_ptr()) % 512 == 0) { return true; }' \
    "$aio/deepspeed_pin_tensor.cpp"
fi
rm -rf "$results"
mkdir "$results"
rm -f "$own"/extensions/*/lock  # of a compilation that was broken off
states="$directory/states"
trap 'rm -rf "$states"' EXIT

shape=(--layers "$layers" --heads 12 --width 768 --context 256 --batch 2 --steps "$steps")

# run_zerospan <precision> <name>, run_deepspeed <precision> <name>: train, and leave <name>.jsonl or <name>.json.
run_zerospan() {
  rm -rf "$states" && mkdir -p "$states"
  build/bench/examples/train_gpt "${shape[@]}" --precision "$1" --ranks 2 --threads 1 --stage 3 --parameters nvme \
    --gradients nvme --optimizer nvme --nvme-path "$states" --eval-every 0 --sample 0 --skip-validation \
    --metrics "$results/$2.jsonl" --trace "$results/$2.trace.json" >"$results/$2.out" 2>&1 ||
    { cat "$results/$2.out" >&2 && return 1; }
}
run_deepspeed() {
  rm -rf "$states" && mkdir -p "$states"
  # Of the same kernels as train_gpt's: a processor that this OpenBLAS does not know gets old ones by itself.
  OPENBLAS_CORETYPE="$kernels" OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu \
    TORCH_EXTENSIONS_DIR="$own/extensions" PATH="$own/venv/bin:$PATH" "$own/venv/bin/python" \
    bench/deepspeed/train.py --ranks 2 "${shape[@]}" --precision "$1" --products "$products" --directory "$states" \
    --output "$results/$2.json" >"$results/$2.out" 2>&1 ||
    { tail -n 40 "$results/$2.out" >&2 && return 1; }
}

# update_alone <round>: likewise zerospan_adamw.<round>.json and adamw.<round>.json.
update_alone() {
  build/bench/bench/fused_updates_bench --benchmark_filter='^fused_adamw/(bf16|fp32)/.*threads:1$' \
    --benchmark_out="$results/zerospan_adamw.$1.json" --benchmark_out_format=json >"$results/zerospan_adamw.out" 2>&1
  OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu TORCH_EXTENSIONS_DIR="$own/extensions" PATH="$own/venv/bin:$PATH" \
    "$own/venv/bin/python" bench/deepspeed/adamw.py --output "$results/adamw.$1.json" >"$results/adamw.out" 2>&1 ||
    { tail -n 40 "$results/adamw.out" >&2 && return 1; }
}

for ((round = 1; round <= rounds; ++round)); do update_alone "$round"; done
for precision in "${precisions[@]}"; do
  for ((round = 1; round <= rounds; ++round)); do
    name="$precision.$round"
    run_zerospan "$precision" "zerospan.$name"
    read -r kernels products < \
      <("$own/venv/bin/python" bench/deepspeed/table.py kernels "$results/zerospan.$name.jsonl")
    run_deepspeed "$precision" "deepspeed.$name"
    "$own/venv/bin/python" bench/deepspeed/table.py round "$results" "$name"
  done
done

"$own/venv/bin/python" bench/deepspeed/table.py table "$results" "${precisions[@]}"
build/bench/bench/ratios --measurements "$results/measurements.json" --goals "$results/goals.json" \
  --output "$own/ratios.json"
echo "$own/ratios.json has the table, $results what each run has told"
