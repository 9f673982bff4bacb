"""Losses and predictions of heads with so many classes that not all logits fit into memory."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Literal, Protocol, TypeAlias, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from laplex._support.arguments import integer, one_of
from laplex.nn.head import LaplexHead, check_class_numbers
from laplex.torch.call import check_tensor


class SomeLogits(Protocol):
    """A head of another kind that computes the logits of some of its classes."""

    in_features: int
    out_features: int

    def logits(self, input: Tensor, classes: Tensor) -> Tensor:  # noqa: A002
        """Return the logits ``[batch, k]`` of an input ``[batch, in_features]``."""


#: What the functions of this file take as a head.
Head: TypeAlias = LaplexHead | nn.Linear | SomeLogits

Reduction: TypeAlias = Literal["mean", "sum", "none"]

#: Logits of a block of classes, ``[batch, in_features]`` to ``[batch, block]``.
Block: TypeAlias = Callable[[Tensor], Tensor]

_HALF = (torch.float16, torch.bfloat16)

#: Blocks of this many classes: for 256 samples and 8 heads, 64 MiB in float32.
BLOCK_SIZE = 8192


def sampled_cross_entropy(
    head: Head,
    features: Tensor,
    labels: Tensor,
    *,
    num_sampled: int,
    weights: Tensor | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Estimate the cross entropy from the labels' logits and those of a sample of classes.

    .. math::
        -o_y + \log\Bigl(e^{o_y} + \sum_{c \in S,\, c \ne y} e^{o_c} / q_c\Bigr)

    The classes S are drawn once for the whole batch. :math:`q_c` is the number of times that c is
    expected in S, so that the sum over S has the mean of the sum over all classes but the label
    (the log-Q correction). The classes in S that are a sample's label do not count for it. A sample
    takes O(num_sampled) time and memory instead of O(num_classes).

    Parameters
    ----------
    head : LaplexHead or nn.Linear
        The head, or any object with ``in_features``, ``out_features`` and
        ``logits(input, classes)``.
    features : Tensor ``[batch, in_features]``
        The input of the head.
    labels : Tensor ``[batch]``
        The classes, in int64.
    num_sampled : int
        The number of drawn classes. All classes give the cross entropy itself, if there are no
        ``weights``.
    weights : Tensor ``[num_classes]``, optional
        Draw classes in proportion to these numbers, with replacement, for instance to their
        frequencies. By default all classes are equally likely and none is drawn twice.
    reduction : {"mean", "sum", "none"}
        As for ``torch.nn.functional.cross_entropy``.
    generator : torch.Generator, optional
        The generator of the draws, on the CPU. The default is torch's global one.

    Returns
    -------
    Tensor
        The loss, a scalar, or ``[batch]`` with ``reduction="none"``; in float32 if the logits are
        of half precision.

    Raises
    ------
    TypeError
        If the head is of another kind, ``features`` are complex, or ``labels`` are not int64.
    ValueError
        If a shape is wrong, a label is not a class, ``num_sampled`` is below 1, or above the number
        of classes without ``weights``, or the weights are not positive and finite.

    Notes
    -----
    The gradient goes through the normalisers :math:`z_f` of a `LaplexHead`, and so reaches the
    anchors of all classes. Without that part, that of the lengthscales would point uphill.

    The estimate is that of Bengio and Senecal, "Quick training of probabilistic neural nets by
    importance sampling" (2003). The label is always there, so its own logit has no correction.

    Examples
    --------
    >>> import torch
    >>> import laplex
    >>> head = laplex.nn.LaplexHead(64, 100_000, heads=2)
    >>> features, labels = torch.randn(8, 64), torch.randint(100_000, (8,))
    >>> laplex.nn.sampled_cross_entropy(head, features, labels, num_sampled=500).shape
    torch.Size([])
    """
    num_classes = _check(head, features, labels)
    one_of("reduction", reduction, Reduction)
    num_sampled = integer("num_sampled", num_sampled)
    if weights is None:
        if num_sampled > num_classes:
            raise ValueError(
                f"num_sampled must be at most {num_classes}, the number of classes, "
                f"got {num_sampled}"
            )
        drawn = _without_replacement(num_classes, num_sampled, generator).to(labels.device)
        log_count = torch.tensor(num_sampled / num_classes, dtype=torch.float64).log()
    else:
        weights = _check_weights(weights, num_classes)
        drawn = _with_replacement(weights, num_sampled, generator)
        log_count = (num_sampled * weights[drawn] / weights.sum()).log()
        drawn = drawn.to(labels.device)
    classes, places = torch.unique(torch.cat([labels, drawn]), return_inverse=True)
    logits = _in_full_precision(_logits(head, features, classes))
    of_label = logits.gather(1, places[: len(labels), None])
    of_drawn = logits[:, places[len(labels) :]] - log_count.to(logits)
    of_drawn = of_drawn.masked_fill(drawn == labels[:, None], -torch.inf)
    losses = torch.cat([of_label, of_drawn], dim=1).logsumexp(dim=1) - of_label.squeeze(1)
    return _reduced(losses, reduction)


def blockwise_cross_entropy(
    head: Head,
    features: Tensor,
    labels: Tensor,
    *,
    block_size: int = BLOCK_SIZE,
    reduction: str = "mean",
) -> Tensor:
    """Compute the cross entropy of all classes block by block, so that memory stays small.

    The result is that of ``torch.nn.functional.cross_entropy(head(features), labels)`` up to
    rounding, and so are its gradients. The logits of a block of classes are computed once for the
    loss and again in the backward pass, so no more than those of one block exist at a time.

    Parameters
    ----------
    head : LaplexHead or nn.Linear
        The head, or any object with ``in_features``, ``out_features`` and
        ``logits(input, classes)``.
    features : Tensor ``[batch, in_features]``
        The input of the head.
    labels : Tensor ``[batch]``
        The classes, in int64.
    block_size : int
        The number of classes in a block, at least 1.
    reduction : {"mean", "sum", "none"}
        As for ``torch.nn.functional.cross_entropy``.

    Returns
    -------
    Tensor
        The loss, a scalar, or ``[batch]`` with ``reduction="none"``; in float32 if the logits are
        of half precision.

    Raises
    ------
    TypeError
        If the head is of another kind, ``features`` are complex, or ``labels`` are not int64.
    ValueError
        If a shape is wrong, a label is not a class, or ``block_size`` is below 1.

    Notes
    -----
    The transforms of ``torch.func`` do not work, because the backward pass computes logits again
    (``torch.utils.checkpoint``).

    Examples
    --------
    >>> import torch
    >>> import laplex
    >>> head = laplex.nn.LaplexHead(64, 100_000)
    >>> features, labels = torch.randn(8, 64), torch.randint(100_000, (8,))
    >>> laplex.nn.blockwise_cross_entropy(head, features, labels).backward()
    """
    _check(head, features, labels)
    one_of("reduction", reduction, Reduction)
    block_size = integer("block_size", block_size)
    labels = labels.clone()  # the backward pass reads them again

    def sums(first: int, block: Block, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithm of a block's sum, and the labels' logits where they are in it."""
        logits = _in_full_precision(block(rows))
        place = labels - first
        within = (place >= 0) & (place < logits.shape[1])
        own = logits.gather(1, place.clamp(0, logits.shape[1] - 1)[:, None]).squeeze(1)
        # The gradient of a logarithm of 0 is NaN.
        empty = logits.isneginf().all(dim=1)
        log_sum = logits.masked_fill(empty[:, None], 0.0).logsumexp(dim=1)
        return log_sum.masked_fill(empty, -torch.inf), own.where(within, 0.0)

    found = [
        checkpoint(functools.partial(sums, first, block), features, use_reentrant=False)
        for first, block in _blocks(head, block_size, features.device)
    ]
    log_sums, own = (torch.stack(each) for each in zip(*found, strict=True))
    return _reduced(log_sums.logsumexp(dim=0) - own.sum(dim=0), reduction)


@torch.no_grad()
def blockwise_topk(
    head: Head, features: Tensor, k: int = 1, *, block_size: int = BLOCK_SIZE
) -> tuple[Tensor, Tensor]:
    """Find the classes of the k largest logits block by block, so that memory stays small.

    Parameters
    ----------
    head : LaplexHead or nn.Linear
        The head, or any object with ``in_features``, ``out_features`` and
        ``logits(input, classes)``.
    features : Tensor ``[batch, in_features]``
        The input of the head.
    k : int
        The number of classes, between 1 and all.
    block_size : int
        The number of classes in a block, at least 1.

    Returns
    -------
    values, classes : Tensor ``[batch, k]``, Tensor ``[batch, k]``
        The logits, largest first, and their classes, in int64. They have no gradients.

    Raises
    ------
    TypeError
        If the head is of another kind, or ``features`` are complex.
    ValueError
        If a shape is wrong, or ``k`` or ``block_size`` is out of range.

    Examples
    --------
    >>> import torch
    >>> import laplex
    >>> head = laplex.nn.LaplexHead(64, 100_000)
    >>> values, classes = laplex.nn.blockwise_topk(head, torch.randn(8, 64), 10)
    >>> classes.shape
    torch.Size([8, 10])
    """
    num_classes = _check(head, features)
    k, block_size = integer("k", k), integer("block_size", block_size)
    if k > num_classes:
        raise ValueError(f"k must be at most {num_classes}, the number of classes, got {k}")
    found: tuple[Tensor, Tensor] | None = None
    for first, block in _blocks(head, block_size, features.device):
        logits = block(features)
        values, classes = logits.topk(min(k, logits.shape[1]))
        classes = classes + first
        if found is not None:
            both = torch.cat([found[0], values], dim=1)
            values, place = both.topk(min(k, both.shape[1]))
            classes = torch.cat([found[1], classes], dim=1).gather(1, place)
        found = values, classes
    assert found is not None  # a head has a class
    return found


def _blocks(head: Head, size: int, device: torch.device) -> Iterator[tuple[int, Block]]:
    """Yield the first class of each block and the function of its logits."""
    if isinstance(head, LaplexHead):
        blocks = head.blocks(size)
    elif _is_linear(head):
        # Split once: the gradient of every single slice would be as large as the weight.
        biases = [None] if head.bias is None else torch.split(head.bias, size)
        blocks = (
            functools.partial(nn.functional.linear, weight=weight, bias=bias)
            for weight, bias in zip(
                torch.split(head.weight, size), itertools.cycle(biases), strict=False
            )
        )
    else:
        other = cast(SomeLogits, head)
        blocks = (
            functools.partial(other.logits, classes=classes)
            for classes in torch.split(torch.arange(head.out_features, device=device), size)
        )
    return zip(itertools.count(0, size), blocks, strict=False)


def _logits(head: Head, features: Tensor, classes: Tensor) -> Tensor:
    if _is_linear(head):
        bias = None if head.bias is None else head.bias[classes]
        return nn.functional.linear(features, head.weight[classes], bias)
    return cast(SomeLogits, head).logits(features, classes)


def _without_replacement(count: int, size: int, generator: torch.Generator | None) -> Tensor:
    return torch.randperm(count, generator=generator, device="cpu")[:size]


def _with_replacement(weights: Tensor, size: int, generator: torch.Generator | None) -> Tensor:
    return torch.multinomial(weights, size, replacement=True, generator=generator)


def _in_full_precision(logits: Tensor) -> Tensor:
    """Keep the digits of a loss that is a difference of logits, as torch's cross entropy does."""
    return logits.float() if logits.dtype in _HALF else logits


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def _is_linear(head: Head) -> TypeGuard[nn.Linear]:
    return isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward


def _check(head: Head, features: Tensor, labels: Tensor | None = None) -> int:
    """Check a head, its input and the labels, and return the number of classes."""
    if not (_is_linear(head) or hasattr(head, "logits")):
        raise TypeError(
            "head must be a LaplexHead or a torch.nn.Linear, or have a method "
            f"logits(input, classes), got {type(head).__name__}: pass the last layer of the model, "
            "and its input as features"
        )
    check_tensor("features", features)
    if features.is_complex():
        raise TypeError(f"features must be real, got {features.dtype}: use features.real")
    if features.dim() != 2 or features.shape[1] != head.in_features:
        raise ValueError(
            f"features must have the shape [batch, {head.in_features}], got {list(features.shape)}"
        )
    if labels is None:
        return head.out_features
    check_tensor("labels", labels)
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must have the shape [{len(features)}], one class for each row of features, "
            f"got {list(labels.shape)}"
        )
    check_class_numbers("labels", labels, head.out_features)
    return head.out_features


def _check_weights(weights: Tensor, num_classes: int) -> Tensor:
    check_tensor("weights", weights)
    if weights.shape != (num_classes,):
        raise ValueError(
            f"weights must have the shape [{num_classes}], one number for each class, "
            f"got {list(weights.shape)}"
        )
    if not ((weights > 0) & weights.isfinite()).all():
        raise ValueError("weights must be positive and finite")
    return weights.detach().double().cpu()
