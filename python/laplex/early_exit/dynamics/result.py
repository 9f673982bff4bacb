"""What the results of all measurements can do: be drawn, beside what any result can."""

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
    """A measurement, which can also be drawn; in JSON what is not finite is null."""

    _infinities: ClassVar = False

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
