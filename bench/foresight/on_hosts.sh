#!/usr/bin/env bash
# Runs a program with hosts that this machine makes up, and which only it uses: it gets --launcher LAUNCHER besides its
# own arguments. Exits with 77 where hosts cannot be made.
# Usage: on_hosts.sh <mpirun> <program> <argument>...
#   LAUNCHER <hosts> <ranks of a host> <Mbit/s> <program> <argument>...: a rank's process each, by mpirun; what leaves a
#   host has so many Mbit/s.
set -euo pipefail
mpirun="$1"
shift
source "${BASH_SOURCE%/*}/../../tests/mpi/hosts.sh"
make_hosts 4

{
  echo '#!/usr/bin/env bash'
  echo 'set -euo pipefail'
  declare -p mpirun prefix directory
  declare -f shape mpirun_on_hosts
  cat <<'END'
hosts="$1" ranks="$2" mbit="$3"
shift 3
for ((host = 0; host < hosts; ++host)); do
  shape "$host" fabric "$mbit"
  echo "h$host slots=$ranks"
done >"$directory/hostfile"
mpirun_on_hosts --hostfile "$directory/hostfile" -n $((hosts * ranks)) "$@"
END
} >"$directory/launch"
chmod +x "$directory/launch"
"$@" --launcher "$directory/launch"
