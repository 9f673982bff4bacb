"""Write docs/measurements/cedar_comparison.md from the measurements of cedar_comparison.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cedar_comparison import NULLS, ROOT, SEEDS, K, Record, records
from laplex.cedar.baselines.equal_bits import bits_of
from machine import processor

FOLDER = ROOT / "docs" / "measurements"
WIDTH = {"planted": 64, "overcomplete": 64, "gaussian": 64, "norms": 64}
WIDTH |= {"images null": 128, "images": 128, "words": 384}

Values = Sequence[float | None]


class Results:
    """The lines of the results file."""

    def __init__(self) -> None:
        self.all = records()
        self.fits = [one for one in self.all if one["what"] == "fit"]
        # The order of the methods, whatever was run first.
        from cedar_peers import METHODS

        self.methods = [method.name for method in METHODS]

    def of(self, data: str, method: str, k: int) -> list[Record]:
        found = [
            one for one in self.fits if (one["data"], one["method"], one["k"]) == (data, method, k)
        ]
        return sorted(found, key=lambda one: one["seed"])

    def mean(self, data: str, method: str, k: int, what: str) -> float:
        return float(np.mean([one[what] for one in self.of(data, method, k)]))

    def cell(self, data: str, method: str, k: int, what: str, digits: int = 3) -> str:
        return spread([one.get(what) for one in self.of(data, method, k)], digits)

    def lines(self, data: str, k: int) -> list[str]:
        return [name for name in self.methods if self.of(data, name, k)]


def spread(values: Values, digits: int = 3) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    text = f"{np.mean(known):.{digits}f}"
    return text if len(known) < 2 else f"{text} ± {np.std(known, ddof=1):.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main_table(found: Results, data: str, k: int, columns: dict[str, tuple[str, int]]) -> str:
    """Return a table of the methods for one k, with the columns {heading: (field, digits)}."""
    budget = bits_of(WIDTH[data], k)
    head = ["k = " + str(k), "latents", "FVE", f"FVE at {budget:.0f} bits (entries)"]
    head += [*columns, "L0", "dead", "fit (s)"]
    rows = []
    for name in found.lines(data, k):
        mine = found.of(data, name, k)
        seeds = f" ({len(mine)} seeds)" if len(mine) < len(SEEDS) else ""
        bits = found.cell(data, name, k, "fve_bits")
        rows.append([
            name + seeds, str(mine[0]["axes"]), found.cell(data, name, k, "fve"),
            f"{bits} ({mine[0]['k_bits']})",
            *(found.cell(data, name, k, field, digits) for field, digits in columns.values()),
            f"{found.mean(data, name, k, 'l0'):.1f}", f"{found.mean(data, name, k, 'dead'):.0f}",
            f"{found.mean(data, name, k, 'seconds'):.1f}",
        ])  # fmt: skip
    return table(head, rows)


def times(found: Results) -> str:
    """Return the held-out FVE of other training times."""
    rows = []
    for data in ("planted", "overcomplete", "images", "words"):
        for k in K[data]:
            ours = found.of(data, "CEDAR", k)
            for method in ("AbsTopK 1x", "AbsTopK 4x", "TopK 4x"):
                cells = []
                for budget in ("CEDAR's time", "4x the steps"):
                    mine = [
                        one
                        for one in found.all
                        if one["what"] == "budget"
                        and (one["data"], one["method"], one["k"], one["budget"])
                        == (data, method, k, budget)
                    ]
                    cells.append(spread([one["fve"] for one in mine]))
                if ours and cells[0] != "-":
                    rows.append([
                        f"{data}, k = {k}", method, found.cell(data, "CEDAR", k, "fve"), cells[0],
                        found.cell(data, method, k, "fve"), cells[1],
                    ])  # fmt: skip
    head = ["data", "method", "CEDAR", "in CEDAR's time", "in the budget", "4x the steps (1 seed)"]
    return table(head, rows)


def densities(found: Results) -> str:
    rows = []
    for data in ("images", "words"):
        k = K[data][1]
        for name in found.lines(data, k):
            values = np.mean([one["density"] for one in found.of(data, name, k)], axis=0)
            rows.append([f"{data}, k = {k}", name, *(f"{value:.4f}" for value in values)])
    return table(["data", "method", "10 %", "median", "90 %", "largest"], rows)


def rotations(found: Results) -> str:
    rows = []
    for data in K:
        mine = [one for one in found.all if one["what"] == "rotation" and one["data"] == data]
        if mine:
            rows.append([
                data, spread([one["criterion"] for one in mine], 2),
                spread([one["null"] for one in mine], 2),
                spread([one["null_max"] for one in mine], 2),
                f"{min(one['p'] for one in mine):.3f} to {max(one['p'] for one in mine):.3f}",
            ])  # fmt: skip
    head = ["data", "varimax criterion", "of random directions", "their largest", "p"]
    return table(head, rows)


def rates(found: Results) -> str:
    tried: dict[tuple[str, str], dict[float, float]] = {}
    for one in found.all:
        if one["what"] == "tuning":
            tried.setdefault((one["method"], one["data"]), {})[one["rate"]] = one["fve"]
    methods = dict.fromkeys(method for method, _ in tried)
    sets = [data for data in K if data not in NULLS]
    rows = []
    for method in methods:
        cells = []
        for data in sets:
            mine = tried.get((method, data))
            best = max(mine, key=lambda rate: mine[rate]) if mine else None
            cells.append("-" if best is None else f"{best:g}")
        rows.append([method, *cells])
    return table(["rate chosen", *sets], rows)


# --- pictures -------------------------------------------------------------------------------------


def picture(found: Results, data: str, field: str, label: str) -> str:
    """Draw the FVE against the time of a fit and against another metric; return the file."""
    figure = Figure(figsize=(10.5, 4.2 if len(K[data]) == 1 else 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    markers = "osD"
    colours: dict[str, str] = {}
    names = [name for name in found.methods if any(found.of(data, name, k) for k in K[data])]
    for i, name in enumerate(names):
        ours = name.startswith("CEDAR")
        colours[name] = f"C{i % 10}"
        for j, k in enumerate(K[data]):
            mine = found.of(data, name, k)
            if not mine:
                continue
            height = [one["fve"] for one in mine]
            for panel, field_x in ((left, "seconds"), (right, field)):
                across = [one[field_x] for one in mine]
                panel.errorbar(
                    np.mean(across), np.mean(height), np.std(height),
                    np.std(across) if panel is right else None,
                    marker=markers[j] if i < 10 else "^v>"[j], color=colours[name],
                    markersize=9 if ours else 6, markeredgecolor="black" if ours else None,
                    linestyle="none", label=name if j == 0 and panel is left else None,
                )  # fmt: skip
    left.set(xscale="log", xlabel="processor time of the fit (s)", ylabel="held-out FVE")
    right.set(xlabel=label)
    for panel in (left, right):
        panel.grid(alpha=0.3)
    if len(K[data]) > 1:
        shapes = ", ".join(
            f"{shape} k = {k}"
            for shape, k in zip(("circle", "square", "diamond"), K[data], strict=False)
        )
        figure.suptitle(f"{data}; {shapes}; triangles for the last methods", fontsize="small")
    figure.legend(loc="outside right upper", fontsize="small")
    name = f"cedar_comparison_{data.replace(' ', '_')}.png"
    figure.savefig(FOLDER / name, dpi=100)
    return name


def nulls_picture(found: Results) -> str:
    """Draw the FVE of each method on the nulls, at equal k and at equal bits."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    for panel, data in zip(figure.subplots(1, 3), NULLS, strict=True):
        k = K[data][0]
        names = found.lines(data, k)
        for shift, field, label in ((0.15, "fve", "equal k"), (-0.15, "fve_bits", "equal bits")):
            values = [[one[field] for one in found.of(data, name, k)] for name in names]
            panel.errorbar(
                [np.mean(one) for one in values], np.arange(len(names)) + shift,
                xerr=[np.std(one) for one in values], fmt="o", markersize=4, label=label,
            )  # fmt: skip
        panel.set_yticks(range(len(names)), names, fontsize="x-small")
        panel.invert_yaxis()
        panel.set(title=data, xlabel="held-out FVE")
        panel.grid(alpha=0.3)
    panel.legend(fontsize="x-small")
    figure.savefig(FOLDER / "cedar_comparison_nulls.png", dpi=100)
    return "cedar_comparison_nulls.png"


# --- the page -------------------------------------------------------------------------------------

PLANTED = {"MCC": ("mcc", 3), "cosine of matched": ("matched", 3), "recall@10": ("recall", 3)}
REAL = {
    "recall@10": ("recall", 3),
    "probe, 1": ("probe1", 3),
    "probe, 5": ("probe5", 3),
    "AUROC": ("auroc", 3),
    "seeds agree": ("agreement", 2),
}


def page(found: Results) -> str:
    def v(data: str, method: str, k: int, what: str = "fve", digits: int = 2) -> str:
        return f"{found.mean(data, method, k, what):.{digits}f}".lstrip("0")

    def of_each(data: str, columns: dict[str, tuple[str, int]]) -> str:
        return "\n\n".join(main_table(found, data, k, columns) for k in K[data])

    minutes = sum(one.get("seconds", 0) for one in found.all) / 60
    return f"""\
# CEDAR beside its peers

TEXT {minutes:.0f} {processor()}

{of_each("planted", PLANTED)}

{of_each("overcomplete", PLANTED)}

{of_each("images", REAL)}

{of_each("words", {**REAL, "absorbed": ("absorbed", 3)})}

{"".join(main_table(found, data, K[data][0], {}) for data in NULLS)}

{times(found)}

{densities(found)}

{rotations(found)}

{rates(found)}
"""


def main() -> None:
    found = Results()
    picture(found, "planted", "mcc", "MCC with the true atoms")
    picture(found, "overcomplete", "mcc", "MCC with the true atoms")
    picture(found, "images", "probe5", "balanced accuracy of probes on five latents")
    picture(found, "words", "recall", "recall of ten neighbours among the codes")
    nulls_picture(found)
    (FOLDER / "cedar_comparison.md").write_text(page(found))


if __name__ == "__main__":
    main()
