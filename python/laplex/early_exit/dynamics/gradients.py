"""Shares of the exits in the gradient norm of each block of the backbone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..._support.arguments import one_of
from ..._support.progress import progress_bar
from ..._support.text_tables import aligned, cell
from ..arrays import Array
from ..batches import batch_count, check_inputs, labelled_batches
from ..model import MultiExitModel
from .blocks import counted_parameters, default_blocks, named_blocks
from .drawing import name_height, name_ticks
from .exit_losses import Loss, cross_entropy, loss_of
from .restoring import unchanged
from .result import DynamicsResult

Average = Literal["gradients", "norms"]


@dataclass(frozen=True, eq=False, repr=False)
class GradientShare(DynamicsResult):
    """Result of `gradient_share`, for K exits and B blocks. Printing it prints the table.

    Attributes
    ----------
    shares : ndarray [K, B], float64
        Share of each exit in each block. A column sums to 1; it is NaN if no exit has a gradient in
        that block.
    norms : ndarray [K, B], float64
        Norms of the gradients. With ``average="norms"`` they are means over batches: root mean
        squares if `squared`, arithmetic means otherwise.
    exit_names : tuple of str [K]
        Names of the exits.
    blocks : tuple of str [B]
        Names of the blocks.
    squared : bool
        Whether the shares are of squared norms.
    average : "gradients" or "norms"
        What was averaged over batches.
    training : bool
        Whether the model was in training mode.
    samples : int
        Number of samples.
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
        """Format the shares as aligned text, one line for each block."""
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
    r"""Measure how much of the gradient of each block of the backbone comes from each exit.

    .. math::
        D_{kb} = \frac{\lVert \partial L_k / \partial \theta_b \rVert}
            {\sum_j \lVert \partial L_j / \partial \theta_b \rVert}

    for exits k and blocks b, where :math:`L_k` is the unweighted loss of exit k alone. This is in
    the style of arXiv 2407.14320; the formula is ours.

    Parameters
    ----------
    model : MultiExitModel
        The model. Its parameters, buffers, gradients and modes, and the random state, are not
        changed.
    loader : iterable of (x, labels)
        Batches of samples.
    squared : bool
        Whether to use squared norms.
    blocks : mapping of str to str, or sequence of str, optional
        Names of modules of the backbone; a mapping gives them other names for display. The default
        is the children of the backbone that have parameters; a child that contains exits is split
        into its own children. Parameters of normalisations and embeddings (torch's, and classes
        named like them) are left out; frozen parameters are included.
    average : "gradients" or "norms"
        ``"gradients"`` takes the norm of the mean gradient over all samples, which in evaluation
        mode does not depend on the batch size. ``"norms"`` takes the mean of the norms (or squared
        norms) of the batches; like training, it includes the noise of small batches. Batches are
        weighted by their number of samples.
    batches : int, optional
        Number of batches to read; by default all.
    loss : callable
        ``loss(logits [batch, classes], labels [batch])`` returns the mean loss of the batch.
    training : bool
        Whether to measure in training mode (batch statistics, dropout) instead of evaluation mode.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    GradientShare

    Raises
    ------
    TypeError, ValueError
        If arguments or batches are invalid, a block has no parameters that count, or gradients are
        not finite.

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
    >>> result.blocks, result.shares[:, 1]  # the last block is after the first exit
    (('0', '2'), array([0., 1.]))
    """
    check_inputs(model, loader, batches)
    one_of("average", average, Average)
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
            "diverged, or its inputs are not finite"
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
            f"block {empty[0]!r} has no parameters other than those of normalisations and "
            "embeddings: leave it out of blocks"
            if empty
            else "the children of the backbone have no parameters: pass blocks"
        )
    return found


def _wide(parameter: Tensor) -> torch.dtype:
    """The precision in which gradients are summed: at least float32."""
    return torch.promote_types(parameter.dtype, torch.float32)


def _gradients(loss: Tensor, flat: list[nn.Parameter], *, keep: bool) -> list[Tensor]:
    if not loss.requires_grad:  # the loss does not depend on parameters of the backbone
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
