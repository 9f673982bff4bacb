#!/usr/bin/env bash
# Builds build/gpu_kit, a folder with everything that is tested and measured on a GPU. No GPU is needed for that,
# and where there is one, nothing but its driver: copy the folder there, and run gpu_kit/run.sh (tools/gpu_run.sh).
#
#     tools/gpu_prepare.sh
#
# Needs nvcc, CMake, Ninja, GoogleTest, Google Benchmark and, for the Python tests, Python's headers and pybind11.
# Two variables say what the kit is for:
#
#     CUDA_ARCHITECTURES  the GPUs (default: those of this machine, or else 90-real, which is the H100 and H200)
#     PYTHON              a Python of the same version as the one with torch there (default: python3)
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/gpu kit=build/gpu_kit
python=${PYTHON:-python3}
architectures=${CUDA_ARCHITECTURES:-$(nvidia-smi -L >/dev/null 2>&1 || echo 90-real)}

stop() {
  echo "error: $1" >&2
  exit 1
}

[ "$#" -eq 0 ] || { echo "usage: tools/gpu_prepare.sh" >&2 && exit 2; }
if ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then
  PATH=/usr/local/cuda/bin:$PATH
fi
command -v nvcc >/dev/null || stop "nvcc is missing: install the CUDA toolkit, or put its bin folder on the PATH"
command -v cmake >/dev/null || stop "cmake is missing: pip install -c constraints.txt cmake"
command -v ninja >/dev/null || stop "ninja is missing: pip install -c constraints.txt ninja"
tools/googletest.sh
tools/google_benchmark.sh

# --- the programs and the module -----------------------------------------------------------------

targets=(laplex_cuda_tests laplex_cuda_bench) module=(-DLAPLEX_BUILD_PYTHON=OFF) no_module=
if ! version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); then
  no_module="$python does not run"
elif ! pybind11=$(python3 -m pybind11 --cmakedir || "$python" -m pybind11 --cmakedir); then
  no_module="pybind11 is missing"
else
  targets+=(_core)
  module=(-DLAPLEX_BUILD_PYTHON=ON "-DPython_EXECUTABLE=$(command -v "$python")" "-Dpybind11_ROOT=$pybind11")
fi

# The other machine may have older libraries. Unused parts of the C++ library would ask for the newest C library.
static="-static-libstdc++ -static-libgcc -Wl,--gc-sections"
cmake --preset gpu "-DLAPLEX_CUDA_ARCHITECTURES=$architectures" "${module[@]}" \
  "-DCMAKE_EXE_LINKER_FLAGS=$static" "-DCMAKE_MODULE_LINKER_FLAGS=$static -Wl,--exclude-libs,ALL"
cmake --build "$build" --target "${targets[@]}"

# --- the kit -------------------------------------------------------------------------------------

rm -rf "$kit" && mkdir -p "$kit"
cp tools/gpu_run.sh "$kit/run.sh"
strip -o "$kit/laplex_cuda_tests" "$build/tests/cuda/laplex_cuda_tests"
strip -o "$kit/laplex_cuda_bench" "$build/bench/cuda/laplex_cuda_bench"
git describe --always --dirty --exclude '*' 2>/dev/null >"$kit/commit" || echo unknown >"$kit/commit"
if [ -z "$no_module" ]; then
  mkdir "$kit/site" && cp -R python/laplex tests/python "$kit/site"
  mv "$kit/site/python" "$kit/tests"
  rm -f "$kit"/site/laplex/*.so
  cmake --install "$build" --prefix "$kit/site" --component python --strip >/dev/null
  find "$kit" -name __pycache__ -exec rm -r {} +
  echo "$version" >"$kit/python"
  # Only for a machine without pytest.
  "$python" -m pip --disable-pip-version-check --quiet install -c constraints.txt --no-compile --target "$kit/pytest" pytest ||
    echo "The kit has no pytest: the Python tests need one where they run."
fi

# --- is it fit to travel? ------------------------------------------------------------------------

for file in "$kit"/laplex_cuda_* "$kit"/site/laplex/*.so; do
  [ -e "$file" ] || continue
  if ldd "$file" | grep -vE 'linux-vdso|ld-linux|/lib(c|m|pthread|dl|rt)\.so'; then
    stop "$file needs the libraries above, which another machine may not have"
  fi
  echo "$file: $(objdump -T "$file" | grep -oE 'GLIBC_[0-9.]+' | sort -V | tail -n 1) or newer"
done
LAPLEX_REQUIRE_GPU=0 "$kit/laplex_cuda_tests" --gtest_filter=none | head -n 1 # it starts
"$kit/laplex_cuda_bench" --help >/dev/null
if [ -n "$no_module" ]; then
  echo "$no_module: the kit has no Python tests. Name a Python with PYTHON=..., and see make gpu-prepare"
fi
echo "$kit: $(du -sm "$kit" | cut -f 1) MB, for GPUs of ${architectures:-this machine}${version:+ and Python $version}"
