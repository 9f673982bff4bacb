#!/usr/bin/env bash
# Tests and measures the CUDA backend on a machine with a GPU. This is run.sh of the kit that tools/gpu_prepare.sh
# builds, and needs nothing but the kit and the driver. Python with NumPy and torch, cuFFT, compute-sanitizer and
# ncu are used if they are there; without one, its step is skipped.
#
#     build/gpu_kit/run.sh [--long] [FOLDER]
#
# FOLDER (default: results, in the kit) receives at most eight files: steps.txt, which says how each step ended,
# results.jsonl, counters.csv, and logs. Each step has a limit, and no step stops the next. The most important ones
# come first, and all together end within nine minutes: what is then left is left out. --long is for a machine that
# costs nothing by the minute: it tests and measures more, within an hour and a half. BUDGET sets another number of
# seconds, and PYTHON the interpreter that has torch. The exit status is 1 if a step failed, 2 if nothing could run.
set -uo pipefail

stop() {
  echo "error: $1" >&2
  exit 2
}

long=
if [ "${1:-}" = --long ]; then
  long=yes
  shift
fi
case "$#:${1:-}" in
  0: | 1:[!-]*) ;;
  *) stop "usage: run.sh [--long] [FOLDER]" ;;
esac
kit=$(cd "$(dirname "$0")" && pwd)
results=$(realpath -m "${1:-$kit/results}")
cd "$kit" || exit
[ -x laplex_cuda_tests ] && [ -x laplex_cuda_bench ] ||
  stop "$kit has no programs to run: tools/gpu_prepare.sh (make gpu-prepare) builds a kit, with this script as its run.sh"

# A test that is skipped because there is no GPU has not been run.
export PATH=$PATH:/usr/local/cuda/bin LAPLEX_REQUIRE_GPU=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
if ! message=$(./laplex_cuda_tests --gtest_filter=none 2>&1); then
  stop "nothing can be tested or measured here: ${message#failed: }"
fi

python=${PYTHON:-python3}
budget=${BUDGET:-540} scale=1 repetitions=5 sizes=1e6,1e8
if [ -n "$long" ]; then
  budget=${BUDGET:-5400} scale=10 repetitions=20 sizes=1e6,1e7,1e8
fi
files=(steps.txt tests.log python.log bench.log results.jsonl sanitizers.log counters.csv counters.log)
mkdir -p "$results" || stop "$results cannot be written: name another folder"
(cd "$results" && rm -f "${files[@]}")
failed=

# report LINE...: adds to the summary.
report() { echo "$*" | tee -a "$results/steps.txt"; }

# step NAME LIMIT LOG COMMAND...: runs a command for at most so many seconds, or what is left of the budget.
step() {
  local name=$1 limit=$(($2 * scale)) log=$results/$3 left=$((budget - SECONDS)) start=$SECONDS status
  shift 3
  [ "$limit" -le "$left" ] || limit=$left
  if [ "$limit" -lt 5 ]; then
    failed=yes
    report "LEFT OUT $name: the budget of $budget s is spent"
    return
  fi
  printf '\n=== %s ===\n' "$name" | tee -a "$log"
  timeout -s INT -k 5 "$limit" "$@" 2>&1 | tee -a "$log"
  status=${PIPESTATUS[0]}
  case $status in
    0) report "passed   $name: $((SECONDS - start)) s" ;;
    124 | 137) failed=yes && report "FAILED   $name: cut off after $((SECONDS - start)) s" ;;
    *) failed=yes && report "FAILED   $name: status $status after $((SECONDS - start)) s" ;;
  esac
}
skip() { report "skipped  $1: $2"; }

driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
report "$(head -n 1 <<<"$message"), driver ${driver:-unknown}, commit $(cat commit)"

# --- correctness ---------------------------------------------------------------------------------

step "C++ tests" 90 tests.log ./laplex_cuda_tests --gtest_brief=1

if [ ! -d site ]; then
  skip "Python tests" "the kit was built without a Python"
elif ! "$python" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != open("python").read().strip())' 2>/dev/null; then
  skip "Python tests" "$python is not the Python $(cat python) that the kit is for: name one with PYTHON=..., or build a kit for it"
elif ! "$python" -c 'import sys, numpy, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  skip "Python tests" "$python has no NumPy, or no torch that finds the GPU: install them, or name another with PYTHON=..."
else
  path=$kit/site
  "$python" -c 'import pytest' 2>/dev/null || path=$path:$kit/pytest
  # They wait for the GPU more than they use it.
  processes=()
  ! "$python" -c 'import xdist' 2>/dev/null || processes=(-p xdist -n 4)
  # Without pyproject.toml's settings, which make errors of warnings: this torch may be an older or a newer one.
  step "Python tests" 90 python.log env PYTHONPATH="$path" PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "$python" -m pytest \
    "${processes[@]}" -c /dev/null --rootdir . -v -ra --import-mode=importlib -p no:cacheprovider \
    tests/*/test_cuda*.py tests/cuda
fi

# --- measurements --------------------------------------------------------------------------------

cufft=$("$python" -c 'import importlib.util as u, pathlib; print(next(pathlib.Path(u.find_spec("torch").origin).parents[1].glob("nvidia/*/lib/libcufft.so.*")).parent)' 2>/dev/null)
bench=(env LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$cufft"
  ./laplex_cuda_bench --driver "$driver" --commit "$(cat commit)" --json "$results/results.jsonl")
step "10^9 anchors" 90 bench.log "${bench[@]}" --parts huge --repetitions 3
step "ratios" 110 bench.log "${bench[@]}" --parts batch,graph,lines --sizes "$sizes" --repetitions "$repetitions"

# --- sanitizers, under which a test takes some hundred times as long -----------------------------

# sanitizer TOOL LIMIT TESTS
sanitizer() {
  local tests=$3
  [ -z "$long" ] || tests='*Small*:*Edges*'
  step "$1" "$2" sanitizers.log compute-sanitizer --tool "$1" --error-exitcode 1 \
    ./laplex_cuda_tests --gtest_brief=1 --gtest_filter="$tests"
}
if ! command -v compute-sanitizer >/dev/null; then
  skip "sanitizers" "compute-sanitizer is missing: it comes with the CUDA toolkit"
else
  sanitizer memcheck 50 'CudaStreams.Small*:CudaProducts/0.SmallHeads*:CudaGradients/0.SmallOnes*:CudaPlan/0.SmallSorted*'
  sanitizer racecheck 40 'CudaProducts/0.SmallStrides*:CudaGradients/0.SmallOnes*'
  if [ -n "$long" ]; then
    sanitizer initcheck 50 ''
    sanitizer synccheck 50 ''
  fi
fi

# --- the profile ---------------------------------------------------------------------------------

counters=(gpu__time_duration.sum dram__bytes_read.sum dram__bytes_write.sum smsp__inst_executed.sum
  smsp__issue_active.avg.pct_of_peak_sustained_active
  sm__inst_executed_pipe_fp64.avg.pct_of_peak_sustained_active sm__inst_executed_pipe_fp64.sum
  sm__inst_executed_pipe_xu.sum sm__warps_active.avg.pct_of_peak_sustained_active lts__t_sectors_op_red.sum
  smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio
  smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio)
if ! command -v ncu >/dev/null; then
  skip "profile" "ncu is missing: it comes with the CUDA toolkit"
else
  # One counter that a device does not have would cost the whole step.
  known=$(timeout 30 ncu --query-metrics 2>/dev/null)
  metrics=
  for each in "${counters[@]}"; do
    if [ -z "$known" ] || grep -qw "${each%%.*}" <<<"$known"; then
      metrics+=${metrics:+,}$each
    else
      skip "$each" "ncu has no such counter here"
    fi
  done
  step "profile" 60 counters.log ncu --clock-control none --profile-from-start off --csv --page raw \
    --metrics "$metrics" --log-file "$results/counters.csv" ./laplex_cuda_bench --parts profile --sizes 3e7
fi

printf '\n=== summary ===\n'
cat "$results/steps.txt"
[ -z "$failed" ]
