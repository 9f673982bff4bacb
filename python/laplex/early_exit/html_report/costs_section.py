"""The section on counted costs and measured times."""

from __future__ import annotations

from typing import Any

from ..._support.html_pages import Table
from ..costs import Costs
from ..runs.study import Study
from ..timing import Timing
from .number_formats import percent

_COLUMNS = (
    "exit", "segment before it", "its head", "sample that leaves here", "relative to the backbone",
    "parameters",
)  # fmt: skip


def costs(study: Study) -> dict[str, Any]:
    """The contents of the section."""
    return {
        "counted": [
            {
                "names": names,
                "convention": found.convention,
                "exits": Table(_COLUMNS, found.cells(" %", "–")),
            }
            for names, found in _distinct(study.costs)
        ],
        "relative": _relative(study),
        "timed": [
            {"name": name, "timing": timing, "ways": _timed(timing)}
            for name, timing in study.timing.items()
        ],
    }


def _relative(study: Study) -> Table:
    rows = []
    for name, runs in study.comparison.groups.items():
        shown = ", ".join(
            f"{exit_name} {percent(float(cost))}"
            for exit_name, cost in zip(runs[0].exit_names, runs[0].costs, strict=True)
        )
        rows.append([name, shown])
    return Table(["", "cost by exit, relative to the plain backbone"], rows)


def _timed(found: Timing) -> Table:
    rows = []
    for one in found.runs:
        plain = found.run("backbone", one.batch_size)
        rows.append(
            [
                f"{one.way}, batch of {one.batch_size}",
                f"{1e3 * one.seconds_min:.4g}",
                f"{1e3 * one.seconds_median:.4g}",
                percent(one.seconds_min / plain.seconds_min),
                percent(one.counted),
            ]
        )
    columns = [
        "",
        "ms per sample (minimum)",
        "ms per sample (median)",
        "time relative to the backbone",
        "counted cost",
    ]
    return Table(columns, rows)


def _distinct(found: dict[str, Costs]) -> list[tuple[list[str], Costs]]:
    """The distinct costs, each with the names of the runs that share it."""
    listed: list[tuple[list[str], Costs]] = []
    for name, one in found.items():
        for names, other in listed:
            if one.to_dict() == other.to_dict():
                names.append(name)
                break
        else:
            listed.append(([name], one))
    return listed
