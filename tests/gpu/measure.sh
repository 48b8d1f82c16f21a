# shellcheck shell=bash
# What train_gpt is measured against itself with: to be sourced by tests/gpu.sh.
# shellcheck disable=SC2034,SC2154  # named by reference, and set there

# Compute-bound on one GPU, 150 million parameters; nothing but training, on a text that is soon validated.
measured_model=(--device cuda --ranks 1 --precision bf16 --layers 12 --heads 16 --width 1024 --context 256 --batch 32
  --eval-every 0 --sample 0)
on_device=(--parameters device --gradients device --optimizer device)
on_host=(--parameters host --gradients host --optimizer host)
on_disk=(--parameters nvme --gradients host --optimizer nvme)

# train <name> <seconds> <argument>...: a part that runs train_gpt; its metrics are <name>.jsonl.
train() {
  local name="$1" limit="$2"
  shift 2
  part "$name" "$limit" "$build/examples/train_gpt" --nvme-path "$results" --trace "$results/$name.trace.json" \
    --metrics "$results/$name.jsonl" "$@"
}

# values <name> <metric>: of each step.
values() { sed -n "s/.*\"$2\":\([^,}]*\).*/\1/p" "$results/$1.jsonl" 2>/dev/null || true; }

# median_of <metric> <name>...: over the steps of these runs but each one's first three, in which traces are recorded.
median_of() {
  local metric="$1" name
  shift
  for name in "$@"; do values "$name" "$metric" | tail -n +4; done | sort -g |
    awk '{ value[NR] = $1 } END { if (NR) printf "%.6g", value[int((NR + 1) / 2)] }'
}

# compare <what> <ours> <raw> [<wanted>]: a row, if both were measured.
compare() {
  if [[ -z "$2" || -z "$3" ]]; then
    failed "$1: not measured"
    return
  fi
  local ratio
  ratio="$(awk -v a="$2" -v b="$3" 'BEGIN { printf "%.3f", a / b }')"
  add_row "$1" "$(printf '%.4g' "$2")" "$(printf '%.4g' "$3")" "$ratio" "${4:-}"
}

compare_training() {
  head -c 400000 README.md include/zerospan/*/*.hpp | grep -v '^==>' >"$results/short.txt"
  compare_stages
  compare_offload
  compare_sizes
  compare_losses
}

# Stage 3 beside stage 0 where everything fits, on one rank, in turns.
compare_stages() {
  local i
  for i in 1 2; do
    train "stage0_$i" 30 "${measured_model[@]}" "${on_device[@]}" --text "$results/short.txt" --stage 0 --steps 16 \
      --device-budget 8GiB
    train "stage3_$i" 30 "${measured_model[@]}" "${on_device[@]}" --text "$results/short.txt" --stage 3 --steps 16 \
      --device-budget 8GiB --prefetch-bytes 1GiB
  done
  compare "tokens/s, stage 3 / stage 0" "$(median_of tokens_per_second stage3_1 stage3_2)" \
    "$(median_of tokens_per_second stage0_1 stage0_2)" ">= 0.97"
}

# Everything in host memory beside everything on the device, the more tokens a step, the more is hidden.
compare_offload() {
  local micro_batches tokens place
  for micro_batches in 1 4 16; do
    tokens=$((micro_batches * 32 * 256))
    for place in device host; do
      local -n placement="on_$place"
      train "${place}_$micro_batches" 30 "${measured_model[@]}" "${placement[@]}" --text "$results/short.txt" \
        --stage 3 --steps 8 --micro-batches "$micro_batches" --device-budget 8GiB --host-budget 8GiB --prefetch-bytes 1GiB
    done
    compare "tokens/s, host / device, $tokens tokens" "$(median_of tokens_per_second "host_$micro_batches")" \
      "$(median_of tokens_per_second "device_$micro_batches")"
    add_row "transfers hidden, host, $tokens tokens" "$(median_of hidden_transfer_share "host_$micro_batches")" - - ""
  done
}

# The most parameters that train in 1 GiB of device memory: beside it nothing, or 4 GiB of host memory and the disk.
compare_sizes() {
  local layers without="" with=""
  for layers in 8 6 5 4 3 2; do
    if try_size without "$layers" "${on_device[@]}"; then
      without="$(values "without_$layers" parameters)" && break
    fi
  done
  for layers in 64 24 8; do
    if try_size with "$layers" "${on_disk[@]}" --host-budget 4GiB; then
      with="$(values "with_$layers" parameters)" && break
    fi
  done
  compare "parameters in 1 GiB of device memory, host and disk / none" "$with" "$without"
}

# try_size <name> <layers> <argument>...: whether so many layers train. That they do not is no failure.
try_size() {
  local name="$1_$2" layers="$2"
  shift 2
  local failures=()
  train "$name" 45 --device cuda --ranks 1 --precision bf16 --layers "$layers" --heads 16 --width 1024 --context 128 \
    --batch 4 --steps 2 --eval-every 0 --sample 0 --checkpoint-every 1 --text "$results/short.txt" --stage 3 "$@" \
    --device-budget 1GiB --prefetch-bytes 256MiB | head -n 1
  [[ -n "$(values "$name" parameters)" ]]
}

# The same training on the CPU and on the GPU: equal at first, and alike for as long as rounding does not tell.
compare_losses() {
  local step setting=(--ranks 1 --layers 4 --heads 4 --width 128 --context 64 --batch 24 --steps 200 --eval-every 0
    --sample 0 --stage 3 "${on_host[@]}" "${text[@]}")
  train losses_cpu 60 --device cpu --threads "$((jobs < 8 ? jobs : 8))" "${setting[@]}"
  train losses_gpu 30 --device cuda "${setting[@]}"
  for step in 1 50 100 200; do
    compare "loss at step $step, GPU / CPU" "$(values losses_gpu loss | sed -n "${step}p")" \
      "$(values losses_cpu loss | sed -n "${step}p")" ">= 0.99"
  done
  compare "validation loss, GPU / CPU" "$(values losses_gpu validation_loss)" "$(values losses_cpu validation_loss)"
}
