#!/usr/bin/env bash
# train_gpt ends with the same parameters on processes as on threads, reports once, exports the same model of 16 bits,
# and begins with it.
# Usage: train_gpt.sh <train_gpt> <text> <ranks> <ranks per group> <mpirun> [<argument of mpirun>...]
set -euo pipefail
program="$1" text="$2" ranks="$3" ranks_per_group="$4"
shift 4

directory="$(mktemp -d)"
trap 'rm -rf "$directory"' EXIT
options=(--text "$text" --layers 2 --heads 2 --width 32 --context 16 --batch 2 --micro-batches 2 --steps 3 --eval-every 0
  --sample 20 --ranks-per-group "$ranks_per_group" --nvme-path "$directory" --trace "$directory/trace.json")

"$program" "${options[@]}" --ranks "$ranks" --metrics "$directory/threads.jsonl" >/dev/null
timeout 120 "$@" -n "$ranks" "$program" "${options[@]}" --comm mpi --metrics "$directory/processes.jsonl" >/dev/null

for metrics in threads processes; do
  lines="$(wc -l <"$directory/$metrics.jsonl")"
  if ((lines != 4)); then
    echo "$metrics wrote $lines lines of metrics, not one a step and one in the end"
    exit 1
  fi
  tail -n 1 "$directory/$metrics.jsonl"
done
cmp <(tail -n 1 "$directory/threads.jsonl") <(tail -n 1 "$directory/processes.jsonl")

# exchange <directory> <command>...: exports a model, and trains one that begins with it.
exchange() {
  local to="$directory/$1"
  shift
  timeout 120 "$@" "${options[@]}" --precision bf16 --export "$to" >/dev/null
  timeout 120 "$@" "${options[@]}" --precision bf16 --init "$to" --metrics "$to.jsonl" >/dev/null
}
exchange from_threads "$program" --ranks "$ranks"
exchange from_processes "$@" -n "$ranks" "$program" --comm mpi
cmp "$directory"/from_{threads,processes}/model.safetensors
cmp <(tail -n 1 "$directory/from_threads.jsonl") <(tail -n 1 "$directory/from_processes.jsonl")
! cmp -s <(tail -n 1 "$directory/threads.jsonl") <(tail -n 1 "$directory/from_threads.jsonl")
