#!/bin/sh
# Creates the virtual environment that everything is installed into.
#
#     tools/create_venv.sh PYTHON DIRECTORY
set -eu

python=$1 directory=$2
package=$(dirname "$0")/system_package.sh

if ! version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); then
  echo "error: $python does not run. Name a Python 3.10 or newer, as in: make PYTHON=/path/to/python3 ..." >&2
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "error: $python is Python $version; Laplex needs 3.10 or newer. Name one, as in: make PYTHON=python3.12 ..." >&2
  exit 1
fi
# Debian and Ubuntu ship Python without venv and without its C headers.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  "$package" "Python's venv module" "python$version-venv" python3-pip "python@$version"
fi
if ! "$python" -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))'; then
  "$package" "Python's C headers" "python$version-dev" python3-devel "python@$version"
fi
"$python" -m venv --clear "$directory"
