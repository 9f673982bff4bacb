"""Write the table of times in docs/guides/migration.md.

    python bench/python/migration.py

It measures nothing: the times are those of docs/measurements/gram.json, which
bench/python/gram.py writes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
#: Who is in the table, by the names of gram.json, and the form that they compute.
ROWS = {
    "celerite2": ("celerite2, SHO", "matern32"),
    "tinygp": ("tinygp", "matern32"),
    "GPyTorch, Cholesky": ("GPyTorch, Cholesky", "matern32"),
    "GPyTorch, conjugate gradients": ("GPyTorch, CG", "matern32"),
    "scikit-learn": ("scikit-learn", "matern32"),
    "**Laplex**": ("laplex", "matern32"),
    "**GPyTorch with Laplex's kernel**": ("GPyTorch with Laplex", "matern32"),
}
INTRODUCTION = """\
The table has the CPU time of one thread for one log density of a Matern-3/2 term and its gradients.
celerite2 computes an SHO term with Q = 1/2, which is that kernel. Cells are empty where a library
would need too much memory or time."""
SIZES = ("50", "1000", "10000", "100000", "1000000")


def written(seconds: float | None) -> str:
    """A time in a unit that suits it."""
    if seconds is None:
        return ""
    unit, scale = next((u, s) for u, s in (("s", 1), ("ms", 1e3), ("us", 1e6)) if seconds * s >= 1)
    return f"{seconds * scale:.3g} {unit}"


def table(times: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """The table for one Matern-3/2 term: a log density with its gradients."""
    lines = [
        INTRODUCTION,
        "",
        "| | " + " | ".join(f"n = {int(n):,}" for n in SIZES) + " |",
        "|---" * 6 + "|",
    ]
    for title, (who, form) in ROWS.items():
        found = times[form]["log_prob and gradients"].get(who)
        if found:
            lines.append(f"| {title} | " + " | ".join(written(found.get(n)) for n in SIZES) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table."""
    times = json.loads((DOCS / "measurements" / "gram.json").read_text())["times"]
    page = DOCS / "guides" / "migration.md"
    between = re.compile(r"(<!-- times -->\n).*?(<!-- end -->)", re.DOTALL)
    page.write_text(between.sub(lambda m: m[1] + table(times) + m[2], page.read_text()))


if __name__ == "__main__":
    main()
