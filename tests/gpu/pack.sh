# shellcheck shell=bash disable=SC2154
# What the tests and train_gpt need beside CUDA, CMake and ninja, carried to machines without packages: to be sourced by
# tests/gpu.sh.

# pack <directory>: packages.tar.gz in it, from Debian's packages.
pack() {
  local directory="$1" work package
  work="$(mktemp -d)"
  mkdir -p "$directory" "$work/root"
  (
    cd "$work" || exit
    apt-get -qq -o APT::Sandbox::User=root download doctest-dev libcli11-dev nlohmann-json3-dev libfmt-dev libfmt9 \
      libxxhash-dev libxxhash0 libaio-dev libaio1 liburing-dev liburing2 libbenchmark-dev libbenchmark1debian \
      libopenblas-pthread-dev libopenblas0-pthread libgfortran5 libquadmath0
    for package in *.deb; do dpkg -x "$package" root; done
    cd root/usr || exit
    rm -rf share/doc share/man share/lintian
    find . -name '*.a' ! -name 'libbenchmark_main.a' -delete
    rm -f lib/x86_64-linux-gnu/openblas-pthread/lib{blas,lapack}.so*
  )
  tar -C "$work/root" -czf "$directory/packages.tar.gz" usr
  rm -r "$work"
  du -h "$directory/packages.tar.gz"
}

# unpack <directory> <prefix>: what pack has packed. @return 1 if there is nothing.
unpack() {
  if [[ ! -e "$1/packages.tar.gz" ]]; then
    echo "There is no $1/packages.tar.gz (tests/gpu.sh --pack makes it): what this machine has is used."
    return 1
  fi
  rm -rf "$2"
  mkdir -p "$2"
  tar -C "$2" -xzf "$1/packages.tar.gz"
}

# has_header <header>: whether the compiler finds it, here or among what was unpacked.
has_header() {
  "${CXX:-c++}" -E -x c++ -I"$build/packages/usr/include" -include "$1" /dev/null >/dev/null 2>&1
}
