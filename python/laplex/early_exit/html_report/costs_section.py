"""The section on costs: counted, and by the clock."""

from __future__ import annotations

from ..costs import Costs
from ..runs.study import Study
from ..timing import Timing
from .pieces import heading, paragraph, percent, table


def costs(study: Study) -> str:
    """The section as HTML."""
    parts = [
        paragraph(
            "Cost is counted in multiply-adds: one multiplication with the addition of its "
            "result, of which matrix products, convolutions and attention are made. Papers count "
            "differently (a multiply-add is two flops, and many say “FLOPs” for multiply-adds), so "
            "that curves here use parts of the plain backbone. A sample that leaves at an exit has "
            "paid for the network up to there and for every head that it was asked at."
        )
    ]
    for names, found in _distinct(study.costs):
        parts += [heading(", ".join(names)), _counted(found)]
    if not study.costs:
        parts.append(_relative(study))
    parts.append(heading("By the clock"))
    if not study.timing:
        parts.append(
            "<p class=note>Not measured: <code>laplex exits evaluate --timing</code> does, or pass "
            "<code>timing={name: time_exits(...)}</code>.</p>"
        )
        return "\n".join(parts)
    parts.append(
        paragraph(
            "Real exits, with what lies behind an exit truly not computed, against the plain "
            "backbone and against all exits. The minimum says what the work takes, the median what "
            "a user waits. Small networks save less by the clock than by the count: deciding, and "
            "taking samples out of a batch, takes time that is not counted."
        )
    )
    for name, timing in study.timing.items():
        parts += [heading(name), _timed(timing)]
    return "\n".join(parts)


def _counted(found: Costs) -> str:
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
    return paragraph(f"In {found.convention}, for one sample.", "note") + table(
        [*columns, "parameters"], rows
    )


def _relative(study: Study) -> str:
    rows = []
    for name, runs in study.comparison.groups.items():
        shown = ", ".join(
            f"{exit_name} {percent(float(cost))}"
            for exit_name, cost in zip(runs[0].exit_names, runs[0].costs, strict=True)
        )
        rows.append([name, shown])
    return table(["", "of the plain backbone, leaving at"], rows)


def _timed(found: Timing) -> str:
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
    threads = f"{found.threads} thread{'s' if found.threads != 1 else ''}"
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    extreme = " A threshold of -inf lets everybody go, one of inf nobody."
    return table(columns, rows) + paragraph(
        f"{found.policy}; {found.repeats} passes over {found.runs[0].samples} samples on "
        f"{found.device}, {threads}; {versions}.{extreme if 'inf' in found.policy else ''}",
        "note",
    )


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
