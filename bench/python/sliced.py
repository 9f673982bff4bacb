"""Write the tables and the pictures of docs/measurements/sliced.md.

    python bench/python/sliced.py [--quick] [--only NAME ...] [--page] [--to FOLDER]

The script measures the errors of laplex.sliced and of its error bars, and its times beside those of
simple_torch_NFFT, KeOps and dense torch, as far as they are installed, on one thread that stays on
one processor. Times are process CPU times, the minimum over interleaved rounds.

Results go into docs/measurements/sliced.json, section by section, and the page is written from
there; --page only writes the page. A run takes about ten minutes, and half a minute with --quick.
"""

from __future__ import annotations

import importlib.util

import sections
import sliced_errors
import sliced_times

PACKAGES = ("torch", "simple_torch_NFFT", "pykeops")


def machine(quick: bool) -> str:
    """The machine, and which libraries are missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    text = sections.machine(PACKAGES)
    return text + (f" Not installed: {', '.join(missing)}." if missing else "") + "\n"


SECTIONS: dict[str, sections.Section] = {
    "errors": (sliced_errors.measured, sliced_errors.section),
    "kernels": (sliced_errors.measured_kernels, sliced_errors.section_kernels),
    "times": (sliced_times.measured, sliced_times.section),
    "machine": (machine, lambda text, folder: text),
}

if __name__ == "__main__":
    assert __doc__
    sections.main("sliced", __doc__, SECTIONS)
