"""The result of a training run, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..._support.figure_text import figure_text
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
        """Format the history, one line for each epoch: phase, loss, validation accuracy by exit.

        Where there is no accuracy, as with ``loss="mse"``, the validation losses take its place.
        """
        what, values = self._validation()
        width = max(8, *(len(name) for name in self.exit_names))
        names = "  ".join(f"{name:>{width}}" for name in self.exit_names)
        lines = [
            f"validation {what} of each exit",
            f"{'phase':<12}  {'epoch':>5}  {'loss':>7}  {names}",
        ]
        for one, validation in zip(self.history, values, strict=True):
            shown = "  ".join(f"{cell(value):>{width}}" for value in validation)
            name = f"{one.phase + 1} {one.train}"
            lines.append(f"{name:<12}  {one.epoch + 1:>5}  {one.loss:>7.4f}  {shown}")
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
        validated = _known(one.val_loss for one in self.history)
        losses = [one.val_loss if validated else one.train_loss for one in self.history]
        for k, name in enumerate(self.exit_names):
            shade = 0.15 + 0.7 * k / max(1, len(self.exit_names) - 1)
            color = require("matplotlib", extra="exits").colormaps["viridis"](shade)
            left.plot(epochs, [one[k] for one in losses], color=color, label=figure_text(name))
            right.plot(epochs, [one.val_accuracy[k] for one in self.history], color=color)
        if not _known(one.val_accuracy for one in self.history):
            why = "no accuracy" if validated else "no validation"
            right.text(0.5, 0.5, why, transform=right.transAxes, ha="center")
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
        what, values = self._validation()
        shown = ", ".join(cell(value) for value in values[-1]) if values else "none"
        return f"TrainingResult(phases: {listed}; validation {what} by exit {shown})"

    __str__ = __repr__  # a table has a line for each epoch

    def _validation(self) -> tuple[str, list[tuple[float, ...]]]:
        """The accuracies by epoch and exit, or the losses where only these are known."""
        accuracies = [one.val_accuracy for one in self.history]
        losses = [one.val_loss for one in self.history]
        known = _known(accuracies) or not _known(losses)
        return ("accuracy", accuracies) if known else ("loss", losses)


def _known(values: Iterable[Sequence[float]]) -> bool:
    """Whether any of the values is not NaN."""
    return any(value == value for one in values for value in one)
