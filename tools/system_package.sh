#!/bin/sh
# Installs a package that pip cannot install, with the package manager of the system, or says how to.
#
#     tools/system_package.sh WHAT APT-NAME DNF-NAME BREW-NAME
set -eu

what=$1 apt=$2 dnf=$3 brew=$4

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null 2>&1; then
    sudo -n "$@"
  else
    return 1
  fi
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$apt"
}

echo "$what is missing. Trying to install it ..." >&2
if command -v apt-get >/dev/null 2>&1; then
  command="apt-get install $apt"
  # The package lists may be absent (a fresh container) or old.
  if apt_install || { as_root apt-get update && apt_install; }; then exit 0; fi
elif command -v dnf >/dev/null 2>&1; then
  command="dnf install $dnf"
  if as_root dnf install -y "$dnf"; then exit 0; fi
elif command -v brew >/dev/null 2>&1; then
  command="brew install $brew"
  if brew install "$brew"; then exit 0; fi
else
  command="your system's package manager (Debian calls it $apt, Fedora $dnf, Homebrew $brew)"
fi
echo "error: $what is missing and could not be installed here. Install it with: $command" >&2
exit 1
