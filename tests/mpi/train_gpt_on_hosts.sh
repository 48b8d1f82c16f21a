#!/usr/bin/env bash
# train_gpt ends with the same parameters on several hosts as on threads; each host has disks of its own. Exits with 77
# where it can make no hosts.
# Usage: train_gpt_on_hosts.sh <train_gpt> <text> <mpirun>
set -euo pipefail
program="$1" text="$2" mpirun="$3"
source "${BASH_SOURCE%/*}/hosts.sh"
make_hosts 3
options=(--text "$text" --layers 2 --heads 2 --width 32 --context 16 --batch 2 --steps 3 --eval-every 0 --sample 0
  --trace "$directory/trace.json")
mkdir "$directory"/disk{0,1,2}
printf 'h%d slots=2\n' 0 1 2 >"$directory/hostfile"

"$program" "${options[@]}" --ranks 6 --nvme-path "$directory/disk0" --metrics "$directory/threads.jsonl" >/dev/null
mpirun_on_hosts --hostfile "$directory/hostfile" -n 6 "$program" "${options[@]}" --comm mpi \
  --nvme-path "$directory/disk0" --metrics "$directory/hosts.jsonl" >/dev/null
parts=()
for host in 0 1 2; do
  parts+=(-n 2 --host "h$host:2" "$program" "${options[@]}" --comm mpi --nvme-path "$directory/disk$host"
    --metrics "$directory/parts.jsonl" :)
done
mpirun_on_hosts "${parts[@]:0:${#parts[@]}-1}" >/dev/null

for metrics in hosts parts; do
  tail -n 1 "$directory/$metrics.jsonl"
  cmp <(tail -n 1 "$directory/threads.jsonl") <(tail -n 1 "$directory/$metrics.jsonl")
done

# What differs from host to host, and must not, is found before the first step.
cp "$text" "$directory/other_text" && echo "more" >>"$directory/other_text"
status=0
output="$(mpirun_on_hosts -n 2 --host h0:2 "$program" "${options[@]}" --comm mpi : -n 2 --host h1:2 "$program" \
  "${options[@]/$text/$directory/other_text}" --comm mpi 2>&1)" || status=$?
if ((status == 0)) || ! grep -q "rank 2 has another text than rank 0" <<<"$output" || grep -q "step 1" <<<"$output"; then
  echo "another text on a host: $status, $output"
  exit 1
fi
