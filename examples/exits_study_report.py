"""Tables and pictures of the study of training strategies: `exits_study.py --report` calls this."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from laplex.early_exit.evaluation.correlations import correlation

Array = NDArray[np.float64]
Run = dict[str, Any]

STRATEGIES = ("disjoint", "joint", "mixed")
COLOURS = dict(zip(STRATEGIES, ("#888888", "#1f77b4", "#d62728"), strict=True))
CURVE = np.linspace(0.05, 1, 20)  # the mean costs at which a run's curve is kept
HALF, THREE_QUARTERS = 9, 14  # places of .5 and .75 in it
TASKS = ("resnet", "msdnet", "text", "table")


def read(folder: Path) -> list[Run]:
    """All finished runs in a folder but those of the search for learning rates."""
    files = [folder / f"{task}.jsonl" for task in TASKS]
    lines = [
        json.loads(x) for file in files if file.exists() for x in file.read_text().splitlines()
    ]
    return [one for one in lines if "scores" in one]


# --- numbers of one run -----------------------------------------------------------------------


def excess(run: Run, score: str = "softmax") -> float:
    """E-AURC (Geifman et al. 2019): AURC less that of a perfect ranking, mean over early exits."""
    wrong = 1 - np.array(run["accuracy"][:-1])
    best = wrong + (1 - wrong) * np.log(np.maximum(1 - wrong, 1e-12))
    return float(run["scores"][score]["aurc"] - best.mean())


def _score(name: str) -> Callable[..., float]:
    return lambda run, score="softmax": _number(run["scores"][score][name])


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


#: What may go with the area under the curve, as functions of a run and a score.
MEASURES: dict[str, Callable[..., float]] = {
    "first exit's accuracy": lambda run, score="softmax": float(run["accuracy"][0]),
    "mean exit accuracy": lambda run, score="softmax": float(np.mean(run["accuracy"][:-1])),
    "ECE": _score("ece"),
    "AUROC": _score("auroc"),
    "E-AURC": excess,
    "EEFP": _score("eefp"),
}
area = _score("area")


def values(measure: Callable[..., float], runs: Sequence[Run]) -> Array:
    """A measure of each run."""
    return np.array([measure(run) for run in runs])


# --- correlations -----------------------------------------------------------------------------


def correlations(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Correlations of each measure with the area: measure -> kind -> number.

    "given accuracy" is partial, given the mean accuracy of the early exits; "within" is over runs
    that differ in nothing but the seed; "scores" is over the three scores of the same network.
    """
    y, accuracy = values(area, runs), values(MEASURES["mean exit accuracy"], runs)
    names = [_group(run) for run in runs]
    groups = np.array([names.index(name) for name in names])
    ways = list(runs[0]["scores"])
    networks, three = np.repeat(np.arange(len(runs)), len(ways)), np.repeat(accuracy, len(ways))
    areas = np.array([area(run, way) for run in runs for way in ways])
    found = {}
    for name, measure in MEASURES.items():
        one = correlation(name, values(measure, runs), y, accuracy, groups)
        x = np.array([measure(run, way) for run in runs for way in ways])
        scores = correlation(name, x, areas, three, networks).within
        found[name] = {
            "Pearson": one.pearson,
            "Spearman": one.spearman,
            "given accuracy": one.partial,
            "within": one.within,
            "scores": scores,
        }
    return found


def _group(run: Run) -> tuple[Any, ...]:
    return tuple(run[key] for key in ("task", "head", "strategy", "budget"))


# --- tables -----------------------------------------------------------------------------------


def spread(x: Iterable[float], digits: int = 1, scale: float = 100) -> str:
    """Mean and standard deviation; a dash where undefined."""
    found = scale * np.array(list(x), float)
    if np.isnan(found).any() or not len(found):
        return "-"
    more = f" ± {found.std(ddof=1):.{digits}f}" if len(found) > 1 else ""
    return f"{found.mean():.{digits}f}{more}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def chosen(runs: Iterable[Run], **which: Any) -> list[Run]:
    """The runs with given values of their columns, by seed."""
    found = [run for run in runs if all(run[key] == value for key, value in which.items())]
    return sorted(found, key=lambda run: run["seed"])


def column(runs: Sequence[Run], key: str) -> list[Any]:
    """The distinct values of a column, in the order in which they appear."""
    return list(dict.fromkeys(run[key] for run in runs))


def accuracies(runs: Sequence[Run]) -> str:
    """Accuracy by kind of head, budget and strategy, for one task."""
    rows = []
    for head, budget, strategy in product(column(runs, "head"), column(runs, "budget"), STRATEGIES):
        own = chosen(runs, head=head, budget=budget, strategy=strategy)
        if own:
            at = np.array([run["scores"]["softmax"]["at"] for run in own])
            rows.append(
                [
                    head,
                    "+".join(f"{x:.0f}" for x in np.mean([run["epochs"] for run in own], 0)),
                    strategy,
                    *(spread(at[:, place]) for place in (HALF, THREE_QUARTERS)),
                    spread(run["accuracy"][-1] for run in own),
                    spread(values(area, own)),
                    spread(run["accuracy"][0] for run in own),
                    *(spread(values(MEASURES[name], own), 3, 1) for name in ("ECE", "EEFP")),
                    str(len(own)),
                ]
            )
    return markdown(
        ["head", "epochs", "strategy", "at 50 %", "at 75 %", "last exit", "area", "first exit",
         "ECE", "EEFP", "n"], rows,
    )  # fmt: skip


def gaps(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Joint less mixed training with the same seed, in points: at half cost, and area.

    Equal "by total": both have as many epochs. "By phase": mixed training's second phase has as
    many epochs as joint training, and its first phase comes on top.
    """
    found = []
    for task, head, budget in product(*(column(runs, key) for key in ("task", "head", "budget"))):
        own = chosen(runs, task=task, head=head)
        joint = {run["seed"]: run for run in chosen(own, strategy="joint", budget=budget)}
        for by, other in (("total", budget), ("phase", 2 * budget)):
            if by == "phase" and isinstance(budget, str):
                continue
            mixed = {run["seed"]: run for run in chosen(own, strategy="mixed", budget=other)}
            pairs = [(joint[seed], mixed[seed]) for seed in sorted(joint.keys() & mixed.keys())]
            if pairs:
                parts = {"area": area, "half": lambda run: run["scores"]["softmax"]["at"][HALF],
                         "last": lambda run: run["accuracy"][-1]}  # fmt: skip
                points = {
                    name: np.array([100 * (part(a) - part(b)) for a, b in pairs])
                    for name, part in parts.items()
                }
                found.append({"task": task, "head": head, "budget": budget, "by": by, **points})
    return found


def gap_table(runs: Sequence[Run]) -> str:
    """Joint less mixed training, by task, head and budget."""
    rows = [
        [
            one["task"], one["head"], str(one["budget"]), one["by"],
            *(spread(one[name], 1, 1) for name in ("half", "area", "last")),
            f"{int((one['area'] > 0).sum())} of {len(one['area'])}",
        ]
        for one in gaps(runs)
    ]  # fmt: skip
    return markdown(
        ["task", "head", "epochs of joint", "equal by", "at 50 %", "area", "last exit",
         "seeds in which joint's area is larger"], rows,
    )  # fmt: skip


def correlation_table(runs: Sequence[Run]) -> str:
    """Correlations with the area, by task."""
    rows = []
    for task in column(runs, "task"):
        own = chosen(runs, task=task)
        if len(own) > 3:
            rows += [
                [task if place == 0 else "", str(len(own)) if place == 0 else "", name,
                 *("-" if np.isnan(x) else f"{x:.2f}" for x in kinds.values())]
                for place, (name, kinds) in enumerate(correlations(own).items())
            ]  # fmt: skip
    return markdown(
        ["task", "runs", "measure", "Pearson", "Spearman", "given accuracy", "within groups",
         "within networks"], rows,
    )  # fmt: skip


def score_table(runs: Sequence[Run]) -> str:
    """What temperature scaling and score heads change, by task and strategy, network by network."""
    rows = []
    for task, strategy in product(column(runs, "task"), STRATEGIES):
        own = chosen(runs, task=task, strategy=strategy)
        for way in list(own[0]["scores"])[1:] if own else []:
            change = {
                name: np.array([measure(run, way) - measure(run) for run in own])
                for name, measure in (("area", area), *MEASURES.items())
            }
            rows.append(
                [task, strategy, way, spread(change["area"], 2),
                 *(spread(change[name], 3, 1) for name in ("ECE", "AUROC", "EEFP")), str(len(own))]
            )  # fmt: skip
    return markdown(
        ["task", "strategy", "score", "area, points", "ECE", "AUROC", "EEFP", "n"], rows
    )


def rate_table(folder: Path) -> str:
    """The learning rates that the search chose."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for run in read(folder):
        rates = " / ".join(f"{x:g}" for x in run["used"])
        found.setdefault((run["task"], run["head"]), {})[run["strategy"]] = rates
    rows = [[*key, *(own.get(one, "-") for one in STRATEGIES)] for key, own in found.items()]
    return markdown(["task", "head", *STRATEGIES], rows)


# --- pictures ---------------------------------------------------------------------------------


def curves_figure(runs: Sequence[Run]) -> Figure:
    """Accuracy against mean cost, with bands of a standard deviation: a column for each budget."""
    kinds = list(dict.fromkeys((run["task"], run["head"]) for run in runs))
    width = max(len(column(chosen(runs, task=task), "budget")) for task, _ in kinds)
    figure = Figure(figsize=(2.9 * width, 2.3 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds), width, squeeze=False, sharey="row")
    for row, (task, head) in zip(axes, kinds, strict=True):
        budgets = column(chosen(runs, task=task), "budget")
        for ax in row[len(budgets) :]:
            ax.set_visible(False)
        for ax, budget in zip(row, budgets, strict=False):
            for strategy in STRATEGIES:
                own = chosen(runs, task=task, head=head, budget=budget, strategy=strategy)
                if not own:
                    continue
                at = 100 * np.array([run["scores"]["softmax"]["at"] for run in own], float)
                mean, sd = at.mean(0), at.std(0, ddof=1) if len(own) > 1 else 0 * at[0]
                ax.plot(CURVE, mean, color=COLOURS[strategy], label=strategy)
                ax.fill_between(
                    CURVE, mean - sd, mean + sd, color=COLOURS[strategy], alpha=0.2, lw=0
                )
            many = f"{budget} epochs" if isinstance(budget, int) else "to convergence"
            ax.set_title(f"{task}, {head}: {many}", fontsize="small")
            ax.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("accuracy, %")
    for ax in axes[-1]:
        ax.set_xlabel("mean cost")
    axes[0][0].legend(frameon=False, fontsize="small")
    return figure


def gap_figure(runs: Sequence[Run]) -> Figure:
    """Joint less mixed training: a point for each seed, a bar for the mean."""
    found = gaps(runs)
    kinds = list(dict.fromkeys((one["task"], one["head"]) for one in found))
    across = min(len(kinds), 3)
    down = -(-len(kinds) // across)
    figure = Figure(figsize=(3.1 * across, 2.8 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for ax in axes[len(kinds) :]:
        ax.set_visible(False)
    for ax, (task, head) in zip(axes, kinds, strict=False):
        own = [one for one in found if (one["task"], one["head"]) == (task, head)]
        budgets = list(dict.fromkeys(one["budget"] for one in own))
        for by, colour, shift in (("total", "#1f77b4", -0.14), ("phase", "#ff7f0e", 0.14)):
            for one in own:
                if one["by"] == by:
                    x = budgets.index(one["budget"]) + shift
                    ax.plot([x] * len(one["area"]), one["area"], "o", ms=3, color=colour, alpha=0.5)
                    ax.plot([x - 0.1, x + 0.1], [one["area"].mean()] * 2, color=colour, lw=2)
            ax.plot([], [], color=colour, lw=2, label=f"equal by {by}")
        ax.axhline(0, color="0.7", lw=0.8, zorder=0)
        ax.set_xticks(range(len(budgets)), [str(one) for one in budgets], fontsize="small")
        ax.set_xlim(-0.5, len(budgets) - 0.5)
        ax.set_title(f"{task}, {head}", fontsize="small")
        ax.set_xlabel("epochs of joint training", fontsize="small")
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[::across]:
        ax.set_ylabel("area, joint - mixed, points")
    axes[0].legend(frameon=False, fontsize="small")
    return figure


def correlation_figure(runs: Sequence[Run]) -> Figure:
    """The strength of each measure's correlation with the area, beside accuracy."""
    tasks = [one for one in column(runs, "task") if len(chosen(runs, task=one)) > 3]
    kinds = {
        "Pearson": "all runs", "given accuracy": "given the exits' accuracy",
        "within": "within groups", "scores": "within networks",
    }  # fmt: skip
    figure = Figure(figsize=(3.0 * len(kinds), 3.4), layout="constrained")
    axes = figure.subplots(1, len(kinds), sharey=True)
    for ax, (kind, title) in zip(axes, kinds.items(), strict=True):
        for place, task in enumerate(tasks):
            found = correlations(chosen(runs, task=task))
            x = [kinds[kind] for kinds in found.values()]
            y = np.arange(len(found)) + 0.18 * (place - (len(tasks) - 1) / 2)
            ax.plot(x, y, "o", ms=5, label=task)
        ax.axvline(0, color="0.7", lw=0.8, zorder=0)
        ax.set_xlim(-1.05, 1.05)
        ax.set_xticks((-1, -0.5, 0, 0.5, 1), ("-1", "-0.5", "0", "0.5", "1"))
        ax.set_title(title, fontsize="small")
        ax.set_xlabel("correlation with the area", fontsize="small")
        ax.grid(axis="y", color="0.93")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(MEASURES)), list(MEASURES))
    axes[0].invert_yaxis()
    axes[-1].legend(frameon=False, fontsize="small")
    return figure


def report(folder: Path) -> None:
    """Print the tables, and save them and the pictures in the folder."""
    runs = read(folder)
    if not runs:
        raise SystemExit(f"{folder} holds no finished runs: run without --report first")
    parts = [("Learning rates, backbone / heads", rate_table(folder))]
    parts += [
        (f"{task}: accuracy in per cent", accuracies(chosen(runs, task=task)))
        for task in column(runs, "task")
    ]
    parts += [
        ("Joint less mixed training, points", gap_table(runs)),
        ("Correlations with the area", correlation_table(runs)),
        ("Scores: change from the plain softmax", score_table(runs)),
    ]
    text = "\n\n".join(f"### {title}\n\n{body}" for title, body in parts)
    print(text)
    (folder / "tables.md").write_text(text + "\n")
    for name, draw in (
        ("exits_curves", curves_figure), ("exits_gaps", gap_figure),
        ("exits_correlations", correlation_figure),
    ):  # fmt: skip
        draw(runs).savefig(folder / f"{name}.png", dpi=110)
