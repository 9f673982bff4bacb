"""The result of a training run, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..._support.optional import require
from ..._support.results import Result
from ..._support.text_tables import cell
from .strategies import Phase

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class EpochRecord:
    """Losses and accuracies of one epoch.

    Attributes
    ----------
    phase, epoch : int
        Index of the phase, and of the epoch within its phase; both count from 0.
    train : "backbone", "all" or "heads"
        The part that was trained.
    loss : float
        Mean of the objective over the samples.
    train_loss, val_loss, val_accuracy : tuple of K floats
        Loss and accuracy of each exit, as means over the labels that count; validation losses are
        without label smoothing. NaN for exits that did not run, and for validation if there was
        none. The accuracy is the share of right classes or, with ``loss="bce"``, of right labels
        at a probability of 1/2; it is NaN for ``"mse"``, and for a loss of your own unless the
        labels are class indices.
    """

    phase: int
    epoch: int
    train: str
    loss: float
    train_loss: tuple[float, ...]
    val_loss: tuple[float, ...]
    val_accuracy: tuple[float, ...]


@dataclass(frozen=True)
class TrainingResult(Result):
    """Result of `train`: the history of the run. The model itself is trained in place.

    Attributes
    ----------
    exit_names : tuple of str
        Names of the K exits; the last one is ``"output"``.
    phases : tuple of Phase
        The phases of the run.
    history : tuple of EpochRecord
        One record for each epoch, in order.
    """

    exit_names: tuple[str, ...]
    phases: tuple[Phase, ...]
    history: tuple[EpochRecord, ...]

    def table(self) -> str:
        """Format the history, one line for each epoch: phase, loss, validation accuracy by exit."""
        width = max(8, *(len(name) for name in self.exit_names))
        names = "  ".join(f"{name:>{width}}" for name in self.exit_names)
        lines = [
            "validation accuracy of each exit",
            f"{'phase':<12}  {'epoch':>5}  {'loss':>7}  {names}",
        ]
        for one in self.history:
            accuracies = "  ".join(f"{cell(value):>{width}}" for value in one.val_accuracy)
            name = f"{one.phase + 1} {one.train}"
            lines.append(f"{name:<12}  {one.epoch + 1:>5}  {one.loss:>7.4f}  {accuracies}")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Plot validation loss and accuracy of each exit by epoch, with the phases marked.

        Without validation, the training loss is plotted.

        Returns
        -------
        matplotlib.figure.Figure
            The figure. It is not shown; save it with ``savefig``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        figures = require("matplotlib.figure", extra="exits", feature="TrainingResult.plot")
        figure: Figure = figures.Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        epochs = range(1, len(self.history) + 1)
        validated = any(value == value for one in self.history for value in one.val_accuracy)
        losses = [one.val_loss if validated else one.train_loss for one in self.history]
        for k, name in enumerate(self.exit_names):
            shade = 0.15 + 0.7 * k / max(1, len(self.exit_names) - 1)
            color = require("matplotlib", extra="exits").colormaps["viridis"](shade)
            left.plot(epochs, [one[k] for one in losses], color=color, label=name)
            right.plot(epochs, [one.val_accuracy[k] for one in self.history], color=color)
        if not validated:
            right.text(0.5, 0.5, "no validation", transform=right.transAxes, ha="center")
        starts = [i for i, one in enumerate(self.history) if one.epoch == 0]
        loss = "validation loss" if validated else "training loss"
        for ax, what in ((left, loss), (right, "validation accuracy")):
            ax.set_xlabel("epoch")
            ax.set_ylabel(what)
            ax.spines[["top", "right"]].set_visible(False)
            for start in starts:
                ax.axvline(start + 0.5, color="0.8", linewidth=0.8, zorder=0)
                ax.annotate(
                    self.history[start].train,
                    (start + 0.5, 1.0),
                    xycoords=("data", "axes fraction"),
                    xytext=(3, 2),
                    textcoords="offset points",
                    fontsize="small",
                    color="0.4",
                )
        left.legend(frameon=False, fontsize="small")
        return figure

    def __repr__(self) -> str:
        listed = ", ".join(f"{phase.train} {phase.epochs}" for phase in self.phases)
        last = self.history[-1].val_accuracy if self.history else ()
        shown = ", ".join(cell(value) for value in last)
        return f"TrainingResult(phases: {listed}; validation accuracy by exit {shown or 'none'})"

    __str__ = __repr__  # a table has a line for each epoch
