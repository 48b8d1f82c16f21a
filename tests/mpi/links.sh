#!/usr/bin/env bash
# Hosts with slow links: parameters that are partitioned over all ranks come through all links at once, parameters that
# have an owner come through one. Makes network namespaces, one a host, which needs root, and starts ranks in them with
# Open MPI over TCP:
#   fabric   10.77.0.<host>, a bridge between the hosts
#   disk     10.78.<host>.1, each host's own link to its store, at 10.78.<host>.2
# Usage: links.sh <links> <mpirun>
# Exits with 77 where it can make no such hosts.
set -euo pipefail
program="$1" mpirun="$2"
most_hosts=4 link_mbit=40

skip() {
  echo "links.sh: skipped: $*"
  exit 77
}

((UID == 0)) || skip "only root makes network namespaces"
for tool in ip tc nsenter unshare; do command -v "$tool" >/dev/null || skip "there is no $tool"; done
[[ "$("$mpirun" --version 2>/dev/null)" == *"Open MPI"*" 4."* ]] || skip "$mpirun is not Open MPI 4"

prefix="zerospan-$$"
directory="$(mktemp -d)"
servers=()
remove_hosts() {
  for server in "${servers[@]}"; do kill "$server" 2>/dev/null || true; done
  for host in switch store $(seq 0 $((most_hosts - 1))); do ip netns delete "$prefix-$host" 2>/dev/null || true; done
  rm -rf "$directory"
}
trap remove_hosts EXIT

# in_host <host> <command>...: with the host's network, name and list of hosts, and nothing else of its own.
cat >"$directory/in_host" <<'END'
#!/bin/sh
host="$1"
shift
exec nsenter --net="/run/netns/$ZEROSPAN_PREFIX-${host#h}" unshare --mount --uts sh -c '
  mount --bind "$ZEROSPAN_DIRECTORY/hosts" /etc/hosts && hostname "$0" && exec "$@"' "$host" "$@"
END
# What mpirun calls instead of ssh: agent <host> <words of a shell's command>...
cat >"$directory/agent" <<'END'
#!/bin/sh
host="$1"
shift
exec "$ZEROSPAN_DIRECTORY/in_host" "$host" sh -c "$*"
END
chmod +x "$directory"/{in_host,agent}
export ZEROSPAN_PREFIX="$prefix" ZEROSPAN_DIRECTORY="$directory"

# shape <host> <interface> <mbit>: what leaves by it.
shape() { tc -n "$prefix-$1" qdisc replace dev "$2" root tbf rate "$3mbit" burst 16kb latency 50ms; }

make_hosts() {
  echo "127.0.0.1 localhost" >"$directory/hosts"
  for host in switch store; do ip netns add "$prefix-$host"; done
  ip -n "$prefix-switch" link add fabric type bridge
  ip -n "$prefix-switch" link set fabric up
  for ((host = 0; host < most_hosts; ++host)); do
    local name="$prefix-$host"
    ip netns add "$name"
    ip -n "$name" link set lo up
    ip -n "$name" link add fabric type veth peer name "port$host" netns "$prefix-switch"
    ip -n "$name" address add "10.77.0.$((host + 1))/24" dev fabric
    ip -n "$name" link set fabric up
    ip -n "$prefix-switch" link set "port$host" master fabric up
    ip -n "$name" link add disk type veth peer name "disk$host" netns "$prefix-store"
    ip -n "$name" address add "10.78.$host.1/24" dev disk
    ip -n "$name" link set disk up
    ip -n "$prefix-store" address add "10.78.$host.2/24" dev "disk$host"
    ip -n "$prefix-store" link set "disk$host" up
    shape store "disk$host" "$link_mbit"
    echo "10.77.0.$((host + 1)) h$host" >>"$directory/hosts"
  done
}
make_hosts >"$directory/log" 2>&1 || skip "no hosts can be made here: $(tail -n 1 "$directory/log")"

# run_on <hosts> <argument of the program>...
run_on() {
  local hosts="$1"
  shift
  for ((host = 0; host < hosts; ++host)); do echo "h$host slots=1"; done >"$directory/hostfile"
  timeout 60 "$directory/in_host" h0 "$mpirun" --allow-run-as-root --hostfile "$directory/hostfile" -n "$hosts" \
    --bind-to none --mca plm rsh --mca plm_rsh_agent "$directory/agent" --mca pml ob1 --mca btl self,tcp \
    --mca btl_tcp_if_include fabric --mca oob_tcp_if_include fabric --mca mpi_yield_when_idle 1 \
    -x ZEROSPAN_PREFIX -x ZEROSPAN_DIRECTORY "$program" "$@"
}

nsenter --net="/run/netns/$prefix-store" "$program" serve &
servers+=($!)
for hosts in 1 2 4; do run_on "$hosts" memory "$link_mbit"; done

for ((host = 0; host < most_hosts; ++host)); do shape "$host" fabric "$link_mbit"; done
for hosts in 1 2 4; do run_on "$hosts" network "$link_mbit"; done
