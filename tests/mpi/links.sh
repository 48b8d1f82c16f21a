#!/usr/bin/env bash
# Hosts with slow links: parameters that are partitioned over all ranks come through all links at once, parameters that
# have an owner come through one. Exits with 77 where it can make no hosts.
# Usage: links.sh <links> <mpirun>
set -euo pipefail
program="$1" mpirun="$2"
link_mbit=40
source "${BASH_SOURCE%/*}/hosts.sh"

# run_on <hosts> <argument of the program>...
run_on() {
  local hosts="$1"
  shift
  for ((host = 0; host < hosts; ++host)); do echo "h$host slots=1"; done >"$directory/hostfile"
  mpirun_on_hosts --hostfile "$directory/hostfile" -n "$hosts" "$program" "$@"
}

make_hosts 4
for ((host = 0; host < 4; ++host)); do shape store "disk$host" "$link_mbit"; done
nsenter --net="/run/netns/$prefix-store" "$program" serve &
servers+=($!)
for hosts in 1 2 4; do run_on "$hosts" memory "$link_mbit"; done

for ((host = 0; host < 4; ++host)); do shape "$host" fabric "$link_mbit"; done
for hosts in 1 2 4; do run_on "$hosts" network "$link_mbit"; done
