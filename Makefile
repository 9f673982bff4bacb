# Builds and tests the whole project on a machine with Python 3.10+, a C++17 compiler and make. Everything
# else (CMake, Ninja, linters, torch) is installed from PyPI into .venv, at the versions of constraints.txt.
#
#   PYTHON=python3.12     the interpreter for .venv (after `make distclean`)
#   TORCH_INDEX=URL       another index for torch, such as https://download.pytorch.org/whl/cpu
#   PYTEST_ARGS="-k nn"   arguments for pytest
#   DEMO_ARGS="--quick"   arguments for laplex demo
#   BENCH_ARGS="--quick"  arguments for the benchmarks
#   JOBS=4                processes at a time, of the compiler and of pytest (default: one per core)
#   CUDA_ARCHITECTURES=90 GPU architectures to compile for, with nvcc (default: those of this machine, or PTX alone)
#   WERROR=ON             treat compiler warnings as errors (default in CI)

PYTHON ?= python3
TORCH_INDEX ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
WERROR ?= $(if $(CI),ON,OFF)
# Without a GPU, no machine code: it takes half of nvcc's time, and nothing would run it. The PTX emulator
# runs what is built.
CUDA_ARCHITECTURES ?= $(if $(shell nvidia-smi -L 2>/dev/null),,90-virtual)
FOR_EMULATOR := $(filter 90-virtual,$(CUDA_ARCHITECTURES))
NVCC := $(shell command -v nvcc 2>/dev/null)
CCACHE := $(shell command -v ccache 2>/dev/null)

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
EMULATED := build/emulated
export PATH := $(CURDIR)/$(BIN):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export CTEST_PARALLEL_LEVEL := $(JOBS)
export CMAKE_ARGS := -DLAPLEX_WERROR=$(WERROR) $(if $(CUDA_ARCHITECTURES),-DLAPLEX_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)) \
  $(if $(FOR_EMULATOR),-DCMAKE_CUDA_FLAGS='-lineinfo --no-compress') \
  $(if $(CCACHE),-DCMAKE_CXX_COMPILER_LAUNCHER=$(CCACHE) -DCMAKE_CUDA_COMPILER_LAUNCHER=$(CCACHE))

PIP := $(BIN)/python -m pip --disable-pip-version-check $(if $(CI),--quiet)
# Python compiles what it imports: compiling all of torch ahead takes a minute.
INSTALL := $(PIP) install --no-compile -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# One process per core, each with one thread, because threads of several processes would wait for one
# another. Each process takes whole files, because their fixtures are expensive: in their order, because
# those with the fewest tests, which would come last, are not the quickest.
PYTEST = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(CURDIR)/$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
HEADING = @printf '\n=== %s: %s ===\n' "$$(date +%T)"

CPP_FILES := $(shell find cpp cuda python/bindings tests bench -name '*.hpp' -o -name '*.cpp' -o -name '*.cu')
CMAKE_FILES := CMakeLists.txt CMakePresets.json $(wildcard cmake/*) \
  $(shell find cpp cuda python/bindings tests -name CMakeLists.txt -o -name '*.in')
MODULE_FILES := $(shell find cpp cuda python/bindings -type f)
WORKFLOWS := $(wildcard .github/workflows/*.yml)
ISSUE_FORMS := $(wildcard .github/ISSUE_TEMPLATE/*.yml)
SCRIPTS := $(wildcard .ci/run tests/cuda/ptx/run tools/*.sh)
PACKAGE_FILES := pyproject.toml README.md LICENSE $(CMAKE_FILES) \
  $(shell find cpp cuda python -type f -not -name '*.pyc')

.PHONY: help demo test lint-and-build docs-and-sanitizers sanitizers docs check build bench gpu gpu-prepare lint lint-quick format stub $(EMULATED)/ready test-cpp test-asan test-tsan fuzz test-consume test-cuda test-emulated \
  test-ptx wheel test-python test-peers test-slow test-settings test-oldest clean distclean
ifndef BESIDE
.NOTPARALLEL:
endif
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(STAMPS)/demo ## run the demo, learnable Laplace kernels on real images: one to three minutes, plus installation the first time
	$(BIN)/laplex demo $(DEMO_ARGS)

test: lint-and-build build/lint/release build/lint/clang-tidy test-cpp test-emulated test-cuda test-ptx test-consume wheel test-python test-peers docs-and-sanitizers ## run every check and every test

# mypy and Sphinx are single processes, and would leave the other cores idle.
SIDE_BY_SIDE = $(MAKE) BESIDE=1 -j 2 --output-sync=target --no-print-directory

lint-and-build: $(STAMPS)/dev
	$(SIDE_BY_SIDE) build lint-quick

docs-and-sanitizers: $(STAMPS)/demo
	$(SIDE_BY_SIDE) sanitizers docs

sanitizers:
	$(MAKE) BESIDE= --no-print-directory test-asan test-tsan

# --- virtual environment -------------------------------------------------------------------------

$(STAMPS)/venv:
	$(HEADING) "virtual environment"
	tools/create_venv.sh "$(PYTHON)" "$(VENV)"
	@mkdir -p $(STAMPS) && touch $@

# pip 23.1 is the first with -C. Debian 12 and Ubuntu 22.04 create environments with older ones.
$(STAMPS)/build: constraints.txt | $(STAMPS)/venv
	$(HEADING) "build tools"
	$(INSTALL) "pip>=23.1" scikit-build-core pybind11 cmake ninja
	@touch $@

$(STAMPS)/demo: $(PACKAGE_FILES) constraints.txt | $(STAMPS)/build
	$(HEADING) "laplex with its demo (torch is large: this takes minutes the first time)"
	$(INSTALL) --no-build-isolation -C build-dir=build/demo -C cmake.define.LAPLEX_CUDA=OFF ".[demo]"
	@rm -f $(STAMPS)/wheel $(STAMPS)/editable
	@touch $@

# constraints.txt pins every package, so that as a requirements file it installs all tools.
$(STAMPS)/dev: constraints.txt | $(STAMPS)/build
	$(HEADING) "test and lint tools (torch is large: this takes minutes the first time)"
	$(INSTALL) -r constraints.txt
	@touch $@

# --- lint ----------------------------------------------------------------------------------------

lint: lint-quick build/lint/release build/lint/clang-tidy ## run ruff, mypy, import-linter, clang-format, clang-tidy, and the checks of workflows and scripts

lint-quick: $(STAMPS)/dev ## run those of lint that check Python, and clang-format
	$(HEADING) "ruff, mypy, import-linter, clang-format"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=python $(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/clang-format --dry-run --Werror $(CPP_FILES)

SCHEMA = $(BIN)/check-jsonschema --builtin-schema vendor

# The files that only GitHub, PyPI and their runners read, and the shell scripts. actionlint passes the
# commands of the workflows to shellcheck.
build/lint/release: $(WORKFLOWS) $(ISSUE_FORMS) .github/dependabot.yml CITATION.cff pyproject.toml $(SCRIPTS) $(STAMPS)/dev
	$(HEADING) "actionlint, zizmor, schemas, cibuildwheel, shellcheck"
	$(BIN)/actionlint $(WORKFLOWS)
	$(BIN)/zizmor --offline --quiet .github
	$(SCHEMA).citation-file-format CITATION.cff
	$(SCHEMA).dependabot .github/dependabot.yml
	$(SCHEMA).github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA).github-issue-forms $(filter-out %/config.yml,$(ISSUE_FORMS))
	$(BIN)/validate-pyproject pyproject.toml
	set -e; for platform in linux macos windows; do $(BIN)/cibuildwheel --print-build-identifiers --platform $$platform; done
	$(BIN)/shellcheck $(SCRIPTS)
	@mkdir -p build/lint && touch $@

# Configures for the compile commands of every C++ file, including bindings and tests. Nothing is built. The
# files of the higher instruction sets are the source of kernels/baseline.cpp once more.
build/lint/clang-tidy: $(CPP_FILES) $(CMAKE_FILES) .clang-tidy $(STAMPS)/dev
	$(HEADING) "clang-tidy"
	tools/googletest.sh
	$(BIN)/cmake --preset all -B build/lint -DLAPLEX_CUDA=OFF $(PYTHON_MODULE)
	$(BIN)/run-clang-tidy.py -quiet -j $(JOBS) -p build/lint '/(cpp|bindings)/(?!.*avx)' \
	  -extra-arg=-Wno-unknown-warning-option -extra-arg=-Wno-ignored-optimization-argument
	@touch $@

format: $(STAMPS)/dev ## reformat the sources, and repair what lint can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

# --- build ---------------------------------------------------------------------------------------

# One build, which the C++ tests, the emulation, the CUDA tests, the consumer, the wheel and the editable
# install share. Each file is compiled once, except for the sanitizers.
PYTHON_MODULE = -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python" -Dpybind11_ROOT="$$($(BIN)/python -m pybind11 --cmakedir)"
FOR_PACKAGE := --no-build-isolation -C build-dir=build/all

build: $(STAMPS)/dev ## compile everything: library, C++ tests, Python module and, if there is an nvcc, the CUDA backend
	$(HEADING) "build"
	tools/googletest.sh
	$(if $(NVCC),tools/google_benchmark.sh)
	$(BIN)/cmake --preset all $(CMAKE_ARGS) $(PYTHON_MODULE) -DLAPLEX_BUILD_BENCH=$(if $(NVCC),ON,OFF)
	$(BIN)/cmake --build --preset all

# --- C++ -----------------------------------------------------------------------------------------

test-cpp: build ## run the C++ tests, including those of the emulated CUDA kernels
	$(HEADING) "C++ tests"
	$(BIN)/ctest --preset all -E '^cuda$$'

# The Python module with emulated CUDA kernels instead of a GPU.
$(EMULATED)/ready: build
	rm -rf $(EMULATED) && mkdir -p $(EMULATED) && cp -R python/laplex $(EMULATED)
	$(BIN)/cmake --install build/all --prefix $(EMULATED) --component python_emulated

test-emulated: $(EMULATED)/ready ## run the torch operators on CUDA kernels emulated on the host: no GPU needed
	$(HEADING) "the stub of the compiled module, and torch operators on the emulated CUDA kernels"
	PYTHONPATH="$(CURDIR)/$(EMULATED)" $(BIN)/python tools/core_stub.py --check
	cd $(EMULATED) && LAPLEX_EMULATED_CUDA=1 PYTHONPATH="$(CURDIR)/$(EMULATED)" $(PYTEST) \
	  -c "$(CURDIR)/pyproject.toml" --rootdir "$(CURDIR)" $(patsubst %,"$(CURDIR)/tests/python/%",torch/test_cuda.py torch/test_cuda_arguments.py gram/test_cuda.py cuda/test_plan.py gram/test_gram.py order/test_cuda.py)

stub: $(EMULATED)/ready ## rewrite python/laplex/_core.pyi after a change of python/bindings
	PYTHONPATH="$(CURDIR)/$(EMULATED)" $(BIN)/python tools/core_stub.py

ifdef NVCC
test-cuda: build ## compile the CUDA backend with its tests and benchmarks, and test it if there is a GPU
	$(HEADING) "CUDA backend"
	$(BIN)/ctest --preset all -R '^cuda$$'
else
test-cuda:
	$(HEADING) "CUDA backend: skipped, because there is no nvcc"
endif

# nvcc's PTX as C++ for x86-64. The selection leaves out the longest lines and the covariances.
PTX_TESTS := CudaProducts/*:CudaGradients/*:CudaCumulative/*:CudaQuantiles/*:CudaPlan/*:CudaHalf*:CudaStreams.SmallGraph*:-*Millions*

ifeq ($(if $(NVCC),$(shell uname -sm)),Linux x86_64)
test-ptx: $(if $(FOR_EMULATOR),build,$(STAMPS)/venv) ## run some CUDA tests on a CPU, on the PTX that nvcc writes: it needs nvcc, but no GPU
	$(HEADING) "CUDA kernels as nvcc compiled them, on the PTX emulator"
	tools/googletest.sh
	JOBS=$(JOBS) PYTHON="$(CURDIR)/$(BIN)/python" tests/cuda/ptx/run self-test
	JOBS=$(JOBS) PYTHON="$(CURDIR)/$(BIN)/python" $(if $(FOR_EMULATOR),CMAKE_BUILD=build/all) tests/cuda/ptx/run tests '$(PTX_TESTS)'
else
test-ptx:
	$(HEADING) "PTX emulator: skipped, because it needs nvcc, on Linux and x86-64"
endif

gpu-prepare: $(STAMPS)/build ## build build/gpu_kit, to test and measure on another machine with a GPU; see CONTRIBUTING.md
	$(HEADING) "what runs on a GPU"
	tools/gpu_prepare.sh

gpu: $(STAMPS)/dev gpu-prepare ## run everything that needs a GPU: tests, benchmarks, sanitizers and a profile, within an hour and a half
	build/gpu_kit/run.sh --long; status=$$?; \
	  [ ! -s build/gpu_kit/results/results.jsonl ] || $(BIN)/python bench/cuda/report.py build/gpu_kit/results; exit $$status

test-asan: $(STAMPS)/build ## run the C++ tests under AddressSanitizer and UBSan
	$(HEADING) "C++ tests under AddressSanitizer and UBSan"
	tools/googletest.sh
	$(BIN)/cmake --preset asan $(CMAKE_ARGS)
	$(BIN)/cmake --build --preset asan
	$(BIN)/ctest --preset asan

# libFuzzer is a part of Clang. Inputs that break a promise are written to build/fuzz; keep them in tests/fuzz/found.
FUZZ_SECONDS ?= 120
FUZZ_CXX ?= $(firstword $(foreach name,clang++ $(addprefix clang++-,22 21 20 19 18 17 16 15 14),$(shell command -v $(name) 2>/dev/null)))

fuzz: $(STAMPS)/build ## fuzz the C++ library with libFuzzer: FUZZ_SECONDS=120 for each target; needs Clang
	$(HEADING) "fuzzing"
	tools/googletest.sh
	test -n "$(FUZZ_CXX)" || { echo "error: there is no clang++: install Clang, or name it, as in FUZZ_CXX=..." >&2; exit 1; }
	CXX="$(FUZZ_CXX)" $(BIN)/cmake --preset fuzz $(CMAKE_ARGS)
	$(BIN)/cmake --build --preset fuzz
	for target in gram order plan; do \
	  mkdir -p build/fuzz/corpus/$$target && build/fuzz/tests/fuzz/fuzz_$$target -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 \
	    -artifact_prefix=build/fuzz/$$target- build/fuzz/corpus/$$target $$(find tests/fuzz/found -mindepth 1 -type d -name fuzz_$$target) || exit 1; done

# Before GCC 14, ThreadSanitizer crashes at start on kernels that randomise addresses by more than 28 bits.
NO_ASLR := $(shell setarch $$(uname -m) -R true 2>/dev/null && echo setarch $$(uname -m) -R)

test-tsan: $(STAMPS)/build ## run the C++ tests under ThreadSanitizer
	$(HEADING) "C++ tests under ThreadSanitizer"
	tools/googletest.sh
	$(BIN)/cmake --preset tsan $(CMAKE_ARGS)
	$(NO_ASLR) $(BIN)/cmake --build --preset tsan
	$(NO_ASLR) $(BIN)/ctest --preset tsan

test-consume: build ## install the C++ library, and build a project on it with find_package
	$(HEADING) "a project that uses the installed C++ library"
	rm -rf build/consume
	$(BIN)/cmake --install build/all --prefix build/consume/prefix --component development
	$(BIN)/cmake -S tests/consume -B build/consume/project -G Ninja -DCMAKE_PREFIX_PATH="$(CURDIR)/build/consume/prefix"
	$(BIN)/cmake --build build/consume/project
	$(BIN)/ctest --test-dir build/consume/project --output-on-failure --no-tests=error

# --- Python --------------------------------------------------------------------------------------

wheel: build/wheel/tested ## build sdist and wheel, and try the wheel in a fresh environment with NumPy only

# The wheel is built from the tree and not from the sdist, to compile nothing twice. It is the same wheel,
# because the sdist contains every file that git has.
build/wheel/tested: $(PACKAGE_FILES) tests/consume/wheel.py tests/consume/sdist.py | build
	$(HEADING) "sdist and wheel"
	rm -rf build/wheel
	$(BIN)/python -m build --no-isolation --sdist --outdir build/wheel/dist
	$(BIN)/python tests/consume/sdist.py build/wheel/dist/*.tar.gz
	$(PIP) wheel --no-deps $(FOR_PACKAGE) --wheel-dir build/wheel/dist .
ifeq ($(shell uname -s),Linux)
	$(BIN)/auditwheel repair --wheel-dir build/wheel/repaired build/wheel/dist/*.whl
else
	mkdir -p build/wheel/repaired && cp build/wheel/dist/*.whl build/wheel/repaired
endif
	$(BIN)/check-wheel-contents build/wheel/repaired
	$(HEADING) "the wheel in a fresh environment with NumPy only"
	$(BIN)/python -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip --quiet --disable-pip-version-check install -c constraints.txt build/wheel/repaired/*.whl
	build/wheel/venv/bin/python -I tests/consume/wheel.py
	@touch $@

# The environment has one laplex: that of the demo, the wheel or the source tree. The last two serve the demo too.
$(STAMPS)/wheel: build/wheel/tested
	$(PIP) install --force-reinstall --no-deps build/wheel/repaired/*.whl
	$(INSTALL) "laplex[all]"
	@rm -f $(STAMPS)/editable
	@touch $@ $(STAMPS)/demo

test-python: $(STAMPS)/wheel ## run the Python tests on the installed wheel
	$(HEADING) "Python tests on the installed wheel"
	command -v chromedriver || tools/system_package.sh "Chromium with its chromedriver" chromium-driver chromedriver chromedriver
	$(PYTEST) --durations=30 --durations-min=2 $(PYTEST_ARGS)

test-slow: $(STAMPS)/wheel ## run the examples on pretrained models in full: minutes
	$(HEADING) "slow Python tests on the installed wheel"
	$(PYTEST) -m slow $(PYTEST_ARGS)

PEER_TESTS := $(addprefix tests/python/early_exit/,test_architectures.py test_cases.py) \
  $(wildcard tests/python/early_exit/test_peers.py tests/python/cli/test_exits_sources.py)

build/peers: tests/peers.txt
	$(HEADING) "the libraries of tests/peers.txt"
	rm -rf $@
	$(INSTALL) --no-deps --target $@ -r $<
	@touch $@

test-peers: $(STAMPS)/wheel build/peers ## run the tests that use the libraries of tests/peers.txt: timm, torchvision, netcal, ...
	$(HEADING) "tests beside other libraries, on the installed wheel"
	PYTHONPATH="$(CURDIR)/build/peers" $(PYTEST) $(PYTEST_ARGS) -k "torchvision or timm or peers" $(PEER_TESTS)

# In an environment of its own, on any Python for which the oldest NumPy has wheels: 3.10 to 3.12.
test-oldest: build/wheel/tested ## test the wheel on the oldest NumPy, SciPy and torch that pyproject.toml allows
	$(HEADING) "tests on the libraries of tests/oldest.txt"
	rm -rf build/oldest && $(BIN)/python -m venv build/oldest
	build/oldest/bin/python -m pip --quiet --disable-pip-version-check install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	  -r tests/oldest.txt hypothesis pytest build/wheel/repaired/*.whl
	OMP_NUM_THREADS=1 build/oldest/bin/python -m pytest $(PYTEST_ARGS) tests/python/numpy tests/python/torch

test-settings: $(STAMPS)/wheel ## run the Python tests under the settings of other processors and under load: half an hour; see CONTRIBUTING.md
	$(BIN)/python tools/test_settings.py --jobs $(JOBS) $(PYTEST_ARGS)

# --- documentation -------------------------------------------------------------------------------

# Any installation of laplex will do. Every build is a fresh one, because Sphinx would not repeat a
# page's warning the next time.
docs: $(STAMPS)/dev $(STAMPS)/demo ## build the documentation as a website, in build/site; run the tutorials, check the links
	$(HEADING) "documentation"
	command -v doxygen || tools/system_package.sh Doxygen doxygen doxygen doxygen
	rm -rf build/doxygen build/site docs/reference/generated && mkdir -p build/doxygen
	doxygen docs/Doxyfile
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet -b html -d build/doctrees docs build/site
	$(BIN)/linkchecker --no-status --config docs/linkchecker.ini build/site/index.html

# --- the quick loop ------------------------------------------------------------------------------

check: $(STAMPS)/editable lint-quick ## check an edit: an editable install, lint-quick, and the tests nearest to the difference from HEAD (or BASE=main)
	$(HEADING) "tests of what has changed"
	$(BIN)/python tools/tests_of_changes.py $(BASE) > build/check
	@cat build/check
	if grep -q '^cpp$$' build/check; then \
	  $(BIN)/cmake --build build/all --target laplex_tests && build/all/tests/cpp/laplex_tests --gtest_brief=1; fi
	tests=$$(grep '[.]py$$' build/check | tr '\n' ' '); if [ -n "$$tests" ]; then $(PYTEST) --dist worksteal $(PYTEST_ARGS) $$tests; fi

# Repeated after changes of compiled files, but not of Python files.
$(STAMPS)/editable: pyproject.toml $(CMAKE_FILES) $(MODULE_FILES) $(STAMPS)/dev
	$(HEADING) "laplex, editable"
	tools/googletest.sh
	$(BIN)/cmake --preset all $(CMAKE_ARGS) $(PYTHON_MODULE)
	$(PIP) install --no-deps $(FOR_PACKAGE) --editable .
	@rm -f $(STAMPS)/wheel
	@touch $@ $(STAMPS)/demo

# --- benchmarks ----------------------------------------------------------------------------------

# In its own environment: the other libraries have many dependencies that nothing else here needs.
BENCH_BIN := build/bench/venv/bin

bench: build/bench/ready ## compare with memory floors and other libraries: twenty minutes, or one with BENCH_ARGS=--quick; see docs/measurements/benchmarks.md
	$(HEADING) "benchmarks"
	tools/google_benchmark.sh
	$(BIN)/cmake --preset bench
	$(BIN)/cmake --build --preset bench
	$(BENCH_BIN)/python bench/python/run.py --binary build/bench/cpp/bench/cpp/laplex_bench $(BENCH_ARGS)
	OMP_NUM_THREADS=1 $(BENCH_BIN)/python bench/python/updates.py $(BENCH_ARGS)

build/bench/ready: build/wheel/tested bench/constraints.txt
	$(HEADING) "the wheel and the other libraries in their own environment"
	test -x $(BENCH_BIN)/python || $(BIN)/python -m venv build/bench/venv
	$(BENCH_BIN)/python -m pip --quiet --disable-pip-version-check install --force-reinstall --no-deps build/wheel/repaired/*.whl
	$(BENCH_BIN)/python -m pip --quiet --disable-pip-version-check install -c constraints.txt -c bench/constraints.txt \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "laplex[bench]"
	@touch $@

# --- housekeeping --------------------------------------------------------------------------------

clean: ## remove everything that was built
	rm -rf build laplex-demo .mypy_cache .pytest_cache .ruff_cache .hypothesis

distclean: clean ## also remove the virtual environment
	rm -rf $(VENV)
