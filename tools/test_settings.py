#!/usr/bin/env python3
"""Run the Python tests under the settings of other processors and loads, and print a table.

    tools/test_settings.py [--only NAME] [pytest arguments]

The libraries that Laplex uses choose their code by the processor: OpenBLAS (NumPy, SciPy), MKL and
oneDNN (torch), ATen, and NumPy's own loops. Each setting makes them choose other code. If this
processor lacks what a setting requests, the library falls back to what the processor has.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np

#: NumPy's names for AVX-512, which differ between its versions. It refuses unknown names.
_SIMD = np.show_config(mode="dicts")["SIMD Extensions"]
_AVX512 = ",".join(name for name in _SIMD.get("found", ()) if name.startswith(("AVX512", "X86_V4")))


class Setting(NamedTuple):
    """The settings of one run of the tests."""

    name: str
    environment: str
    threads: int = 1  # of each process
    shuffled: bool = False
    loaded: bool = False  # while other processes keep every core busy


SETTINGS = (
    Setting("ATen default, Prescott", "ATEN_CPU_CAPABILITY=default OPENBLAS_CORETYPE=Prescott"),
    Setting(
        "ATen avx2, Haswell",
        "ATEN_CPU_CAPABILITY=avx2 OPENBLAS_CORETYPE=Haswell",
        threads=2,
        shuffled=True,
    ),
    Setting(
        "MKL, oneDNN and NumPy at AVX2, Zen",
        "MKL_CBWR=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Zen "
        f"NPY_DISABLE_CPU_FEATURES={_AVX512}",
        shuffled=True,
    ),
    Setting(
        "SkylakeX, loaded", "OPENBLAS_CORETYPE=SkylakeX", threads=2, shuffled=True, loaded=True
    ),
    Setting(
        "MKL compatible, oneDNN at SSE4.1, Laplex baseline",
        "MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 LAPLEX_ISA=baseline",
    ),
)
#: Keeps a processor busy.
_BUSY = "while True: pass"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only",
        default="",
        help="run only the settings whose name contains this text (default: all)",
    )
    parser.add_argument(
        "--jobs",
        default=str(os.cpu_count()),
        help="test processes at a time (default: one per core)",
    )
    options, arguments = parser.parse_known_args()
    rows = []
    for name, environment, threads, shuffled, loaded in SETTINGS:
        if options.only not in name:
            continue
        chosen = dict(pair.split("=", 1) for pair in environment.split())
        load = [
            subprocess.Popen([sys.executable, "-c", _BUSY])
            for _ in range((os.cpu_count() or 1) * loaded)
        ]
        order = ["--random-order-bucket=module", "--random-order"] if shuffled else []
        begin = time.monotonic()
        try:
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-q",
                    "-n",
                    options.jobs,
                    "--dist=loadfile",
                    *order,
                    *arguments,
                ],
                env={**os.environ, **chosen, "OMP_NUM_THREADS": str(threads)},
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
        finally:
            for process in load:
                process.kill()
        minutes = (time.monotonic() - begin) / 60
        failed = re.findall(r"^(?:FAILED|ERROR) .*$", done.stdout, re.MULTILINE)
        last = (done.stdout.strip().splitlines() or ["nothing"])[-1].strip("= ")
        rows.append((name, threads, "random" if shuffled else "as written", last))
        print(f"{name}: {last}, {minutes:.0f} minutes", *failed, sep="\n  ", flush=True)
        if done.returncode != 0 and not failed:
            print(done.stdout[-4000:])
    print("\n| setting | threads | order | result |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    return int(any("failed" in row[-1] or "error" in row[-1] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
