#!/bin/sh
# Makes sure that the C++ tests find GoogleTest: installed where we may, otherwise a failure that says
# what to do. GTest_ROOT names one built by hand.
set -eu

has_googletest() {
  [ -n "${GTest_ROOT:-}" ] ||
    printf '#include <gtest/gtest.h>\n' | ${CXX:-c++} -std=c++17 -fsyntax-only -x c++ - 2>/dev/null ||
    { command -v brew >/dev/null 2>&1 && brew list googletest >/dev/null 2>&1; }
}

if ! command -v "${CXX:-c++}" >/dev/null 2>&1; then
  echo "error: no C++ compiler (${CXX:-c++}). Install g++ or clang++, or name one: CXX=... make test" >&2
  exit 1
fi
has_googletest && exit 0
"$(dirname "$0")/system_package.sh" GoogleTest libgtest-dev gtest-devel googletest
