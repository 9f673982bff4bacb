"""What the results of all measurements can do: print, be written, be drawn."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._support.optional import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


class DynamicsResult(ABC):
    """A measurement; printing it prints the table."""

    @abstractmethod
    def table(self) -> str:
        """One aligned text."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """As plain numbers, lists and strings, for JSON; what is not finite as None."""

    @abstractmethod
    def _draw(self, figure: Any) -> None:
        """Draw into a Figure or SubFigure that is empty."""

    @abstractmethod
    def _size(self) -> tuple[float, float]:
        """Width and height of the picture, in inches."""

    def plot(self, into: SubFigure | None = None) -> Figure:
        """The picture.

        Parameters
        ----------
        into : SubFigure, optional
            Where to draw; a new figure when not given.

        Returns
        -------
        matplotlib.figure.Figure
            Not shown: save it with ``savefig``.

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        feature = f"{type(self).__name__}.plot"
        figures: Any = require("matplotlib.figure", extra="exits", feature=feature)
        if into is None:
            figure: Figure = figures.Figure(figsize=self._size(), layout="constrained")
            self._draw(figure)
            return figure
        self._draw(into)
        root: Figure = into.get_figure(root=True)
        return root

    def __str__(self) -> str:
        return self.table()


def plain(values: Any) -> Any:
    """Arrays and numbers as lists and numbers that JSON has; what is not finite as None."""
    if isinstance(values, np.ndarray):
        return plain(values.tolist())
    if isinstance(values, (list, tuple)):
        return [plain(one) for one in values]
    if isinstance(values, dict):
        return {key: plain(one) for key, one in values.items()}
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values
