"""tools/gpu_run.sh and bench/cuda/report.py, as far as they go without a GPU.

The kit's programs are replaced by small shell scripts that do what a test says.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = ROOT / "tools/gpu_run.sh"
FILES = {"steps.txt", "tests.log", "bench.log", "results.jsonl", "sanitizers.log", "counters.log"}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CUDA is for Linux here")

MACHINE = {
    "kind": "machine",
    "device": "Feigned GPU",
    "compute_capability": "9.0",
    "memory_bytes": 8e10,
    "l2_bytes": 5e7,
    "multiprocessors": 132,
    "driver": "1.2, for CUDA up to 13.0",
    "runtime": "13.0",
    "nvcc": "13.0.88",
    "commit": "abc",
    "date": "2026-11-29",
}


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A kit on a machine with a GPU, with the sanitizers and the profiler."""
    kit = tmp_path / "gpu_kit"
    kit.mkdir()
    shutil.copy(RUN, kit / "run.sh")
    program(kit / "laplex_cuda_tests", 'echo "Feigned GPU"')
    program(
        kit / "laplex_cuda_bench",
        'while [ $# -gt 0 ]; do [ "$1" = --json ] && echo "{}" >>"$2"; shift; done; exit 0',
    )
    (kit / "commit").write_text("abc\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("compute-sanitizer", "ncu", "nvidia-smi"):
        program(tools / name, "exit 0")
    return kit


def run(kit: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [kit / "run.sh", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {"PATH": f"{kit.parent / 'tools'}:{os.environ['PATH']}", "PYTHON": sys.executable}
        | environment,
    )


def steps(kit: Path) -> dict[str, str]:
    """How each step ended."""
    lines = (kit / "results/steps.txt").read_text().splitlines()[1:]
    return {line[9:].partition(":")[0]: line[:9].strip() for line in lines}


def test_a_folder_that_is_no_kit_is_refused(tmp_path):
    shutil.copy(RUN, tmp_path / "run.sh")
    done = run(tmp_path)
    assert done.returncode == 2
    assert "tools/gpu_prepare.sh" in done.stderr


def test_without_a_gpu_nothing_is_run_or_written(kit):
    program(kit / "laplex_cuda_tests", 'echo "failed: no CUDA device: none is visible"; exit 1')
    done = run(kit)
    assert done.returncode == 2
    assert "no CUDA device: none is visible" in done.stderr
    assert not (kit / "results").exists()


def test_every_step_is_run_and_reported(kit):
    done = run(kit)
    assert done.returncode == 0, done.stdout + done.stderr
    assert steps(kit) == {
        "C++ tests": "passed",
        "Python tests": "skipped",
        "10^9 anchors": "passed",
        "ratios": "passed",
        "memcheck": "passed",
        "racecheck": "passed",
        "profile": "passed",
    }
    assert {path.name for path in (kit / "results").iterdir()} == FILES
    # Both runs of the benchmark add to one file.
    assert (kit / "results/results.jsonl").read_text() == "{}\n{}\n"


def test_a_failure_does_not_stop_the_rest(kit):
    program(
        kit / "laplex_cuda_tests",
        'case "$*" in *none*) echo "Feigned GPU" ;; *) echo broken; exit 1 ;; esac',
    )
    done = run(kit)
    assert done.returncode == 1
    assert steps(kit)["C++ tests"] == "FAILED"
    assert steps(kit)["profile"] == "passed"
    assert "broken" in (kit / "results/tests.log").read_text()


def test_what_the_budget_does_not_allow_is_cut_off_or_left_out(kit):
    program(kit / "laplex_cuda_bench", "echo begun; exec sleep 60")
    done = run(kit, BUDGET="6")
    assert done.returncode == 1
    assert steps(kit)["10^9 anchors"] == "FAILED"
    assert steps(kit)["ratios"] == "LEFT OUT"
    assert "begun" in (kit / "results/bench.log").read_text()


def test_the_tests_under_sanitizers_exist():
    sources = "".join(path.read_text() for path in (ROOT / "tests/cuda").glob("*.cpp"))
    filters = re.findall(r"(Cuda\w+)(?:/0)?\.(\w+)\*", RUN.read_text())
    assert filters
    for suite, name in filters:
        assert re.search(rf"TEST\w*\({suite}, {name}", sources), f"{suite}.{name}"


def test_results_may_go_elsewhere(kit, tmp_path):
    assert run(kit, str(tmp_path / "elsewhere")).returncode == 0
    assert (tmp_path / "elsewhere/steps.txt").exists()


def test_the_page_says_what_was_measured(tmp_path):
    spec = importlib.util.spec_from_file_location("report", ROOT / "bench/cuda/report.py")
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    entries = [
        MACHINE,
        {"kind": "measurement", "name": "forward", "n": 100000000, "minimum_ms": 2.0,
         "median_ms": 2.1, "samples": 5, "calls": 1, "bytes": 2.475e9},
        {"kind": "comparison", "ours": "forward", "theirs": "copy", "n": 100000000, "ratio": 1.25,
         "limit": 1.5},
        {"kind": "comparison", "ours": "update", "theirs": "new plan", "n": 100000000,
         "ratio": 0.5, "limit": None},
        {"kind": "check", "name": "forward", "n": 100000000, "error": None, "limit": 1e-6},
        {"kind": "memory", "n": 1000000000, "peak_bytes": 5.7e10, "plan_bytes": 1.7e10},
        {"kind": "note", "text": "There is no cuFFT library here: not compared with it."},
    ]  # fmt: skip
    lines = [json.dumps(entry) for entry in entries]
    # The run was cut off within a line.
    (tmp_path / "results.jsonl").write_text("\n".join([*lines, lines[1][:40]]))
    (tmp_path / "counters.csv").write_text(
        "==PROF== Connected to process 7\n"
        '"ID","Kernel Name","gpu__time_duration.sum","lts__t_sectors_op_red.sum"\n'
        '"","","ms","sector"\n'
        '"0","void laplex::cuda::product_kernel<float, (int)4>(float*)","0.61","0"\n'
    )
    path = report.report(tmp_path, to=tmp_path / "written")
    text = path.read_text()
    assert path.name == "feigned-gpu.md"
    assert path.with_suffix(".jsonl").exists()
    for line in (
        "| forward vs copy | 1e+08 | <= 1.5x | 1.25x | yes |",
        "| update vs new plan | 1e+08 | 0.5x |",
        "## Times in milliseconds, measured",
        "| forward | 2 |",
        "| forward | 1.24e+03 |",
        "| forward | 1e+08 | not finite | 1e-06 | **wrong** |",
        "57.0 GB",
        "| `product_kernel` | 0.61 | 0 |",
        "driver 1.2, for CUDA up to 13.0",
        "- There is no cuFFT library here: not compared with it.",
    ):
        assert line in text
