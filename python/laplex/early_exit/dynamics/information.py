"""Estimates of the mutual information between layers and the label or the input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..._support.arguments import one_of, whole
from ..._support.progress import progress_bar
from ..._support.text_tables import aligned
from ..arrays import Array, Integers
from ..batches import check_inputs
from ..model import MultiExitModel
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

#: Principal components with a standard deviation below this part of the first count as zero.
_LEAST = 1e-3


@dataclass(frozen=True, eq=False, repr=False)
class MutualInformation(DynamicsResult):
    """Result of `mutual_information`, for L layers, in nats. Printing it prints the table.

    Attributes
    ----------
    layers : tuple of str [L]
        Names of the layers.
    label_information : ndarray [L], float64
        I(Z;Y), the information of each layer about the label.
    input_information : ndarray [L], float64, or None
        I(X;Z), the information of each layer about the input; None if it was not requested.
    label_entropy : float
        H(Y), the entropy of the label frequencies; the maximum of I(Z;Y).
    estimator : "ksg" or "gaussian"
        The estimator.
    neighbours : int
        Number of neighbours, used by "ksg".
    reduction : "pca" or "random"
        The method that reduced layers and inputs to few dimensions.
    layer_dims : ndarray [L], int64
        Number of dimensions that each layer was reduced to, at most the requested number.
    input_dims : int
        Number of dimensions that the input was reduced to; 0 if I(X;Z) was not requested.
    noise : float
        Standard deviation of the noise added to each dimension of a layer, whose own is 1.
    samples : int
        Number of samples.
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
        """Format the estimates as aligned text, one line for each layer."""
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
    r"""Estimate the information of layers Z about the label, I(Z;Y), and the input, I(X;Z).

    The estimates are in nats. They are in the style of arXiv 2407.14320; the choice of estimators
    is ours. No estimator works in the hundreds of dimensions of a layer. Layers and inputs are
    therefore reduced to `dims` numbers first, and the estimates are for *these* numbers: a lower
    bound for I(Z;Y), and a quantity of its own for I(X;Z). A network without noise is a
    deterministic function, whose true :math:`I(X;Z)` is infinite. For the reduced vectors it is
    finite, but it depends on the reduction as well as on the layer. Compare layers and checkpoints
    with one another under the same options, not with numbers from elsewhere.

    Parameters
    ----------
    model : MultiExitModel
        The model. It runs in evaluation mode and is not changed.
    loader : iterable of (x, labels)
        Batches of samples. Only its first samples are used, so shuffle it unless its order is
        arbitrary.
    layers : mapping of str to str, or sequence of str, optional
        Which layers to measure, as in `activation_rank`.
    estimator : "ksg" or "gaussian"
        ``"ksg"`` uses nearest neighbours: `ksg_label_information` (Ross) and `ksg_information`
        (Kraskov et al.). ``"gaussian"`` uses `gaussian_label_information` (Gaussian within each
        class) and `gaussian_information` (jointly Gaussian). These functions describe their biases.
    neighbours : int
        Number of neighbours for "ksg".
    dims : int
        Number of dimensions after the reduction. A layer gets fewer if it has fewer directions
        whose standard deviation is more than a thousandth of the largest.
    reduction : "pca" or "random"
        ``"pca"`` keeps the principal components with the largest variance. ``"random"`` projects on
        `dims` random directions. The results are then decorrelated and scaled to a standard
        deviation of 1.
    noise : float
        Standard deviation of Gaussian noise that is added to each reduced dimension of a layer.
        With noise, the true :math:`I(X;Z)` is finite as well.
    inputs : bool
        Whether to estimate I(X;Z).
    spatial : "pool" or "flatten"
        How feature maps and tokens become one row for each sample; see `activation_rank`.
    channel_axis : int, optional
        The axis of the features, as in `activation_rank`.
    max_samples : int
        Number of samples to use.
    seed : int
        Random seed of the random directions, the noise, and the folds of "gaussian".
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    MutualInformation
        The estimates, which may be negative. They are 0 for a layer that does not vary.

    Raises
    ------
    TypeError, ValueError
        If arguments or batches are invalid, there are too few samples for the estimator, or inputs
        are not real numbers.

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
    check_inputs(model, loader)
    one_of("estimator", estimator, Estimator)
    one_of("reduction", reduction, Reduction)
    one_of("spatial", spatial, Literal["pool", "flatten"])
    dims, neighbours = whole("dims", dims, 1), whole("neighbours", neighbours, 1)
    max_samples = whole("max_samples", max_samples, 2 * dims + 2)
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise must be 0 or a positive number, got {noise}")
    as_rows = AsRows(spatial, channel_axis=channel_axis, seed=seed)
    with progress_bar(progress, extra="exits") as report:
        found = layer_rows(
            model, loader, layers, as_rows, max_samples=max_samples, inputs=inputs, report=report
        )
        x = None
        if found.inputs is not None:
            epsilon = float(np.finfo(found.inputs.dtype).eps)
            rng = np.random.default_rng([seed, 0])
            x = _reduced(found.inputs, epsilon, dims, reduction, rng)
        known, seen, layer_dims = [], [], []
        for number, (name, rows) in enumerate(found.rows.items(), 1):
            # Drawn anew for each layer, so that its estimate does not depend on the other layers.
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
    """Principal components of rows or of their projections, scaled to 1: [n, <= dims]."""
    exact = rows.astype(np.float64)
    error = rounding_error(exact, epsilon)
    exact = centred(exact)
    if reduction == "random":
        exact = exact @ rng.standard_normal((exact.shape[1], dims)) / np.sqrt(exact.shape[1])
    left, sizes, _ = np.linalg.svd(exact, full_matrices=False)
    kept = min(dims, int((sizes > _LEAST * sizes[0]).sum())) if sizes[0] > error else 0
    scores: Array = left[:, :kept] * np.sqrt(len(rows))
    return scores
