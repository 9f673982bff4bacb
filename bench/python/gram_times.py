"""Times of log densities and their gradients: the tables, the ratios and the picture."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cells import power, seconds, slope, table
from gram_forms import FORMS, Problem
from gram_rivals import (
    COMPILED,
    DENSE,
    GRADIENTS,
    OURS,
    RIVALS,
    SHO_OF_CELERITE,
    VALUE,
    tasks,
)
from measure import measure

SIZES = (50, 10**3, 10**4, 10**5, 10**6)
#: Whose times are divided: with and without a library for derivatives, each beside its like.
PAIRS = (
    (VALUE, "laplex", "celerite2"),
    (VALUE, COMPILED, "celerite2"),
    (VALUE, "laplex", "tinygp"),
    (VALUE, "laplex", "GPyTorch, CG"),
    (GRADIENTS, COMPILED, "celerite2"),
    (GRADIENTS, "laplex", "celerite2"),
    (GRADIENTS, "laplex", "celerite2 through jax"),
    (GRADIENTS, "laplex", "tinygp"),
    (GRADIENTS, "laplex", "GPyTorch, CG"),
)
#: What has to be at least as fast as what else: (form, what, ours, theirs).
TARGETS = (
    *(
        (form, what, "laplex", "celerite2")
        for form in ("real", "cosine")
        for what in (VALUE, GRADIENTS)
    ),
    *(
        ("matern32", what, ours, SHO_OF_CELERITE)
        for what in (VALUE, GRADIENTS)
        for ours in ("laplex", COMPILED)
    ),
)

#: Seconds by form, what, who and n; the sizes are text, as JSON has them.
Times = dict[str, dict[str, dict[str, dict[str, float]]]]


def measured(n: int, quick: bool) -> Times:
    """Measure everyone at one size, in interleaved rounds."""
    times: Times = {}
    for form in FORMS:
        found = tasks(Problem.draw(n, form), dict.fromkeys(DENSE, 10**3))
        # Those with n x n matrices sweep the caches: rounds of their own.
        groups: dict[bool, dict[str, Callable[[], Any]]] = {False: {}, True: {}}
        for (who, what), task in found.items():
            groups[who in DENSE][f"{who} / {what}"] = task
        for dense, group in groups.items():
            rounds, budget = (2, 1.0) if quick else (15, 5.0 if dense else 15.0)
            for name, best in measure(group, rounds=rounds, budget=budget).items():
                who, what = name.split(" / ")
                by_who = times.setdefault(form, {}).setdefault(what, {})
                by_who.setdefault(who, {})[str(n)] = best
        print(f"times, n = {n}, {form}: done", flush=True)
    return times


def measured_dense(quick: bool) -> dict[str, Any]:
    """Run what has n x n matrices once for many points."""
    n = 2000 if quick else 10**4
    largest = {name: 0 if name == "scikit-learn" else n for name in DENSE}
    times: dict[str, dict[str, float]] = {}
    for (who, what), task in tasks(Problem.draw(n, "matern32"), largest).items():
        if who in DENSE:
            start = time.process_time()
            task()
            times.setdefault(who, {})[what] = time.process_time() - start
    print("dense: done", flush=True)
    return {"n": n, "times": times}


def section_dense(found: dict[str, Any], folder: Path) -> str:
    rows = [
        [who, *(seconds(by_what[what]) for what in (VALUE, GRADIENTS))]
        for who, by_what in found["times"].items()
    ]
    return table([f"Matern-3/2, n = {power(found['n'])}", VALUE, GRADIENTS], rows)


def section(times: Times, folder: Path) -> str:
    """The tables; the picture is written into the folder."""
    _draw(times, folder)
    parts = [_targets(times)]
    parts += [_table(form, by_what) for form, by_what in times.items()]
    return "\n".join([*parts, _ratios(times)])


def _sizes(times: Times) -> list[str]:
    found = {n for what in times.values() for who in what.values() for t in who.values() for n in t}
    return sorted(found, key=int)


def merged(times: Times, more: Times) -> Times:
    """Times of several sizes."""
    for form, by_what in more.items():
        for what, by_who in by_what.items():
            for who, points in by_who.items():
                known = times.setdefault(form, {}).setdefault(what, {})
                known[who] = known.get(who, {}) | points
    return times


def _head(sizes: list[str]) -> list[str]:
    return [f"n = {power(int(n))}" for n in sizes]


def _quotients(times: Times, form: str, what: str, ours: str, theirs: str) -> list[str] | None:
    by_who = times[form][what]
    if ours not in by_who or theirs not in by_who:
        return None
    one, two = by_who[theirs], by_who[ours]
    return [f"{one[n] / two[n]:.2f}" if n in one and n in two else "" for n in _sizes(times)]


def _targets(times: Times) -> str:
    rows = []
    for form, what, ours, theirs in TARGETS:
        cells = _quotients(times, form, what, ours, theirs)
        if cells:
            missed = [f"**{cell}**" if cell and float(cell) < 1 else cell for cell in cells]
            rows.append([FORMS[form].title, what, theirs, ours, *missed])
    head = ["target: at least 1", "", "time of", "over the time of", *_head(_sizes(times))]
    return table(head, rows)


def _table(form: str, by_what: dict[str, dict[str, dict[str, float]]]) -> str:
    sizes = _sizes({form: by_what})
    rows = []
    for what in (VALUE, GRADIENTS):
        for who in (*OURS, *RIVALS):
            points = by_what[what].get(who)
            if points:
                cells = [seconds(points.get(n)) for n in sizes]
                steep = {int(n): t for n, t in points.items() if int(n) >= 10**4}
                exponent = f"{slope(steep):.2f}" if len(steep) > 1 else ""
                rows.append([what, who, *cells, exponent])
    return table([FORMS[form].title, "", *_head(sizes), "exponent"], rows)


def _ratios(times: Times) -> str:
    rows = []
    for form in times:
        for what, ours, theirs in PAIRS:
            cells = _quotients(times, form, what, ours, theirs)
            if cells and any(cells):
                rows.append([FORMS[form].title, what, theirs, ours, *cells])
    head = ["term", "", "time of", "over the time of", *_head(_sizes(times))]
    return table(head, rows)


def _draw(times: Times, folder: Path) -> None:
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    shown = [who for who in (*OURS, *RIVALS) if who not in ("laplex, every gradient", COMPILED)]
    colours = {who: f"C{i}" for i, who in enumerate(shown)}
    axes = figure.subplots(2, 4, sharex=True, sharey=True)
    labels: dict[str, Any] = {}
    for ax, form in zip(axes.flat, FORMS, strict=True):
        for what, by_who in times[form].items():
            for who in shown:
                points = by_who.get(who, {})
                line, marker = ("-", "o") if what == GRADIENTS else (":", ".")
                sizes = sorted(points, key=int)
                x, y = [int(n) for n in sizes], [points[n] for n in sizes]
                (drawn,) = ax.plot(x, y, line, marker=marker, ms=4, color=colours[who])
                if points and what == GRADIENTS:
                    labels.setdefault(who, drawn)
        ax.set(xscale="log", yscale="log", title=FORMS[form].title)
        ax.grid(alpha=0.3)
    for ax in axes[-1]:
        ax.set_xlabel("n")
    for ax in axes[:, 0]:
        ax.set_ylabel("CPU time in seconds")
    figure.legend(
        list(labels.values()),
        list(labels),
        loc="outside lower center",
        ncols=5,
        fontsize=9,
        title="solid: log density and gradients; dotted: log density alone",
        title_fontsize=9,
    )
    figure.savefig(folder / "gram_times.png", dpi=100)
