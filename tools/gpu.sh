#!/usr/bin/env bash
# Runs everything that needs an NVIDIA GPU: builds the CUDA backend, tests it from C++ and from Python, runs
# its tests under compute-sanitizer, and measures it.
#
#     tools/gpu.sh [--quick]
#
# The results are bench/results/<device>.json, .md and, if ncu is installed, -ncu.csv. --quick measures one
# size, runs only memcheck, and leaves its results in build/gpu. What cannot run on this machine is skipped
# with a message; with LAPLEX_REQUIRE_GPU=1 it is a failure. PYTHON names the interpreter that has torch.
set -euo pipefail

# Small lines: under the sanitizers a test takes some hundred times as long.
sanitized_tests='*Small*:*Edges*'
sanitizers=(memcheck racecheck initcheck synccheck)
profiled_size=1e8

python=${PYTHON:-python3}
required=${LAPLEX_REQUIRE_GPU:-0}
quick=
case "$#:${1:-}" in
  0:) ;;
  1:--quick) quick=yes sanitizers=(memcheck) ;;
  *)
    echo "usage: tools/gpu.sh [--quick]" >&2
    exit 2
    ;;
esac

cd "$(dirname "$0")/.."
build=build/gpu
tests=$build/tests/cuda/laplex_cuda_tests
bench=$build/bench/cuda/laplex_cuda_bench

stop() {
  echo "error: $1" >&2
  exit 1
}

passed=() failed=() skipped=()

# step NAME COMMAND...: runs a step. A failure does not stop the script, so that one run reports all.
step() {
  local name=$1 status=0
  shift
  printf '\n=== %s ===\n' "$name"
  # Not as a condition: bash would ignore -e within.
  set +e
  (
    set -e
    "$@"
  )
  status=$?
  set -e
  if [ "$status" -eq 0 ]; then
    passed+=("$name")
  else
    failed+=("$name")
  fi
}

# skip NAME REASON: skips a step.
skip() {
  printf '\n=== %s ===\n%s\n' "$1" "$2"
  if [ "$required" = 1 ]; then
    failed+=("$1: $2")
  else
    skipped+=("$1: $2")
  fi
}

# --- requirements --------------------------------------------------------------------------------

if ! command -v nvcc >/dev/null 2>&1 && [ -x /usr/local/cuda/bin/nvcc ]; then
  PATH=/usr/local/cuda/bin:$PATH
fi
command -v nvcc >/dev/null 2>&1 ||
  stop "nvcc is missing: install the CUDA toolkit, or put its bin folder on the PATH"
command -v nvidia-smi >/dev/null 2>&1 ||
  stop "nvidia-smi is missing: this machine has no NVIDIA driver. Run this on a machine with a GPU"
nvidia-smi -L || stop "nvidia-smi finds no GPU: load the driver, and make a GPU visible to this process"
command -v cmake >/dev/null 2>&1 || stop "cmake is missing: pip install -c constraints.txt cmake"
command -v ninja >/dev/null 2>&1 || stop "ninja is missing: pip install -c constraints.txt ninja"
command -v "$python" >/dev/null 2>&1 || stop "$python is missing: name a Python 3.10 or newer, as in PYTHON=python3.12"
nvcc --version
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
commit=$(git describe --always --dirty --exclude '*' 2>/dev/null || echo unknown)

# --- build ---------------------------------------------------------------------------------------

printf '\n=== build ===\n'
tools/googletest.sh
tools/google_benchmark.sh
cmake --preset gpu
cmake --build --preset gpu
passed+=(build)

# --- tests ---------------------------------------------------------------------------------------

# A test that is skipped because there is no GPU has not been run.
export LAPLEX_REQUIRE_GPU=1

step "C++ tests" ctest --preset gpu

for tool in "${sanitizers[@]}"; do
  if command -v compute-sanitizer >/dev/null 2>&1; then
    step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$tests" --gtest_brief=1 --gtest_filter="$sanitized_tests"
  else
    skip "$tool" "compute-sanitizer is missing: it comes with the CUDA toolkit"
  fi
done

# In its own environment, which sees the packages installed next to torch by a path file: torch is large,
# and the installed one fits the driver.
python_tests() {
  local venv=$build/venv torch site isolation=()
  rm -rf "$venv"
  "$python" -m venv "$venv"
  torch=$("$python" -c 'import torch; print(torch.__version__)')
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' >"$site/beside_torch.pth"
  { grep -v '^torch==' constraints.txt && echo "torch==$torch"; } >"$build/constraints.txt"
  if "$venv/bin/python" -c 'import scikit_build_core, pybind11' 2>/dev/null; then
    isolation=(--no-build-isolation)
  fi
  # Without CUDA the build would fall back to the CPU only.
  CMAKE_ARGS="${CMAKE_ARGS:-} -DLAPLEX_CUDA=ON" "$venv/bin/python" -m pip --disable-pip-version-check install \
    -c "$build/constraints.txt" "${isolation[@]}" ".[test]"
  "$venv/bin/python" -m pytest tests/python -k cuda
}

if ! "$python" -c 'import torch' 2>/dev/null; then
  skip "Python tests" "$python has no torch: pip install -c constraints.txt torch, or name a Python that has it, PYTHON=..."
elif ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  skip "Python tests" "the torch of $python finds no GPU: install a CUDA build of torch that fits driver $driver"
else
  step "Python tests" python_tests
  if ! "$python" -c 'import cupy' 2>/dev/null; then
    skip "CuPy arrays" "$python has no cupy: pip install cupy-cuda13x, or the package for the CUDA version of the driver"
  fi
fi

# --- measurements --------------------------------------------------------------------------------

# The name of a file, from the name of the device.
slug() {
  "$python" -c 'import json, re, sys; print(re.sub("[^a-z0-9]+", "-", json.load(open(sys.argv[1]))["device"]["name"].lower()).strip("-"))' "$1"
}

measure() {
  local json=$build/bench.json arguments=(--huge) results=bench/results status=0
  if [ -n "$quick" ]; then
    arguments=(--quick) results=$build
  fi
  rm -f "$json"
  "$bench" "${arguments[@]}" --json "$json" --driver "$driver" --commit "$commit" || status=$?
  # Wrong results are written too.
  if [ -s "$json" ]; then
    mkdir -p "$results"
    cp "$json" "$results/$(slug "$json").json"
    "$python" bench/cuda/report.py "$results/$(slug "$json").json"
    echo "written: $results/$(slug "$json").json and .md"
  fi
  return "$status"
}
step "measurements" measure

# The bytes that a product really moves, from the counters of the hardware, and those of its rivals.
profile() {
  local log=$build/ncu.log csv
  csv=bench/results/$(slug "$build/bench.json")-ncu.csv
  ncu --profile-from-start off --csv --page raw \
    --metrics dram__bytes_read.sum,dram__bytes_write.sum,gpu__time_duration.sum \
    "$bench" --profile --sizes "$profiled_size" >"$log" || true
  if ! grep '^"' "$log" >"$csv"; then
    rm -f "$csv"
    cat "$log"
    echo "error: ncu measured nothing; its output is above. Often only root may read the counters" >&2
    return 1
  fi
  echo "written: $csv"
}
if [ -n "$quick" ]; then
  :
elif ! command -v ncu >/dev/null 2>&1; then
  skip "ncu" "ncu is missing: it comes with the CUDA toolkit"
elif [ -s "$build/bench.json" ]; then
  step "ncu" profile
fi

# --- summary -------------------------------------------------------------------------------------

printf '\n=== summary ===\n'
for each in "${passed[@]}"; do echo "passed:  $each"; done
for each in "${skipped[@]}"; do echo "skipped: $each"; done
for each in "${failed[@]}"; do echo "FAILED:  $each"; done
[ "${#failed[@]}" -eq 0 ]
