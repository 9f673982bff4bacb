"""Loss of each exit on a plane through the parameters of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..._support.arguments import whole
from ..._support.progress import progress_bar
from ..._support.text_tables import aligned
from ..arrays import Array
from ..batches import batch_count, check_inputs, labelled_batches
from ..model import MultiExitModel
from .directions import as_direction, filter_directions
from .exit_losses import Loss, Sums, cross_entropy
from .restoring import unchanged
from .result import DynamicsResult


@dataclass(frozen=True, eq=False, repr=False)
class LossLandscape(DynamicsResult):
    """Result of `loss_landscape`, for K exits at P x Q points. Printing it prints the table.

    Attributes
    ----------
    x : ndarray [P], float64
        Coordinates along the first direction.
    y : ndarray [Q], float64
        Coordinates along the second direction.
    losses : ndarray [K, P, Q], float64
        Loss of each exit at each point; not finite where it overflows.
    exit_names : tuple of str [K]
        Names of the exits.
    seed : int or None
        Random seed of the directions; None if you passed the directions.
    samples : int
        Number of samples.
    """

    _kind: ClassVar = "laplex.early_exit.LossLandscape"

    x: Array
    y: Array
    losses: Array
    exit_names: tuple[str, ...]
    seed: int | None
    samples: int

    def table(self) -> str:
        """Format the losses as aligned text, one line for each exit."""
        body = []
        for name, losses in zip(self.exit_names, self.losses, strict=True):
            known = np.where(np.isnan(losses), np.inf, losses)
            i, j = np.unravel_index(int(known.argmin()), known.shape)
            middle = losses[np.abs(self.x).argmin(), np.abs(self.y).argmin()]
            numbers = [f"{one:.3f}" for one in (middle, losses[i, j], known.max())]
            body.append([name, *numbers[:2], f"{self.x[i]:.2f}, {self.y[j]:.2f}", numbers[2]])
        about = f"{len(self.x)} x {len(self.y)} points, {self.samples:,} samples"
        head = ["exit", "at the centre", "smallest", "at", "largest"]
        return f"Loss on a plane through the parameters ({about})\n{aligned(head, body)}"

    def _summary(self) -> str:
        points = f"{len(self.x)} x {len(self.y)} points"
        return f"{len(self.exit_names)} exits on {points}, {self.samples:,} samples"

    def _grid(self) -> tuple[int, int]:
        columns = min(len(self.exit_names), 4)
        return -(-len(self.exit_names) // columns), columns

    def _size(self) -> tuple[float, float]:
        rows, columns = self._grid()
        return 2.6 * columns + 1.6, 2.5 * rows + 0.9

    def _draw(self, figure: Any) -> None:
        from matplotlib.colors import LogNorm, Normalize
        from matplotlib.ticker import LogLocator, MaxNLocator

        rows, columns = self._grid()
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        seen = np.ma.masked_invalid(self.losses)
        low, high = (float(one) for one in (seen.min(), seen.max())) if seen.count() else (0.0, 1.0)
        # On a linear scale, the largest losses would hide the valley.
        in_decades = low > 0 and high > 10 * low
        if not high > low:
            high = low + 1.0
        levels = (np.geomspace if in_decades else np.linspace)(low, high, 21)
        margin = 1e-9 * (high - low)
        levels[0], levels[-1] = low - margin * (low / high if in_decades else 1), high + margin
        norm: Any = (LogNorm if in_decades else Normalize)(levels[0], levels[-1])
        image = None
        for k, ax in enumerate(axes):
            ax.set_visible(k < len(self.exit_names))
            if k >= len(self.exit_names):
                continue
            surface = seen[k].T
            image = ax.contourf(self.x, self.y, surface, levels, norm=norm, cmap="viridis")
            ax.contour(self.x, self.y, surface, levels, colors="white", linewidths=0.3)
            ax.plot(0, 0, marker="+", color="white", markersize=9)
            ax.set_title(self.exit_names[k], fontsize="small")
            ax.set_facecolor("#dddddd")
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.yaxis.set_major_locator(MaxNLocator(4))
            ax.tick_params(labelbottom=k + columns >= len(self.exit_names))
        ticks: Any = LogLocator(subs=(1, 2, 5)) if in_decades else MaxNLocator(6)
        bar = figure.colorbar(image, ax=list(axes), label="loss", ticks=ticks, format="%g")
        bar.ax.minorticks_off()
        figure.supxlabel("first direction", fontsize="small")
        figure.supylabel("second direction", fontsize="small")
        figure.suptitle("Loss around the parameters", fontsize="medium")


def loss_landscape(
    model: MultiExitModel,
    loader: Iterable[Any],
    *,
    points: tuple[int, int] = (21, 21),
    span: float = 1.0,
    seed: int = 0,
    directions: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
    batches: int | None = None,
    loss: Loss = cross_entropy,
    progress: bool = False,
) -> LossLandscape:
    r"""Compute the loss of each exit on a plane through the parameters.

    The points are :math:`\theta + a\,d_1 + b\,d_2`, with random directions that have the norms of
    the model's filters (Li et al. 2018), so that the surfaces of different networks can be
    compared. All exits are measured at the same parameters, and heads move like the backbone. This
    is in the style of arXiv 2407.14320.

    Parameters
    ----------
    model : MultiExitModel
        The model. It runs in evaluation mode, with its running statistics as they are, and is not
        changed.
    loader : iterable of (x, labels)
        Batches of samples. It is read once.
    points : tuple of two int
        Number of points along each direction, at least 2. With odd numbers, the point in the centre
        is the model itself.
    span : float
        The coordinates a and b range from -span to span. At 1, each filter moves by its own norm.
    seed : int
        Random seed of the directions; see `filter_directions`.
    directions : tuple of two mappings of str to array, optional
        Your own directions: arrays by name of the parameter, of the same shape. Parameters that are
        not named do not move.
    batches : int, optional
        Number of batches to read; by default all.
    loss : callable
        ``loss(logits [batch, classes], labels [batch])`` returns the mean loss of the batch.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    LossLandscape

    Raises
    ------
    TypeError, ValueError
        If arguments, directions or batches are invalid.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from laplex.early_exit import MultiExitModel
    >>> from laplex.early_exit.dynamics import loss_landscape
    >>> backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> model = MultiExitModel(backbone, {"1": nn.Linear(8, 3)})
    >>> batch = (torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    >>> loss_landscape(model, [batch], points=(5, 3)).losses.shape
    (2, 5, 3)
    """
    check_inputs(model, loader, batches)
    if not isinstance(points, (tuple, list)) or len(points) != 2:
        raise ValueError(f"points must be two whole numbers, got {points!r}")
    shape = (whole("points[0]", points[0], 2), whole("points[1]", points[1], 2))
    if not 0 < span < np.inf:
        raise ValueError(f"span must be a positive number, got {span}")
    if directions is None:
        first, second = filter_directions(model, seed)
    elif isinstance(directions, (tuple, list)) and len(directions) == 2:
        first, second = (dict(one) for one in directions)
    else:
        raise ValueError(
            "directions must be two mappings from names of parameters to arrays: see "
            "filter_directions"
        )
    plane = _Plane(
        dict(model.named_parameters()),
        as_direction(model, first, "directions[0]"),
        as_direction(model, second, "directions[1]"),
    )
    # With an odd number of points the centre is exactly 0: the model itself.
    x, y = (span * (np.arange(1.0 - count, count, 2.0) / (count - 1)) for count in shape)
    grid = [(float(a), float(b)) for a in x for b in y]
    sums = [Sums(model.num_exits) for _ in grid]
    total = batch_count(loader, batches)
    with unchanged(model), torch.no_grad(), progress_bar(progress, extra="exits") as report:
        model.eval()
        for done, (inputs, labels) in enumerate(labelled_batches(model, loader, batches=batches)):
            for point, ((a, b), one) in enumerate(zip(grid, sums, strict=True), 1):
                one.add(model, plane.at(a, b), inputs, labels, loss)
                whole_work = None if total is None else total * len(grid)
                report("loss landscape", done * len(grid) + point, whole_work, "")
    losses = np.stack([one.loss / one.samples for one in sums], axis=1)
    return LossLandscape(
        x=x,
        y=y,
        losses=losses.reshape(-1, *shape),
        exit_names=model.output_names,
        seed=seed if directions is None else None,
        samples=sums[0].samples,
    )


class _Plane:
    """Parameters at points of a plane, without those that do not move."""

    def __init__(
        self, at: Mapping[str, Tensor], first: Mapping[str, Tensor], second: Mapping[str, Tensor]
    ) -> None:
        self.moves = {
            name: (at[name].detach(), first.get(name), second.get(name))
            for name in {**first, **second}
        }

    def at(self, a: float, b: float) -> dict[str, Tensor]:
        found = {}
        for name, (start, first, second) in self.moves.items():
            moved = start if first is None else start + a * first
            found[name] = moved if second is None else moved + b * second
        return found
