#!/usr/bin/env bash
# Runs what the README says to run first on a Debian that has nothing: a minimal one, made by debootstrap in a directory
# of its own, into which the tracked files of this repository are copied. Each line is preceded by the seconds so far.
# Usage: tests/fresh.sh [--suite bookworm|trixie] [--all] [--command COMMAND]
#   --suite    Debian 12 (bookworm, the default) or 13 (trixie)
#   --all      the other scripts too, each on a fresh Debian of its own
#   --command  COMMAND in place of the README's, run in the copy of the repository
# Needs root, debootstrap, git, and a mirror of Debian among apt's sources; how apt reaches it is taken over. Without one of
# these it says what is missing, and the exit code is 77. The bare Debian is kept for the next run in
# ${XDG_CACHE_HOME:-$HOME/.cache}/zerospan.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suite=bookworm all=no command=""
while (($#)); do
  case "$1" in
    --all) all=yes ;;
    --suite) suite="${2:-}" && shift ;;
    --command) command="${2:-}" && shift ;;
    *) suite="" ;;
  esac
  if [[ "$suite" != bookworm && "$suite" != trixie ]] || ! (($#)); then
    echo "Usage: tests/fresh.sh [--suite bookworm|trixie] [--all] [--command COMMAND]" >&2
    exit 2
  fi
  shift
done

skip() {
  echo "Skipped: $1"
  exit 77
}

# The mirror of Debian that apt installs from.
find_mirror() {
  local uri release component origin
  # The fields are apt's; the origin is known once its lists are there.
  # shellcheck disable=SC2016
  while read -r uri release component origin; do
    if [[ "$component" == main && "${origin:-Debian}" == Debian && "$release" != *-* && "$uri" == http* ]]; then
      echo "${uri%/}"
      return
    fi
  done < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null)
}

[[ "$(id -u)" == 0 ]] || skip "a Debian is made by root alone"
for tool in debootstrap unshare git wget; do
  command -v "$tool" >/dev/null || skip "$tool is not installed"
done
unshare --mount --pid --fork true 2>/dev/null || skip "namespaces of mounts and processes are not permitted here"

# apt's proxies, for the programs that are not apt.
proxies=()
for scheme in http https; do
  if [[ -z "$(printenv "${scheme}_proxy" || true)" ]]; then
    eval "$(apt-config shell proxy "Acquire::$scheme::Proxy")"
    if [[ -n "${proxy:-}" && "$proxy" != DIRECT ]]; then export "${scheme}_proxy=$proxy"; fi
    proxy=""
  fi
done
for name in http_proxy https_proxy no_proxy; do
  if value="$(printenv "$name")"; then proxies+=("$name=$value"); fi
done

mirror="$(find_mirror)"
[[ -n "$mirror" ]] || skip "apt has no mirror of Debian among its sources"
wget --quiet --timeout=30 --tries=2 --output-document=/dev/null "$mirror/dists/$suite/Release" ||
  skip "the mirror of Debian that apt uses cannot be reached, or has no $suite"

# Runs that were killed leave theirs behind.
find "${TMPDIR:-/var/tmp}" -maxdepth 1 -name 'zerospan_fresh.*' -mmin +600 -exec rm -rf --one-file-system {} +
scratch="$(mktemp -d "${TMPDIR:-/var/tmp}/zerospan_fresh.XXXXXX")"
# What is mounted below is mounted in namespaces of their own, which end with their processes: here there is no mount.
trap 'rm -rf --one-file-system "$scratch"' EXIT

# The bare Debian, as an archive. It appears whole or not at all.
cache="${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/zerospan"
archive="$cache/$suite.tar"
if [[ ! -e "$archive" ]]; then
  echo "Making a bare Debian ($suite) in $archive"
  mkdir -p "$cache"
  # In a namespace too: it mounts /proc.
  if ! unshare --mount --pid --fork --kill-child \
    debootstrap --variant=minbase "$suite" "$scratch/base" "$mirror" >"$scratch/log" 2>&1; then
    tail -n 20 "$scratch/log"
    exit 1
  fi
  rm -rf "$scratch"/base/var/cache/apt/archives/*.deb
  tar -C "$scratch/base" -cf "$scratch/base.tar" .
  mv "$scratch/base.tar" "$archive.$$"
  mv "$archive.$$" "$archive"
  rm -rf --one-file-system "$scratch/base"
fi

# make_root <directory>: a bare Debian there, which reaches the mirror as this one does, with the repository in /zerospan.
make_root() {
  local root="$1" directory file
  mkdir "$root" "$root/zerospan"
  tar -C "$root" -xf "$archive"
  echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/unsafe-io"  # a Debian for minutes: nothing needs to survive a crash
  cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
  cp --dereference /etc/hosts "$root/etc/hosts"
  for directory in apt.conf.d auth.conf.d; do
    if [[ -d "/etc/apt/$directory" ]]; then cp --recursive "/etc/apt/$directory" "$root/etc/apt/"; fi
  done
  if [[ "$mirror" == https:* ]]; then
    mkdir -p "$root/etc/ssl/certs" "$root/usr/local/share/ca-certificates"
    cp --dereference /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    cp --recursive /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
  fi
  git -c safe.directory="$PWD" ls-files -z |
    while IFS= read -r -d '' file; do if [[ -e "$file" ]]; then printf '%s\0' "$file"; fi; done |
    tar --null --files-from=- -cf - | tar -C "$root/zerospan" --no-same-owner -xf -
}

# enter <directory> <command>: runs it in the repository there, with nothing of this machine's environment.
enter() {
  # shellcheck disable=SC2016
  unshare --mount --pid --fork --kill-child bash -euc '
    root="$1" command="$2"
    shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys"
    cd "$root/zerospan"
    exec chroot "$root" env -i "$@" HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
      bash -c "cd /zerospan && $command"
  ' enter "$1" "$2" "${proxies[@]}" </dev/null
}

failed=()

# try <command>: on a fresh Debian, which is removed afterwards.
try() {
  local command="$1" root="$scratch/root" began line status=0
  echo "== $suite: $command"
  make_root "$root"
  began="$SECONDS"
  enter "$root" "$command" 2>&1 | while IFS= read -r line || [[ -n "$line" ]]; do
    printf '[%4d s] %s\n' "$((SECONDS - began))" "$line"
  done || status=$?
  echo "== $suite: $command: exit code $status after $((SECONDS - began)) s"
  ((status == 0)) || failed+=("$command")
  rm -rf --one-file-system "$root"
}

if [[ -n "$command" ]]; then
  try "$command"
else
  first="$(grep -m 1 '^bash ' README.md)"
  first="${first%%#*}"
  try "${first%"${first##*[! ]}"} --steps 20"
  if [[ "$all" == yes ]]; then
    try "bash examples/libtorch/run.sh"
    try "bash bench/run.sh"
    try "bash tests/run.sh"
  fi
fi

if ((${#failed[@]})); then
  printf 'Failed on a bare Debian (%s): %s\n' "$suite" "${failed[@]}"
  exit 1
fi
