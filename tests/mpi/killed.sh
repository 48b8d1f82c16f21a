#!/usr/bin/env bash
# train_gpt is killed over mpirun again and again, wherever it is in its steps and saves, goes on from its last
# checkpoint each time, and ends with the parameters of a training of threads that nobody disturbed. In turn SIGKILL
# goes to one rank, whose survivors mpirun ends, and to all at once, and SIGTERM to one rank, and to mpirun.
# Usage: killed.sh <train_gpt> <fatal_call> <text> <rounds> <mpirun> [<argument of mpirun>...]
#   <fatal_call>  the library that counts a rank's calls
set -euo pipefail
program="$1" fatal_call="$2" text="$3" rounds="$4"
shift 4
mpirun=("$@")

directory="$(realpath "$(mktemp -d)")"
trap 'rm -rf "$directory"' EXIT
mkdir -p "$directory"/{files/disk,threads}
saves="$directory/files/saves"
options=(--text "$text" --layers 1 --heads 2 --width 16 --context 8 --batch 1 --warmup 2 --eval-every 0 --sample 0
  --validation-tokens 1 --trace "$directory/trace.json" --metrics "$directory/metrics.jsonl")

fail() {
  echo "killed.sh: round $round, $what: $*"
  cat "$directory/output"
  exit 1
}

# train <option of train_gpt>...: goes on with the training, in processes with the environment that is in `fate`. Its
# exit code is `status`, the step it has begun after is `begun`, and `saved` the last one that it says is saved.
train() {
  status=0
  timeout 120 "${mpirun[@]}" -n 2 env LD_PRELOAD="$fatal_call" FATAL_DIRECTORY="$directory/files" "${fate[@]}" \
    "$program" "${options[@]}" --steps 1000000 --comm mpi --checkpoint "$saves" --resume \
    --nvme-path "$directory/files/disk" "$@" >"$directory/output" 2>&1 || status=$?
  begun="$(sed -nE 's/^(resumes after|begins at) step ([0-9]+)[,:] .*/\2/p' "$directory/output")"
  saved="$(sed -nE 's/^step ([0-9]+) is saved in .*/\1/p' "$directory/output" | tail -n 1)"
  if ((status == 124)); then fail "it hung"; fi
  if grep -E "^(train_gpt|zerospan): " "$directory/output"; then fail "it failed by itself"; fi
}

# How many calls there are in three steps, and the beginning before them.
round=0 what="nothing"
fate=(FATAL_RANK=0 FATAL_COUNT="$directory/count")
train --stop-after 3 --save-every 1
calls="$(cat "$directory/count")"
if ((status != 0 || saved != 3)); then fail "it ended with $status, and saved ${saved:-nothing}"; fi
last=3  # step that is known to be saved

RANDOM=4711
fates=(rank:KILL all:KILL rank:TERM rank:KILL launcher:TERM)
# The mpirun of Open MPI 5 passes no SIGTERM on: it kills.
if "${mpirun[@]}" --version | grep -Eq "Open MPI\) ([5-9]|[1-9][0-9])\."; then unset "fates[4]"; fi
for ((round = 1; round <= rounds; ++round)); do
  IFS=: read -r to signal <<<"${fates[(round - 1) % ${#fates[@]}]}"
  call=$((1 + RANDOM % calls)) rank=$((RANDOM % 2))
  what="SIG$signal to $to at call $call of rank $rank"
  fate=(FATAL_RANK="$rank" FATAL_CALL="$call" FATAL_TO="$to" FATAL_SIGNAL="$(kill -l "$signal")")
  place=nvme save_every=1
  if ((round % 2 == 0)); then place=host; fi
  if [[ "$signal" == TERM ]]; then place=nvme save_every=0; fi  # it saves because it was asked to end
  # Open MPI's mpirun waits so long before it passes SIGTERM on, and once more before it kills.
  patience=1
  if [[ "$to" == launcher ]]; then patience=3; fi
  export OMPI_MCA_odls_base_sigkill_timeout="$patience" PRTE_MCA_odls_base_sigkill_timeout="$patience"
  train --save-every "$save_every" --parameters "$place" --gradients "$place" --optimizer "$place"

  # Where it begins nobody is told, if it is killed before.
  if [[ -n "$begun" ]] && ((begun < last)); then fail "it began after step $begun, when step $last was saved"; fi
  last="${saved:-${begun:-$last}}"
  case "$to:$signal" in
    *:KILL)
      if ((status == 0)) || ! tr '\n' ' ' <"$directory/output" | grep -q "on signal 9"; then fail "it ended with $status"; fi
      ;;
    rank:TERM) if ((status != 0)); then fail "it ended with $status"; fi ;;
  esac
  if [[ "$signal" == TERM && -z "$saved" ]]; then fail "it saved nothing"; fi
done

what="a last step"
fate=(FATAL_RANK=0)
train --stop-after 1
if ((status != 0 || begun < last || saved != begun + 1)); then
  fail "it ended with $status, began after step ${begun:-0}, when step $last was saved, and saved ${saved:-nothing}"
fi
tail -n 1 "$directory/metrics.jsonl" | tee "$directory/processes"
"$program" "${options[@]}" --ranks 2 --steps 1000000 --stop-after "$saved" --nvme-path "$directory/threads" &>/dev/null
cmp <(tail -n 1 "$directory/metrics.jsonl") "$directory/processes"
names="$(cd "$saves" && echo *)"
if [[ "$names" != "latest lock step-"*" step-$saved" ]]; then fail "it has left $names"; fi
echo "$rounds rounds, $saved steps"
