"""Drawing functions that several measurements share: colours of exits, axes with names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def exit_colors(count: int) -> list[Any]:
    """Colours of exits, from dark (the first) to light."""
    from matplotlib import colormaps

    # The light end of the map is invisible on white.
    return [colormaps["viridis"](0.85 * k / max(count - 1, 1)) for k in range(count)]


def name_ticks(ax: Any, names: Sequence[str]) -> None:
    """Label 0, 1, 2, ... of the x axis with names, slanted if they would overlap."""
    crowded = _crowded(names)
    ax.set_xticks(
        range(len(names)),
        names,
        rotation=40 if crowded else 0,
        ha="right" if crowded else "center",
        rotation_mode="anchor" if crowded else "default",
    )


def name_height(names: Sequence[str]) -> float:
    """Height in inches that `name_ticks` needs beyond one line."""
    return 0.05 * max(map(len, names)) if _crowded(names) else 0.0


def _crowded(names: Sequence[str]) -> bool:
    return sum(len(name) + 2 for name in names) > 40


def tidy(ax: Any) -> None:
    """A quiet frame and grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)
