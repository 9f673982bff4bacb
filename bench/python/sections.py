"""Pages of measurements whose sections are measured, kept and written one by one.

The results are kept in a JSON file, a section a line. The page has the tables of a section between
the marks `<!-- NAME -->` and `<!-- end -->`, with text that people write around them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import threadpoolctl
import torch

from machine import processor

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "measurements"

#: How the results of a section are measured, and how its tables are written; pictures go into the
#: folder.
Section = tuple[Callable[[bool], Any], Callable[[Any, Path], str]]


def one_processor() -> None:
    """Stay on one thread and one processor."""
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def machine(packages: Iterable[str]) -> str:
    """The machine and the versions of a run."""
    versions = ", ".join(f"{name} {version}" for name, version in _versions(packages))
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return f"{processor()}, one thread; commit {commit}, {date.today()}; {versions}."


def _versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in packages:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if importlib.util.find_spec(name):
                yield name, "from its repository"


def read(data: Path) -> dict[str, Any]:
    """All results so far, by section."""
    found: dict[str, Any] = json.loads(data.read_text()) if data.exists() else {}
    return found


def written(found: Mapping[str, Any]) -> str:
    """All results as JSON, a section a line."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(each, allow_nan=False)}" for name, each in found.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def rounded(results: Any) -> Any:
    """The results with numbers of four digits."""
    if isinstance(results, dict):
        return {name: rounded(each) for name, each in results.items()}
    if isinstance(results, (list, tuple)):
        return [rounded(each) for each in results]
    return float(f"{results:.4g}") if isinstance(results, float) else results


def filled(page: str, sections: Mapping[str, str]) -> str:
    """The page with the tables of the sections between their marks."""
    for name, text in sections.items():
        marked = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        page = re.sub(marked, lambda m, text=text: m[1] + text + m[2], page, flags=re.DOTALL)
    return page


def arguments(
    name: str, description: str, sections: Iterable[str]
) -> tuple[argparse.Namespace, Path]:
    """Return the arguments of a program that writes a page, and the folder for its results."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="use small sizes, for a try in seconds"
    )
    parser.add_argument("--page", action="store_true", help="measure nothing; write the page")
    parser.add_argument(
        "--only", nargs="+", choices=list(sections), help="measure these sections only"
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help=f"where results are written (default: docs/measurements; with --quick build/{name})",
    )
    options = parser.parse_args()
    out = options.to or (ROOT / "build" / name if options.quick else FOLDER)
    out.mkdir(parents=True, exist_ok=True)
    return options, out


def main(name: str, description: str, sections: Mapping[str, Section]) -> None:
    """Measure sections of a page, and write the page; the arguments are those of the program."""
    options, out = arguments(name, description, sections)
    one_processor()
    data = out / f"{name}.json"
    for each in [] if options.page else dict.fromkeys((*(options.only or sections), "machine")):
        start = time.perf_counter()
        results = rounded(sections[each][0](options.quick))
        found = read(data)  # again: another run may have written other sections
        data.write_text(written(found | {each: results}))
        print(f"{each}: {time.perf_counter() - start:.0f} s", flush=True)
    page = out / f"{name}.md"
    text = (page if page.exists() else FOLDER / page.name).read_text()
    tables = {each: sections[each][1](results, out) for each, results in read(data).items()}
    page.write_text(filled(text, tables))
