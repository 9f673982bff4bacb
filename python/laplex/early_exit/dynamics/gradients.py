"""Which exit pulls at which block: shares of gradient norms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ..._support.arguments import whole
from ..._support.progress import progress_bar
from ..._support.text_tables import aligned, cell
from ..arrays import Array
from ..model import MultiExitModel
from .batches import batch_count, check_loader, check_model, labelled_batches
from .blocks import counted_parameters, default_blocks, named_blocks
from .drawing import name_height, name_ticks
from .exit_losses import Loss, cross_entropy, loss_of
from .restoring import unchanged
from .result import DynamicsResult

Average = Literal["gradients", "norms"]


@dataclass(frozen=True, eq=False, repr=False)
class GradientShare(DynamicsResult):
    """Result of `gradient_share`.

    Attributes
    ----------
    shares : ndarray [K, B], float64
        Of exits in blocks. A column sums to 1; it is NaN where no exit has a gradient.
    norms : ndarray [K, B], float64
        Norms of the gradients; mean norms for ``average="norms"``, of which the root mean square
        with `squared`.
    exit_names : tuple of str [K]
    blocks : tuple of str [B]
    squared : bool
    average : "gradients" or "norms"
    training : bool
    samples : int
        The gradients are of their losses.
    """

    _kind: ClassVar = "laplex.early_exit.GradientShare"

    shares: Array
    norms: Array
    exit_names: tuple[str, ...]
    blocks: tuple[str, ...]
    squared: bool
    average: Average
    training: bool
    samples: int

    def table(self) -> str:
        """One aligned text, a line for each block."""
        body = [
            [block, *(cell(one, ".1%") for one in column)]
            for block, column in zip(self.blocks, self.shares.T, strict=True)
        ]
        what = "squared gradient norms" if self.squared else "gradient norms"
        title = f"Share of each exit in the {what} of a block ({self.samples:,} samples)"
        return f"{title}\n{aligned(['block', *self.exit_names], body)}"

    def _summary(self) -> str:
        exits, blocks = len(self.exit_names), len(self.blocks)
        return f"{exits} exits in {blocks} blocks, {self.samples:,} samples"

    def _size(self) -> tuple[float, float]:
        words = 0.07 * max(map(len, self.exit_names))
        width = max(4.5, 2.0 + words + 0.62 * len(self.blocks))
        height = max(2.4, 1.4 + 0.42 * len(self.exit_names))
        return width, height + name_height(self.blocks)

    def _draw(self, figure: Any) -> None:
        ax = figure.subplots()
        image = ax.imshow(np.ma.masked_invalid(self.shares), cmap="Blues", vmin=0, vmax=1)
        ax.set_aspect("auto")
        ax.set_facecolor("#dddddd")
        if len(self.blocks) <= 16:
            for (k, b), share in np.ndenumerate(self.shares):
                shown, color = f"{share:.2f}", "white" if share > 0.6 else "black"
                if np.isnan(share):
                    shown = "-"
                ax.text(b, k, shown, ha="center", va="center", color=color, fontsize=8)
        name_ticks(ax, self.blocks)
        ax.set_yticks(range(len(self.exit_names)), self.exit_names)
        ax.set_xlabel("block of the backbone")
        ax.set_ylabel("exit")
        figure.colorbar(image, ax=ax, label="share of squares" if self.squared else "share")
        figure.suptitle("Share of gradient norm", fontsize="medium")


def gradient_share(
    model: MultiExitModel,
    loader: Iterable[Any],
    *,
    squared: bool = False,
    blocks: Mapping[str, str] | Sequence[str] | None = None,
    average: Average = "gradients",
    batches: int | None = None,
    loss: Loss = cross_entropy,
    training: bool = False,
    progress: bool = False,
) -> GradientShare:
    r"""How much of the pull on each block of the backbone comes from each exit.

    .. math::
        D_{kb} = \frac{\lVert \partial L_k / \partial \theta_b \rVert}
            {\sum_j \lVert \partial L_j / \partial \theta_b \rVert}

    for exits k and blocks b, where :math:`L_k` is the loss of exit k alone, without weight. In the
    style of arXiv 2407.14320; the formula is ours.

    Parameters
    ----------
    model : MultiExitModel
        Nothing of it is changed: parameters, buffers, gradients, modes, random state.
    loader : iterable of (x, labels)
    squared : bool
        Shares of squared norms.
    blocks : mapping of str to str, or sequence of str, optional
        Names of modules of the backbone, under other names or as they are. When not given, the
        backbone's children that have parameters; a child with exits inside is taken apart.
        Parameters that a block consists of are those of its modules without normalisations and
        embeddings (torch's, and classes named so); frozen ones count like others.
    average : "gradients" or "norms"
        ``"gradients"``: norms of the mean gradient over all samples, which do not depend on the
        size of batches in evaluation mode. ``"norms"``: mean over batches of each batch's norm (or
        squared norm), in which the noise of small batches is included, as it is in training.
        Batches weigh by their number of samples.
    batches : int, optional
        How many to read; all when not given.
    loss : callable
        ``loss(logits [batch, classes], labels [batch])``, the mean over the batch.
    training : bool
        Measure in training mode (batch statistics, dropout) rather than in evaluation mode.
    progress : bool
        Show a bar.

    Returns
    -------
    GradientShare

    Raises
    ------
    TypeError, ValueError
        Unfit arguments or batches, a block without parameters that count, gradients that are not
        finite.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from laplex.early_exit import MultiExitModel
    >>> from laplex.early_exit.dynamics import gradient_share
    >>> backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> model = MultiExitModel(backbone, {"1": nn.Linear(8, 3)})
    >>> batch = (torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    >>> result = gradient_share(model, [batch])
    >>> result.blocks, result.shares[:, 1]  # the last block is behind the first exit
    (('0', '2'), array([0., 1.]))
    """
    check_model(model)
    check_loader(loader)
    if average not in get_args(Average):
        raise ValueError(f"average must be one of {get_args(Average)}, got {average!r}")
    if batches is not None:
        batches = whole("batches", batches, 1)
    parameters = _block_parameters(model, blocks)
    names = tuple(parameters)
    flat = list({id(one): one for block in parameters.values() for one in block}.values())
    place = {id(one): i for i, one in enumerate(flat)}
    places = [[place[id(one)] for one in block] for block in parameters.values()]
    exits, samples, power = model.num_exits, 0, 2 if squared else 1
    sums = [[torch.zeros_like(one, dtype=_wide(one)) for one in flat] for _ in range(exits)]
    powers = np.zeros((exits, len(names)))
    with (
        unchanged(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        progress_bar(progress, extra="exits") as report,
    ):
        model.train(training)
        for parameter in flat:
            parameter.requires_grad_(True)
        for done, (x, labels) in enumerate(labelled_batches(model, loader, batches=batches), 1):
            count = len(labels)
            losses = [loss_of(loss, logits, labels) for logits in model(x)]
            for k, one in enumerate(losses):
                gradients = _gradients(one, flat, keep=k + 1 < exits)
                if average == "norms":
                    powers[k] += count * _norms(gradients, places) ** power
                else:
                    for total, gradient in zip(sums[k], gradients, strict=True):
                        total.add_(gradient, alpha=count)
            samples += count
            report("gradient share", done, batch_count(loader, batches), "")
        if average == "gradients":
            norms = np.stack([_norms(one, places) for one in sums]) / samples
        else:
            norms = (powers / samples) ** (1 / power)
    if not np.isfinite(norms).all():
        k, b = np.argwhere(~np.isfinite(norms))[0]
        raise ValueError(
            f"the gradient of exit {k} in block {names[b]!r} is not finite: the model has "
            "diverged, or the data have such values"
        )
    return GradientShare(
        shares=_shares(norms, power),
        norms=norms,
        exit_names=model.output_names,
        blocks=names,
        squared=squared,
        average=average,
        training=training,
        samples=samples,
    )


def _block_parameters(model: MultiExitModel, blocks: Any) -> dict[str, list[nn.Parameter]]:
    named = named_blocks(model, default_blocks(model) if blocks is None else blocks)
    found = {name: counted_parameters(module) for name, module in named.items()}
    if blocks is None:
        found = {name: parameters for name, parameters in found.items() if parameters}
    empty = [name for name, parameters in found.items() if not parameters]
    if empty or not found:
        raise ValueError(
            f"block {empty[0]!r} has no parameters but those of normalisations and embeddings: "
            "leave it out"
            if empty
            else "the backbone's children have no parameters: name its blocks"
        )
    return found


def _wide(parameter: Tensor) -> torch.dtype:
    """What gradients are summed in: at least float32."""
    return torch.promote_types(parameter.dtype, torch.float32)


def _gradients(loss: Tensor, flat: list[nn.Parameter], *, keep: bool) -> list[Tensor]:
    if not loss.requires_grad:  # a head that reads nothing of the backbone's parameters
        return [torch.zeros_like(one) for one in flat]
    found = torch.autograd.grad(loss, flat, retain_graph=keep, allow_unused=True)
    return [
        torch.zeros_like(parameter) if one is None else one
        for one, parameter in zip(found, flat, strict=True)
    ]


def _norms(gradients: list[Tensor], places: list[list[int]]) -> Array:
    """Norm over the parameters of each block, in float64."""
    each = np.array([float(torch.linalg.vector_norm(one.double())) for one in gradients])
    return np.array([np.linalg.norm(each[block]) for block in places])


def _shares(norms: Array, power: int) -> Array:
    largest = norms.max(axis=0)
    # Relative to the largest, squares of small norms don't vanish.
    parts = (norms / np.where(largest > 0, largest, np.nan)) ** power
    shares: Array = parts / parts.sum(axis=0)
    return shares
