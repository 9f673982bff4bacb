#!/bin/sh
# Checks that the C++ benchmarks find Google Benchmark, and installs it if possible, as googletest.sh
# does for GoogleTest.
set -eu

[ -n "${benchmark_ROOT:-}" ] && exit 0
printf '#include <benchmark/benchmark.h>\n' | ${CXX:-c++} -std=c++17 -fsyntax-only -x c++ - 2>/dev/null && exit 0
exec "$(dirname "$0")/system_package.sh" "Google Benchmark" libbenchmark-dev google-benchmark-devel google-benchmark
