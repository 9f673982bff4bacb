"""The arguments that all functions of scores share: their checks, and scores as a plain line."""

from __future__ import annotations

from math import inf, isfinite
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from ..torch.autograd import is_concrete
from ..torch.call import HALF, Scalar, broadcast_shapes, check_dense, check_flag, check_tensor
from ..torch.sorting import Order, order_of

MASK_MARGIN = 4000.0
"""How many temperatures an infinite score is put beyond the finite ones; kernels are 0 from 745."""


LEAST_TAU = {torch.float32: 1e-18, torch.float64: 1e-100}
"""The least temperature: its square divides in second derivatives, and its cube in third ones."""

FLOATS = (*HALF, torch.float32, torch.float64)


class Line(NamedTuple):
    """Scores in the last dimension, ascending ones first, and without infinities."""

    scores: Tensor
    """``[*b, n]``, float32 or float64. They are negated if the order is descending."""
    tau: Tensor
    """The temperature ``[*b]``, float64."""
    dim: int
    """The dimension of the caller's scores."""
    dtype: torch.dtype
    """The dtype of the caller's scores."""
    negated: bool
    bounds: tuple[Tensor, Tensor] | None = None
    """Below the first and above the second, ``[*b, 1]``, stands infinity; None if there is none."""

    @property
    def size(self) -> int:
        """The number of scores of a line."""
        return self.scores.shape[-1]

    def restored(self, result: Tensor) -> Tensor:
        """Put a result into the dimension and the dtype of the caller's scores."""
        result = result.to(self.dtype)
        return result if self.dim == -1 else result.movedim(-1, self.dim)

    def as_scores(self, numbers: Tensor) -> Tensor:
        """Return numbers in the units of the line as scores of the caller."""
        if self.bounds is not None:
            low, high = self.bounds
            numbers = torch.where(numbers < low, -inf, torch.where(numbers > high, inf, numbers))
        return -numbers if self.negated else numbers

    def about(self, in_order: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """Return sorted scores from the one of a rank on, counted from 0, and that score.

        Both are float64. Near it, differences keep their digits at any temperature.
        """
        centre = in_order.detach()[..., rank : rank + 1].double()
        return in_order - centre, centre

    def order(self) -> Order:
        """Find the order that sorts the line."""
        return order_of(self.scores)


def line_of(scores: Tensor, tau: Scalar, dim: int, descending: bool, name: str = "scores") -> Line:
    """Check scores and a temperature; messages call the scores by their name.

    Raises
    ------
    TypeError
        If the scores are no tensor of floating-point numbers.
    ValueError
        If the scores have no entries along the dimension, or some are NaN; if the temperature is
        not positive, or its shape does not match.
    IndexError
        If the scores do not have the dimension.
    """
    check_tensor(name, scores)
    check_flag("descending", descending)
    dtype = scores.dtype
    check_floats(name, scores)
    last = own_dim(name, scores, dim)
    if scores.shape[last] == 0:
        raise ValueError(
            f"{name} has shape {tuple(scores.shape)}, without entries along dim={dim}: pass at "
            "least one score"
        )
    if last != -1:
        scores = scores.movedim(last, -1)
    if dtype in HALF:
        scores = scores.float()
    temperature = _temperature(tau, scores, name)
    scores, bounds = _without_infinities(scores, temperature, name)
    if descending:
        scores = -scores
        bounds = None if bounds is None else (-bounds[1], -bounds[0])
    return Line(scores, temperature, last, dtype, descending, bounds)


def check_floats(name: str, tensor: Tensor) -> None:
    """Refuse sparse tensors, and dtypes that are not computed with."""
    if tensor.dtype not in FLOATS:
        raise TypeError(
            f"{name} has dtype {tensor.dtype}, but must hold floating-point numbers: pass "
            f"{name}.float()"
        )
    check_dense(name, tensor)


def own_dim(name: str, tensor: Tensor, dim: int) -> int:
    """Return the dimension as a negative number, so that it counts from the end."""
    if tensor.dim() == 0:
        raise ValueError(f"{name} is a 0-d tensor, but must have a dimension: pass {name}[None]")
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"dim must be an integer, got {dim!r}")
    if not -tensor.dim() <= dim < tensor.dim():
        raise IndexError(
            f"dim={dim} is out of range: {name} has the dimensions {-tensor.dim()} to "
            f"{tensor.dim() - 1}"
        )
    return dim if dim < 0 else dim - tensor.dim()


def last_dim(name: str, values: Tensor, line: Line) -> Tensor:
    """Return the values, one per score, with their line in the last dimension."""
    check_tensor(name, values)
    check_floats(name, values)
    if values.dim() < -line.dim or values.shape[line.dim] != line.size:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}, but its dimension {line.dim} must have one "
            f"entry for each of the {line.size} scores"
        )
    return values if line.dim == -1 else values.movedim(line.dim, -1)


def within_line(name: str, number: object, size: int, remedy: str) -> float:
    """Return a number strictly between 0 and the number of scores, or raise an error.

    The remedy is that for what is no number.
    """
    if isinstance(number, bool) or not isinstance(number, (int, float, Real)):
        raise TypeError(f"{name} must be a number, got {type(number).__name__}: {remedy}")
    if not 0 < float(number) < size:
        raise ValueError(
            f"{name} must lie strictly between 0 and n = {size}, the number of scores, got {number}"
        )
    return float(number)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return the numbers of ``hard`` with the derivatives of ``soft``."""
    difference = soft - soft.detach()  # 0, or NaN of infinities
    return hard.detach() + torch.where(difference == 0, difference, 0.0)


def _temperature(tau: Scalar, scores: Tensor, name: str) -> Tensor:
    least = LEAST_TAU[scores.dtype]
    if not isinstance(tau, Tensor):
        if isinstance(tau, bool) or not isinstance(tau, (float, Real)):
            raise TypeError(f"tau must be a number or a torch tensor, got {type(tau).__name__}")
        if not 0 < tau < inf:
            raise ValueError(f"tau must be positive and finite, got {tau}")
        if tau < least:
            raise ValueError(f"tau must be at least {least} with {scores.dtype}, got {tau}")
        return torch.scalar_tensor(tau, dtype=torch.float64, device=scores.device)
    if not tau.dtype.is_floating_point:
        raise TypeError(f"tau has dtype {tau.dtype}, but must be floating-point: pass tau.float()")
    if tau.device != scores.device:
        raise ValueError(
            f"tau is on {tau.device}, but {name} is on {scores.device}: move it with "
            f"tau.to({str(scores.device)!r})"
        )
    try:
        broadcast_shapes(tau.shape, scores.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"tau has shape {tuple(tau.shape)}, which does not broadcast with the leading "
            f"dimensions {tuple(scores.shape[:-1])} of {name}: pass one temperature per line"
        ) from None
    if is_concrete(tau):
        if not bool(((tau > 0) & (tau < inf)).all()):
            raise ValueError("tau must be positive and finite, but some of its entries are not")
        if bool((tau < least).any()):
            raise ValueError(
                f"tau must be at least {least} with {scores.dtype}, but some entries are less"
            )
    return tau.double()


def _without_infinities(
    scores: Tensor, tau: Tensor, name: str
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Replace infinite scores by ones that no kernel reaches from the finite ones."""
    given = scores.detach()
    if is_concrete(scores):
        if isfinite(torch.linalg.vector_norm(given).item()):
            return scores, None  # mostly this decides
        if bool(given.isnan().any()):
            raise ValueError(f"{name} has entries that are NaN: remove them, or mask with inf")
    range_ = torch.finfo(scores.dtype)
    is_infinite = given.abs() > _largest(scores.dtype)
    if is_concrete(scores) and not bool(is_infinite.any()):
        return scores, None
    top = given.masked_fill(is_infinite, -inf).amax(-1, keepdim=True)
    bottom = given.masked_fill(is_infinite, inf).amin(-1, keepdim=True)
    top, bottom = top.masked_fill(top.isinf(), 0.0), bottom.masked_fill(bottom.isinf(), 0.0)
    margin = MASK_MARGIN * tau.detach().unsqueeze(-1).to(scores.dtype) + top.abs() + bottom.abs()
    margin = margin.clamp(range_.tiny, range_.max / 4)
    beyond = torch.where(given > 0, top + margin, bottom - margin).clamp(range_.min, range_.max)
    scores = torch.where(is_infinite, beyond, scores)
    return scores, (bottom - margin / 4, top + margin / 4)


def _largest(dtype: torch.dtype) -> float:
    """Return the largest score that counts as finite: in float64, differences must not overflow."""
    largest = torch.finfo(dtype).max
    return largest / 4 if dtype is torch.float64 else largest
