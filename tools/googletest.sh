#!/bin/sh
# Checks that the C++ tests find GoogleTest. Installs it where that is allowed, and otherwise fails and
# says what to do. GTest_ROOT names one that you built yourself.
set -eu

has_googletest() {
  [ -n "${GTest_ROOT:-}" ] ||
    printf '#include <gtest/gtest.h>\n' | ${CXX:-c++} -std=c++17 -fsyntax-only -x c++ - 2>/dev/null ||
    { command -v brew >/dev/null 2>&1 && brew list googletest >/dev/null 2>&1; }
}

if ! command -v "${CXX:-c++}" >/dev/null 2>&1; then
  echo "error: there is no C++ compiler ${CXX:-c++}. Install g++ or clang++, or name one, as in: CXX=... make test" >&2
  exit 1
fi
has_googletest && exit 0
"$(dirname "$0")/system_package.sh" GoogleTest libgtest-dev gtest-devel googletest
