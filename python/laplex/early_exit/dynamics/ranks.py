"""Along how many directions activations vary: numerical rank, layer by layer."""

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
from ..model import MultiExitModel
from .batches import check_loader, check_model
from .centring import centred, rounding_error
from .drawing import exit_colors, name_height, name_ticks, tidy
from .layers import AsRows, Spatial, layer_rows
from .result import DynamicsResult


@dataclass(frozen=True, eq=False, repr=False)
class ActivationRank(DynamicsResult):
    """Result of `activation_rank`, of L layers.

    Attributes
    ----------
    layers : tuple of str [L]
    ranks : ndarray [L], int64
    rows, features : ndarray [L], int64
        Sizes of the matrices of activations.
    singular_values : tuple of ndarray [min(rows, features)], float64
        From the largest down.
    tol : float
    center : bool
    spatial : "pool", "flatten" or "positions"
    samples : int
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
        """Rank as a part of what the matrix allows, min(rows, features): ndarray [L]."""
        parts: Array = self.ranks / np.minimum(self.rows, self.features)
        return parts

    def table(self) -> str:
        """One aligned text, a line for each layer."""
        body = [
            [name, str(rank), f"{part:.1%}", f"{features:,}", f"{rows:,}"]
            for name, rank, part, features, rows in zip(
                self.layers, self.ranks, self.relative, self.features, self.rows, strict=True
            )
        ]
        about = f"singular values above {self.tol:g} of the largest"
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
        right.set_xlabel("number of the singular value (colours of layers)")
        right.set_ylabel("part of the largest")
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
    r"""Numerical rank of each layer's activations, a matrix A [rows, features].

    The number of singular values above :math:`\mathrm{tol} \cdot \sigma_1`; 0 where the layer's
    output does not vary, :math:`\sigma_1 \le 4 \epsilon \lVert A \rVert_F` with A not centred and
    the machine epsilon of its numbers. In the style of arXiv 2407.14320; the formula is ours.

    Parameters
    ----------
    model : MultiExitModel
        Run in evaluation mode; nothing of it is changed.
    loader : iterable of (x, labels)
        Shuffled, or in an order that does not matter: its first samples are used.
    layers : mapping of str to str, or sequence of str, optional
        Names of modules of the backbone, under other names or as they are. When not given, the
        backbone's children; a child with exits inside is taken apart, and one that does not run
        just once in a forward is left out.
    tol : float
        Between 0 and 1.
    center : bool
        Take each feature's mean off first.
    spatial : "pool", "flatten" or "positions"
        What the rows are where a layer puts out maps or tokens. ``"pool"``: a sample each, means
        over positions. ``"flatten"``: a sample each, all its numbers. ``"positions"``: positions of
        samples; `positions` of each are drawn, uniformly without replacement. Of a layer that puts
        out several maps (a list, one a scale) features are put beside one another.
    positions : int
        Used with ``spatial="positions"``.
    channel_axis : int, optional
        Where channels are. When not given, the last of three dimensions (tokens), the second of
        four or more (maps).
    max_samples : int
        The first so many samples are used. Fewer samples than features bound the rank.
    seed : int
        Of the positions drawn.
    progress : bool
        Show a bar.

    Returns
    -------
    ActivationRank

    Raises
    ------
    TypeError, ValueError
        Unfit arguments or batches; layers that do not run once in a forward, or put out no finite
        numbers.

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
    check_model(model)
    check_loader(loader)
    if not 0 < tol < 1:
        raise ValueError(f"tol must be between 0 and 1, got {tol}: pass 1e-3, or near it")
    max_samples = whole("max_samples", max_samples, 2)
    as_rows = AsRows(spatial, positions=positions, channel_axis=channel_axis, seed=seed)
    with progress_bar(progress, extra="exits") as report:
        found = layer_rows(
            model,
            loader,
            layers,
            as_rows,
            max_samples=max_samples,
            report=lambda done: report("activations", done, max_samples, ""),
        )
        report("activations", len(found.labels), len(found.labels), "")
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
