"""The section on accuracy against cost: curves, budgets, baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from ..._support.html_pages import Table
from ..arrays import Array
from ..evaluation.comparison import Comparison
from ..evaluation.curves import Curve
from ..evaluation.result import Evaluation
from ..runs.study import Study
from .figures import baselines
from .number_formats import percent, spread

#: Maximum number of panels in the figure of baselines.
_PANELS = 6


def tradeoff(study: Study) -> dict[str, Any]:
    """The contents of the section."""
    groups = study.comparison.groups
    protocols = {one.protocol for runs in groups.values() for one in runs}
    networks = _networks(groups)
    return {
        "groups": len(groups),
        "notes": study.notes,
        "protocol": _protocol(protocols),
        "swept": protocols != {"validation"},
        "curves": study.comparison.plot() if len(groups) > 1 else None,
        "budgets": _budgets(study),
        "repeated": any(len(runs) > 1 for runs in groups.values()),
        "ranking": _ranking(study.comparison.values()),
        "baselines": baselines(dict(list(networks.items())[:_PANELS])),
        "baseline_table": _baselines(networks, study.comparison),
        "panels": min(len(networks), _PANELS),
        "left_out": len(networks) < len(groups) or len(networks) > _PANELS,
        "points": _points(groups),
    }


def _protocol(protocols: set[str]) -> str:
    if protocols == {"validation"}:
        return (
            "Thresholds were fitted on validation samples, and all numbers are for other samples. "
            "This is the accuracy that you can expect in use."
        )
    text = (
        "Thresholds were swept on the same samples that are evaluated, as some papers do. The "
        "curve therefore shows thresholds that could not have been chosen beforehand."
    )
    if len(protocols) > 1:
        text = (
            "The groups use different protocols, so they cannot be compared. In some groups, the "
            f"following holds: {text}"
        )
    return text


def _budgets(study: Study) -> Table:
    values = study.comparison.values()
    columns = [*(f"at {budget:.0%}" for budget in study.comparison.budgets), "area", "full"]
    rows = [
        [name, str(len(study.comparison.groups[name]))]
        + [spread(found[column], parts=True) for column in columns]
        for name, found in values.items()
    ]
    best = []
    if len(rows) > 1:
        for place, column in enumerate(columns):
            means = np.array([found[column].mean() for found in values.values()])
            if not np.isnan(means).all():
                best.append((int(np.nanargmax(means)), place + 2))
    return Table(["", "runs", *columns], rows, best)


def _ranking(values: Mapping[str, Mapping[str, Array]]) -> str:
    """A sentence on which group has the largest area, and how reliable that is."""
    areas = {name: found["area"] for name, found in values.items()}
    defined = {name: one for name, one in areas.items() if not np.isnan(one).any()}
    if len(defined) < 2:
        return "Areas are undefined for all but one group, so the groups cannot be ranked."
    first, second = sorted(defined, key=lambda name: -float(defined[name].mean()))[:2]
    ahead = float(defined[first].mean() - defined[second].mean())
    text = (
        f"The group “{first}” has the largest area, {percent(float(defined[first].mean()))}; the "
        f"group “{second}” is next, {100 * ahead:.1f} points behind. "
    )
    if min(len(defined[first]), len(defined[second])) < 2:
        return text + (
            "At least one of the two has only one run, so another seed may reverse the order."
        )
    error = _standard_error(defined[first], defined[second])
    if ahead < 2 * error:
        return text + (
            f"The difference has a standard error of {100 * error:.1f} points, so the order may be "
            "due to chance."
        )
    return text + f"The difference has a standard error of {100 * error:.1f} points."


def _standard_error(first: Array, second: Array) -> float:
    """Standard error of the difference of two means over independent runs."""
    return float(np.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second)))


def _networks(groups: Mapping[str, Sequence[Evaluation]]) -> dict[str, Sequence[Evaluation]]:
    """The distinct networks among the groups, under the common start of the groups' names.

    The same networks evaluated in several ways have different policies but the same baselines.
    """
    alike: dict[bytes, list[str]] = {}
    for name, runs in groups.items():
        key = b"".join(one.static.accuracy.tobytes() + one.static.cost.tobytes() for one in runs)
        alike.setdefault(key, []).append(name)
    found: dict[str, Sequence[Evaluation]] = {}
    for names in alike.values():
        columns = zip(*(name.split(", ") for name in names), strict=False)
        short = ", ".join(parts[0] for parts in takewhile(lambda one: len(set(one)) == 1, columns))
        found[short if short and short not in found else names[0]] = groups[names[0]]
    return found


def _baselines(networks: Mapping[str, Sequence[Evaluation]], comparison: Comparison) -> Table:
    budgets = comparison.budgets
    curves: dict[str, Callable[[Evaluation], Curve]] = {
        "single exit": lambda one: one.static,
        "random": lambda one: one.random,
        "oracle": lambda one: one.oracle,
    }
    rows = []
    for name, runs in networks.items():
        for label, curve in curves.items():
            found = np.mean([curve(one).accuracy_at(budgets) for one in runs], axis=0)
            area = float(np.mean([curve(one).area_from(comparison.low) for one in runs]))
            rows.append([f"{name}: {label}", *map(percent, found), percent(area)])
    return Table(["", *(f"at {budget:.0%}" for budget in budgets), "area"], rows)


def _points(groups: Mapping[str, Sequence[Evaluation]]) -> Table | None:
    """Accuracy and cost of the policies with their own thresholds, if there are any."""
    rows = [
        [
            name,
            point.policy,
            percent(point.accuracy),
            percent(point.cost),
            ", ".join(percent(float(share), 0) for share in point.shares),
        ]
        for name, runs in groups.items()
        for point in (one.operating_point for one in runs)
        if point is not None
    ]
    columns = ["", "policy", "accuracy", "mean cost", "samples that leave, by exit"]
    return Table(columns, rows) if rows else None
