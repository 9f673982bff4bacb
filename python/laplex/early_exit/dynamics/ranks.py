"""Numerical rank of the activations of each layer: the number of directions in which they vary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import svdvals

from ..._support.arguments import whole
from ..._support.progress import progress_bar
from ..._support.text_tables import aligned
from ..arrays import Array, Integers
from ..batches import check_inputs
from ..model import MultiExitModel
from .centring import centred, rounding_error
from .drawing import exit_colors, name_height, name_ticks, tidy
from .layers import AsRows, Spatial, layer_rows
from .result import DynamicsResult


@dataclass(frozen=True, eq=False, repr=False)
class ActivationRank(DynamicsResult):
    """Result of `activation_rank`, for L layers. Printing it prints the table.

    Attributes
    ----------
    layers : tuple of str [L]
        Names of the layers.
    ranks : ndarray [L], int64
        Numerical rank of each layer.
    rows, features : ndarray [L], int64
        Sizes of the matrices of activations.
    singular_values : tuple of ndarray [min(rows, features)], float64
        Singular values of each matrix, in descending order.
    tol : float
        The relative tolerance.
    center : bool
        Whether the mean of each feature was subtracted.
    spatial : "pool", "flatten" or "positions"
        How feature maps and tokens became rows.
    samples : int
        Number of samples.
    """

    _kind: ClassVar = "laplex.early_exit.ActivationRank"
    _written: ClassVar = (
        "layers", "ranks", "relative", "rows", "features", "singular_values", "tol", "center",
        "spatial", "samples",
    )  # fmt: skip

    layers: tuple[str, ...]
    ranks: Integers
    rows: Integers
    features: Integers
    singular_values: tuple[Array, ...]
    tol: float
    center: bool
    spatial: Spatial
    samples: int

    @property
    def relative(self) -> Array:
        """Rank divided by the largest possible rank, min(rows, features); ndarray [L]."""
        parts: Array = self.ranks / np.minimum(self.rows, self.features)
        return parts

    def table(self) -> str:
        """Format the ranks as aligned text, one line for each layer."""
        body = [
            [name, str(rank), f"{part:.1%}", f"{features:,}", f"{rows:,}"]
            for name, rank, part, features, rows in zip(
                self.layers, self.ranks, self.relative, self.features, self.rows, strict=True
            )
        ]
        about = f"singular values above {self.tol:g} times the largest"
        about += ", centred" if self.center else ", not centred"
        head = ["layer", "rank", "of possible", "features", "rows"]
        return f"Rank of activations: {about}; {self.spatial}\n{aligned(head, body)}"

    def _summary(self) -> str:
        shown = zip(self.layers, self.ranks, strict=True)
        return f"{', '.join(f'{name}: {rank}' for name, rank in shown)}; {self.samples:,} samples"

    def _size(self) -> tuple[float, float]:
        return max(8.0, 5.0 + 0.5 * len(self.layers)), 3.2 + name_height(self.layers)

    def _draw(self, figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        colors = exit_colors(len(self.layers))
        bars = left.bar(range(len(self.layers)), 100 * self.relative, color=colors, width=0.7)
        left.bar_label(bars, [str(rank) for rank in self.ranks], fontsize="small", padding=1)
        name_ticks(left, self.layers)
        left.set_ylim(0, max(1.12 * 100 * float(self.relative.max()), 1.0))
        left.set_ylabel("rank, % of possible")
        for values, color in zip(self.singular_values, colors, strict=True):
            if values[0] > 0:
                seen = values / values[0]
                right.plot(np.arange(1, len(seen) + 1), seen, color=color, marker=".", markersize=3)
        right.axhline(self.tol, color="black", linewidth=0.8, linestyle="--")
        right.set_yscale("log")
        if max(map(len, self.singular_values)) > 40:
            right.set_xscale("log")
        else:
            right.xaxis.get_major_locator().set_params(integer=True)
        right.set_ylim(self.tol / 30, 1.6)
        right.set_xlabel("index of singular value (coloured by layer)")
        right.set_ylabel("relative to the largest")
        tidy(left)
        left.grid(axis="x", visible=False)
        tidy(right)
        figure.suptitle("Rank of activations", fontsize="medium")


def activation_rank(
    model: MultiExitModel,
    loader: Iterable[Any],
    *,
    layers: Mapping[str, str] | Sequence[str] | None = None,
    tol: float = 1e-3,
    center: bool = True,
    spatial: Spatial = "pool",
    positions: int = 8,
    channel_axis: int | None = None,
    max_samples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> ActivationRank:
    r"""Compute the numerical rank of the activations of each layer.

    The rank of the matrix A [rows, features] of activations is the number of its singular values
    above :math:`\mathrm{tol} \cdot \sigma_1`. It is 0 if the output of the layer does not vary,
    that is, if :math:`\sigma_1 \le 4 \epsilon \lVert A \rVert_F`, with the norm of the matrix
    before centring and the machine epsilon of its numbers. This is in the style of arXiv
    2407.14320; the formula is ours.

    Parameters
    ----------
    model : MultiExitModel
        The model. It runs in evaluation mode and is not changed.
    loader : iterable of (x, labels)
        Batches of samples. Only its first samples are used, so shuffle it unless its order is
        arbitrary.
    layers : mapping of str to str, or sequence of str, optional
        Names of modules of the backbone; a mapping gives them other names for display. The default
        is the children of the backbone that run exactly once in a forward; a child that contains
        exits is split into its own children.
    tol : float
        Relative tolerance, between 0 and 1.
    center : bool
        Whether to subtract the mean of each feature first.
    spatial : "pool", "flatten" or "positions"
        How feature maps and tokens become rows. ``"pool"`` makes one row for each sample, the mean
        over positions. ``"flatten"`` makes one row for each sample, with all its numbers.
        ``"positions"`` makes rows of single positions; `positions` of them are drawn from each
        sample, uniformly without replacement. If a layer returns several maps (a list, one for each
        scale), their features are concatenated.
    positions : int
        Number of positions for each sample with ``spatial="positions"``.
    channel_axis : int, optional
        The dimension of the channels. By default it is the last of three dimensions (tokens), and
        the second of four or more (feature maps).
    max_samples : int
        Number of samples to use. With fewer samples than features, it bounds the rank.
    seed : int
        Random seed of the positions.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    ActivationRank

    Raises
    ------
    TypeError, ValueError
        If arguments or batches are invalid, or layers do not run exactly once in a forward or
        return numbers that are not finite.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from laplex.early_exit import MultiExitModel
    >>> from laplex.early_exit.dynamics import activation_rank
    >>> backbone = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    >>> model = MultiExitModel(backbone, {"0": nn.Linear(8, 3)})
    >>> batch = (torch.randn(100, 4), torch.randint(0, 3, (100,)))
    >>> activation_rank(model, [batch])
    ActivationRank(0: 4, 1: 3; 100 samples; print it for the table)
    """
    check_inputs(model, loader)
    if not 0 < tol < 1:
        raise ValueError(f"tol must be between 0 and 1, got {tol}: 1e-3 is a common choice")
    max_samples = whole("max_samples", max_samples, 2)
    as_rows = AsRows(spatial, positions=positions, channel_axis=channel_axis, seed=seed)
    with progress_bar(progress, extra="exits") as report:
        found = layer_rows(model, loader, layers, as_rows, max_samples=max_samples, report=report)
        ranks, values = [], []
        for number, (name, rows) in enumerate(found.rows.items(), 1):
            rank, spectrum = _rank(rows.astype(np.float64), tol, center, found.rounding[name])
            ranks.append(rank)
            values.append(spectrum)
            report("singular values", number, len(found.rows), name)
    return ActivationRank(
        layers=tuple(found.rows),
        ranks=np.array(ranks, dtype=np.int64),
        rows=np.array([len(one) for one in found.rows.values()], dtype=np.int64),
        features=np.array([one.shape[1] for one in found.rows.values()], dtype=np.int64),
        singular_values=tuple(values),
        tol=float(tol),
        center=center,
        spatial=spatial,
        samples=len(found.labels),
    )


def _rank(
    rows: NDArray[np.float64], tol: float, center: bool, rounding: float
) -> tuple[int, Array]:
    values: Array = svdvals(centred(rows) if center else rows)
    if values[0] <= rounding_error(rows, rounding):
        return 0, values
    return int((values > tol * values[0]).sum()), values
