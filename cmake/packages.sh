# shellcheck shell=bash
# Shell code that the scripts share: to be sourced.

# install_packages <package>...: installs those of the named Debian packages that are missing. Where it cannot, it says so
# in one line and returns 1.
install_packages() {
  local package sudo="" missing=()
  for package in "$@"; do
    if [[ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]]; then
      missing+=("$package")
    fi
  done
  ((${#missing[@]})) || return 0

  if [[ "$(id -u)" != 0 ]]; then sudo=sudo; fi
  if ! command -v apt-get >/dev/null || { [[ -n "$sudo" ]] && ! command -v sudo >/dev/null; }; then
    echo "Missing, and not to be installed without apt-get and root or sudo: ${missing[*]}" >&2
    return 1
  fi
  if ! $sudo apt-get -qq update ||
    ! $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "${missing[@]}"; then
    echo "apt-get could not install: ${missing[*]}" >&2
    return 1
  fi
}
