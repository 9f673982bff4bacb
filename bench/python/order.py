"""Write the tables and the picture of docs/measurements/order.md.

    python bench/python/order.py [--quick] [--only NAME ...] [--page] [--to FOLDER]

The script compares laplex.order with torchsort, torchpsort, fast-soft-sort, LapSum, diffsort,
difftopk and dense sums in torch, as far as they are installed, on one thread that stays on one
processor. Times are process CPU times, the minimum over interleaved rounds.

Results go into docs/measurements/order.json, section by section, and the page is written from
there; --page only writes the page. A run takes about ten minutes, and half a minute with --quick.
"""

from __future__ import annotations

import order_accuracy
import order_limits
import order_times
import sections
from order_methods import FOUND, LIBRARIES

PACKAGES = ("torch", "torchsort", "torchpsort", "fast_soft_sort", "lapsum", "diffsort", "difftopk")


def machine(quick: bool) -> str:
    """The machine, and which libraries are missing."""
    missing = sorted({name.partition(".")[0] for name in LIBRARIES if name not in FOUND})
    text = sections.machine(PACKAGES)
    return text + (f" Not installed: {', '.join(missing)}." if missing else "") + "\n"


SECTIONS: dict[str, sections.Section] = {
    "times": (order_times.measured, order_times.section),
    "temperatures": (order_times.measured_temperatures, order_times.section_temperatures),
    "accuracy": (order_accuracy.measured, order_accuracy.section),
    "limits": (order_limits.measured, order_limits.section),
    "machine": (machine, lambda text, folder: text),
}

if __name__ == "__main__":
    assert __doc__
    sections.main("order", __doc__, SECTIONS)
