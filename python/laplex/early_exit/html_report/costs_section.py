"""The section on costs: counted, and by the clock."""

from __future__ import annotations

from typing import Any

from ..._support.html_pages import Table
from ..costs import Costs
from ..runs.study import Study
from ..timing import Timing
from .number_formats import percent


def costs(study: Study) -> dict[str, Any]:
    """What the section shows."""
    return {
        "counted": [
            {"names": names, "convention": found.convention, "exits": _counted(found)}
            for names, found in _distinct(study.costs)
        ],
        "relative": _relative(study),
        "timed": [
            {"name": name, "timing": timing, "ways": _timed(timing)}
            for name, timing in study.timing.items()
        ],
    }


def _counted(found: Costs) -> Table:
    rows = [
        [name, f"{segment:,.0f}", head, f"{cost:,.0f}", percent(float(part)), parameters]
        for name, segment, head, cost, part, parameters in zip(
            found.exit_names,
            found.segments,
            [*(f"{one:,.0f}" for one in found.heads), "–"],
            found.exits,
            found.relative,
            [*(f"{one:,}" for one in found.head_parameters), "–"],
            strict=True,
        )
    ]
    plain = f"{found.backbone:,.0f}"
    rows.append(["plain backbone", plain, "–", plain, "100.0 %", f"{found.backbone_parameters:,}"])
    columns = ["exit", "segment before it", "its head", "leaving here", "of the backbone"]
    return Table([*columns, "parameters"], rows)


def _relative(study: Study) -> Table:
    rows = []
    for name, runs in study.comparison.groups.items():
        shown = ", ".join(
            f"{exit_name} {percent(float(cost))}"
            for exit_name, cost in zip(runs[0].exit_names, runs[0].costs, strict=True)
        )
        rows.append([name, shown])
    return Table(["", "of the plain backbone, leaving at"], rows)


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
    columns = ["", "ms a sample (minimum)", "(median)", "time, of the backbone", "counted cost"]
    return Table(columns, rows)


def _distinct(found: dict[str, Costs]) -> list[tuple[list[str], Costs]]:
    """Costs that several runs share, once."""
    listed: list[tuple[list[str], Costs]] = []
    for name, one in found.items():
        for names, other in listed:
            if one.to_dict() == other.to_dict():
                names.append(name)
                break
        else:
            listed.append(([name], one))
    return listed
