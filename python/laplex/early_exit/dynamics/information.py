"""What layers know of the label and of the input: mutual information, estimated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..._support.arguments import whole
from ..._support.progress import progress_bar
from ..._support.text_tables import aligned
from ..arrays import Array, Integers
from ..model import MultiExitModel
from .batches import check_loader, check_model
from .centring import centred, rounding_error
from .drawing import name_height, name_ticks, tidy
from .estimators import (
    gaussian_information,
    gaussian_label_information,
    ksg_information,
    ksg_label_information,
    label_entropy,
)
from .layers import AsRows, layer_rows
from .result import DynamicsResult

Estimator = Literal["ksg", "gaussian"]
Reduction = Literal["pca", "random"]

#: Principal components this much smaller than the first, by deviation, are numerically nothing.
_LEAST = 1e-3


@dataclass(frozen=True, eq=False, repr=False)
class MutualInformation(DynamicsResult):
    """Result of `mutual_information`, of L layers, in nats.

    Attributes
    ----------
    layers : tuple of str [L]
    label_information : ndarray [L], float64
        I(Z;Y).
    input_information : ndarray [L], float64, or None
        I(X;Z); None where it was not asked for.
    label_entropy : float
        H(Y) of the labels' frequencies: what I(Z;Y) can be at most.
    estimator : "ksg" or "gaussian"
    neighbours : int
        Used by "ksg".
    reduction : "pca" or "random"
    layer_dims : ndarray [L], int64
        Dimensions that each layer was reduced to, at most those asked for.
    input_dims : int
        The same of the input; 0 where it was not asked for.
    noise : float
        Added to each layer's dimensions, in their standard deviations.
    samples : int
    """

    _kind: ClassVar = "laplex.early_exit.MutualInformation"
    _written: ClassVar = (
        "unit", "layers", "label_information", "input_information", "label_entropy", "estimator",
        "neighbours", "reduction", "layer_dims", "input_dims", "noise", "samples",
    )  # fmt: skip
    unit: ClassVar = "nats"

    layers: tuple[str, ...]
    label_information: Array
    input_information: Array | None
    label_entropy: float
    estimator: Estimator
    neighbours: int
    reduction: Reduction
    layer_dims: Integers
    input_dims: int
    noise: float
    samples: int

    def table(self) -> str:
        """One aligned text, a line for each layer."""
        given = self.input_information
        about = [f"{self.estimator} estimator", f"{self.reduction} reduction"]
        about += [] if given is None else [f"inputs in {self.input_dims} dimensions"]
        about += [f"noise {self.noise:g}"] if self.noise else []
        body = [
            [name, f"{known:.3f}", *([] if given is None else [f"{given[i]:.3f}"]), str(dims)]
            for i, (name, known, dims) in enumerate(
                zip(self.layers, self.label_information, self.layer_dims, strict=True)
            )
        ]
        head = ["layer", "I(Z;Y)", *([] if given is None else ["I(X;Z)"]), "dimensions"]
        return (
            f"Mutual information in nats ({self.samples:,} samples; {', '.join(about)})\n"
            f"{aligned(head, body)}\nH(Y) = {self.label_entropy:.3f}"
        )

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}: {known:.3g}"
            for name, known in zip(self.layers, self.label_information, strict=True)
        )
        return f"MutualInformation(I(Z;Y) {shown} nats; {self.samples:,} samples)"

    def _size(self) -> tuple[float, float]:
        return max(4.8, 2.8 + 0.45 * len(self.layers)), 3.2 + name_height(self.layers)

    def _draw(self, figure: Any) -> None:
        ax = figure.subplots()
        place = np.arange(len(self.layers))
        style = {"marker": "o", "markersize": 4}
        ax.plot(place, self.label_information, color="#12795a", label="I(Z;Y), label", **style)
        if self.input_information is not None:
            finite = np.ma.masked_invalid(self.input_information)
            ax.plot(place, finite, color="#d95f02", label="I(X;Z), input", **style)
        ax.axhline(self.label_entropy, color="black", linewidth=0.8, ls="--", label="H(Y)")
        ax.set_ylim(min(0.0, ax.get_ylim()[0]))
        name_ticks(ax, self.layers)
        ax.set_ylabel("nats")
        where = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "borderaxespad": 0.1}
        ax.legend(frameon=False, fontsize="small", ncols=3, **where)
        tidy(ax)
        figure.suptitle("Mutual information", fontsize="medium")


def mutual_information(
    model: MultiExitModel,
    loader: Iterable[Any],
    *,
    layers: Mapping[str, str] | Sequence[str] | None = None,
    estimator: Estimator = "ksg",
    neighbours: int = 3,
    dims: int = 4,
    reduction: Reduction = "pca",
    noise: float = 0.0,
    inputs: bool = True,
    spatial: Literal["pool", "flatten"] = "pool",
    channel_axis: int | None = None,
    max_samples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> MutualInformation:
    r"""How much layers Z know of the label, I(Z;Y), and of the input, I(X;Z), in nats.

    In the style of arXiv 2407.14320; the estimators are named, and ours to choose. No estimator
    works in the hundreds of dimensions that layers have. So layers and inputs are first reduced to
    `dims` numbers, and what is estimated is the information of *those*: a lower bound for I(Z;Y),
    and a number of its own for I(X;Z). A network without noise is a function, of which
    :math:`I(X;Z)` is infinite in truth; of the reduced vectors it is finite, but tells of the
    reduction as well as of the layer. Compare layers and checkpoints with one another under the
    same options, not with numbers from elsewhere.

    Parameters
    ----------
    model : MultiExitModel
        Run in evaluation mode; nothing of it is changed.
    loader : iterable of (x, labels)
        Shuffled, or in an order that does not matter: its first samples are used.
    layers, channel_axis
        As for `activation_rank`.
    estimator : "ksg" or "gaussian"
        ``"ksg"``: nearest neighbours, `ksg_label_information` (Ross) and `ksg_information`
        (Kraskov et al.). ``"gaussian"``: `gaussian_label_information` (Gaussian within each class)
        and `gaussian_information` (Gaussian together). Their biases are told there.
    neighbours : int
        Of "ksg".
    dims : int
        Fewer where a layer has fewer directions in which it varies more than a thousandth of the
        first.
    reduction : "pca" or "random"
        ``"pca"``: the principal components with the most variance. ``"random"``: projections on
        `dims` random directions. Both are then scaled to deviation 1 and no correlation.
    noise : float
        Deviation of Gaussian noise that is added to each of a layer's reduced dimensions, whose own
        is 1. Makes :math:`I(X;Z)` finite in truth as well.
    inputs : bool
        Whether to estimate I(X;Z).
    spatial : "pool" or "flatten"
        What a sample's row is where a layer puts out maps or tokens; see `activation_rank`.
    max_samples : int
        The first so many samples are used.
    seed : int
        Of the random directions, of the noise, and of the folds of "gaussian".
    progress : bool
        Show a bar.

    Returns
    -------
    MutualInformation
        Estimates as they are, also below 0. A layer that does not vary has 0.

    Raises
    ------
    TypeError, ValueError
        Unfit arguments or batches, too few samples for the estimator, inputs that are no real
        numbers.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from laplex.early_exit import MultiExitModel
    >>> from laplex.early_exit.dynamics import mutual_information
    >>> backbone = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> model = MultiExitModel(backbone, {"1": nn.Linear(8, 2)})
    >>> x = torch.randn(200, 4)
    >>> result = mutual_information(model, [(x, (x[:, 0] > 0).long())], dims=2)
    >>> result.layers, result.layer_dims
    (('0', '1', '2'), array([2, 2, 2]))
    """
    check_model(model)
    check_loader(loader)
    for name, value, kinds in (
        ("estimator", estimator, get_args(Estimator)),
        ("reduction", reduction, get_args(Reduction)),
        ("spatial", spatial, ("pool", "flatten")),
    ):
        if value not in kinds:
            raise ValueError(f"{name} must be one of {kinds}, got {value!r}")
    dims, neighbours = whole("dims", dims, 1), whole("neighbours", neighbours, 1)
    max_samples = whole("max_samples", max_samples, 2 * dims + 2)
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise must be 0 or a positive number, got {noise}")
    as_rows = AsRows(spatial, channel_axis=channel_axis, seed=seed)
    with progress_bar(progress, extra="exits") as report:
        found = layer_rows(
            model,
            loader,
            layers,
            as_rows,
            max_samples=max_samples,
            inputs=inputs,
            report=lambda done: report("activations", done, max_samples, ""),
        )
        report("activations", len(found.labels), len(found.labels), "")
        x = None
        if found.inputs is not None:
            epsilon = float(np.finfo(found.inputs.dtype).eps)
            rng = np.random.default_rng([seed, 0])
            x = _reduced(found.inputs, epsilon, dims, reduction, rng)
        known, seen, layer_dims = [], [], []
        for number, (name, rows) in enumerate(found.rows.items(), 1):
            # Drawn anew for each layer, whose numbers so don't depend on which others there are.
            rng = np.random.default_rng([seed, 1])
            z = _reduced(rows, found.rounding[name], dims, reduction, rng)
            z = z + noise * rng.standard_normal(z.shape)
            layer_dims.append(z.shape[1])
            if not z.shape[1]:
                known.append(0.0)
            elif estimator == "ksg":
                known.append(ksg_label_information(z, found.labels, neighbours=neighbours))
            else:
                known.append(gaussian_label_information(z, found.labels, seed=seed))
            if x is not None:
                seen.append(_input_information(x, z, estimator, neighbours))
            report("mutual information", number, len(found.rows), name)
    return MutualInformation(
        layers=tuple(found.rows),
        label_information=np.array(known),
        input_information=None if x is None else np.array(seen),
        label_entropy=label_entropy(found.labels),
        estimator=estimator,
        neighbours=neighbours,
        reduction=reduction,
        layer_dims=np.array(layer_dims, dtype=np.int64),
        input_dims=0 if x is None else x.shape[1],
        noise=float(noise),
        samples=len(found.labels),
    )


def _input_information(x: Array, z: Array, estimator: Estimator, neighbours: int) -> float:
    if not x.shape[1] or not z.shape[1]:
        return 0.0
    if estimator == "gaussian":
        return gaussian_information(x, z)
    return ksg_information(x, z, neighbours=neighbours)


def _reduced(
    rows: NDArray[Any], epsilon: float, dims: int, reduction: Reduction, rng: np.random.Generator
) -> Array:
    """Principal components of rows or of their projections, of deviation 1: [n, <= dims]."""
    exact = rows.astype(np.float64)
    error = rounding_error(exact, epsilon)
    exact = centred(exact)
    if reduction == "random":
        exact = exact @ rng.standard_normal((exact.shape[1], dims)) / np.sqrt(exact.shape[1])
    left, sizes, _ = np.linalg.svd(exact, full_matrices=False)
    kept = min(dims, int((sizes > _LEAST * sizes[0]).sum())) if sizes[0] > error else 0
    scores: Array = left[:, :kept] * np.sqrt(len(rows))
    return scores
