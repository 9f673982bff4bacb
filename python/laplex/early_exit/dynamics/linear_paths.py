"""Loss and accuracy of each exit on the straight line between two checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..._support.arguments import one_of, whole
from ..._support.progress import Report, progress_bar
from ..._support.text_tables import aligned
from ..arrays import Array
from ..batches import batch_count, check_inputs, check_loader, check_model, labelled_batches
from ..model import MultiExitModel
from .drawing import exit_colors, tidy
from .exit_losses import Loss, Sums, cross_entropy
from .restoring import unchanged
from .result import DynamicsResult
from .running_statistics import averaging, fresh_statistics, tracking_layers

Statistics = Literal["recomputed", "interpolated"]


@dataclass(frozen=True, eq=False, repr=False)
class ModeConnectivity(DynamicsResult):
    """Result of `mode_connectivity`, for K exits at P points. Printing it prints the table.

    Attributes
    ----------
    alphas : ndarray [P], float64
        Positions on the line, from 0 (the first checkpoint) to 1 (the second).
    losses, accuracies : ndarray [K, P], float64
        Loss and accuracy of each exit at each point.
    exit_names : tuple of str [K]
        Names of the exits.
    statistics : str
        Origin of the running statistics of normalisation layers: "recomputed", "interpolated", or
        "none" if there are no such layers.
    samples : int
        Number of samples.
    """

    _kind: ClassVar = "laplex.early_exit.ModeConnectivity"
    _written: ClassVar = (
        "alphas", "losses", "accuracies", "barriers", "exit_names", "statistics", "samples",
    )  # fmt: skip

    alphas: Array
    losses: Array
    accuracies: Array
    exit_names: tuple[str, ...]
    statistics: Literal["recomputed", "interpolated", "none"]
    samples: int

    @property
    def excess(self) -> Array:
        """Loss above the straight line between the losses at both ends, ndarray [K, P]."""
        first, last = self.losses[:, :1], self.losses[:, -1:]
        line = first + self.alphas * (last - first)
        line[:, -1:] = last  # exactly: the sum above may round
        above: Array = self.losses - line
        return above

    @property
    def barriers(self) -> Array:
        """Height of the barrier of each exit, the largest `excess`; ndarray [K], at least 0."""
        heights: Array = self.excess.max(axis=1)
        return heights

    def table(self) -> str:
        """Format losses, barriers and accuracies as aligned text, one line for each exit."""
        body = []
        for name, losses, accuracies, excess in zip(
            self.exit_names, self.losses, self.accuracies, self.excess, strict=True
        ):
            top = int(excess.argmax())
            numbers = [f"{losses[0]:.3f}", f"{losses[-1]:.3f}", f"{excess[top]:.3f}"]
            where = f"{self.alphas[top]:.2f}"
            rights = [f"{accuracies[i]:.1%}" for i in (0, -1)] + [f"{accuracies.min():.1%}"]
            body.append([name, *numbers, where, *rights])
        head = ["exit", "loss a", "loss b", "barrier", "at", "accuracy a", "b", "lowest"]
        about = f"{self.samples:,} samples, normalisation statistics: {self.statistics}"
        return f"The straight line from a to b ({about})\n{aligned(head, body)}"

    def __repr__(self) -> str:
        shown = ", ".join(f"{one:.3g}" for one in self.barriers)
        return f"ModeConnectivity(barriers {shown}; {self.samples:,} samples)"

    def _size(self) -> tuple[float, float]:
        return 9.0, 3.4

    def _draw(self, figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        for name, losses, accuracies, height, color in zip(
            self.exit_names,
            self.losses,
            self.accuracies,
            self.barriers,
            exit_colors(len(self.exit_names)),
            strict=True,
        ):
            label = f"{name}: {height:.2g}"
            left.plot(self.alphas, losses, color=color, marker="o", markersize=3, label=label)
            left.plot(self.alphas[[0, -1]], losses[[0, -1]], color=color, lw=0.8, ls="--")
            right.plot(self.alphas, 100 * accuracies, color=color, marker="o", markersize=3)
        left.set_ylabel("loss")
        right.set_ylabel("accuracy, %")
        for ax in (left, right):
            ax.set_xlabel("position between the checkpoints")
            ax.margins(y=0.08)
            tidy(ax)
        lines = left.get_lines()[::2]
        left.legend(
            handles=lines if len(lines) <= 8 else [lines[0], lines[len(lines) // 2], lines[-1]],
            frameon=False,
            fontsize="x-small",
            title="barrier",
            title_fontsize="small",
        )
        figure.suptitle("Straight line between two checkpoints", fontsize="medium")


def mode_connectivity(
    model_a: MultiExitModel,
    model_b: MultiExitModel | Mapping[str, Tensor],
    loader: Iterable[Any],
    *,
    points: int = 11,
    train_loader: Iterable[Any] | None = None,
    statistics: Statistics = "recomputed",
    batches: int | None = None,
    loss: Loss = cross_entropy,
    progress: bool = False,
) -> ModeConnectivity:
    r"""Measure loss and accuracy of each exit on the straight line between two checkpoints.

    The points are :math:`\theta(\alpha) = (1 - \alpha)\,\theta_a + \alpha\,\theta_b`. The barrier
    of exit k is the largest :math:`L_k(\alpha) - ((1 - \alpha) L_k(0) + \alpha L_k(1))` over the
    points (Frankle et al. 2020). This is in the style of arXiv 2407.14320; the conventions are
    ours.

    Parameters
    ----------
    model_a : MultiExitModel
        The model at :math:`\alpha = 0`. Neither model is changed.
    model_b : MultiExitModel or mapping of str to Tensor
        The model at :math:`\alpha = 1`: the same network with other parameters, or its
        ``state_dict()``.
    loader : iterable of (x, labels)
        Batches on which loss and accuracy are measured, in evaluation mode. It is read once.
    points : int
        Number of equally spaced points from 0 to 1, at least 2.
    train_loader : iterable of (x, labels), optional
        Batches from which running statistics (BatchNorm) are computed. It is read once. By default
        `loader` is used, which is then read twice.
    statistics : "recomputed" or "interpolated"
        ``"recomputed"`` computes the running statistics anew at each point, both ends included, as
        the unweighted mean over all batches of `train_loader`; the statistics of the checkpoints
        belong to other parameters than those of the points. ``"interpolated"`` interpolates them
        like parameters.
    batches : int, optional
        Number of batches to read from `loader` and from `train_loader`; by default all.
    loss : callable
        ``loss(logits [batch, classes], labels [batch])`` returns the mean loss of the batch.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    ModeConnectivity

    Raises
    ------
    TypeError, ValueError
        If arguments or batches are invalid, the checkpoints are of different networks, or a batch
        has too few samples to compute statistics from.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from laplex.early_exit import MultiExitModel
    >>> from laplex.early_exit.dynamics import mode_connectivity
    >>> backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> model = MultiExitModel(backbone, {"1": nn.Linear(8, 3)})
    >>> batch = (torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    >>> mode_connectivity(model, model.state_dict(), [batch])
    ModeConnectivity(barriers 0, 0; 5 samples)
    """
    check_model(model_a, "model_a")
    check_inputs(model_a, loader, batches)
    if train_loader is not None:
        check_loader(train_loader, "train_loader")
    points = whole("points", points, 2)
    one_of("statistics", statistics, Statistics)
    recompute = statistics == "recomputed" and bool(tracking_layers(model_a))
    if recompute and train_loader is None and isinstance(loader, Iterator):
        raise ValueError(
            "loader can be read only once, but the statistics of normalisation layers have to be "
            "computed first: pass a train_loader, or a DataLoader or list of batches as the loader"
        )
    path = _Path(model_a, _state_of(model_b), points)
    sums = [Sums(model_a.num_exits) for _ in path.alphas]
    with unchanged(model_a), torch.no_grad(), progress_bar(progress, extra="exits") as report:
        if recompute:
            path.recompute(loader if train_loader is None else train_loader, batches, report)
        model_a.eval()
        total = batch_count(loader, batches)
        for done, (x, labels) in enumerate(labelled_batches(model_a, loader, batches=batches), 1):
            for point, one in enumerate(sums):
                one.add(model_a, path.at(point), x, labels, loss)
            report("losses on the line", done, total, "")
    return ModeConnectivity(
        alphas=path.alphas,
        losses=np.stack([one.loss / one.samples for one in sums], axis=1),
        accuracies=np.stack([one.right / one.samples for one in sums], axis=1),
        exit_names=model_a.output_names,
        statistics=statistics if tracking_layers(model_a) else "none",
        samples=sums[0].samples,
    )


class _Path:
    """Parameters and buffers of points between two checkpoints."""

    def __init__(self, model: MultiExitModel, other: Mapping[str, Tensor], points: int) -> None:
        self.model = model
        self.alphas: Array = np.linspace(0.0, 1.0, points)
        mine = model.state_dict()
        _check_same_network(mine, other)
        kept = (*model.named_parameters(), *model.named_buffers())
        self.ends = {
            name: (tensor.detach(), other[name].detach().to(tensor))
            for name, tensor in kept
            if name in mine and tensor.is_floating_point()
        }
        self.statistics: list[dict[str, Tensor]] = [{} for _ in self.alphas]

    def at(self, point: int) -> dict[str, Tensor]:
        alpha = float(self.alphas[point])
        # lerp is exact at both ends and where both are the same.
        tensors = {name: torch.lerp(a, b, alpha) for name, (a, b) in self.ends.items()}
        return {**tensors, **self.statistics[point]}

    def recompute(self, loader: Iterable[Any], batches: int | None, report: Report) -> None:
        """Compute the statistics of every point in one pass over a loader."""
        self.statistics = [fresh_statistics(self.model) for _ in self.alphas]
        total = batch_count(loader, batches)
        named = labelled_batches(self.model, loader, batches=batches, name="train_loader")
        for done, (x, _) in enumerate(named, 1):
            # Around the forward only, because the caller's loader may run the model itself.
            with averaging(self.model):
                for point in range(len(self.alphas)):
                    try:
                        functional_call(self.model, self.at(point), (x,))
                    except ValueError as error:
                        if "more than 1 value per channel" not in str(error):
                            raise
                        raise ValueError(
                            "a batch of one sample has no variance, so the statistics of "
                            "normalisation layers cannot be computed from it: pass a train_loader "
                            "with drop_last=True, or with larger batches"
                        ) from error
            report("statistics on the line", done, total, "")


def _state_of(model: Any) -> dict[str, Tensor]:
    state = model.state_dict() if isinstance(model, nn.Module) else model
    if not isinstance(state, Mapping):
        raise TypeError(
            f"model_b must be a MultiExitModel or its state_dict(), got {type(model).__name__}"
        )
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _check_same_network(mine: Mapping[str, Any], other: Mapping[str, Tensor]) -> None:
    shapes = {name: list(one.shape) for name, one in mine.items() if isinstance(one, Tensor)}
    theirs = {name: list(one.shape) for name, one in other.items()}
    for name in sorted(shapes.keys() | theirs.keys()):
        if shapes.get(name) != theirs.get(name):
            a, b = (
                f"has {name} {one[name]}" if name in one else f"has no {name}"
                for one in (shapes, theirs)
            )
            raise ValueError(
                f"model_a {a}, model_b {b}: pass two checkpoints of one network, exits included"
            )
