#!/usr/bin/env bash
# Whatever befalls a rank, the job ends, not with success, and says of whom.
# Usage: ill_fated.sh <program> <forward|backward|read|step|throw> <mpirun> [<argument of mpirun>...]
set -euo pipefail
program="$1" fate="$2"
shift 2

fail() {
  echo "ill_fated.sh: $*"
  exit 1
}

# expect <pattern>: the output has such words, on however many lines.
expect() {
  tr '\n' ' ' <<<"$output" | grep -Eq "$1" || fail "nowhere '$1' in: $output"
}

status=0
output="$(timeout 60 "$@" "$program" "$fate" 60000 2>&1)" || status=$?
if ((status == 0)); then fail "the job succeeded: $output"; fi
if ((status == 124)); then fail "the job hung: $output"; fi
if [[ "$fate" == throw ]]; then
  if ((status != 3)); then fail "the job ended with $status, not 3: $output"; fi
  expect "zerospan: rank 1 failed: my own reasons"
  exit
fi
expect "rank 1 .* exited on signal 9"

# Where the launcher does not end the job, the survivors do.
output="$(timeout 60 "$@" --enable-recovery "$program" "$fate" 3000 2>&1)" || true
expect "zerospan: rank [023] failed: rank 1 did not (arrive at .* within|go on with .* for) 3000 ms, while rank [023] waits in "
