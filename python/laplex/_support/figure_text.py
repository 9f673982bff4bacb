"""Names that others chose, as texts of figures: matplotlib would read some of them as formulae."""

from __future__ import annotations


def figure_text(name: str, longest: int = 34) -> str:
    """Return a name such that matplotlib draws it as it is written.

    Characters that cannot be printed become spaces, and a long name is cut off. A dollar sign does
    not start a formula, and a first underscore does not hide the name from the legend.
    """
    line = "".join(one if one.isprintable() else " " for one in name[: longest + 1]).strip()
    if len(name) > longest:
        line = line[: longest - 1] + "…"
    return (" " if line.startswith("_") else "") + line.replace("$", r"\$") or "(no name)"
