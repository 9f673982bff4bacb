"""The trend of a Gaussian vector: a known mean, and known functions with unknown coefficients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from numbers import Real
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from .checks import ArrayLike, all_finite, all_of, as_tensor, same_device

#: A function of points ``[..., n]`` in float64.
Function: TypeAlias = "Callable[[Tensor], Any]"
#: What a caller may give as a mean, and as a basis.
MeanLike: TypeAlias = "float | ArrayLike | Function"
BasisLike: TypeAlias = "ArrayLike | Function | Iterable[ArrayLike | Function]"

_MATRIX = "pass functions, or matrices of shape [*b, n, p] with one row for each anchor"


class Basis(NamedTuple):
    """Known functions ``b_k`` with independent coefficients of N(0, prior_k).

    Attributes
    ----------
    parts : tuple of functions, or of tensors ``[*b, p, n]``
    prior : Tensor ``[*b, p]``
        Infinity stands for the improper limit.
    """

    parts: tuple[Function | Tensor, ...]
    prior: Tensor

    @classmethod
    def checked(cls, basis: object, prior: object, anchors: Tensor) -> Basis | None:
        """Check a caller's arguments."""
        if basis is None:
            if prior is not None:
                raise ValueError(
                    "prior holds the variances of the coefficients of basis, but there is no "
                    "basis: pass basis=, too"
                )
            return None
        # A torch.nn.Sequential is a function, though it can be iterated over, too.
        single = callable(basis) or hasattr(basis, "__array__")
        several = isinstance(basis, Iterable) and not single
        given = list(cast("Iterable[Any]", basis)) if several else [basis]
        if several and given and all(isinstance(each, (Real, list, tuple)) for each in given):
            given = [given]  # the rows of one matrix
        if not given:
            raise ValueError(f"basis has no function: {_MATRIX}, or None")
        parts = tuple(each if callable(each) else _rows(each, anchors) for each in given)
        unweighted = cls(parts, torch.ones(0))
        count = unweighted.rows(anchors).shape[-2]
        return cls(parts, _checked_prior(prior, count, anchors))

    def rows(self, points: Tensor) -> Tensor:
        """The values ``[*b, p, n]`` of all functions at the points, in float64."""
        rows = [
            part.double() if isinstance(part, Tensor) else _evaluated("basis", part, points)
            for part in self.parts
        ]
        if len(rows) == 1:
            return rows[0]
        lead = torch.broadcast_shapes(*(each.shape[:-2] for each in rows))  # type: ignore[no-untyped-call]
        return torch.cat([each.expand(*lead, *each.shape[-2:]) for each in rows], -2)

    def at_targets(self, targets: Tensor, given: object) -> Tensor:
        """The values ``[*b, p, m]`` at new points: those that are given, or of the functions."""
        if given is not None:
            if not any(isinstance(part, Tensor) for part in self.parts):
                raise ValueError(
                    "basis_targets holds the rows of a basis that is a matrix, but this basis is a "
                    "function, which gives its own values at the targets: leave basis_targets out"
                )
            rows = _rows(given, targets, "basis_targets", "targets").double()
            if rows.shape[-2] != self.prior.shape[-1]:
                raise ValueError(
                    f"basis_targets has {rows.shape[-2]} columns, but the basis has "
                    f"{self.prior.shape[-1]}"
                )
            return rows
        if any(isinstance(part, Tensor) for part in self.parts):
            raise ValueError(
                "basis is a matrix, which has no rows for the targets: pass them as "
                "basis_targets= of shape [*b, m, p], or build the LaplaceGram from functions"
            )
        return self.rows(targets)

    def plus(self, other: Basis | None) -> Basis:
        """The functions of both."""
        if other is None:
            return self
        lead = torch.broadcast_shapes(self.prior.shape[:-1], other.prior.shape[:-1])  # type: ignore[no-untyped-call]
        priors = [each.prior.double().expand(*lead, -1) for each in (self, other)]
        return Basis(self.parts + other.parts, torch.cat(priors, -1))

    def map(self, change: Callable[[str, Tensor], Tensor]) -> Basis:
        """A copy in which every tensor is replaced by the result of `change`."""
        parts = tuple(
            change("basis", part) if isinstance(part, Tensor) else part for part in self.parts
        )
        return Basis(parts, change("prior", self.prior))

    @property
    def size(self) -> int:
        """The number of functions."""
        return self.prior.shape[-1]

    @property
    def is_improper(self) -> bool:
        """Whether any coefficient has an improper prior."""
        return not all_of(self.prior, lambda each: each < inf)


def checked_mean(
    mean: object, anchors: Tensor, name: str = "mean", what: str = "anchors"
) -> tuple[Function | Tensor, ...]:
    """A mean as functions, and tensors ``[*b, n]`` or ``[*b, 1]``, whose sum it is."""
    if mean is None:
        return ()
    if callable(mean):
        _evaluated("mean", mean, anchors)
        return (mean,)
    if isinstance(mean, Real):
        mean = torch.tensor([float(mean)], dtype=torch.float64, device=anchors.device)
    tensor = as_tensor(name, mean)
    if tensor.dim() == 0:
        tensor = tensor[None]
    _check(name, tensor, anchors)
    if tensor.shape[-1] not in (1, anchors.shape[-1]):
        raise ValueError(
            f"{name} has shape {list(tensor.shape)} but its last dimension must be 1 or "
            f"{anchors.shape[-1]}, the number of {what}"
        )
    return (tensor,)


def mean_at(means: tuple[Function | Tensor, ...], points: Tensor) -> Tensor | None:
    """The sum ``[*b, n]`` or ``[*b, 1]`` of all means at the points, in float64."""
    total: Tensor | None = None
    for mean in means:
        value = (
            mean.double()
            if isinstance(mean, Tensor)
            else _evaluated("mean", mean, points).squeeze(-2)
        )
        total = value if total is None else total + value
    return total


def mean_at_targets(
    means: tuple[Function | Tensor, ...], n: int, targets: Tensor, given: object
) -> Tensor | None:
    """As `mean_at` at new points, or what is given there; there are n anchors."""
    per_anchor = any(isinstance(mean, Tensor) and mean.shape[-1] != 1 for mean in means)
    if given is not None:
        if not per_anchor and n != 1:
            raise ValueError(
                "mean_targets holds the mean at the targets where the mean is a number for each "
                "anchor, but this one is a function or one number, which is known there: leave "
                "mean_targets out"
            )
        means = checked_mean(given, targets, "mean_targets", "targets")
    elif per_anchor:
        raise ValueError(
            "mean has a number for each anchor, but none for the targets: pass mean_targets= of "
            "shape [*b, m], or build the LaplaceGram from a function"
        )
    return mean_at(means, targets)


class Detached:
    """A function whose results do not require gradients."""

    def __init__(self, function: Function) -> None:
        self._function = function

    def __call__(self, points: Tensor) -> Any:
        """Call the function."""
        result = self._function(points)
        return result.detach() if isinstance(result, Tensor) else result


# --- inside ---------------------------------------------------------------------------------------


def _evaluated(name: str, function: Function, points: Tensor) -> Tensor:
    """The values ``[*b, p, n]`` of one function of `points` ``[*b, n]``, in float64."""
    points = points.double()
    found = function(points)
    if isinstance(found, Real):
        found = points.new_full(points.shape, float(found))
    value = as_tensor(f"the result of {name}", found)
    _check(f"the result of {name}", value, points)
    if value.shape == points.shape:
        return value.double()[..., None, :]
    if name == "mean" or value.dim() == 0 or value.shape[:-1] != points.shape:
        wanted = list(points.shape) if name == "mean" else f"{list(points.shape)} or [..., n, p]"
        raise ValueError(
            f"{name} is a function whose result has shape {list(value.shape)} for points of shape "
            f"{list(points.shape)}: it must have shape {wanted}"
        )
    return value.double().mT


def _rows(matrix: object, points: Tensor, name: str = "basis", what: str = "anchors") -> Tensor:
    """A matrix ``[*b, n, p]``, or a vector ``[n]``, as rows ``[*b, p, n]``."""
    tensor = as_tensor(name, matrix)
    if tensor.dim() == 1:
        tensor = tensor[:, None]
    _check(name, tensor, points)
    if tensor.dim() == 0 or tensor.shape[-2] != points.shape[-1]:
        raise ValueError(
            f"{name} has shape {list(tensor.shape)} but must have shape [*b, n, p] with n = "
            f"{points.shape[-1]}, the number of {what}"
        )
    return tensor.mT


def _check(name: str, tensor: Tensor, points: Tensor) -> None:
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, got {tensor.dtype}")
    same_device({name: tensor}, points.device)
    if not all_finite(tensor):
        raise ValueError(f"{name} must be finite, but has a NaN or an infinity")


def _checked_prior(prior: object, count: int, anchors: Tensor) -> Tensor:
    """Prior variances ``[*b, p]``; None stands for infinity."""
    if prior is None:
        prior = inf
    if isinstance(prior, Real):
        prior = torch.tensor(float(prior), dtype=torch.float64, device=anchors.device)
    tensor = as_tensor("prior", prior)
    if not tensor.is_floating_point():
        raise TypeError(f"prior must be float32 or float64, got {tensor.dtype}")
    same_device({"prior": tensor}, anchors.device)
    if tensor.dim() and tensor.shape[-1] not in (1, count):
        raise ValueError(
            f"prior has shape {list(tensor.shape)} but its last dimension must be 1 or {count}, "
            "the number of columns of basis"
        )
    if not all_of(tensor, lambda each: each > 0):
        raise ValueError(
            "prior must be positive: it holds the variances of the coefficients of basis, and inf "
            "stands for no prior knowledge"
        )
    return tensor.expand(*tensor.shape[:-1], count)
