"""Write the tables and the pictures of docs/measurements/gram.md.

    python bench/python/gram.py [--quick] [--only NAME ...] [--sizes N ...]
        [--before FOLDER] [--page]

The script compares laplex.gram with celerite2, tinygp, GPyTorch and scikit-learn, on one thread
that stays on one processor; tinygp and celerite2's interface to jax only where jax is installed.
Times are process CPU times, the minimum over interleaved rounds. FOLDER contains another version
of the package `laplex`, with which times are compared.

Results go into docs/measurements/gram.json, section by section, and the page is written from
there; --page only writes the page. A run takes about twenty minutes. With --quick it takes two
minutes and writes into build/gram.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gram_accuracy
import gram_agreement
import gram_before
import gram_memory
import gram_refusals
import gram_samples
import gram_times
import sections
from gram_rivals import HAS_JAX


def machine() -> str:
    """The machine and the versions of a run."""
    text = sections.machine(("torch", "celerite2", "jax", "tinygp", "gpytorch", "scikit-learn"))
    if not HAS_JAX:
        text += " jax is not installed, so celerite2's interface to it and tinygp are not measured."
    return text + "\n"


Options = argparse.Namespace
#: By section of the page: what is measured, and what is written of it into a folder.
SECTIONS: dict[str, tuple[Callable[[Options], Any] | None, Callable[[Any, Path], str]]] = {
    "accuracy": (lambda o: gram_accuracy.measured(o.quick), gram_accuracy.section),
    "refusals": (lambda o: gram_refusals.measured(), gram_refusals.section),
    "agreement": (lambda o: gram_agreement.measured(o.quick), gram_agreement.section),
    "before": (lambda o: gram_before.measured(o.before, o.quick), gram_before.section),
    "memory": (lambda o: gram_memory.measured(o.quick, __file__), gram_memory.section),
    "samples": (lambda o: gram_samples.measured(o.quick), gram_samples.section),
    "times": (None, gram_times.section),  # see _steps
    "dense": (lambda o: gram_times.measured_dense(o.quick), gram_times.section_dense),
    "machine": (lambda o: machine(), lambda text, folder: text),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="use small sizes; write to build/gram")
    parser.add_argument("--page", action="store_true", help="measure nothing; write the page")
    parser.add_argument(
        "--before", type=Path, metavar="FOLDER", help="another version to compare times with"
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), help="measure these sections only"
    )
    parser.add_argument(
        "--sizes", nargs="+", type=int, metavar="N", help="sizes for the times (default: all)"
    )
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sections.one_processor()
    if options.peak:
        gram_memory.print_peak(*json.loads(options.peak))
        return
    out = sections.ROOT / "build" / "gram" if options.quick else sections.FOLDER
    out.mkdir(parents=True, exist_ok=True)
    data, page = out / "gram.json", out / "gram.md"
    for name, measure in _steps(options):
        start = time.perf_counter()
        results = sections.rounded(measure())
        found = sections.read(data)  # again: another run may have written other sections
        found[name] = (
            gram_times.merged(found.get(name, {}), results) if name == "times" else results
        )
        data.write_text(sections.written(found))
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    text = (page if page.exists() else sections.FOLDER / page.name).read_text()
    tables = {name: SECTIONS[name][1](each, out) for name, each in sections.read(data).items()}
    page.write_text(sections.filled(text, tables))


def _steps(options: Options) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What to measure: sections, and for the section of times one size after the other."""
    if options.page:
        return
    names = options.only or [name for name in SECTIONS if name != "before" or options.before]
    for name in dict.fromkeys((*names, "machine")):
        measure = SECTIONS[name][0]
        if measure:
            yield name, partial(measure, options)
            continue
        for n in options.sizes or gram_times.SIZES[: 3 if options.quick else None]:
            yield name, partial(gram_times.measured, n, options.quick)


if __name__ == "__main__":
    main()
