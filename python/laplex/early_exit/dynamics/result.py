"""The base of the results of all measurements: results that can be plotted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..._support.optional import require
from ..._support.results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


@dataclass(frozen=True, eq=False, repr=False)
class DynamicsResult(Result, ABC):
    """Base class of measurements, which can be plotted. In JSON, non-finite numbers are null."""

    _infinities: ClassVar = False

    @abstractmethod
    def _draw(self, figure: Any) -> None:
        """Draw into an empty Figure or SubFigure."""

    @abstractmethod
    def _size(self) -> tuple[float, float]:
        """Width and height of the figure, in inches."""

    def plot(self, into: SubFigure | None = None) -> Figure:
        """Plot the result.

        Parameters
        ----------
        into : SubFigure, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        matplotlib.figure.Figure
            The figure. It is not shown; save it with ``savefig``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
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
