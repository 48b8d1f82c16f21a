# shellcheck shell=bash
# Shell code that the scripts share: to be sourced.

package_is_installed() {
  [[ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]
}

# as_root <command>...: runs it as root. Where there is no way to, it returns 1.
as_root() {
  if [[ "$(id -u)" == 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    return 1
  fi
}

# Brings apt's lists up to date, once a script.
update_packages() {
  [[ -z "${packages_are_updated:-}" ]] || return 0
  as_root apt-get -qq update && packages_are_updated=yes
}

# install_packages <package>...: installs those of the named Debian packages that are missing. Where it cannot, it says so
# in one line and returns 1.
install_packages() {
  local package missing=()
  for package in "$@"; do
    package_is_installed "$package" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0

  if ! command -v apt-get >/dev/null || ! as_root true; then
    echo "Missing, and not to be installed without apt-get and root or sudo: ${missing[*]}" >&2
    return 1
  fi
  echo "Installing: ${missing[*]}" >&2
  if ! update_packages ||
    ! as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends \
      "${missing[@]}" >/dev/null; then
    echo "apt-get could not install: ${missing[*]}" >&2
    return 1
  fi
}

# choose_clang: sets `clang_version` to the version of Clang to take, of those that serve (16 or later): the first that is
# installed with its sanitizers, or else the first that Debian's release has. Where there is none, it says so in one line
# and returns 1.
choose_clang() {
  local versions=(16 17 18 19 20 21 22)
  for clang_version in "${versions[@]}"; do
    if package_is_installed "clang-$clang_version" && package_is_installed "libclang-rt-$clang_version-dev"; then
      return 0
    fi
  done
  update_packages || true
  for clang_version in "${versions[@]}"; do
    if apt-cache show "clang-$clang_version" >/dev/null 2>&1; then return 0; fi
  done
  echo "There is no package of Clang 16 or later" >&2
  return 1
}
