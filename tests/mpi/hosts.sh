# Hosts that this machine makes up: network namespaces h0, h1, ... with names of their own. Needs root. To be sourced, with
# $mpirun set; what it makes goes when the script ends. Each host has
#   fabric   10.77.0.<host + 1>, on a bridge between the hosts
#   disk     10.78.<host>.1, a link of its own to a store that all hosts share, where it is 10.78.<host>.2

# Ends the script with 77.
skip() {
  echo "skipped: $*"
  exit 77
}

((UID == 0)) || skip "only root makes network namespaces"
for tool in ip tc nsenter unshare; do command -v "$tool" >/dev/null || skip "there is no $tool"; done
[[ "$("$mpirun" --version 2>/dev/null)" =~ \((Open MPI|OpenRTE)\)\ 4\. ]] || skip "$mpirun is not Open MPI 4"

prefix="zerospan-$$"
directory="$(mktemp -d)"
host_count=0
servers=()
remove_hosts() {
  for server in "${servers[@]}"; do kill "$server" 2>/dev/null || true; done
  for host in switch store $(seq 0 $((host_count - 1))); do ip netns delete "$prefix-$host" 2>/dev/null || true; done
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

make_host() {
  local host="$1" name="$prefix-$1"
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
  echo "10.77.0.$((host + 1)) h$host" >>"$directory/hosts"
}

try_to_make_hosts() {
  echo "127.0.0.1 localhost" >"$directory/hosts"
  for host in switch store; do ip netns add "$prefix-$host"; done
  ip -n "$prefix-switch" link add fabric type bridge
  ip -n "$prefix-switch" link set fabric up
  for ((host = 0; host < host_count; ++host)); do make_host "$host"; done
  shape store disk0 1000
  tc -n "$prefix-store" qdisc delete dev disk0 root
  "$directory/in_host" h0 hostname | grep -x h0
}

# make_hosts <number>
make_hosts() {
  local status=0
  host_count="$1"
  set +e
  (set -e; try_to_make_hosts) >"$directory/log" 2>&1
  status=$?
  set -e
  ((status == 0)) || skip "no hosts can be made: $(tail -n 1 "$directory/log")"
}

# mpirun_on_hosts <argument of mpirun>...: from the first host.
mpirun_on_hosts() {
  timeout 100 "$directory/in_host" h0 "$mpirun" --allow-run-as-root --bind-to none --mca plm rsh \
    --mca plm_rsh_agent "$directory/agent" --mca pml ob1 --mca btl self,vader,tcp --mca btl_tcp_if_include fabric \
    --mca oob_tcp_if_include fabric --mca mpi_yield_when_idle 1 -x ZEROSPAN_PREFIX -x ZEROSPAN_DIRECTORY "$@"
}
